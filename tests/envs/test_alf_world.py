"""ALFWorld: data and arguments, and (marked `suites`) own tasks and a made-up benchmark folder in the real engine."""

from __future__ import annotations

import json
import os
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgrpo.environments import make, oracle_plan
from agentgrpo.envs.alf_tasks import TASK_TYPES, HouseholdTask, draw_task
from agentgrpo.envs.alf_world import AlfWorldEnv, find_games
from agentgrpo.remote_env import RemoteEnv

ID = "agentgrpo/AlfWorld-v0"
SIMPLE = "pick_and_place_simple"


@pytest.fixture(autouse=True)
def no_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ALFWorld makes the folder that the variable names when it is imported, and one in the home folder without it."""
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))


def fake_data(root: Path, tasks: dict[str, dict[str, Any]]) -> Path:
    """A folder as `alfworld-download` leaves it, with these games in the training split."""
    for name, game in tasks.items():
        folder = root / "json_2.1.1" / "train" / name / "trial_T1"
        folder.mkdir(parents=True)
        (folder / "traj_data.json").write_text("{}")
        (folder / "game.tw-pddl").write_text(json.dumps(game))
    return root


# --- without ALFWorld -------------------------------------------------------------------------------------------------


def test_without_data_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    with pytest.raises(
        ValueError, match=r"split=train needs .* ALFWORLD_DATA is not set.*alfworld-download.*split=own"
    ):
        make(ID, {"split": "train"})
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"no games of .*json_2\.1\.1/valid_seen.*alfworld-download"):
        make(ID, {"split": "valid_seen"})
    assert list(tmp_path.iterdir()) == []


def test_games_are_found_in_order_by_split_and_task(tmp_path: Path) -> None:
    names = [
        f"{SIMPLE}-Mug-None-Desk-308",
        f"{SIMPLE}-Apple-None-Fridge-2",
        "pick_heat_then_place_in_recep-EggSliced-None-Fridge-1",
        "pick_and_place_with_movable_recep-Pen-Bowl-Desk-3",
        "pick_two_obj_and_place-CD-None-Safe-4",
    ]
    environ = {"ALFWORLD_DATA": str(fake_data(tmp_path, {name: {} for name in names}))}

    def found(split: str, types: tuple[str, ...]) -> list[str]:
        return [path.parent.parent.name for path in find_games(split, types, environ)]

    assert found("train", TASK_TYPES) == [names[1], names[0], names[4]]
    assert found("train", ("pick_two_obj_and_place",)) == [names[4]]
    with pytest.raises(ValueError, match="no games of"):
        found("valid_unseen", TASK_TYPES)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "test"}, "split must be one of own, train, valid_seen, valid_unseen, got 'test'"),
        ({"task_types": []}, r"task_types must be a list of some of .*pick_and_place_simple.*got \[\]"),
        ({"task_types": ["cook"]}, r"task_types must be a list of some of .*got \['cook'\]"),
        ({"task_types": "pick_two_obj_and_place"}, "task_types must be a list of .*got 'pick_two_obj_and_place'"),
        ({"receptacles": 3}, "receptacles must be an integer from 4 to 14, got 3"),
        ({"objects": 1}, "objects must be an integer from 2 to 20, got 1"),
        ({"split": "train", "objects": 5}, "objects is for split own; leave it out .* 'train', got 5"),
        ({"max_turns": 0}, "max_turns must be an integer from 1 to 10000, got 0"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(ID, kwargs)


@pytest.mark.parametrize("value", [None, "/somewhere"])
def test_without_alfworld_the_command_to_install_it_is_given(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "alfworld", None)
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    if value:
        monkeypatch.setenv("ALFWORLD_DATA", value)
    with pytest.raises(ValueError, match=r"AlfWorld-v0.*pip install 'agentgrpo\[alfworld\]'"):
        make(ID, {})
    assert os.environ.get("ALFWORLD_DATA") == value


# --- with it ----------------------------------------------------------------------------------------------------------


@pytest.mark.suites
@pytest.mark.parametrize(
    ("task_type", "verb"),
    [
        ("look_at_obj_in_light", "use desklamp 1"),
        (SIMPLE, "move"),
        ("pick_clean_then_place_in_recep", "clean"),
        ("pick_cool_then_place_in_recep", "cool"),
        ("pick_heat_then_place_in_recep", "heat"),
        ("pick_two_obj_and_place", "move"),
    ],
)
def test_every_kind_of_task_is_solved_by_the_planner(task_type: str, verb: str) -> None:
    env = AlfWorldEnv(task_types=[task_type])
    for seed in range(3):
        text, info = env.reset(seed=seed)
        assert text.startswith("Your task is to: ")
        assert info["data"] == "own tasks, not the benchmark split"
        plan = env.oracle_actions()
        assert sum(action.startswith(verb) for action in plan) >= (2 if "two" in task_type else 1)
        results = [env.step(action) for action in plan]
        assert [result[1] for result in results] == [0.0] * (len(plan) - 1) + [1.0]
        assert results[-1][2]


@pytest.mark.suites
def test_sizes_are_as_asked_for() -> None:
    for receptacles, objects in [(4, 2), (14, 20)]:
        for seed in range(40):
            problem = draw_task(np.random.default_rng(seed), TASK_TYPES, receptacles, objects).problem
            assert len(re.findall(r"_bar_\w+ - receptacle", problem)) == receptacles
            assert problem.count("(pickupable ") == objects


@pytest.mark.suites
def test_own_tasks_are_drawn_from_the_seed_alone() -> None:
    def draw(seed: int) -> HouseholdTask:
        return draw_task(np.random.default_rng(seed), TASK_TYPES, 6, 4)

    assert draw(1) == draw(1)
    assert len({draw(seed).problem for seed in range(30)}) == 30


@pytest.mark.suites
def test_an_anchor_is_where_things_are_not_what_was_done() -> None:
    env = AlfWorldEnv(task_types=[SIMPLE], looking=True)
    _, info = env.reset(seed=0)
    assert info["anchor"].startswith("At the middle of the room with nothing.")
    assert {"help", "inventory", "look"} <= set(info["admissible_actions"])
    one, other = [action for action in info["admissible_actions"] if action.startswith("go to")][:2]
    first = env.step(one)[4]["anchor"]
    assert first.startswith(f"At {one.removeprefix('go to ')} with nothing.")
    assert env.step("look")[4]["anchor"] == first
    assert env.step(f"examine {one.removeprefix('go to ')}")[4]["anchor"] == first
    assert env.step(other)[4]["anchor"] != first
    assert env.step(one)[4]["anchor"] == first


@pytest.mark.suites
def test_taking_something_changes_the_anchor() -> None:
    env = AlfWorldEnv(task_types=[SIMPLE])
    env.reset(seed=0)
    plan = env.oracle_actions()
    take = next(i for i, action in enumerate(plan) if action.startswith("take"))
    *_, before, after = [env.step(action)[4]["anchor"] for action in plan[: take + 1]]
    thing = plan[take].removeprefix("take ").split(" from ")[0]
    assert " with nothing." in before
    assert f" with {thing}." in after


@pytest.mark.suites
def test_another_process_gives_the_same_episode() -> None:
    here, there = make(ID, {}), RemoteEnv(ID, {})
    rng = random.Random(0)
    for seed in range(3):
        heard: Any = here.reset(seed=seed)
        assert there.reset(seed=seed) == heard
        assert oracle_plan(there) == oracle_plan(here) != []
        over = False
        while not over:
            action = rng.choice(heard[-1]["admissible_actions"])
            heard = here.step(action)
            assert there.step(action) == heard
            over = heard[2] or heard[3]
    there.close()


@pytest.mark.suites
def test_games_of_a_data_folder_are_played_and_unsolvable_ones_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.resources import files

    task = draw_task(np.random.default_rng(0), [SIMPLE], 6, 4)
    rules = files("alfworld") / "data"
    grammar = (rules / "alfred.twl2").read_text().replace("UNKNOWN GOAL", task.goal)
    game = {"pddl_domain": (rules / "alfred.pddl").read_text(), "grammar": grammar, "pddl_problem": task.problem}
    fake_data(
        tmp_path,
        {f"{SIMPLE}-A-None-B-1": game | {"solvable": False}, f"{SIMPLE}-A-None-B-2": game | {"solvable": True}},
    )
    arguments = list(sys.argv)
    env = AlfWorldEnv("train")
    assert os.environ["ALFWORLD_DATA"] == str(tmp_path)
    assert len(env.games) == 2
    for seed in range(3):
        text, info = env.reset(seed=seed)
        assert text.startswith(f"Your task is to: {task.goal}")
        assert info["data"] == "ALFWorld train"
        assert "inventory" in info["admissible_actions"]
    assert sys.argv == arguments
    for action in env.oracle_actions():
        result = env.step(action)
    assert result[1] == 1.0

    env.close()
    fake_data(tmp_path / "none", {f"{SIMPLE}-A-None-B-1": game})
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="none of the 1 games is marked as solvable"):
        AlfWorldEnv("train").reset(seed=0)
