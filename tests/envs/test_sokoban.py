"""Sokoban: one level by hand, and what all levels have in common."""

import pytest

from agentgrpo.envs.sokoban import Level, Position, SokobanEnv

# 4 x 4 inside a margin, so 6 wide: cell = 6 * (row + 1) + column + 1.
#   P $ . X
#   # . . .
#   . . . .
#   . . . .
CELLS = frozenset(6 * (y + 1) + x + 1 for y in range(4) for x in range(4))
LEVEL = Level(CELLS - {13}, target=10)


def on_level(player: int, box: int) -> SokobanEnv:
    env = SokobanEnv(size=4)
    env.reset(seed=0)
    snapshot = env.snapshot()
    env.restore(type(snapshot)(LEVEL, Position(player, box), "by hand", 0, 0, None))
    return env


def test_two_pushes_by_hand() -> None:
    env = on_level(7, 8)
    assert env.oracle_actions() == ["right", "right"]
    text, _, _, _, info = env.step("right")
    assert text == ". P $ X\n# . . .\n. . . .\n. . . ."
    assert info["admissible_actions"] == ["down", "left", "right"]  # up is the edge
    text, reward, terminated, _, _ = env.step("right")
    assert (text, reward, terminated) == ("The box is on the target.", 1.0, True)


def test_walls_and_edges_block_player_and_box() -> None:
    env = on_level(7, 8)
    assert env.step("down")[4]["valid_action"] is False  # an inner wall
    assert env.step("left")[4]["valid_action"] is False  # the edge
    assert on_level(14, 8).step("up")[4]["valid_action"] is False  # the box stands against the edge


def test_player_on_the_target_is_drawn_as_q() -> None:
    env = on_level(9, 20)
    assert env.step("right")[0] == ". . . Q\n# . . .\n. $ . .\n. . . ."


def test_a_box_in_a_corner_leaves_no_plan() -> None:
    env = on_level(26, 27)
    env.step("right")  # now in the lower right corner
    assert env.oracle_actions() == []


@pytest.mark.parametrize("size", [4, 5, 6, 8])
def test_every_level_is_solvable_within_the_dial(size: int) -> None:
    env = SokobanEnv(size=size)
    for seed in range(30):
        text, _ = env.reset(seed=seed)
        assert 1 <= len(env.oracle_actions()) <= env.max_solution
        assert text.count("#") == env.walls
        assert text.split("\n")[0].endswith("You are P.")


def test_dials() -> None:
    with pytest.raises(ValueError, match=r"size must be an integer from 4 to 8, got 9\."):
        SokobanEnv(size=9)
    with pytest.raises(ValueError, match=r"max_solution must be an integer from 1 to 10, got 11\."):
        SokobanEnv(max_solution=11)
