"""FrozenLake: one lake by hand, and slipping."""

import gymnasium as gym
import pytest

from agentgrpo.envs.frozen_lake import FrozenLakeEnv, Lake

LAKE = Lake("...O....G", ". . .\nO . .\n. . G")  # 3 x 3 with a hole below the start


def on_lake(slip: float = 0.0) -> FrozenLakeEnv:
    env = FrozenLakeEnv(size=3, slip=slip)
    env.reset(seed=0)
    snapshot = env.snapshot()
    env.restore(type(snapshot)(LAKE, 0, "by hand", 0, 0, None))
    return env


def test_a_walk_by_hand() -> None:
    env = on_lake()
    assert len(env.oracle_actions()) == 4
    assert env.step("up")[0] == "P . .\nO . .\n. . G"  # the shore holds
    assert env.step("right")[0] == ". P .\nO . .\n. . G"
    assert env.step("down")[0] == ". . .\nO P .\n. . G"
    env.step("down")
    text, reward, terminated, truncated, info = env.step("right")
    assert (text, reward, terminated, truncated, info["success"]) == ("You reach the goal.", 1.0, True, False, True)


def test_a_hole_terminates_without_success() -> None:
    text, reward, terminated, truncated, info = on_lake().step("down")
    assert (text, reward, terminated, truncated) == ("You fall into a hole.", 0.0, True, False)
    assert info["success"] is False


def test_slip_of_one_always_goes_sideways() -> None:
    # "right" slips up (stays at the shore) or down (into the hole): never right.
    texts = set()
    for noise_seed in range(20):
        env = gym.make("agentgrpo/FrozenLake-v0", size=3, hole_share=0.0, slip=1.0).unwrapped
        env.reset(seed=0, options={"noise_seed": noise_seed})
        texts.add(env.step("right")[0])
    assert texts == {"P . .\n. . .\n. . G", ". . .\nP . .\n. . G"}


def test_group_members_share_the_lake_and_differ_in_noise() -> None:
    env = FrozenLakeEnv(slip=0.5, hole_share=0.0)
    episodes: dict[int, tuple[str, ...]] = {}
    for noise_seed in (1, 2, 1):
        first, _ = env.reset(seed=3, options={"noise_seed": noise_seed})
        episode = (first, *(env.step("right")[0] for _ in range(8)))
        assert episodes.setdefault(noise_seed, episode) == episode
    assert episodes[1][0] == episodes[2][0]
    assert episodes[1] != episodes[2]


def test_restore_repeats_the_noise() -> None:
    env = FrozenLakeEnv(slip=0.5, hole_share=0.0)
    env.reset(seed=3)
    env.step("right")
    snapshot = env.snapshot()
    expected = [env.step("right")[0] for _ in range(6)]
    env.restore(snapshot)
    assert [env.step("right")[0] for _ in range(6)] == expected


def test_every_lake_can_be_crossed() -> None:
    env = FrozenLakeEnv(hole_share=0.5)
    for seed in range(30):
        env.reset(seed=seed)
        assert len(env.oracle_actions()) >= 6


def test_dials() -> None:
    with pytest.raises(ValueError, match=r"slip must be a number from 0\.0 to 1\.0, got 1\.5\."):
        FrozenLakeEnv(slip=1.5)
