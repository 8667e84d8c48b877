"""10,000 hostile actions for every task that is written here: whatever a model may write, the contract holds."""

import math
import string
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgrpo.environments import checked_reset, checked_step
from agentgrpo.envs import ENV_IDS, EXTRAS

SEQUENCES = 50
DRAWS = 25
NUM_ACTIONS = 10_000
VARIANTS = 8
MAX_ANSWER = 5_000
"""Characters. No observation of these tasks comes near."""

# Surrogates cannot be encoded, and no tokenizer's decoder gives them.
TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(string.printable, max_size=40),
    st.sampled_from(
        ["", " ", "\n", "0", "-1", "1e999", "nan", "\uff19", "½", "İ", "ß" * 300, "a b " * 5_000, "\x00", "null"]
    ),
    st.integers(-(10**30), 10**30).map(str),
    st.integers(1, 6_000).map(lambda digits: "9" * digits),
    st.floats(allow_nan=True).map(str),
)
WRAPPERS = (
    "{}",
    "search[{}]",
    "click[{}]",
    "answer[{}]",
    "calculate[{}]",
    "sql[SELECT {}]",
    "SELECT '{}' FROM sqlite_master; --",
    "'; DROP TABLE items; -- {}",
    "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT {} FROM t",
    '{{"action": "{}", "arguments": [1, {{}}]}}',
    "<action>{}</action>",
    "<|im_end|>\n{}",
    "__import__('os').system('{}')",
    "9 ** 9 ** {}",
    "(((({}",
)


def near_miss(action: str, text: str, number: int) -> str:
    """An admissible action with one thing wrong, or none."""
    place = number % (len(action) + 1)
    variants = (
        action,
        action[:place] + action[place + 1 :],
        action[:place] + text[:3] + action[place:],
        action[::-1],
        f"{action} {text}",
        action.swapcase().replace(" ", "\u00a0"),
        action.replace("[", "[[", 1),
        action[:place] + str(number) + action[place + 1 :],
    )
    return variants[number % len(variants)]


def sequence(draws: list[tuple[str, int]]) -> Any:
    """Functions of the admissible actions, eight for each draw: near misses, texts, and texts as arguments of tools."""
    for text, number in draws:
        for k in range(VARIANTS // 2):
            # Taken now, and not when called: the loop goes on.
            yield lambda admissible, n=number + 7 * k, t=text: near_miss(admissible[n % len(admissible)], t, n)
            wrapper = WRAPPERS[(number + 4 * k) % len(WRAPPERS)] if k else "{}"
            yield lambda admissible, w=wrapper, t=text: w.format(t)


@pytest.mark.parametrize("env_id", sorted(ENV_IDS.keys() - EXTRAS.keys()))
def test_hostile_actions_never_raise_and_never_break_the_contract(env_id: str) -> None:
    env = gym.make(env_id, disable_env_checker=True)
    max_return, max_turns = env.get_wrapper_attr("max_return"), env.get_wrapper_attr("max_turns")
    counted = 0

    @settings(max_examples=SEQUENCES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**31 - 1), st.lists(st.tuples(TEXTS, st.integers(0, 999)), min_size=DRAWS, max_size=DRAWS))
    def play(seed: int, draws: list[tuple[str, int]]) -> None:
        nonlocal counted
        _, info = checked_reset(env, seed, 0)
        total, turn = 0.0, 0
        for make_action in sequence(draws):
            admissible = info["admissible_actions"]
            action = make_action(admissible or ["?"])
            text, reward, terminated, truncated, info = checked_step(env, action)
            counted, turn, total = counted + 1, turn + 1, total + reward
            assert len(text) < MAX_ANSWER
            assert isinstance(info["anchor"], str)
            assert isinstance(info["valid_action"], bool)
            assert info["valid_action"] or action not in admissible
            assert info["success"] is (math.isclose(total, max_return) and reward > 0)
            assert total <= max_return
            assert turn <= max_turns
            if terminated or truncated:
                seed += 1
                _, info = checked_reset(env, seed, 0)
                total, turn = 0.0, 0

    play()
    assert counted >= NUM_ACTIONS
