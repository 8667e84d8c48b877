"""Arithmetic on text without ``eval``: numbers, + - * / and parentheses, exact, and bounded in every direction."""

import re
from fractions import Fraction
from typing import NoReturn

MAX_LENGTH = 200
"""Characters of an expression."""
MAX_DEPTH = 20
"""Parentheses and signs inside each other."""
MAX_NUMBER = 10**12
"""Largest absolute value of a number, written or computed."""

_PIECE = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]+)?)|([-+*/()]))")
_DECIMALS = 6


class ArithmeticRefused(ValueError):
    """A text that is not computed; the message is for whoever wrote it."""


def compute(text: str, max_operations: int) -> Fraction:
    """Return the value of an expression.

    Args:
        text: anything.
        max_operations: most operations with two operands.

    Raises:
        ArithmeticRefused: it is no expression, divides by zero, or goes beyond one of the bounds.
    """
    parser = _Parser(_pieces(text), max_operations)
    value = parser.sum(0)
    if parser.here is not None:
        _no_expression()
    return value


def written(value: Fraction) -> str:
    """Return an integer as it is, and another number rounded to 6 decimals."""
    scaled = round(abs(value) * 10**_DECIMALS)
    whole, decimals = divmod(scaled, 10**_DECIMALS)
    text = f"{whole}.{decimals:0{_DECIMALS}d}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 and scaled else text


def _pieces(text: str) -> list[str]:
    if len(text) > MAX_LENGTH:
        raise ArithmeticRefused(f"an expression has at most {MAX_LENGTH} characters")
    pieces = []
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _PIECE.match(text, position)
        if match is None:
            _no_expression()
        pieces.append(match[1] or match[2])
        position = match.end()
    return pieces


class _Parser:
    """Recursive descent: a sum of products of factors, evaluated on the way."""

    def __init__(self, pieces: list[str], max_operations: int) -> None:
        self._pieces = pieces
        self._next = 0
        self._left = self._max_operations = max_operations

    @property
    def here(self) -> str | None:
        """The piece that comes next; None at the end."""
        return self._pieces[self._next] if self._next < len(self._pieces) else None

    def _take(self) -> str:
        piece = self.here
        if piece is None:
            _no_expression()
        self._next += 1
        return piece

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self.here in ("+", "-"):
            sign = 1 if self._operator() == "+" else -1
            value = _bounded(value + sign * self._product(depth))
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while self.here in ("*", "/"):
            operator, factor = self._operator(), self._factor(depth)
            if operator == "/" and factor == 0:
                raise ArithmeticRefused("division by zero")
            value = _bounded(value * factor if operator == "*" else value / factor)
        return value

    def _factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise ArithmeticRefused(f"at most {MAX_DEPTH} parentheses inside each other")
        piece = self._take()
        if piece == "-":
            return -self._factor(depth + 1)
        if piece == "(":
            value = self.sum(depth + 1)
            if self._take() != ")":
                _no_expression()
            return value
        if not piece[0].isdigit():
            _no_expression()
        return _bounded(Fraction(piece))

    def _operator(self) -> str:
        if not self._left:
            most = self._max_operations
            raise ArithmeticRefused(f"at most {most} operation{'s' if most > 1 else ''} in one call")
        self._left -= 1
        return self._take()


def _bounded(value: Fraction) -> Fraction:
    if abs(value) > MAX_NUMBER:
        raise ArithmeticRefused(f"numbers go up to {MAX_NUMBER}")
    return value


def _no_expression() -> NoReturn:
    raise ArithmeticRefused("an expression has numbers, + - * / and parentheses")
