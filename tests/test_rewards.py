"""Reward terms: values by hand, weights, what each refuses, and a sandbox that holds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_tokenizer, trajectory
from transformers import LlamaConfig, LlamaForSequenceClassification

from agentgrpo.composing import compose_config
from agentgrpo.config import parse
from agentgrpo.rewards import RewardScorer, RewardTerm, build_terms, register_reward
from agentgrpo.rewards.format import FormatReward
from agentgrpo.rewards.length import LengthReward
from agentgrpo.rewards.reward_model import RewardModel
from agentgrpo.rewards.verifier import ExactAnswer, UnitTest, normalised
from agentgrpo.types import Group, Step, Trajectory


def said(*texts: str, **info: Any) -> Trajectory:
    """An episode in which the policy wrote these texts."""
    steps = tuple(Step("?", text=text, action=text, action_ids=(1,) * len(text.split())) for text in texts)
    return Trajectory(steps, task_info=info)


def test_format_is_the_share_of_turns_that_match() -> None:
    term = FormatReward(pattern=r"<a>.*</a>")
    assert term.score([said("<a>x\ny</a>", "no", " <a></a> ", "<a></a> and more")]) == [[0.0, 0.0, 0.0, 0.5]]


def test_format_refuses_what_is_no_pattern() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        FormatReward(pattern="(")


@pytest.mark.parametrize(
    ("written", "answer", "value"),
    [("42", 42, 1.0), (" The  Cat. ", "the cat", 1.0), ("\uff14\uff12", "42", 1.0), ("43", "42", 0.0), ("", "42", 0.0)],
)
def test_exact_answer(written: str, answer: object, value: float) -> None:
    assert ExactAnswer().score([said("first", written, answer=answer)]) == [[0.0, value]]


def test_exact_answer_needs_an_answer() -> None:
    with pytest.raises(ValueError, match=r"info\['answer'\]"):
        ExactAnswer().score([said("42")])


def test_an_episode_without_turns_earns_nothing() -> None:
    assert ExactAnswer().score([said(answer="42")]) == [[]]
    assert normalised("A.") == "a"


PROGRAM = "```python\ndef double(x):\n    return {}\n```"


@pytest.mark.parametrize(("body", "value"), [("2 * x", 1.0), ("x", 0.0), ("2 *", 0.0)])
def test_unit_tests_pass_or_fail(body: str, value: float) -> None:
    episode = said("let me think", f"Here it is:\n{PROGRAM.format(body)}", tests="assert double(4) == 8")
    assert UnitTest().score([episode]) == [[0.0, value]]


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "x = bytearray(10**9)",
        "import time; time.sleep(60)",
        "import sys; sys.exit(3)",
        "open('big', 'wb').write(bytes(10**7))",
        "import os; os.kill(os.getpid(), 9)",
        "exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
    ],
)
def test_a_program_that_misbehaves_fails_and_nothing_else_happens(program: str) -> None:
    assert UnitTest(seconds=1.5, megabytes=256).run(program) is False


def test_a_program_sees_neither_our_folder_nor_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "1")
    assert UnitTest().run("import os; assert os.listdir('.') == ['program.py']; assert 'A_SECRET' not in os.environ")


def test_unit_test_needs_tests() -> None:
    with pytest.raises(ValueError, match=r"info\['tests'\]"):
        UnitTest().score([said("x")])


def test_length_is_each_turns_own() -> None:
    term = LengthReward(limit=4, buffer=2)
    assert term.score([said("a b", "a b c", "a b c d e")]) == [[0.0, -0.5, -1.0]]


def test_a_reward_model_reads_the_episode(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ((first, last), (_, other)) = RewardModel(path=str(tmp_path)).score([said("go", "north"), said("go", "south")])
    assert first == 0.0
    assert math.isfinite(last)
    assert last != other


def test_a_reward_model_needs_a_path() -> None:
    with pytest.raises(ValueError, match="path is not set"):
        RewardModel()


# --- putting terms together -------------------------------------------------------------------------------------------


def test_rewards_are_weighted_sums_and_terms_are_kept_apart() -> None:
    short = {"kind": "length", "limit": 1, "buffer": 0, "weight": 0.5}
    terms = build_terms({"environment": {"weight": 2.0}, "short": short})
    group = Group((trajectory(("s", 1.0), ("t", 0.25), tokens=3),), max_return=1.0)
    (scored,) = RewardScorer(terms).score([group])
    steps = scored.trajectories[0].steps
    assert [step.reward for step in steps] == [1.5, 0.0]  # 2 * 1 - 0.5 and 2 * 0.25 - 0.5
    assert steps[0].reward_terms == {"environment": 1.0, "short": -1.0}
    assert scored.max_return == 2.0


def test_the_highest_return_is_unknown_where_a_term_cannot_say() -> None:
    terms = build_terms({"environment": {}, "judge": {"kind": "reward_model", "path": "x"}})
    assert RewardScorer(terms).max_return(1.0) is None
    assert RewardScorer(build_terms({"environment": {}})).max_return(None) is None


def test_a_missing_value_makes_the_return_unknown() -> None:
    @register_reward("sometimes")
    @dataclasses.dataclass(frozen=True)
    class Sometimes(RewardTerm):
        def score(self, trajectories: Any) -> list[list[float]]:
            return [[float("nan")] * len(t.steps) for t in trajectories]

    group = Group((trajectory(("s", 1.0)),))
    (scored,) = RewardScorer(build_terms({"environment": {}, "sometimes": {}})).score([group])
    assert not scored.trajectories[0].has_return


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "No reward term is chosen"),
        ({"fromat": {}}, "Did you mean 'format'"),
        ({"format": {"patern": "x"}}, "Did you mean 'pattern'"),
        ({"length": {"limit": 0}}, "at least 1"),
        ({"unit_test": {"megabytes": 1}}, "reward.unit_test: megabytes must be at least 64"),
        ({"format": {"weight": "abc"}}, "reward.format.weight must be a number, got 'abc'"),
    ],
)
def test_bad_terms_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_terms(config)


def test_without_the_environments_reward_the_terms_say_what_success_is() -> None:
    group = Group((said("42", answer=42), said("43", answer=42)))
    (scored,) = RewardScorer(build_terms({"exact_answer": {}})).score([group])
    assert [t.success for t in scored] == [True, False]
    (left,) = RewardScorer(build_terms({"environment": {}, "exact_answer": {}})).score([group])
    assert [t.success for t in left] == [False, False]  # the environment knows better


def test_several_terms_from_the_command_line() -> None:
    config = parse(compose_config("train", ["reward=[environment,format]", "reward.format.weight=0.2"]))
    terms = build_terms(config.reward)
    assert {name: term.weight for name, term in terms.items()} == {"environment": 1.0, "format": 0.2}
