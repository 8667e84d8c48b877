"""TextWorld: the line made from facts, arguments, and (marked `suites`) games made and played in the real engine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.config import EnvConfig
from agentgrpo.deadline import Failure
from agentgrpo.env_pool import EnvPools
from agentgrpo.environments import make, oracle_plan
from agentgrpo.envs import text_world_games
from agentgrpo.envs.text_world import TextWorldEnv, _clean, describe
from agentgrpo.envs.text_world_games import GameKind, game_file
from agentgrpo.remote_env import EnvDied, RemoteEnv

ID = "agentgrpo/TextWorld-v0"

NAMES = {"r_0": "bedroom", "r_1": "kitchen", "d_0": "wooden door", "c_0": "chest", "s_0": "bed", "o_0": "sock"} | {
    "k_0": "old key",
    "r_2": "attic",
}
FACTS = [
    ("at", "P", "r_0"),
    ("at", "c_0", "r_0"),
    ("at", "s_0", "r_0"),
    ("on", "o_0", "s_0"),
    ("in", "k_0", "c_0"),
    ("east_of", "r_1", "r_0"),
    ("west_of", "r_0", "r_1"),
    ("link", "r_0", "d_0", "r_1"),
    ("link", "r_1", "d_0", "r_0"),
    ("north_of", "r_2", "r_0"),
    ("south_of", "r_0", "r_2"),
    ("free", "r_0", "r_2"),
    ("free", "r_2", "r_0"),
]


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("games"))


def play(env: Any, actions: list[str]) -> tuple[Any, ...]:
    """Play all of ``actions``; return the last step."""
    result: Any = None
    for action in actions:
        result = env.step(action)
    assert result is not None
    return tuple(result)


# --- without TextWorld ------------------------------------------------------------------------------------------------


def test_facts_in_a_line_by_hand() -> None:
    closed = [*FACTS, ("closed", "c_0"), ("locked", "d_0")]
    assert (
        describe(closed, NAMES) == "Bedroom. Exits: east (locked wooden door), north. Here: bed: sock; chest (closed)."
    )
    opened = [*FACTS, ("open", "c_0"), ("open", "d_0")]
    assert describe(opened, NAMES) == (
        "Bedroom. Exits: east (open wooden door), north. Here: bed: sock; chest (open): old key."
    )
    carried = [fact for fact in FACTS if fact[1] not in ("k_0", "o_0")] + [("in", "k_0", "I"), ("in", "o_0", "I")]
    assert describe(carried, NAMES).endswith("Here: bed; chest. You carry: old key, sock.")
    assert describe([("at", "P", "r_1")], NAMES) == "Kitchen. Exits: none."


def test_answers_lose_prompt_counters_and_closing_words() -> None:
    said = "\nYou pick up the coin.\n\n\n   *** The End ***\n\nYou scored 1, in 6 turns.\n\n\nQUIT?\n>    0/5"
    assert _clean(said) == "You pick up the coin."
    assert _clean("\n\n-= Bar =-\nA bar.\n\nAn exit.\n\n>              -= Bar =-0/2") == "-= Bar =- A bar. An exit."


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"challenge": "cooking"}, "challenge must be one of coin_collector, treasure_hunter, simple, custom, got"),
        ({"level": 0}, "level must be an integer from 1 to 300, got 0"),
        ({"level": 160}, "level 160 has 120 rooms, and TextWorld takes at most 100"),
        ({"challenge": "treasure_hunter", "level": 31}, "level must be an integer from 1 to 30, got 31"),
        (
            {"challenge": "simple", "level": 2},
            "level is for challenge coin_collector and treasure_hunter; leave it out",
        ),
        ({"rooms": 3}, "rooms is for challenge custom; leave it out .* 'coin_collector', got 3"),
        ({"challenge": "custom", "rooms": 21}, "rooms must be an integer from 1 to 20, got 21"),
        ({"challenge": "custom", "objects": 0}, "objects must be an integer from 1 to 30, got 0"),
        ({"challenge": "custom", "quest_length": 11}, "quest_length must be an integer from 1 to 10, got 11"),
        ({"num_games": 0}, "num_games must be an integer from 1 to 100000, got 0"),
        ({"first_game": -1}, "first_game must be an integer from 0 to 1000000000, got -1"),
        ({"max_turns": 0}, "max_turns must be an integer from 1 to 10000, got 0"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(ID, kwargs)


def test_without_textworld_the_command_to_install_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textworld", None)
    with pytest.raises(ValueError, match=r"TextWorld-v0.*pip install 'agentgrpo\[textworld\]'"):
        make(ID, {})


# --- with it ----------------------------------------------------------------------------------------------------------


@pytest.mark.suites
def test_a_coin_is_as_far_away_as_the_level_says(games: str) -> None:
    env = TextWorldEnv(level=103, num_games=2, cache_dir=games)
    for seed in range(2):
        text, info = env.reset(seed=seed)
        assert text.startswith("Goal: take coin. ")
        assert {action.split()[0] for action in info["admissible_actions"]} == {"go"}
        plan = env.oracle_actions()
        assert len(plan) == 3  # level 3 of those with a side room for each room of the way
        text, reward, terminated, truncated, info = play(env, plan)
        assert plan[-1] == "take coin"
        assert text.endswith("You carry: coin.")
        assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


@pytest.mark.suites
def test_seeds_count_through_the_games_and_begin_anew(games: str) -> None:
    env = TextWorldEnv(level=103, num_games=2, cache_dir=games)
    first = [env.reset(seed=seed) for seed in range(4)]
    assert first[0][0] == first[2][0] != first[1][0] == first[3][0]
    assert [info["task_id"] for _, info in first] == ["0", "1", "2", "3"]
    assert TextWorldEnv(level=103, num_games=1, first_game=1, cache_dir=games).reset(seed=0)[0] == first[1][0]


@pytest.mark.suites
def test_a_game_is_made_once(games: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = GameKind("coin_collector", level=103)
    made = game_file(kind, 0, Path(games))

    def forbidden(*args: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(text_world_games, "_compile", forbidden)
    assert game_file(kind, 0, Path(games)) == made
    assert sorted(path.name for path in made.parent.iterdir()) == ["game.json", "game.z8"]
    with pytest.raises(AssertionError, match="made again"):
        game_file(kind, 7, Path(games))
    assert not list(Path(games).glob(".making-*"))


@pytest.mark.suites
def test_several_processes_may_make_the_same_game_at_once(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from agentgrpo.envs.text_world_games import GameKind, game_file; "
        f"print(game_file(GameKind('custom', 0, 2, 2, 1), 0, Path({str(tmp_path)!r})))"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
        )
        for _ in range(2)
    ]
    files = {process.communicate(timeout=200)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(files) == 1
    assert Path(files.pop()).is_file()
    assert len(list(tmp_path.iterdir())) == 1  # no second game, nothing half made


@pytest.mark.suites
def test_a_map_without_room_for_the_quest_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textworld.generator import QuestGenerationError

    seeds = []
    real = text_world_games._make

    def fail_twice(kind: GameKind, options: Any) -> Any:
        seeds.append(tuple(options.seeds.values()))
        if len(seeds) <= 2:
            raise QuestGenerationError("no room")
        return real(kind, options)

    monkeypatch.setattr(text_world_games, "_make", fail_twice)
    kind = GameKind("custom", rooms=2, objects=2, quest_length=1)
    assert game_file(kind, 1, tmp_path).is_file()
    assert len(set(seeds)) == 3

    def fail(kind: GameKind, options: Any) -> Any:
        raise QuestGenerationError("no room")

    monkeypatch.setattr(text_world_games, "_make", fail)
    with pytest.raises(ValueError, match=r"'quest_length': 1.* in 20 attempts \(game 2\): ask for a shorter quest"):
        game_file(kind, 2, tmp_path)


@pytest.mark.suites
def test_another_process_gives_the_same_episode(games: str) -> None:
    kwargs = {"level": 103, "num_games": 2, "cache_dir": games}
    here = make(ID, kwargs)
    there = RemoteEnv(ID, kwargs)
    rng = random.Random(0)
    for seed in range(2):
        heard: Any = here.reset(seed=seed)
        assert there.reset(seed=seed) == heard
        assert oracle_plan(there) == oracle_plan(here)
        over = False
        while not over:
            action = rng.choice(heard[-1]["admissible_actions"])
            heard = here.step(action)
            assert there.step(action) == heard
            over = bool(heard[2] or heard[3])
    there.close()


@pytest.mark.suites
def test_a_process_that_is_killed_ends_its_episode_and_is_replaced(games: str) -> None:
    config = EnvConfig("text_world", ID, {"level": 103, "num_games": 1, "cache_dir": games}, "", None, "process", 1)
    pools = EnvPools({"text_world": config}, timeout=60.0)
    for attempt in range(2):
        env = pools.take("text_world")
        assert isinstance(env, RemoteEnv)
        pools.submit("text_world", "reset", lambda env=env: env.reset(seed=0), env)  # type: ignore[misc]
        ((_, answer),) = pools.finished(wait=True)
        assert answer[0].startswith("Goal: take coin.")
        if attempt == 0:
            os.kill(env._process.pid, signal.SIGKILL)
        pools.submit("text_world", "step", lambda env=env: env.step("go up"), env)  # type: ignore[misc]
        ((_, answer),) = pools.finished(wait=True)
        if attempt == 0:
            assert isinstance(answer, Failure)
            assert "was killed by SIGKILL" in answer.error
            with pytest.raises(EnvDied):
                env.step("go up")
        else:
            assert answer[0].startswith("Not possible.")
        pools.give_back("text_world", env, usable=attempt == 1)
    pools.close()


@pytest.mark.suites
def test_the_wrong_treasure_loses(games: str) -> None:
    env = TextWorldEnv("treasure_hunter", num_games=1, cache_dir=games)
    text, _ = env.reset(seed=0)
    right = text.removeprefix("Goal: ").split(".")[0]
    rng = random.Random(0)
    for _ in range(50):
        _, info = env.reset(seed=0)
        over = False
        while not over:
            wrong = [a for a in info["admissible_actions"] if a.startswith("take") and not a.startswith(right)]
            action = wrong[0] if wrong else rng.choice(info["admissible_actions"])
            _, reward, terminated, truncated, info = env.step(action)
            over = terminated or truncated
            if wrong:
                assert (reward, terminated, info["success"]) == (0.0, True, False)
                return
    raise AssertionError("the other object was never found")


@pytest.mark.suites
def test_the_oracle_goes_on_from_anywhere(games: str) -> None:
    env = TextWorldEnv(level=103, max_turns=40, num_games=2, cache_dir=games)
    rng = random.Random(1)
    for seed in range(2):
        env.reset(seed=seed)
        info = play(env, env.oracle_actions()[:-1])[-1]  # where the coin lies
        assert env.oracle_actions() == ["take coin"]
        for length in (2, 3):
            moves = [action for action in info["admissible_actions"] if action.startswith("go")]
            info = env.step(rng.choice(moves))[4]
            assert len(env.oracle_actions()) in (length, length - 2)  # the map is a tree: away, or back
        assert play(env, env.oracle_actions())[1] == 1.0


@pytest.mark.suites
def test_looking_is_an_action_in_prose_only(games: str) -> None:
    short = TextWorldEnv("simple", max_turns=30, num_games=1, cache_dir=games)
    prose = TextWorldEnv("simple", max_turns=30, num_games=1, prose=True, cache_dir=games)
    line, info = short.reset(seed=0)
    text, prose_info = prose.reset(seed=0)
    assert set(prose_info["admissible_actions"]) - set(info["admissible_actions"]) >= {"inventory", "look"}
    assert not any(action.startswith(("examine", "look", "inventory")) for action in info["admissible_actions"])
    assert prose_info["anchor"] == info["anchor"]
    assert len(line) < len(text)
    assert line.startswith("Goal: put ")
    assert "-= Bedroom =-" in text
    text, _, _, _, info = prose.step("inventory")
    assert text == "You are carrying nothing."
    assert info["anchor"] == prose_info["anchor"]
    assert not short.step("inventory")[4]["valid_action"]
    for env in (short, prose):
        plan = env.oracle_actions()
        assert play(env, plan)[1] == 1.0
