"""What of an answer reaches a scorer, and what does not; without reasoning-gym itself."""

import json
from typing import Any

import pytest

from agentgrpo.envs.reasoning_gym_answers import LONGEST_ANSWER, answer_in, is_harmless, score


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 42\n", "42"),
        ("So it is <answer> 42 </answer>.", "42"),
        ("<answer>1</answer> No: <answer>a\nb</answer>", "a\nb"),
        ("<answer>42", "<answer>42"),
        ("", ""),
        ("<answer></answer>", ""),
    ],
)
def test_the_last_tag_or_all_of_the_text(text: str, answer: str) -> None:
    assert answer_in(text) == answer


@pytest.mark.parametrize(
    "expression",
    [
        "45 + 22 - 29 * (3 + 4)/2",
        "2*x**3*cos(x) - 6*x**2*sin(x) + C",
        "204*z**6 - 1470*z**3",
        "x**(1/2)",
        "exp(2*x)**-1",
    ],
)
def test_arithmetic_is_harmless(expression: str) -> None:
    assert is_harmless(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "((9**9)**9)**9",
        "2**1000",
        "x**y",
        "x**(1/0)",
        "10000000000000",
        "__import__('os').system('true')",
        "open('x', 'w')",
        "x.__class__",
        "(lambda: 1)()",
        "[1 for a in b]",
        "'a' * 9",
        "evaluate(1)",
        "sin(x, y)",
        "sin(evaluate=x)",
        "a if b else c",
        "",
        "1 +",
        "2 3",
        "\x00",
        "(" * 5000,
        "-" * 50_000 + "1",
        "٣ +",
    ],
)
def test_everything_else_is_not(expression: str) -> None:
    assert not is_harmless(expression)


class Scorer:
    """Takes numbers only, and changes the question."""

    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        entry["asked"].append(answer)
        return float(json.loads(answer))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        *[("0.25", 0.25), ("3", 1.0), ("-1", 0.0), ("NaN", 0.0), ("Infinity", 0.0)],
        *[("no number", 0.0), ("", 0.0), ("[1]", 0.0), ("0" + " " * LONGEST_ANSWER, 0.0)],
    ],
)
def test_scores_are_between_0_and_1_whatever_the_scorer_does(answer: str, expected: float) -> None:
    entry: dict[str, Any] = {"answer": "1", "asked": []}
    assert score(Scorer(), "any", answer, entry) == expected
    assert entry["asked"] == []


def test_the_datasets_own_answer_is_not_checked() -> None:
    entry: dict[str, Any] = {"answer": "1e2", "asked": []}
    assert score(Scorer(), "game_of_life_halting", "1e2", entry) == 1.0
    assert score(Scorer(), "game_of_life_halting", "1e3", entry) == 0.0
