"""BabyAI: the view in words, levels, and the bot as oracle."""

from typing import Any

import pytest

pytest.importorskip("minigrid")

from agentgrpo.env_check import check_env
from agentgrpo.envs.babyai import BabyAIEnv, describe

EMPTY, WALL, DOOR, BALL = [1, 0, 0], [2, 5, 0], [4, 0, 1], [6, 2, 0]  # MiniGrid's codes: object, colour, state


def view(**things: list[int]) -> list[list[list[int]]]:
    """Return MiniGrid's 7 x 7 view; ``x3y6`` is where the agent stands, and it looks towards y = 0."""
    return [[things.get(f"x{x}y{y}", EMPTY) for y in range(7)] for x in range(7)]


def test_a_view_in_words_by_hand() -> None:
    assert describe(view()) == "You see no object."
    assert describe(view(x3y4=BALL)) == "A blue ball is 2 ahead."
    assert describe(view(x2y4=BALL, x3y2=WALL, x3y1=WALL)) == "A blue ball is 2 ahead, 1 left. A wall is 4 ahead."
    assert describe(view(x5y6=BALL, x3y5=DOOR)) == "A closed red door is 1 ahead. A blue ball is 2 right."
    assert describe(view(x3y6=BALL)) == "You see no object."  # that one is carried


def test_mission_comes_first_and_only_once() -> None:
    env = BabyAIEnv()
    text, info = env.reset(seed=0)
    assert text.startswith("Mission: go to the ")
    assert info["admissible_actions"] == ["forward", "left", "right"]
    assert "Mission" not in env.step("left")[0]


def test_anchor_adds_position_and_direction() -> None:
    env = BabyAIEnv()
    _, info = env.reset(seed=0)
    anchors = [info["anchor"]] + [env.step("left")[4]["anchor"] for _ in range(4)]
    assert anchors[0] == anchors[4]  # a full turn
    assert len(set(anchors)) == 4


def test_the_oracle_leaves_the_real_env_untouched() -> None:
    env, other = BabyAIEnv(), BabyAIEnv()
    env.reset(seed=1)
    other.reset(seed=1)
    env.oracle_actions()
    for action in ["left", "forward", "forward", "right"]:
        assert env.step(action) == other.step(action)


def test_the_oracle_solves_at_least_95_of_100_tasks_in_12_turns() -> None:
    env = BabyAIEnv()
    solved = 0
    for seed in range(100):
        env.reset(seed=seed)
        for action in env.oracle_actions():
            result = env.step(action)
            solved += result[4]["success"]
    assert solved >= 95


@pytest.mark.parametrize(
    ("level", "max_turns", "num_actions"),
    [("GoToRedBall", 12, 3), ("GoToLocal", 12, 3), ("GoToDoor", 16, 6), ("PickupLoc", 20, 6), ("OpenDoor", 20, 6)],
)
def test_other_levels_work_in_text(level: str, max_turns: int, num_actions: int) -> None:
    env = BabyAIEnv(level, max_turns)
    solved = 0
    for seed in range(10):
        _, info = env.reset(seed=seed)
        assert len(info["admissible_actions"]) == num_actions
        result: Any = None
        for action in env.oracle_actions():
            result = env.step(action)
        solved += result is not None and result[4]["success"]
    assert solved >= 9


def test_carried_objects_are_named_and_part_of_the_anchor() -> None:
    env = BabyAIEnv("PickupLoc", 20)
    for seed in range(10):
        env.reset(seed=seed)
        for action in env.oracle_actions():
            text, _, _, _, info = env.step(action)
        assert " You carry a " in text
        assert " You carry a " in info["anchor"]


def test_unknown_level_suggests_a_known_one() -> None:
    with pytest.raises(ValueError, match=r"level 'GoToObjekt' is not a BabyAI level. Did you mean GoToObj"):
        BabyAIEnv("GoToObjekt")


def test_check_env_has_nothing_to_say() -> None:
    report = check_env("agentgrpo/BabyAI-v0", num_tasks=5)
    assert {finding.level for finding in report.findings if finding.check != "speed"} == {"ok"}, str(report)
