"""TextWorld-Express: texts, oracles, seeds that the engine refuses, and engines that die."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_tokenizer
from java_processes import ended, marked

from agentgrpo.config import EnvConfig, RolloutConfig
from agentgrpo.context import ChatFormat, make_conversation
from agentgrpo.environments import attribute, make_env, oracle_plan
from agentgrpo.envs.jvm import EngineDied
from agentgrpo.envs.text_world_express import GAMES, TextWorldExpressEnv, parse_params, shorten
from agentgrpo.episode import Task
from agentgrpo.players import PolicyPlayer
from agentgrpo.rollout import RolloutRunner
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.scripted import ScriptedSampler
from agentgrpo.types import RolloutStatus

ID = "agentgrpo/TextWorldExpress-v0"

# --- without the engine -----------------------------------------------------------------------------------------------


def test_a_room_in_few_words_by_hand() -> None:
    room = (
        "You are in the kitchen. In one part of the room you see a stove. There is also an oven. You also see a fridge "
        "that is closed. In another part of the room you see a counter that has a banana, and a cookbook on it. "
        "There is also a coin. \nTo the North you see the pantry. To the East you see a closed patio door. "
    )
    exits = "North: pantry. East: closed patio door."
    assert shorten(room, ["move north", "take coin"]) == f"You are in the kitchen. You see a coin. {exits}"
    assert shorten(room, ["open fridge", "put coin in oven"]) == (
        f"You are in the kitchen. You see an oven. You see a fridge that is closed. You see a coin. {exits}"
    )
    assert shorten(room, ["read cookbook"]) == (
        f"You are in the kitchen. You see a counter that has a banana, and a cookbook on it. {exits}"
    )


def test_other_texts_stay_as_they_are() -> None:
    assert shorten("You take the coin.", ["look around"]) == "You take the coin."
    assert shorten("Simon says, 'slice grape'.", ["slice grape"]) == "Simon says, 'slice grape'."


def test_params_in_both_ways_to_write_them() -> None:
    assert parse_params(None) == parse_params("") == parse_params({}) == {}
    assert parse_params("numLocations=5, includeDoors=0") == {"numLocations": 5, "includeDoors": 0}
    assert parse_params({"numLocations": 5}) == {"numLocations": 5}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"game": "chess"}, r"game must be one of arithmetic, coin, .* got 'chess'"),
        ({"fold": "valid"}, r"fold must be one of train, dev, test, got 'valid'"),
        ({"max_turns": 0}, r"max_turns must be an integer from 1 to 10000, got 0"),
        ({"params": "numLocations"}, r"params must look like 'numLocations=5,includeDoors=0', got 'numLocations'"),
        ({"params": {"numLocations": "five"}}, r"params numLocations must be an integer, got 'five'"),
    ],
)
def test_bad_arguments_are_named_before_an_engine_starts(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextWorldExpressEnv(**kwargs)


MISSING = r"'agentgrpo/TextWorldExpress-v0'.*pip install 'agentgrpo\[textworld-express\]'"


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textworld_express", None)
    with pytest.raises(ValueError, match=MISSING):
        make_env(EnvConfig("x", ID))


def test_a_package_that_is_missing_in_a_process_of_its_own_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "textworld_express.py").write_text("raise ModuleNotFoundError('as if it were not there')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=MISSING):
        attribute(make_env(EnvConfig("x", ID, execution="process")), "max_return")


# --- with the engine --------------------------------------------------------------------------------------------------


@pytest.fixture
def make(mark: str) -> Iterator[Callable[..., TextWorldExpressEnv]]:
    """Makes environments that are closed in the end."""
    made: list[TextWorldExpressEnv] = []

    def new(*args: Any, **kwargs: Any) -> TextWorldExpressEnv:
        made.append(TextWorldExpressEnv(*args, **kwargs))
        return made[-1]

    yield new
    for env in made:
        env.close()


Make = Callable[..., TextWorldExpressEnv]


@pytest.mark.suites
def test_a_coin_game_from_first_to_last_word(make: Make) -> None:
    env = make()
    text, info = env.reset(seed=0)
    assert text == "Goal: find the coin and take it. You are in the kitchen. North: pantry. East: corridor."
    assert info["admissible_actions"] == ["inventory", "look around", "move east", "move north"]
    assert env.oracle_actions() == ["move north", "take coin"]
    assert env.step("move north")[:4] == ("You are in the pantry. You see a coin. South: kitchen.", 0.0, False, False)
    assert env.step("inventory")[0] == "Inventory: Your inventory is currently empty."
    assert env.oracle_actions() == ["take coin"]
    text, reward, terminated, truncated, info = env.step("take coin")
    assert (text, reward, terminated, truncated) == ("You take the coin.", 1.0, True, False)
    assert info["success"]


@pytest.mark.suites
def test_looking_changes_no_anchor_and_walking_does(make: Make) -> None:
    env = make()
    _, info = env.reset(seed=0)
    start = info["anchor"]
    assert [env.step(a)[4]["anchor"] == start for a in ("look around", "inventory", "move east", "move west")] == [
        True,
        True,
        False,
        True,
    ]
    assert "score" not in start.lower()


@pytest.mark.suites
def test_brief_texts_are_short_and_leave_no_exit_out(make: Make) -> None:
    env, wordy = make(), make(brief=False)
    for seed in range(50):
        text, info = env.reset(seed=seed)
        assert len(text) < 200
        assert len(wordy.reset(seed=seed)[0]) > len(text)
        for action in info["admissible_actions"]:
            if action.startswith("move "):
                assert f"{action.removeprefix('move ').capitalize()}: " in text
        assert ("coin." in text.removeprefix("Goal: find the coin and take it.")) == (
            "take coin" in info["admissible_actions"]
        )


@pytest.mark.suites
def test_the_coin_oracle_is_a_shortest_path_from_anywhere(make: Make) -> None:
    env = make(max_turns=100)
    rng = random.Random(0)
    for seed in range(30):
        _, info = env.reset(seed=seed)
        left = len(env.oracle_actions())
        for _ in range(10):
            action = rng.choice([a for a in info["admissible_actions"] if a != "take coin"])
            *_, info = env.step(action)
            now = len(env.oracle_actions())
            # One move leads one step nearer, one step farther, or (looking) nowhere; rooms lie on a grid.
            assert abs(now - left) == action.startswith("move ")
            left = now
        for action in env.oracle_actions():
            *_, info = env.step(action)
        assert info["success"]


@pytest.mark.suites
@pytest.mark.parametrize("game", GAMES)
def test_the_oracle_solves_every_game_and_the_parts_sum_up_to_one(game: str, make: Make) -> None:
    env = make(game, max_turns=150, partial_reward=True)
    solved = 0
    for seed in range(8):
        env.reset(seed=seed)
        plan = env.oracle_actions()
        total = 0.0
        for step, action in enumerate(plan):
            assert env.oracle_actions() == plan[step:]
            _, reward, terminated, _, info = env.step(action)
            total += reward
        if plan:
            assert terminated
            assert info["success"]
            assert total == pytest.approx(1.0)
            solved += 1
    assert solved >= (4 if game == "cookingworld" else 8)  # there the engine's own player often loses its way


@pytest.mark.suites
@pytest.mark.parametrize("game", GAMES)
def test_asking_the_oracle_does_not_change_the_game(game: str, make: Make) -> None:
    asked, other = make(game), make(game)
    rng = random.Random(1)
    for seed in range(5):
        heard = asked.reset(seed=seed)
        assert other.reset(seed=seed) == heard
        info, over = heard[1], False
        while not over:
            asked.oracle_actions()
            action = rng.choice(info["admissible_actions"])
            one = asked.step(action)
            assert other.step(action) == one
            _, _, terminated, truncated, info = one
            over = terminated or truncated


@pytest.mark.suites
def test_a_gold_path_holds_after_looking_and_not_after_leaving_it(make: Make) -> None:
    env = make("mapreader", max_turns=30)
    _, info = env.reset(seed=1)
    plan = env.oracle_actions()
    env.step("look around")
    assert env.oracle_actions() == plan
    env.step(next(a for a in info["admissible_actions"] if a not in {*plan, "look around", "inventory", "task"}))
    assert env.oracle_actions() == []


@pytest.mark.suites
def test_failing_takes_back_what_was_earned(make: Make) -> None:
    env = make("simonsays", partial_reward=True)
    _, info = env.reset(seed=0)
    right = env.oracle_actions()[0]
    _, reward, _, _, info = env.step(right)
    assert reward == pytest.approx(0.2)  # one of five
    wrong = next(a for a in info["admissible_actions"] if a != env.oracle_actions()[0])
    _, reward, terminated, _, info = env.step(wrong)
    assert (reward, terminated, info["success"]) == (pytest.approx(-0.2), True, False)


@pytest.mark.suites
def test_each_fold_has_seeds_of_its_own(make: Make) -> None:
    for fold, allowed in (("dev", range(10_000, 11_000)), ("test", range(20_000, 21_000))):
        env = make(fold=fold)
        drawn = set()
        for seed in range(200):
            env.reset(seed=seed)
            drawn.add(env.task)
        assert drawn <= set(allowed)
        assert len(drawn) > 150
    env = make()
    for seed in range(200):
        env.reset(seed=seed)
        assert not 10_000 <= env.task < 11_000
        assert not 20_000 <= env.task < 21_000


class Counting(TextWorldExpressEnv):
    """Remembers the engine's seeds that it has drawn."""

    drawn: tuple[int, ...] = ()

    def _draw_seed(self) -> int:
        self.drawn = (*self.drawn, super()._draw_seed())
        return self.drawn[-1]


@pytest.mark.suites
def test_seeds_at_which_the_engine_raises_are_skipped_always_in_the_same_way(mark: str) -> None:
    hard = "numLocations=5,maxDistanceApart=8"  # about half of these maps are too small
    one, other = Counting("mapreader", hard), Counting("mapreader", hard)
    for seed in range(20):
        assert one.reset(seed=seed) == other.reset(seed=seed)
        assert one.drawn[-1] == one.task
    assert one.drawn == other.drawn
    assert len(one.drawn) > 25
    for env in (one, other):
        env.close()


@pytest.mark.suites
def test_parameters_that_never_work_give_the_engines_reason(make: Make) -> None:
    with pytest.raises(
        ValueError, match=r"params 'numLocations=99.*refused by the game coin.*less than or equal to 11"
    ):
        make(params={"numLocations": 99})
    with pytest.raises(ValueError, match=r"Unrecognized property name \(rooms\)"):
        make("twc", "rooms=3")
    env = make("mapreader", {"numLocations": 1, "maxDistanceApart": 1})
    with pytest.raises(ValueError, match=r"mapreader cannot be made with params .*No locations could be found"):
        env.reset(seed=0)


@pytest.mark.suites
def test_another_process_replays_exactly(make: Make) -> None:
    env = make()
    remote = make_env(EnvConfig("x", ID, execution="process"))
    rng = random.Random(3)
    for seed in range(5):
        text, info = env.reset(seed=seed)
        assert remote.reset(seed=seed) == (text, info)
        over = False
        while not over:
            assert oracle_plan(remote) == env.oracle_actions()
            action = rng.choice(info["admissible_actions"])
            one = env.step(action)
            assert remote.step(action) == one
            _, _, terminated, truncated, info = one
            over = terminated or truncated
    remote.close()


# --- engines that die -------------------------------------------------------------------------------------------------


@pytest.mark.suites
def test_a_dead_engine_is_an_exception_that_says_how(make: Make, mark: str) -> None:
    env = make()
    env.reset(seed=0)
    (pid,) = marked(mark)
    assert pid == env._engine.pid
    subprocess.run(["kill", "-9", str(pid)], check=True)
    with pytest.raises(EngineDied, match=r"has ended \(exit status -9\)"):
        env.step("look around")
    with pytest.raises(EngineDied):
        env.reset(seed=1)
    env.close()


@pytest.mark.suites
def test_close_ends_the_engine_and_so_does_forgetting_the_environment(mark: str) -> None:
    env = TextWorldExpressEnv()
    (pid,) = marked(mark)
    env.close()
    assert ended(pid)
    env.close()
    with pytest.raises(EngineDied, match="was closed"):
        env.reset(seed=0)
    env = TextWorldExpressEnv()
    (pid,) = marked(mark)
    del env
    assert ended(pid)


@pytest.mark.suites
@pytest.mark.parametrize("end", ["pass", "import os; os.kill(os.getpid(), 9)", "raise KeyError"])
def test_the_engine_ends_with_its_process_however_that_ends(end: str, mark: str) -> None:
    made = "from agentgrpo.envs.text_world_express import *; e = TextWorldExpressEnv()"
    code = f"{made}; print(e._engine.pid, flush=True); {end}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended(int(run.stdout))


def looking(
    execution: str, workers: int, timeout: float, before: dict[int, Callable[[], None]]
) -> tuple[RolloutRunner, PolicyPlayer]:
    """A runner, and a policy that only looks around; ``before`` its n-th answer something happens."""
    chat = ChatFormat(tiny_tokenizer())
    runner = RolloutRunner(
        {"x": EnvConfig("x", ID, execution=execution, workers=workers)},
        RolloutConfig(temperature=1.0, top_p=1.0, max_new_tokens=20, max_turns=20, step_timeout=timeout),
        lambda name: make_conversation(chat, "transcript", 2),
        chat,
        2000,
    )
    turns = itertools.count()

    def answer(prompt: list[int]) -> tuple[int, ...]:
        before.get(next(turns), lambda: None)()
        return (*chat.encode("look around"), chat.end_id)

    return runner, PolicyPlayer(ScriptedSampler(answer), SamplingParams(20))


@pytest.mark.suites
@pytest.mark.parametrize("execution", ["inline", "process"])
def test_an_engine_that_is_killed_ends_its_episode_and_is_replaced(execution: str, mark: str) -> None:
    killed: list[int] = []

    def kill() -> None:
        killed.extend(marked(mark))
        for pid in killed:
            subprocess.run(["kill", "-9", str(pid)], check=True)

    one, player = looking(execution, workers=1, timeout=60.0, before={3: kill})  # in the middle of the first episode
    size = 2 if execution == "process" else 1  # the second waits for the process of the first
    (group,) = one.collect(player, [Task(0, ("test",))], size)
    dead = group.trajectories[0]
    assert len(killed) == 1
    assert (dead.status, len(dead.steps), dead.success) == (RolloutStatus.ENV_ERROR, 4, False)
    assert "The Java engine has ended (exit status -9)" in dead.error
    assert [t.status for t in group.trajectories[1:]] == [RolloutStatus.TURN_LIMIT] * (size - 1)
    (again,) = one.collect(player, [Task(0, ("test",))], 2)
    assert [t.status for t in again] == [RolloutStatus.TURN_LIMIT] * 2
    assert [s.observation for s in again.trajectories[0].steps[:4]] == [s.observation for s in dead.steps]
    assert killed[0] not in marked(mark)
    one.close()


@pytest.mark.suites
def test_an_engine_that_hangs_ends_its_episode_and_goes_with_its_process(mark: str) -> None:
    def stop() -> None:
        for pid in marked(mark):
            subprocess.run(["kill", "-STOP", str(pid)], check=True)

    one, player = looking("process", workers=1, timeout=2.0, before={3: stop})
    (group,) = one.collect(player, [Task(0, ("test",))], 2)
    assert [t.status for t in group] == [RolloutStatus.ENV_TIMEOUT, RolloutStatus.TURN_LIMIT]
    assert len(marked(mark)) == 1  # the stopped one is gone
    one.close()


@pytest.mark.suites
def test_missing_java_is_told_with_the_id_and_the_debian_package(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ValueError, match=r"'agentgrpo/TextWorldExpress-v0'.*apt-get install default-jre-headless"):
        make_env(EnvConfig("x", ID))
    with pytest.raises(ValueError, match=r"'agentgrpo/TextWorldExpress-v0'.*apt-get install default-jre-headless"):
        attribute(make_env(EnvConfig("x", ID, execution="process")), "max_return")


@pytest.mark.suites
def test_a_java_that_does_not_start_is_quoted(mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'Could not reserve enough space for the heap' >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ValueError, match="Java does not start: Could not reserve enough space"):
        make_env(EnvConfig("x", ID))
