"""The text space and the search that the built-in tasks share."""

from collections.abc import Iterator

import pytest

from agentgrpo.envs.base import AnyText, in_range, share, shortest_path


def test_any_text_holds_every_str_up_to_its_length_and_nothing_else() -> None:
    space = AnyText(5)
    assert "" in space
    assert "é 🗝\x00" in space
    assert "123456" not in space
    assert 5 not in space


def test_any_text_samples_are_short_members_and_repeat_with_the_seed() -> None:
    one, other = AnyText(seed=3), AnyText(seed=3)
    samples = [one.sample() for _ in range(50)]
    assert samples == [other.sample() for _ in range(50)]
    assert all(sample in one and len(sample) <= 32 for sample in samples)
    assert all(len(AnyText(2, seed=i).sample()) <= 2 for i in range(20))


def count_up(node: int) -> Iterator[tuple[str, int]]:
    if node < 9:
        yield "one", node + 1
        yield "two", node + 2


def test_shortest_path_by_hand() -> None:
    # 0 -> 5 in steps of one or two: three steps, and breadth first tries "one" before "two".
    path = shortest_path(0, count_up, lambda node: node == 5)
    assert path is not None
    assert sorted(path) == ["one", "two", "two"]
    assert shortest_path(5, count_up, lambda node: node == 5) == []
    assert shortest_path(6, count_up, lambda node: node == 5) is None


def test_shortest_path_gives_up_beyond_max_length() -> None:
    assert shortest_path(0, count_up, lambda node: node == 5, max_length=3) is not None
    assert shortest_path(0, count_up, lambda node: node == 5, max_length=2) is None


@pytest.mark.parametrize("value", [0, 5, 2.0, "3", True, None])
def test_in_range_refuses_what_is_no_int_of_the_range(value: object) -> None:
    with pytest.raises(ValueError, match="size must be an integer from 2 to 4, got"):
        in_range("size", value, 2, 4)  # type: ignore[arg-type]


def test_share_takes_an_int_and_refuses_nan() -> None:
    assert share("slip", 1, 0.0, 1.0) == 1.0
    with pytest.raises(ValueError, match=r"slip must be a number from 0\.0 to 1\.0, got nan"):
        share("slip", float("nan"), 0.0, 1.0)
