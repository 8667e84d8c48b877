"""KeyMaze: one map by hand, and what all maps have in common."""

import pytest

from agentgrpo.envs.key_maze import KeyMazeEnv, Maze, Situation

# B (key) - A (start) - door - C (treasure), from west to east.
MAZE = Maze(("A", "B", "C"), ({"west": 1, "east": 2}, {"east": 0}, {"west": 0}), 1, 0, 2)
NOTHING = ""
KEY = " You have the key."


def at_start() -> KeyMazeEnv:
    env = KeyMazeEnv()
    env.reset(seed=0)
    snapshot = env.snapshot()
    env.restore(type(snapshot)(MAZE, Situation(0, False, False), "by hand", 0, 0, None))
    return env


def test_the_way_to_the_treasure_by_hand() -> None:
    env = at_start()
    plan = ["go west", "take key", "go east", "unlock door", "go east"]
    assert env.oracle_actions() == plan
    texts = [env.step(action)[0] for action in plan]
    assert texts == [
        "Room B. Exits: east. Key here." + NOTHING,
        "Room B. Exits: east." + KEY,
        "Room A. Exits: west. Locked door east." + KEY,
        "Room A. Exits: east, west. Open door east." + KEY,
        "You reach the treasure." + KEY,
    ]


def test_admissible_actions_follow_the_situation() -> None:
    env = at_start()
    seen = [env.step("look")[4]["admissible_actions"]]
    seen += [env.step(action)[4]["admissible_actions"] for action in ["go west", "take key", "go east", "unlock door"]]
    assert seen == [
        ["go west", "look"],
        ["go east", "look", "take key"],
        ["go east", "look"],
        ["go west", "look", "unlock door"],
        ["go east", "go west", "look"],
    ]


def test_locked_door_and_missing_key_are_not_possible() -> None:
    env = at_start()
    for action in ["go east", "unlock door", "take key", "go north"]:
        text, reward, terminated, _, info = env.step(action)
        assert text.startswith("Not possible. Answer with one of: go west, look. Room A.")
        assert (reward, terminated, info["valid_action"]) == (0.0, False, False)


def test_anchor_tells_an_open_door_from_a_locked_one_where_the_text_cannot() -> None:
    env = at_start()
    env.step("go west")
    text, _, _, _, info = env.step("take key")
    env.step("go east")
    env.step("unlock door")
    text_later, _, _, _, info_later = env.step("go west")
    assert text_later == text
    assert info_later["anchor"] == text + " Door open."
    assert info["anchor"] == text + " Door locked."


@pytest.mark.parametrize("rooms", [3, 4, 6, 12])
def test_every_map_is_connected_and_the_treasure_has_one_entrance(rooms: int) -> None:
    env = KeyMazeEnv(rooms)
    for seed in range(50):
        env.reset(seed=seed)
        maze = env.task
        assert len(set(maze.names)) == rooms
        assert len(maze.exits[maze.treasure_room]) == 1
        assert len({env.state.room, maze.key_room, maze.treasure_room}) == 3
        assert env.oracle_actions()[-2:-1] == ["unlock door"]
        for room, exits in enumerate(maze.exits):
            back = {"north": "south", "south": "north", "east": "west", "west": "east"}
            assert all(maze.exits[to][back[direction]] == room for direction, to in exits.items())


def test_evaluation_tasks_are_mostly_unseen_in_training() -> None:
    env = KeyMazeEnv(rooms=3)

    def task(seed: int) -> object:
        env.reset(seed=seed)
        return env.task.names, str(env.task.exits), env.task.key_room, env.state

    seen = {task(seed) for seed in range(500)}
    assert sum(task(seed) in seen for seed in range(10_000, 10_200)) < 20


def test_no_map_has_a_shorter_way_than_asked_for() -> None:
    env = KeyMazeEnv(rooms=8, max_turns=14, min_solution=10)
    lengths = []
    for seed in range(60):
        env.reset(seed=seed)
        lengths.append(len(env.oracle_actions()))
    assert min(lengths) == 10
    assert max(lengths) <= 14


def test_dials() -> None:
    assert [KeyMazeEnv(rooms).max_turns for rooms in (3, 4, 6)] == [10, 12, 15]
    with pytest.raises(ValueError, match=r"rooms must be an integer from 3 to 12, got 2\."):
        KeyMazeEnv(rooms=2)
    with pytest.raises(ValueError, match=r"min_solution must be an integer from 0 to 10, got 11\."):
        KeyMazeEnv(rooms=8, min_solution=11)
