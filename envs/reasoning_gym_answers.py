"""Scoring with reasoning-gym's own scorers, without running what stands in an answer.

Some of its scorers hand the answer to ``eval`` or to sympy's parser, which evaluates it as well: an answer could run
code, or ask for a power tower that keeps the process busy for good. Some give the full score to nonsense. What is asked
here first keeps both from them.
"""

import ast
import copy
import math
import re
import sys
from collections.abc import Callable
from typing import Any

LONGEST_ANSWER = 10_000
"""Characters that are scored."""
LARGEST_EXPONENT = 100
"""Product of the exponents of powers inside each other."""

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FUNCTIONS = {
    *("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
    *("exp", "log", "ln", "sqrt", "Abs"),
}
_NAMES = {*_FUNCTIONS, "pi"}
_LITERALS_ONLY = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")


def answer_in(text: str) -> str:
    """The last ``<answer>...</answer>`` of a text, else all of it; without the white space around."""
    found = _TAG.findall(text)
    return (found[-1] if found else text).strip()


def is_harmless(expression: str) -> bool:
    """Whether a text is arithmetic of numbers, letters and common functions with small exponents, and nothing else."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return _exponents(tree.body) <= LARGEST_EXPONENT
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _exponents(node: ast.expr) -> float:
    """The largest product of exponents inside each other; infinite where something else than arithmetic stands."""
    match node:
        case ast.Constant(value=int() | float() as value) if abs(value) < 1e12:
            return 1.0
        case ast.Name(id=name) if len(name) == 1 or name in _NAMES:
            return 1.0
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _exponents(operand)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            return max(_exponents(left), _exponents(right))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _exponents(left) * max(_size(right), 1.0)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return _exponents(argument)
        case _:
            return math.inf


def _size(exponent: ast.expr) -> float:
    match exponent:
        case ast.Constant(value=int() | float() as value):
            return abs(value)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _size(operand)
        case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(value=int() as value)) if value:
            return _size(left)
        case _:
            return math.inf


_CHECKS: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24"), is_harmless),
    "simple_integration": is_harmless,
    "complex_arithmetic": lambda answer: re.search("nan|inf", answer, re.IGNORECASE) is None,  # else nan scores 1
    "game_of_life_halting": lambda answer: answer.lower() in ("true", "false"),  # else all but "True" counts as False
}
"""What an answer must be like to be shown to a dataset's scorer."""


def score(data: Any, dataset: str, answer: str, entry: dict[str, Any]) -> float:
    """Ask the dataset's scorer.

    Args:
        data: the dataset.
        dataset: its name.
        answer: what is to be scored.
        entry: the question, as the dataset gave it.

    Returns:
        0.0 .. 1.0; 0.0 also for an answer that the scorer cannot read.
    """
    if not answer or len(answer) > LONGEST_ANSWER:
        return 0.0
    if answer != entry["answer"] and not _CHECKS.get(dataset, bool)(answer):
        return 0.0
    if dataset in _LITERALS_ONLY:
        # A name in the scorer's module hides the built-in from it alone.
        vars(sys.modules[type(data).__module__])["eval"] = ast.literal_eval
    try:
        found = float(data.score_answer(answer, copy.deepcopy(entry)))  # a copy: scorers may play on the question
    except Exception:  # not every scorer is prepared for every text
        return 0.0
    return min(max(found, 0.0), 1.0) if math.isfinite(found) else 0.0
