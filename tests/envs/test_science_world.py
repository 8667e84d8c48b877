"""ScienceWorld: texts, rewards, the gold path, and the contract on few tasks, because it is slow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from java_processes import ended, marked

from agentgrpo.config import EnvConfig
from agentgrpo.env_check import check_env
from agentgrpo.env_check.checks import HOSTILE_TEXTS
from agentgrpo.environments import make_env
from agentgrpo.envs.jvm import EngineDied
from agentgrpo.envs.science_world import HINT, ScienceWorldEnv, tidy

ID = "agentgrpo/ScienceWorld-v0"


def test_tidy_by_hand() -> None:
    room = (
        "This room is called the hallway. In it, you see: \n\tthe agent\n\ta substance called air\n\ta picture\n"
        "You also see:\n\tA door to the kitchen (that is open)\n\n"
    )
    assert tidy(room).splitlines() == [
        "This room is called the hallway. In it, you see:",
        "a picture",
        "You also see:",
        "A door to the kitchen (that is open)",
    ]
    assert tidy("You move to the kitchen.") == "You move to the kitchen."


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fold": "valid"}, "fold must be one of train, dev, test, got 'valid'"),
        ({"max_turns": 0}, "max_turns must be an integer from 1 to 10000, got 0"),
    ],
)
def test_bad_arguments_are_named_before_an_engine_starts(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScienceWorldEnv(**kwargs)


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scienceworld", None)
    with pytest.raises(ValueError, match=r"'agentgrpo/ScienceWorld-v0'.*pip install 'agentgrpo\[scienceworld\]'"):
        make_env(EnvConfig("x", ID))


# --- with the engine --------------------------------------------------------------------------------------------------


Make = Callable[..., ScienceWorldEnv]


@pytest.fixture
def make(mark: str) -> Iterator[Make]:
    """Makes environments that are closed in the end."""
    made: list[ScienceWorldEnv] = []

    def new(*args: Any, **kwargs: Any) -> ScienceWorldEnv:
        made.append(ScienceWorldEnv(*args, **{"list_actions": False} | kwargs))
        return made[-1]

    yield new
    for env in made:
        env.close()


def play(env: ScienceWorldEnv, actions: list[str]) -> list[Any]:
    """What comes back until the actions or the episode end."""
    heard: list[Any] = []
    for action in actions:
        heard.append(env.step(action))
        if heard[-1][2] or heard[-1][3]:
            break
    return heard


@pytest.mark.suites
@pytest.mark.parametrize("task", ["find-animal", "use-thermometer", "lifespan-longest-lived"])
def test_the_gold_path_ends_in_success_and_the_rewards_sum_up_to_one(task: str, make: Make) -> None:
    env = make(task)
    for seed in range(2):
        text, info = env.reset(seed=seed)
        assert text.startswith("Task: ")
        assert "admissible_actions" not in info
        plan = env.oracle_actions()
        assert plan
        heard = []
        for step, action in enumerate(plan):
            assert env.oracle_actions() == plan[step:]
            heard.append(env.step(action))
        assert sum(reward for _, reward, *_ in heard) == pytest.approx(1.0)
        assert [terminated for _, _, terminated, _, _ in heard] == [False] * (len(plan) - 1) + [True]
        assert heard[-1][4]["success"]
        assert all(info["valid_action"] for *_, info in heard)


@pytest.mark.suites
def test_focusing_on_a_wrong_thing_fails_and_takes_back_what_was_earned(make: Make) -> None:
    env = make()
    env.reset(seed=0)
    plan = env.oracle_actions()
    focus = next(i for i, action in enumerate(plan) if action.startswith("focus on"))
    earned = sum(reward for _, reward, *_ in play(env, plan[:focus]))
    assert 0 < earned < 1
    _, reward, terminated, truncated, info = env.step("focus on orange")  # carried, and no animal
    assert (reward, terminated, truncated, info["success"]) == (pytest.approx(-earned), True, False, False)


@pytest.mark.suites
def test_what_the_engine_cannot_read_changes_nothing(make: Make) -> None:
    env = make(max_turns=40)
    _, before = env.reset(seed=0)
    plan = env.oracle_actions()
    for text in ["xyzzy", *HOSTILE_TEXTS.values()]:
        answer, reward, terminated, _, info = env.step(text)
        assert (answer, reward, terminated) == (HINT, 0.0, False)
        assert info == before | {"valid_action": False}
    assert env.oracle_actions() == plan
    assert env.step("  LOOK   around\n")[4]["valid_action"]


@pytest.mark.suites
def test_an_ambiguous_action_is_asked_back_and_a_number_answers(make: Make) -> None:
    env = make(simplification="", list_actions=True)
    for seed in range(20):
        _, before = env.reset(seed=seed)
        text, _, _, _, info = env.step("open door")
        if text.startswith("Ambiguous request"):
            break
    assert info["valid_action"]
    assert info["admissible_actions"] == sorted(info["admissible_actions"])
    assert info["admissible_actions"][0] == "0"
    assert info["anchor"] != before["anchor"]
    text, *_, info = env.step("0")
    assert info["valid_action"]
    assert "open" in text


@pytest.mark.suites
@pytest.mark.parametrize("task", ["use-thermometer", "find-animal"])
def test_same_seed_and_actions_give_the_same_episode_in_another_engine(task: str, make: Make) -> None:
    # Heat spreads, and rooms with several things of a kind list them: both would differ with Java's random hash codes.
    one, other = make(task), make(task)
    for seed in range(3):
        assert one.reset(seed=seed) == other.reset(seed=seed)
        plan = one.oracle_actions()  # of which the other knows nothing
        actions = [a for pair in zip(plan, ["look around", "wait1", "xyzzy"] * len(plan), strict=False) for a in pair]
        heard = play(one, actions[:30])
        assert len(heard) > 10
        assert play(other, actions[:30]) == heard


@pytest.mark.suites
def test_every_reset_of_a_task_is_the_same(make: Make) -> None:
    env = make()
    for seed in range(20):
        first = env.reset(seed=seed)
        if "art studio" in first[0]:  # three equal cups stand there
            break
    assert first[0].count("a wood cup") > 1
    assert [env.reset(seed=seed) for _ in range(5)] == [first] * 5


@pytest.mark.suites
def test_a_snapshot_goes_on_in_the_same_way_even_in_another_engine(make: Make) -> None:
    one, other = make(), make()
    one.reset(seed=2)
    plan = one.oracle_actions()
    play(one, [*plan[:2], "xyzzy", "look around"])
    snapshot = one.snapshot()
    expected = play(one, plan[2:])
    assert expected[-1][2]
    for env in (one, other):
        env.restore(snapshot)
        assert env.oracle_actions() == plan[2:]
        assert play(env, plan[2:]) == expected


@pytest.mark.suites
def test_variations_are_those_of_the_fold(make: Make) -> None:
    # 300 variations: the first half trains, then a quarter each.
    for fold, allowed in (("train", range(150)), ("dev", range(150, 225)), ("test", range(225, 300))):
        env = make(fold=fold)
        drawn = set()
        for seed in range(6):
            env.reset(seed=seed)
            drawn.add(env.task)
        assert drawn <= set(allowed)
        assert len(drawn) > 2


@pytest.mark.suites
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "find-animals"}, r"task 'find-animals' is not a ScienceWorld task\. Did you mean 'find-animal'"),
        ({"simplification": "easy,openDoors"}, r"simplification must be easy, empty, or .*teleportAction.*got 'easy'"),
        (
            {"task": "power-component", "simplification": "noElectricalAction"},
            r"makes the task power-component impossible",
        ),
    ],
)
def test_what_only_the_engine_can_refuse(kwargs: dict[str, Any], message: str, make: Make) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@pytest.mark.suites
def test_check_env_finds_no_problem_on_one_task(mark: str) -> None:
    report = check_env(ID, num_tasks=1, max_turns=14)
    assert {finding.level for finding in report.findings if finding.check != "speed"} == {"ok"}, str(report)


@pytest.mark.suites
def test_a_killed_engine_is_an_exception_and_close_ends_it(mark: str) -> None:
    env = ScienceWorldEnv(list_actions=False)
    env.reset(seed=0)
    (pid,) = marked(mark)
    subprocess.run(["kill", "-9", str(pid)], check=True)
    with pytest.raises(EngineDied, match=r"has ended \(exit status -9\)"):
        env.step("look around")
    env = ScienceWorldEnv(list_actions=False)
    (pid,) = marked(mark)
    env.close()
    assert ended(pid)
