"""ToyText: states of the four games by hand, a game of one's own, the oracle and the noise."""

import statistics
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentgrpo.env_check import check_env
from agentgrpo.envs.toy_games import BLACKJACK_STATES, CARDS, blackjack_transitions
from agentgrpo.envs.toy_text import Moment, ToyTextEnv


def at(env: ToyTextEnv, state: int, allowed: tuple[int, ...] | None = None) -> str:
    """Put a running game into a state; return its text."""
    env.reset(seed=0)
    snapshot = env.snapshot()
    moment = Moment(state, tuple(range(len(env.words))) if allowed is None else allowed)
    text, _ = env.restore(type(snapshot)(snapshot.task, (moment, {"s": state}), "by hand", 0, 0, None))
    return text


def taxi(row: int, column: int, passenger: int, destination: int) -> int:
    return ((row * 5 + column) * 5 + passenger) * 4 + destination


def test_a_taxi_ride_by_hand() -> None:
    env = ToyTextEnv()
    # |R: | : :G|   The taxi stands at 1,0; the passenger waits at R 0,0 and wants to Y 4,0.
    assert at(env, taxi(1, 0, 0, 2)) == "Taxi at 1,0. Passenger at R 0,0. Destination Y 4,0. Walls: west."
    plan = ["north", "pickup", "south", "south", "south", "south", "dropoff"]
    assert env.oracle_actions() == plan
    results = [env.step(action) for action in plan]
    assert results[1][0] == "Taxi at 0,0. Passenger in taxi. Destination Y 4,0. Walls: north, west."
    assert results[2][4]["admissible_actions"] == ["east", "north", "south"]
    text, reward, terminated, truncated, info = results[-1]
    assert (text, reward, terminated, truncated) == ("The passenger is at the destination.", 1.0, True, False)
    assert [result[4]["raw_reward"] for result in results] == [-1.0] * 6 + [20.0]
    assert info["success"] is True


def test_what_changes_nothing_is_admissible_only_without_the_mask() -> None:
    masked, free = ToyTextEnv(), ToyTextEnv(use_mask=False)
    _, info = masked.reset(seed=0)
    assert "dropoff" not in info["admissible_actions"]
    text, _, _, _, info = masked.step("dropoff")
    assert text.startswith("Not possible. Answer with one of: ")
    assert (info["valid_action"], info["raw_reward"]) == (False, 0.0)
    first, _ = free.reset(seed=0)
    text, _, _, _, info = free.step("dropoff")
    assert text.startswith("That is not allowed here. Taxi at ")
    assert (info["valid_action"], info["raw_reward"]) == (True, -10.0)
    assert first.endswith(info["anchor"])  # nothing has changed


def test_a_fall_from_the_cliff_leads_back_to_the_start() -> None:
    env = ToyTextEnv("CliffWalking")
    text, info = env.reset(seed=0)
    assert text.endswith("You are at row 3, column 0.")
    text, _, terminated, _, after = env.step("right")
    assert text == "You fell off the cliff. You are at row 3, column 0."
    assert (terminated, after["raw_reward"], after["anchor"]) == (False, -100.0, info["anchor"])
    assert env.oracle_actions() == ["up", *["right"] * 11, "down"]
    for action in env.oracle_actions():
        text, reward, terminated, _, info = env.step(action)
    assert (text, reward, terminated, info["raw_reward"]) == ("You reach the goal.", 1.0, True, -1.0)


def test_a_lake_that_does_not_slip() -> None:
    env = ToyTextEnv("FrozenLake", game_kwargs={"is_slippery": False})
    env.reset(seed=0)
    assert env.step("right")[0] == ". P . .\n. O . O\n. . . O\nO . . G"
    text, reward, terminated, _, info = env.step("down")
    assert (text, reward, terminated, info["success"]) == ("You fall into a hole.", 0.0, True, False)
    env.reset(seed=0)
    assert len(env.oracle_actions()) == 6


def test_blackjack_by_hand() -> None:
    env = ToyTextEnv("Blackjack")
    env.reset(seed=0)
    env.inner.player, env.inner.dealer = [1, 6], [10, 9]
    env.state = Moment((17, 10, 1), (0, 1))
    assert env._view().text == "You have 17 with a usable ace. The dealer shows 10."
    text, reward, terminated, _, info = env.step("stick")
    assert (text, reward, terminated) == ("You have 17, the dealer 19. You lose.", 0.0, True)
    assert info["raw_reward"] == -1.0
    env.reset(seed=0)
    env.inner.player, env.inner.dealer = [10, 10], [1, 9]
    assert env.step("stick")[0] == "You have 20, the dealer 20. Nobody wins."


def test_the_transitions_of_blackjack_by_hand() -> None:
    table = blackjack_transitions()
    assert sum(CARDS.values()) == pytest.approx(1.0)
    for actions in table.values():
        for outcomes in actions.values():
            assert sum(chance for chance, *_ in outcomes) == pytest.approx(1.0)
    # 20 is busted by all cards but the ace; a soft 20 by none.
    hard, soft = (table[BLACKJACK_STATES.index((20, 10, ace))][1] for ace in (0, 1))
    assert sum(chance for chance, _, _, bust in hard if bust) == pytest.approx(12 / 13)
    assert not any(bust for *_, bust in soft)
    # Against an ace 17 ends the dealer's hand; 4 wins only if the dealer goes over, as any total below 17 does.
    four, sixteen = (table[BLACKJACK_STATES.index((total, 1, 0))][0][0][0] for total in (4, 16))
    assert four == sixteen


def test_what_the_oracle_expects_at_blackjack_is_what_happens() -> None:
    env = ToyTextEnv("Blackjack")
    expected, won = [], []
    for seed in range(1500):
        env.reset(seed=seed)
        assert env._values is not None
        expected.append(env._values.chance(BLACKJACK_STATES.index(env.state.observation), env.max_turns))
        terminated, reward = False, 0.0
        while not terminated:
            _, reward, terminated, _, _ = env.step(env.oracle_actions()[0])
        won.append(reward)
    # Four standard errors of a share near 0.42.
    assert abs(statistics.mean(won) - statistics.mean(expected)) < 4 * 0.5 / 1500**0.5
    assert 0.38 < statistics.mean(won) < 0.46


def test_members_of_a_group_share_the_start_and_differ_in_noise() -> None:
    env = ToyTextEnv("Taxi", game_kwargs={"is_rainy": True})
    episodes: dict[int, tuple[str, ...]] = {}
    for noise_seed in (1, 2, 1):
        first, info = env.reset(seed=3, options={"noise_seed": noise_seed})
        texts = [first]
        for _ in range(10):
            text, _, _, _, info = env.step(next(a for a in info["admissible_actions"] if a in ("north", "south")))
            texts.append(text)
        assert episodes.setdefault(noise_seed, tuple(texts)) == tuple(texts)
    assert episodes[1][0] == episodes[2][0]
    assert episodes[1] != episodes[2]


def test_hidden_state_of_the_game_is_part_of_a_snapshot() -> None:
    env, other = ToyTextEnv("Blackjack"), ToyTextEnv("Blackjack")
    env.reset(seed=4)
    other.reset(seed=5)
    snapshot = env.snapshot()
    expected = [env.step("hit"), env.inner.player]
    other.restore(snapshot)
    assert [other.step("hit"), other.inner.player] == expected
    assert snapshot.state[1]["player"] != other.inner.player  # a copy


@pytest.mark.parametrize("game", ["CliffWalking", "FrozenLake"])
def test_random_starts_differ_and_can_be_won(game: str) -> None:
    env = ToyTextEnv(game, random_start=True)
    starts = {env.reset(seed=seed)[0] for seed in range(40)}
    assert len(starts) > 5
    assert all(env.reset(seed=seed) and env.oracle_actions() for seed in range(40))


@pytest.mark.parametrize(
    "kwargs",
    [{"game": "CliffWalking", "random_start": True}, {"game": "FrozenLake"}, {"game": "Blackjack"}],
    ids=lambda kwargs: str(kwargs["game"]),
)
def test_the_other_games_keep_the_contract(kwargs: dict[str, Any]) -> None:
    report = check_env("agentgrpo/ToyText-v0", num_tasks=5, **kwargs)
    # Slipping and cards lose games that were played well.
    said = [f for f in report.findings if f.level != "ok" and f.check not in ("speed", "slow calls", "oracle")]
    assert said == [], str(report)


class Dial(gym.Env[Any, Any]):
    """A dial of three positions that starts at 0; turned to 2, the game is over with the reward 5."""

    def __init__(self, step_size: int = 1) -> None:
        self.observation_space = gym.spaces.MultiDiscrete([3, 2])
        self.action_space = gym.spaces.Discrete(2, start=10)
        self.step_size = step_size

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = 0
        return np.array([0, 1]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.position = max(0, self.position + (self.step_size if action == 11 else -self.step_size))
        over = self.position >= 2
        return np.array([min(self.position, 2), 1]), 5.0 if over else -1.0, over, False, {}


class Plain(Dial):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Discrete(500)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.int64(17), {}


gym.register("ToyTextTest/Dial-v0", entry_point=Dial)
gym.register("ToyTextTest/Plain-v0", entry_point=Plain)


def test_a_game_of_ones_own_is_told_in_numbers_or_in_own_words() -> None:
    env = ToyTextEnv("ToyTextTest/Dial-v0")
    text, info = env.reset(seed=0)
    assert text == "Goal: end the game with a reward. State 0, 1."
    assert info["admissible_actions"] == ["0", "1"]
    assert env.oracle_actions() == []
    named = ToyTextEnv("ToyTextTest/Dial-v0", words=["turn back", "turn on"])
    named.reset(seed=0)
    assert named.step("Turn  On")[0] == "State 1, 1."
    _, reward, terminated, _, info = named.step("turn on")
    assert (reward, terminated, info["raw_reward"]) == (1.0, True, 5.0)
    assert ToyTextEnv("ToyTextTest/Plain-v0").reset(seed=0)[0].endswith(" State 17 of 500.")


def test_win_above_decides_what_a_success_is() -> None:
    env = ToyTextEnv("ToyTextTest/Dial-v0", win_above=5.0, game_kwargs={"step_size": 2})
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step("1")
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, False)


def test_the_newest_version_of_a_name_is_taken() -> None:
    taxis = [spec.version for spec in gym.registry.values() if spec.name == "Taxi" and spec.namespace is None]
    assert ToyTextEnv("Taxi").inner.spec.id == f"Taxi-v{max(v for v in taxis if v is not None)}"
    assert ToyTextEnv("CliffWalkingSlippery-v1").game is ToyTextEnv("CliffWalking").game


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"game": "Taxy"}, r"game 'Taxy' is no gymnasium environment\. Did you mean 'Taxi'\? For example Taxi,"),
        ({"game": "CartPole"}, r"game must have discrete observations and actions; 'CartPole' has Box"),
        ({"game": "agentgrpo/KeyMaze-v0"}, "game must have discrete observations and actions; .* has AnyText"),
        ({"game_kwargs": {"is_slippery": True}}, r"game_kwargs=\{'is_slippery': True\} do not fit game 'Taxi'"),
        ({"game": "FrozenLake", "game_kwargs": {"map_name": "5x5"}}, "game_kwargs=.* do not fit game 'FrozenLake'"),
        ({"game": "Blackjack", "random_start": True}, "random_start=True needs a table of transitions.*'Blackjack'"),
        ({"max_turns": 2, "win_above": 50.0, "random_start": True}, "no state of 'Taxi' can be won in max_turns=2"),
        (
            {"words": ["a", "b"]},
            r"words must be 6 different names in lower case, one for each action, got \['a', 'b'\]",
        ),
        ({"words": ["A", "b", "c", "d", "e", "f"]}, "words must be 6 different names in lower case"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ToyTextEnv(**kwargs)
