"""Longest common prefixes against brute force."""

from hypothesis import example, given
from hypothesis import strategies as st

from agentgrpo.prefixes import beginnings, common_prefix, longest_prefixes

# Few symbols, so that long common prefixes are common.
sequences = st.lists(st.integers(0, 1), max_size=12)


def slow_common_prefix(a: list[int], b: list[int]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


@given(sequences, sequences)
@example([], [])
@example([1], [1])
@example([0] * 9, [0] * 9 + [1])
def test_common_prefix(a: list[int], b: list[int]) -> None:
    assert common_prefix(a, b) == slow_common_prefix(a, b)


@given(st.lists(sequences, max_size=8), st.lists(sequences, max_size=5))
@example([], [[1, 2]])
@example([[]], [[1]])
def test_longest_prefixes(cached: list[list[int]], wanted: list[list[int]]) -> None:
    for tokens, (index, length) in zip(wanted, longest_prefixes(cached, wanted), strict=True):
        best = max((slow_common_prefix(c, tokens) for c in cached), default=0)
        assert length == best
        assert (index == -1) == (best == 0)
        if best:
            assert slow_common_prefix(cached[index], tokens) == best


def test_beginnings_are_named_once() -> None:
    candidates = [[1, 2], [1, 2, 3], [4], [4], [5, 6], []]
    # [1, 2] begins [1, 2, 3], which begins a request; one [4] stays; [5, 6] begins nothing, [] everything.
    assert beginnings(candidates, [[1, 2, 3, 9], [5]]) == {0, 1, 3, 5}
    assert beginnings([], [[1]]) == set()
