"""How hard the built-in tasks are: random and oracle players near the documented figures."""

import math
import random
import statistics
from typing import Any

import gymnasium as gym
import pytest

import agentgrpo.envs  # noqa: F401  (registers)
from agentgrpo.envs.base import TextEnv

TASKS, ROLLOUTS = 300, 2


def figures(env_id: str, kwargs: dict[str, Any]) -> tuple[list[float], list[int]]:
    """Return the random player's success rate and the oracle's number of steps for each task."""
    env = gym.make(env_id, **kwargs).unwrapped
    assert isinstance(env, TextEnv)
    rng = random.Random(0)
    rates, lengths = [], []
    for seed in range(TASKS):
        wins = 0.0
        for _ in range(ROLLOUTS):
            _, info = env.reset(seed=seed)
            over = False
            while not over:
                _, reward, terminated, truncated, info = env.step(rng.choice(info["admissible_actions"]))
                over = terminated or truncated
                wins += reward
        rates.append(wins / ROLLOUTS)
        env.reset(seed=seed)
        plan = env.oracle_actions()
        assert plan, f"the oracle has no plan for seed {seed}"
        lengths.append(len(plan))
    return rates, lengths


@pytest.mark.parametrize(
    ("env_id", "kwargs", "success", "steps"),
    [
        ("agentgrpo/KeyMaze-v0", {"rooms": 3}, 0.22, 4.5),
        ("agentgrpo/KeyMaze-v0", {"rooms": 4}, 0.115, 5.1),
        ("agentgrpo/KeyMaze-v0", {"rooms": 6}, 0.054, 6.25),
        ("agentgrpo/NumberGuess-v0", {}, 1 - (15 / 16) ** 5, 3.375),  # both in closed form
        ("agentgrpo/FrozenLake-v0", {}, 0.019, 6.0),
        ("agentgrpo/Sokoban-v0", {}, 0.08, 4.4),
        ("agentgrpo/Sokoban-v0", {"size": 6}, 0.055, 5.4),
        ("agentgrpo/Hanoi-v0", {}, 0.180, 2.25),  # 18 / 8 steps; the random player by going through all positions
        ("agentgrpo/Hanoi-v0", {"discs": 3}, 0.0905, 126 / 26),
        ("agentgrpo/Mastermind-v0", {}, 1 - (11 / 12) ** 3, 2.5),  # 1 + 4 * 2 + 7 * 3 guesses for 12 codes
        ("agentgrpo/Household-v0", {}, 0.014, 5.0),  # each of the two receptacles opens in half of the houses
        ("agentgrpo/Household-v0", {"receptacles": 3, "openable": 0, "objects": 1}, 0.105, 4.0),
        ("agentgrpo/MiniShop-v0", {}, 0.028, 4.0),
        ("agentgrpo/MiniShop-v0", {"kinds": 4, "variants": 3}, 0.0066, 4.0),
        ("agentgrpo/Calculator-v0", {}, 0.017, 2.0),
        ("agentgrpo/Calculator-v0", {"operations": 2}, 0.031, 3.0),
        ("agentgrpo/SqlTools-v0", {}, 0.029, 2.0),
        ("agentgrpo/SqlTools-v0", {"tables": 2}, 0.019, 2.0),
        pytest.param("agentgrpo/TextWorldExpress-v0", {}, 0.35, 2.19, marks=pytest.mark.suites),
    ],
)
def test_random_and_oracle_figures(env_id: str, kwargs: dict[str, Any], success: float, steps: float) -> None:
    rates, lengths = figures(env_id, kwargs)
    # Tasks differ in difficulty, so that the error of the mean is that of TASKS draws, not of all rollouts. Four
    # standard errors, twice: the expected values were themselves measured.
    assert abs(statistics.mean(rates) - success) < 4 * math.sqrt(2) * statistics.stdev(rates) / math.sqrt(TASKS)
    assert abs(statistics.mean(lengths) - steps) <= 4 * math.sqrt(2) * statistics.stdev(lengths) / math.sqrt(TASKS)


def test_a_random_player_hardly_ever_solves_the_sparse_maze() -> None:
    rates, lengths = figures("agentgrpo/KeyMaze-v0", {"rooms": 8, "max_turns": 14, "min_solution": 10})
    assert sum(rates) * ROLLOUTS <= 3  # 0.3 of 600 are expected
    assert 10 <= min(lengths) <= max(lengths) <= 14


def test_a_random_player_hardly_ever_cleans_and_puts() -> None:
    rates, lengths = figures("agentgrpo/Household-v0", {"task": "clean"})
    assert sum(rates) * ROLLOUTS <= 3  # about 0.5 of 600 are expected
    # 6, and 1 more where the object (2 / 5 of 4 / 5) or its place (2 / 5) opens, 1 less where it is in the sink (1 / 5)
    assert abs(statistics.mean(lengths) - 6.52) < 4 * statistics.stdev(lengths) / math.sqrt(TASKS)
