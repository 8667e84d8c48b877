"""Calculator: a problem in words or numbers, a calculator, and one answer."""

import itertools
from typing import ClassVar, NamedTuple

from agentgrpo.checks import one_of
from agentgrpo.envs.arithmetic import ArithmeticRefused, compute, written
from agentgrpo.envs.base import View, in_range
from agentgrpo.envs.tools import Tool, ToolEnv, same_answer

OPERATORS = "+-*/"
STYLES = ("words", "numbers")
PEOPLE = (("Ann", "She"), ("Ben", "He"), ("Eve", "She"), ("Tom", "He"))
THINGS = ("pens", "coins", "cards", "eggs", "nuts", "books")
SENTENCES = {
    "+": "{who} finds {n}.",
    "-": "{who} loses {n}.",
    "*": "{who} gets {n} times as many.",
    "/": "{who} keeps one in {n}.",
}
MAX_VALUE = 1_000_000
"""Largest number on the way to an answer."""


class Problem(NamedTuple):
    """A chain of operations, from left to right: ``start``, then each operator with its number."""

    question: str
    start: int
    steps: tuple[tuple[str, int], ...]
    values: tuple[int, ...]
    """What has been computed after 0, 1, .. all operations."""


class Work(NamedTuple):
    """Where the agent has got to."""

    result: str = ""
    """What the calculator shows; empty at first and after an error."""
    error: str = ""
    correct: bool | None = None
    """Of the answer, once there is one."""


class CalculatorEnv(ToolEnv[Problem, Work]):
    """Tools: ``calculate[12*7]`` shows a number, ``answer[84]`` ends the episode.

    The calculator knows + - * / and parentheses. What the oracle computes are the operations of the problem, as many
    in one call as are allowed. The listed actions are these, all operations on two of the problem's numbers and the
    number shown, and each of those numbers as the answer; others can be called, too.

    Args:
        max_number: largest number of a problem, 2..1000; numbers start at 2. Problems without + and * need larger ones.
        operations: operations of a problem, 1..4.
        operators: which there are, some of +-*/.
        style: words: a little story | numbers: the expression itself.
        per_call: operations that the calculator does in one call, 1..4; problems with more need several calls.
        max_turns: calls per episode.
        tool_format: how calls are written, text | json.
    """

    tools: ClassVar[tuple[Tool, ...]] = (Tool("calculate", "expression"), Tool("answer", "number"))

    def __init__(
        self,
        max_number: int = 20,
        operations: int = 1,
        operators: str = OPERATORS,
        style: str = "words",
        per_call: int = 1,
        max_turns: int = 4,
        tool_format: str = "text",
    ) -> None:
        super().__init__(max_turns, tool_format)
        self.operations = in_range("operations", operations, 1, 4)
        self.per_call = in_range("per_call", per_call, 1, 4)
        if not isinstance(operators, str) or not operators or set(operators) - set(OPERATORS):
            raise ValueError(f"operators must be some of {OPERATORS}, got {operators!r}.")
        self.max_number = in_range("max_number", max_number, _least_start(operators, operations), 1000)
        one_of("style", style, STYLES)
        needed = -(-operations // per_call) + 1
        if max_turns < needed:
            raise ValueError(
                f"max_turns must be at least {needed} with operations={operations} and per_call={per_call}, "
                f"got {max_turns}."
            )
        self.operators = "".join(dict.fromkeys(operators))
        self.style = style

    def _new_task(self) -> str:
        while True:
            values = [int(self.np_random.integers(2, self.max_number + 1))]
            steps: list[tuple[str, int]] = []
            for _ in range(self.operations):
                choices = self._next_steps(values[-1])
                if not choices:
                    break  # nothing can be done with what is left: another start
                operator = list(choices)[self.np_random.integers(len(choices))]
                number = int(choices[operator][self.np_random.integers(len(choices[operator]))])
                steps.append((operator, number))
                values.append(_apply(values[-1], operator, number))
            else:
                break
        self.task = Problem(self._question(values[0], steps), values[0], tuple(steps), tuple(values))
        self.state = Work()
        return self._how_to_answer()

    def _next_steps(self, value: int) -> dict[str, range | list[int]]:
        """For each operator the numbers with which it gives an integer from 0 to ``MAX_VALUE``."""
        most = self.max_number
        numbers: dict[str, range | list[int]] = {
            "+": range(2, min(most, MAX_VALUE - value) + 1),
            "-": range(2, min(most, value) + 1),
            "*": range(2, min(most, MAX_VALUE // max(value, 1)) + 1),
            "/": [n for n in range(2, min(most, value) + 1) if value % n == 0],
        }
        return {operator: numbers[operator] for operator in self.operators if len(numbers[operator])}

    def _question(self, start: int, steps: list[tuple[str, int]]) -> str:
        if self.style == "numbers":
            return f"How much is {_expression(start, steps)}?"
        name, who = PEOPLE[self.np_random.integers(len(PEOPLE))]
        things = THINGS[self.np_random.integers(len(THINGS))]
        story = [SENTENCES[operator].format(who=who, n=n) for operator, n in steps]
        return " ".join([f"{name} has {start} {things}.", *story, "How many now?"])

    def _view(self) -> View:
        result, error, correct = self.state
        if correct is not None:
            text = "Correct." if correct else "Wrong."
        elif result or error:
            text = f"Result: {result}." if result else f"Error: {error}."
        else:
            text = self.task.question
        return View(text, text, self._sensible())

    def _sensible(self) -> list[str]:
        problem, shown = self.task, self.state.result
        known = [str(number) for number in (problem.start, *(n for _, n in problem.steps))]
        if shown.isdigit():
            known.append(shown)
        calls = {f"{a}{operator}{b}" for a, b in itertools.permutations(known, 2) for operator in self.operators}
        calls |= set(self._calls()[:1])
        actions = {self._write("calculate", call) for call in calls}
        return sorted(actions | {self._write("answer", number) for number in known})

    def _use(self, name: str, argument: str) -> None:
        if name == "answer":
            self.state = self.state._replace(correct=same_answer(argument, str(self.task.values[-1])))
            return
        try:
            self.state = Work(result=written(compute(argument, self.per_call)))
        except ArithmeticRefused as error:
            self.state = Work(error=str(error))

    def _outcome(self) -> bool | None:
        return self.state.correct

    def _plan(self) -> list[str]:
        calls = [self._write("calculate", call) for call in self._calls()]
        return [*calls, self._write("answer", str(self.task.values[-1]))]

    def _calls(self) -> list[str]:
        """What is still to be computed: from the number that is shown, where it is one on the way."""
        _, start, steps, values = self.task
        done = max((k for k in range(1, len(values)) if str(values[k]) == self.state.result), default=0)
        value = values[done] if done else start
        calls = []
        while done < len(steps):
            calls.append(_expression(value, steps[done : done + self.per_call]))
            done = min(done + self.per_call, len(steps))
            value = values[done]
        return calls


def _least_start(operators: str, operations: int) -> int:
    """Return the smallest start from which so many operations can be done with numbers from 2 on."""
    if set(operators) & set("+*"):
        return 2
    return 2 * operations if "-" in operators else 2**operations


def _apply(value: int, operator: str, number: int) -> int:
    if operator == "/":
        return value // number  # nothing is left over: that is how the number was drawn
    return {"+": value + number, "-": value - number, "*": value * number}[operator]


def _expression(start: int, steps: tuple[tuple[str, int], ...] | list[tuple[str, int]]) -> str:
    """Write operations that go from left to right, with parentheses where a sum is multiplied or divided."""
    text, is_sum = str(start), False
    for operator, number in steps:
        if operator in "*/":
            text, is_sum = (f"({text})" if is_sum else text), False
        else:
            is_sum = True
        text = f"{text}{operator}{number}"
    return text
