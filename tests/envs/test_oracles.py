"""No way is shorter than the oracle's: found by playing every action in the environment itself."""

import random
from itertools import count
from typing import Any

import gymnasium as gym
import pytest

import agentgrpo.envs  # noqa: F401  (registers)
from agentgrpo.envs.base import TextEnv


def fewest_steps(env: TextEnv[Any, Any]) -> int:
    """Steps to success from here, by breadth-first search over snapshots. Equal anchors must mean equal states."""
    start = env.snapshot()
    frontier = [start]
    seen = {env.restore(start)[1]["anchor"]}
    for length in count(1):
        following = []
        for snapshot in frontier:
            for action in env.restore(snapshot)[1]["admissible_actions"]:
                env.restore(snapshot)
                info = env.step(action)[4]
                if info["success"]:
                    env.restore(start)
                    return length
                if info["anchor"] not in seen:
                    seen.add(info["anchor"])
                    following.append(env.snapshot())
        frontier = following
        assert frontier, "success cannot be reached"
    raise AssertionError


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("agentgrpo/Hanoi-v0", {"discs": 2}),
        ("agentgrpo/Hanoi-v0", {"discs": 4}),
        ("agentgrpo/Household-v0", {"task": "put"}),
        ("agentgrpo/Household-v0", {"task": "put", "receptacles": 3, "openable": 3, "objects": 3}),
        ("agentgrpo/Household-v0", {"task": "clean", "receptacles": 4, "openable": 2}),
    ],
)
def test_from_the_start_and_from_the_middle_the_oracle_is_optimal(env_id: str, kwargs: dict[str, Any]) -> None:
    env = gym.make(env_id, max_turns=100, **kwargs).unwrapped
    assert isinstance(env, TextEnv)
    rng = random.Random(0)
    for seed in range(5):
        _, info = env.reset(seed=seed)
        for _ in range(4):
            assert len(env.oracle_actions()) == fewest_steps(env)
            for _ in range(3):
                *_, over, _, info = env.step(rng.choice(info["admissible_actions"]))
                if over:
                    _, info = env.reset(seed=seed + 100)
