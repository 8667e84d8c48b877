"""Hanoi: the rules by hand, and the graph of positions."""

from collections import Counter

import pytest

from agentgrpo.envs.hanoi import Discs, HanoiEnv


def at(discs: Discs, max_turns: int | None = None) -> HanoiEnv:
    env = HanoiEnv(len(discs), max_turns=max_turns)
    env.reset(seed=0)
    snapshot = env.snapshot()
    env.restore(type(snapshot)(discs, discs, "by hand", 0, 0, None))
    return env


def test_three_moves_by_hand() -> None:
    env = at((0, 0))
    plan = ["move a b", "move a c", "move b c"]
    assert env.oracle_actions() == plan
    results = [env.step(action) for action in plan]
    assert [result[0] for result in results] == [
        "a: 2, b: 1, c: empty.",
        "a: empty, b: 1, c: 2.",
        "a: empty, b: empty, c: 2 1.",
    ]
    assert [result[1:4] for result in results] == [(0.0, False, False), (0.0, False, False), (1.0, True, False)]


def test_goal_and_position_are_one_line() -> None:
    env = HanoiEnv(discs=3, min_solution=7)
    text, info = env.reset(seed=0)
    assert text == f"Goal: all discs on c. {info['anchor']}"
    assert info["admissible_actions"] == ["move a b", "move a c", "move b a", "move b c", "move c a", "move c b"]


def test_a_larger_disc_does_not_go_onto_a_smaller_one_and_an_empty_peg_gives_none() -> None:
    env = at((1, 0, 0))
    text, _ = env.restore(env.snapshot())
    assert text == "a: 3 2, b: 1, c: empty."
    for action in ("move a b", "move c a", "move c b"):
        after, reward, terminated, _, info = env.step(action)
        assert (after, reward, terminated, info["valid_action"]) == (text, 0.0, False, True)
    assert env.step("move a c")[0] == "a: 3, b: 1, c: 2."


def test_a_forbidden_move_takes_a_turn() -> None:
    env = at((0, 0), max_turns=3)
    env.step("move b c")
    assert env.oracle_actions() == []  # three moves in two turns
    assert env.step("move b c")[3] is False
    assert env.step("move b c")[3] is True


@pytest.mark.parametrize("discs", [2, 3, 4, 5])
def test_there_are_as_many_positions_at_each_distance_as_the_graph_has(discs: int) -> None:
    # The graph of Hanoi is Sierpinski's triangle: 2 ** (ones in the binary form of d) positions lie d from a corner.
    env = HanoiEnv(discs)
    counts: Counter[int] = Counter()
    for number in range(3**discs):
        position = tuple(number // 3**disc % 3 for disc in range(discs))
        env.reset(seed=0)
        snapshot = env.snapshot()
        env.restore(type(snapshot)(position, position, "", 0, 0, None))
        counts[len(env.oracle_actions())] += 1
    assert counts == {d: 2 ** d.bit_count() for d in range(2**discs)}


def test_starts_lie_as_far_from_the_goal_as_asked_for() -> None:
    def lengths(env: HanoiEnv) -> set[int]:
        found = set()
        for seed in range(60):
            env.reset(seed=seed)
            found.add(len(env.oracle_actions()))
        return found

    assert lengths(HanoiEnv(3)) == {1, 2, 3, 4, 5, 6, 7}
    assert lengths(HanoiEnv(3, max_solution=2)) == {1, 2}
    assert lengths(HanoiEnv(3, min_solution=6)) == {6, 7}
    assert lengths(HanoiEnv(3, max_turns=4)) == {1, 2, 3, 4}  # no start that the turns do not allow


def test_dials() -> None:
    assert [HanoiEnv(discs).max_turns for discs in (2, 3, 4, 5)] == [6, 12, 24, 48]
    with pytest.raises(ValueError, match=r"discs must be an integer from 2 to 5, got 6\."):
        HanoiEnv(discs=6)
    with pytest.raises(ValueError, match=r"min_solution must be an integer from 1 to 3, got 4\."):
        HanoiEnv(min_solution=4)
    with pytest.raises(ValueError, match=r"max_solution must be an integer from 2 to 3, got 1\."):
        HanoiEnv(min_solution=2, max_solution=1)
