"""Strings that end a turn, found in what is written token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_SLACK = 4
"""Tokens more than a string has bytes: some stand for no text, and a decoder may drop a space in front."""


@dataclass(frozen=True)
class StopStrings:
    """Ends a completion with the token that completes one of the strings.

    Args:
        strings: at least one character each.
        decode: token ids -> their text.
    """

    strings: tuple[str, ...]
    decode: Callable[[tuple[int, ...]], str]

    def complete(self, token_ids: Sequence[int]) -> bool:
        """True when one of the strings stands in the last tokens; asked after every token, it is true at the first."""
        longest = max(len(string.encode()) for string in self.strings) + _SLACK
        text = self.decode(tuple(token_ids[-longest:]))
        return any(string in text for string in self.strings)

    def cut(self, token_ids: Sequence[int], known: int = 0) -> int | None:
        """How many of the tokens there are up to the end of the first string; None: no string is complete.

        Args:
            known: of the first so many it is known that they complete none.
        """
        return next((n for n in range(known + 1, len(token_ids) + 1) if self.complete(token_ids[:n])), None)


def cut_text(text: str, strings: Sequence[str]) -> str:
    """The text up to the end of the first of the strings."""
    ends = [text.find(string) + len(string) for string in strings if string in text]
    return text[: min(ends)] if ends else text
