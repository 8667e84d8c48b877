"""Longest common prefixes among token sequences."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of leading tokens that two sequences share. By bisection over slices, which compare at C speed."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # a[:low] agrees, a[:high] does not
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def longest_prefixes(cached: list[list[int]], wanted: list[list[int]]) -> list[tuple[int, int]]:
    """For each wanted sequence the cached one that shares the longest prefix: (index, length), (-1, 0) if none.

    In sorted order the best match of a sequence is one of its two neighbours, so this takes one bisection each.
    """
    order = sorted(range(len(cached)), key=cached.__getitem__)
    ordered = [cached[i] for i in order]
    out = []
    for tokens in wanted:
        at = bisect_left(ordered, tokens)
        found = [(common_prefix(ordered[k], tokens), k) for k in (at - 1, at) if 0 <= k < len(ordered)]
        length, k = max(found, default=(0, -1))
        out.append((order[k], length) if length else (-1, 0))
    return out


def beginnings(candidates: list[list[int]], others: list[list[int]]) -> set[int]:
    """Which of the candidates say nothing new: each is a prefix of one of the others, or of another candidate.

    Of equal candidates the first is not named. In sorted order a sequence is a prefix of some later one exactly when it
    is a prefix of the next.
    """
    ordered = sorted([(tokens, -i) for i, tokens in enumerate(candidates)] + [(tokens, 1) for tokens in others])
    return {
        -mark
        for (tokens, mark), (following, _) in pairwise(ordered)
        if mark <= 0 and following[: len(tokens)] == tokens
    }
