"""Calculator: one problem by hand, the dials, and calls that the calculator refuses."""

import re

import pytest

from agentgrpo.envs.calculator import CalculatorEnv, Problem, Work

CHAIN = Problem("(3+5)*2?", 3, (("+", 5), ("*", 2)), (3, 8, 16))


def on(problem: Problem, per_call: int = 1) -> CalculatorEnv:
    env = CalculatorEnv(per_call=per_call)
    env.reset(seed=0)
    snapshot = env.snapshot()
    env.restore(type(snapshot)(problem, Work(), "by hand", 0, 0, None))
    return env


def test_a_chain_by_hand() -> None:
    env = on(CHAIN)
    assert env.oracle_actions() == ["calculate[3+5]", "calculate[8*2]", "answer[16]"]
    assert env.step("calculate[3+5]")[0] == "Result: 8."
    assert env.oracle_actions() == ["calculate[8*2]", "answer[16]"]
    assert env.step("calculate[8*2]")[0] == "Result: 16."
    text, reward, terminated, _, info = env.step("answer[16]")
    assert (text, reward, terminated, info["success"]) == ("Correct.", 1.0, True, True)


def test_a_calculator_that_does_more_in_one_call_needs_fewer() -> None:
    env = on(CHAIN, per_call=2)
    assert env.oracle_actions() == ["calculate[(3+5)*2]", "answer[16]"]
    env.step("calculate[3+5]")
    assert env.oracle_actions() == ["calculate[8*2]", "answer[16]"]


def test_after_a_detour_the_oracle_starts_again() -> None:
    env = on(CHAIN)
    env.step("calculate[3*5]")
    assert env.oracle_actions() == ["calculate[3+5]", "calculate[8*2]", "answer[16]"]
    env.step("calculate[3*5]")
    assert env.oracle_actions() == []  # two calls are left, three are needed


def test_a_wrong_answer_ends_the_episode() -> None:
    text, reward, terminated, _, info = on(CHAIN).step("answer[8]")
    assert (text, reward, terminated, info["success"]) == ("Wrong.", 0.0, True, False)


@pytest.mark.parametrize("answer", ["16", "16.0", "+16", "16."])
def test_the_same_number_may_be_written_in_several_ways(answer: str) -> None:
    assert on(CHAIN).step(f"answer[{answer}]")[1] == 1.0


def test_listed_actions_by_hand() -> None:
    env = on(Problem("6/2?", 6, (("/", 2),), (6, 3)))
    _, info = env.restore(env.snapshot())
    pairs = ["2*6", "2+6", "2-6", "2/6", "6*2", "6+2", "6-2", "6/2"]
    assert info["admissible_actions"] == sorted(["answer[2]", "answer[6]", *(f"calculate[{p}]" for p in pairs)])
    after = env.step("calculate[6/2]")[4]["admissible_actions"]
    assert len(after) == 3 + 24  # three numbers now: 3 * 2 ordered pairs, 4 operators
    assert {"answer[3]", "calculate[3*6]", "calculate[2-3]"} <= set(after)
    negative = env.step("calculate[2-6]")
    assert negative[0] == "Result: -4."
    assert len(negative[4]["admissible_actions"]) == 10


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("calculate[9**9**9]", "Error: an expression has numbers, + - * / and parentheses."),
        ("calculate[open('x')]", "Error: an expression has numbers, + - * / and parentheses."),
        ("calculate[3+5*2]", "Error: at most 1 operation in one call."),
        ("calculate[3/0]", "Error: division by zero."),
        ("calculate[" + "(" * 500 + "]", "Error: an expression has at most 200 characters."),
        ("calculate[é\ud800]", "Error: an expression has numbers, + - * / and parentheses."),
    ],
)
def test_what_the_calculator_refuses_is_an_error_and_no_end(call: str, text: str) -> None:
    env = on(CHAIN)
    answer, reward, terminated, truncated, info = env.step(call)
    assert (answer, reward, terminated, truncated) == (text, 0.0, False, False)
    assert info["valid_action"] is True
    assert len(env.oracle_actions()) == 3


def test_a_half_written_call_is_no_action() -> None:
    text, *_, info = on(CHAIN).step("calculate[3+5")
    assert text == "Not possible. Answer with calculate[expression] or answer[number]. (3+5)*2?"
    assert info["valid_action"] is False


@pytest.mark.parametrize("operators", ["+", "-", "*", "/", "+-*/", "-/"])
def test_problems_within_the_dials(operators: str) -> None:
    for operations in (1, 2, 3):
        env = CalculatorEnv(max_number=12, operations=operations, operators=operators)
        for seed in range(60):
            text, _ = env.reset(seed=seed)
            problem = env.task
            assert [int(n) for n in re.findall(r"\d+", text)] == [problem.start, *(n for _, n in problem.steps)]
            assert len(problem.steps) == operations
            assert {operator for operator, _ in problem.steps} <= set(operators)
            assert all(2 <= n <= 12 for n in (problem.start, *(n for _, n in problem.steps)))
            assert all(value >= 0 for value in problem.values)
            for (operator, n), before, after in zip(problem.steps, problem.values, problem.values[1:], strict=False):
                exact = {"+": before + n, "-": before - n, "*": before * n, "/": before / n}[operator]
                assert after == exact
            assert len(env.oracle_actions()) == operations + 1


@pytest.mark.parametrize("per_call", [1, 2, 3, 4])
def test_the_oracle_solves_every_problem(per_call: int) -> None:
    env = CalculatorEnv(max_number=1000, operations=4, per_call=per_call, max_turns=5)
    for seed in range(100):
        env.reset(seed=seed)
        plan = env.oracle_actions()
        assert len(plan) == {1: 5, 2: 3, 3: 3, 4: 2}[per_call]
        results = [env.step(action) for action in plan]
        assert results[-1][1] == 1.0
        assert not any(text.startswith("Error") for text, *_ in results)


def test_problems_in_words_and_in_numbers() -> None:
    words, numbers = CalculatorEnv(operations=2), CalculatorEnv(operations=2, style="numbers")
    assert words.reset(seed=1)[0].endswith(" How many now?")
    for seed in range(50):
        text, _ = numbers.reset(seed=seed)
        expression = re.fullmatch(r".* How much is ([-+*/()0-9]+)\?", text)
        assert expression is not None
        again = CalculatorEnv(operations=2, style="numbers", per_call=2)
        again.reset(seed=seed)
        again.step(f"calculate[{expression[1]}]")  # the text means what the oracle computes
        assert again.state.result == str(numbers.task.values[-1])


def test_dials() -> None:
    with pytest.raises(ValueError, match=r"max_number must be an integer from 2 to 1000, got 1\."):
        CalculatorEnv(max_number=1)
    with pytest.raises(ValueError, match=r"max_number must be an integer from 16 to 1000, got 15\."):
        CalculatorEnv(max_number=15, operations=4, operators="/", max_turns=5)
    with pytest.raises(ValueError, match=r"operations must be an integer from 1 to 4, got 5\."):
        CalculatorEnv(operations=5)
    with pytest.raises(ValueError, match=r"per_call must be an integer from 1 to 4, got 0\."):
        CalculatorEnv(per_call=0)
    for operators in ("", "+^", ["+"]):
        with pytest.raises(ValueError, match=r"operators must be some of \+-\*/, got"):
            CalculatorEnv(operators=operators)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="style must be one of words, numbers; got 'prose'"):
        CalculatorEnv(style="prose")
    with pytest.raises(ValueError, match="max_turns must be at least 4 with operations=3 and per_call=1, got 3"):
        CalculatorEnv(operations=3, max_turns=3)
