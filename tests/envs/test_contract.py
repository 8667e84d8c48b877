"""The contract, over every registered task: texts, seeds, turns, info, oracle, snapshots, hostile input.

Tasks that need an optional package run under the mark ``suites``; ``agentgrpo.envs.EXTRAS`` says which.
"""

import inspect
import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentgrpo.env_check import check_env
from agentgrpo.env_check.checks import HOSTILE_TEXTS
from agentgrpo.envs import ENV_IDS, EXTRAS
from agentgrpo.envs.base import TextEnv

INFO_KEYS = {"anchor", "admissible_actions", "valid_action", "success", "task_id"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "agentgrpo/AlfWorld-v0": {"max_turns": 12},
    "agentgrpo/TextWorld-v0": {"num_games": 4},
}
"""Arguments that keep these tests short, where the defaults do not."""
ELSEWHERE: set[str] = {"agentgrpo/OpenEnv-v0", "agentgrpo/ScienceWorld-v0"}
"""Ids whose own tests check the contract, with what it takes: a server, or minutes."""


def every_id() -> list[Any]:
    """Each id, marked if it needs more than the package itself."""
    return [
        pytest.param(env_id, marks=pytest.mark.suites) if env_id in EXTRAS else env_id
        for env_id in sorted(ENV_IDS.keys() - ELSEWHERE)
    ]


@pytest.fixture(params=every_id())
def env_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(env_id: str, **kwargs: Any) -> TextEnv[Any, Any]:
    env = gym.make(env_id, **ARGUMENTS.get(env_id, {}) | kwargs).unwrapped
    assert isinstance(env, TextEnv)
    return env


def make_picky(env_id: str) -> TextEnv[Any, Any]:
    """The same, where not every text is an action: a question may take any text as its answer."""
    env = make(env_id)
    env.reset(seed=0)
    if env.step("xyzzy")[4]["valid_action"]:
        pytest.skip("every text is an answer here")
    return env


def has_oracle(env: TextEnv[Any, Any]) -> bool:
    """Whether it has a plan for the first task; all that is written here must have one."""
    env.reset(seed=0)
    return bool(env.oracle_actions()) or env.spec is None or env.spec.id not in EXTRAS


def play(env: TextEnv[Any, Any], seed: int, actions: list[str] | None = None) -> tuple[list[str], list[Any]]:
    """Play ``actions``, or at random; return the actions and all that came back."""
    rng = random.Random(seed)
    heard: list[Any] = [env.reset(seed=seed)]
    played: list[str] = []
    over = False
    while not over:
        action = actions[len(played)] if actions else rng.choice(heard[-1][-1]["admissible_actions"] or ["xyzzy"])
        result = env.step(action)
        heard.append(result)
        played.append(action)
        over = result[2] or result[3]
    return played, heard


def test_check_env_finds_nothing_to_say(env_id: str) -> None:
    report = check_env(env_id, num_tasks=5, **ARGUMENTS.get(env_id, {}))
    said = {finding.check for finding in report.findings if finding.level != "ok"}
    # An engine may be slow, take many turns and have no solution to offer; what is written here has no such excuse.
    allowed = {"speed", "slow calls", "turn limit", "oracle"} if env_id in EXTRAS else {"speed"}
    assert not report.problems, str(report)
    assert said <= allowed, str(report)


def test_same_seed_and_actions_give_the_same_episode_to_the_last_field(env_id: str) -> None:
    one, other = make(env_id), make(env_id)
    for seed in range(5):
        actions, heard = play(one, seed)
        assert play(other, seed, actions) == (actions, heard)


def test_global_random_numbers_are_neither_read_nor_disturbed(env_id: str) -> None:
    env = make(env_id)
    random.seed(1)
    np.random.seed(1)
    first = play(env, 3)
    random.seed(2)
    np.random.seed(2)
    before = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index]
    assert play(env, 3) == first
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before  # type: ignore[index]


def test_info_has_the_fields_of_the_contract(env_id: str) -> None:
    _, heard = play(make(env_id), 7)
    for *_, info in heard:
        assert set(info) >= INFO_KEYS
        assert isinstance(info["anchor"], str)
        assert info["admissible_actions"] == sorted(info["admissible_actions"])
        assert info["valid_action"] is True or not info["admissible_actions"]
        assert info["task_id"] == "7"


def test_nonsense_uses_a_turn_up_changes_nothing_and_says_what_is_expected(env_id: str) -> None:
    env = make_picky(env_id)
    _, before = env.reset(seed=0)
    for turn in range(1, env.max_turns + 1):
        text, reward, terminated, truncated, info = env.step("xyzzy")
        assert text.startswith("Not possible. Answer with ")
        assert (reward, terminated, truncated) == (0.0, False, turn == env.max_turns)
        assert info == before | {"valid_action": False}
    with pytest.raises(RuntimeError, match="reset"):
        env.step("xyzzy")


def test_case_and_blanks_do_not_matter_but_words_do(env_id: str) -> None:
    env = make_picky(env_id)
    _, info = env.reset(seed=0)
    if not info["admissible_actions"]:
        pytest.skip("names no actions")
    action = info["admissible_actions"][0]
    assert env.step(f"  {action.upper().replace(' ', '   ')}\n")[4]["valid_action"]
    env.reset(seed=0)
    assert not env.step(f"I choose {action}")[4]["valid_action"]


@pytest.mark.parametrize("text", HOSTILE_TEXTS.values(), ids=HOSTILE_TEXTS)
def test_hostile_text_is_an_invalid_action(env_id: str, text: str) -> None:
    env = make_picky(env_id)
    first, _ = env.reset(seed=0)
    answer, _, _, _, info = env.step(text)
    assert info["valid_action"] is False
    assert len(answer) < len(first) + 500  # the text is not echoed


def test_terminated_and_truncated_are_never_both_set_and_success_is_rewarded(env_id: str) -> None:
    env = make(env_id)
    for seed in range(20):
        _, heard = play(env, seed)
        _, reward, terminated, truncated, info = heard[-1]
        assert terminated != truncated
        assert info["success"] == (reward == env.max_return)
        assert not (info["success"] and truncated)
        assert len(heard) - 1 <= env.max_turns


def test_oracle_solves_from_the_start_and_from_the_middle(env_id: str) -> None:
    env = make(env_id)
    if not has_oracle(env):
        pytest.skip("has no oracle")
    for seed in range(10):
        env.reset(seed=seed)
        plan = env.oracle_actions()
        for step, action in enumerate(plan):
            # An optimal continuation shrinks by one with each of its own steps.
            assert len(env.oracle_actions()) == len(plan) - step
            _, reward, terminated, _, _ = env.step(action)
        assert (reward, terminated) == (env.max_return, True)
        assert env.oracle_actions() == []


def test_oracle_claims_nothing_that_the_turns_left_do_not_allow(env_id: str) -> None:
    env = make_picky(env_id)
    if not has_oracle(env):
        pytest.skip("has no oracle")
    env.reset(seed=4)
    plan = env.oracle_actions()
    for _ in range(env.max_turns - len(plan)):
        env.step("xyzzy")
    assert len(env.oracle_actions()) == len(plan)
    env.step("xyzzy")
    assert env.oracle_actions() == []


def test_restored_snapshot_goes_on_in_the_same_way_even_in_another_copy(env_id: str) -> None:
    one, other = make(env_id), make(env_id)
    actions, heard = play(one, 11)
    half = len(actions) // 2
    one.reset(seed=11)
    for action in actions[:half]:
        one.step(action)
    snapshot = one.snapshot()
    for env in (one, other, other):
        _, info = env.restore(snapshot)
        assert info["anchor"] == heard[half][-1]["anchor"]
        assert [env.step(action) for action in actions[half:]] == heard[half + 1 :]


def test_reset_without_a_seed_goes_on_to_the_next_task_of_the_stream(env_id: str) -> None:
    one, other = make(env_id), make(env_id)
    ids = []
    for env in (one, other):
        env.reset(seed=5)
        ids.append([env.reset()[1]["task_id"] for _ in range(2)])
    assert ids == [["5+1", "5+2"]] * 2
    assert one.reset()[0] == other.reset()[0]


def test_noise_seed_does_not_change_the_task(env_id: str) -> None:
    env = make(env_id)
    first = env.reset(seed=9)
    following = env.reset()
    assert env.reset(seed=9, options={"noise_seed": 123}) == first
    assert env.reset() == following


def test_bad_options_and_dials_are_named(env_id: str) -> None:
    env = make(env_id)
    with pytest.raises(ValueError, match="noisy_seed; allowed: noise_seed"):
        env.reset(seed=0, options={"noisy_seed": 1})
    with pytest.raises(ValueError, match="at least 0, got -1"):
        env.reset(seed=0, options={"noise_seed": -1})
    if "max_turns" in inspect.signature(type(env).__init__).parameters:  # a question has but one
        with pytest.raises(ValueError, match=r"max_turns must be an integer from 1 to 10000, got 0\."):
            make(env_id, max_turns=0)
