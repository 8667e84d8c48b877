"""ALFWorld: household tasks in text, on ALFWorld's engine. Needs ``pip install 'agentgrpo[alfworld]'``."""

import copy
import functools
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from agentgrpo.envs.alf_tasks import MAX_OBJECTS, MAX_RECEPTACLES, TASK_TYPES, draw_task
from agentgrpo.envs.base import View, in_range
from agentgrpo.envs.text_world_engine import EngineEnv, digest

SPLITS = ("train", "valid_seen", "valid_unseen")
OWN = "own"
OWN_LABEL = "own tasks, not the benchmark split"

# What the engine remembers of the past, and what says of the present that something is not so.
_HISTORY = re.compile(r"(checked|examined|wasinreceptacle|not_\w+)\Z")
_TASK = re.compile(r"Your task is to: *(.*)", re.DOTALL)


class AlfWorldEnv(EngineEnv):
    """A household task: go to furniture, open it, find a thing, perhaps clean, heat or cool it, put it somewhere.

    ALFWorld's games are not part of its package. With ``split`` train, valid_seen or valid_unseen they come from the
    folder that the environment variable ALFWORLD_DATA names, as ``alfworld-download`` fills it. The default, own, makes
    tasks in the same language, on the same engine and by the same rules, with no more than the package: they are
    **not the benchmark**, and a success rate on them compares with no published one. ``info["data"]`` says which.

    The text is the engine's own answer. The reward is 1.0 when the task is done. The anchor names where the agent is,
    what it holds, and the state of everything else. The oracle is the engine's planner: short plans, not always the
    shortest. A reset takes about 0.3 seconds, a step 0.01 to 0.02.

    Args:
        split: own, train, valid_seen or valid_unseen.
        task_types: which of ALFWorld's six kinds of task; None: all.
        receptacles: pieces of furniture in an own task, 4..14; None: 6.
        objects: things in an own task, 2..20; None: 4.
        looking: whether examine, help, inventory and look are actions, too. None: in ALFWorld's games, but not in own
            tasks, where going somewhere and opening something tell what they would.
        max_turns: actions per episode, 1..10000; ALFWorld's own limit is 50.
    """

    def __init__(
        self,
        split: str = OWN,
        task_types: list[str] | None = None,
        receptacles: int | None = None,
        objects: int | None = None,
        looking: bool | None = None,
        max_turns: int = 30,
    ) -> None:
        super().__init__(max_turns)
        if split not in (OWN, *SPLITS):
            raise ValueError(f"split must be one of {', '.join((OWN, *SPLITS))}, got {split!r}.")
        self.split = split
        self.task_types = _task_types(task_types)
        sizes = {"receptacles": receptacles, "objects": objects}
        if split != OWN and (given := {name: value for name, value in sizes.items() if value is not None}):
            name, value = given.popitem()
            raise ValueError(f"{name} is for split own; leave it out (null) for {split!r}, got {value!r}.")
        self.receptacles = in_range("receptacles", 6 if receptacles is None else receptacles, 4, MAX_RECEPTACLES)
        self.objects = in_range("objects", 4 if objects is None else objects, 2, MAX_OBJECTS)
        self.looking = split != OWN if looking is None else looking
        self.games = () if split == OWN else tuple(find_games(split, self.task_types, os.environ))
        self._modules = _load_engine()
        self._loaded: int | None = None
        self._data = OWN_LABEL if split == OWN else f"ALFWorld {split}"

    def _new_task(self) -> str:
        if self.split == OWN:
            self._begin(int(self.np_random.integers(2**62)))
        else:
            self._begin(self._game_number(len(self.games)))
        return f"Your task is to: {self._goal}"

    def _open(self, game: int) -> None:
        infos = self._modules.textworld.EnvInfos(admissible_commands=True, won=True)
        if self._engine is None:
            self._engine = self._modules.PddlEnv(infos)
        with _untouched_arguments():
            if game != self._loaded:
                self._loaded = None
                self._engine.load(self._benchmark_game(game) if self.games else self._own_game(game))
                self._loaded = game
                names = self._engine._entity_infos
                demangler = self._modules.Demangler(game_infos=names, shuffle=False)
                for entity in names.values():
                    entity.name = demangler.demangle_alfred_name(entity.id)
            self._answer = self._engine.reset()
        opening = self._answer["feedback"]
        match = _TASK.search(opening)
        assert match is not None, f"ALFWorld's opening names no task: {opening[:200]!r}"
        self._goal = _one_line(match[1])
        self._said = _one_line(opening[: match.start()]).partition("=- ")[2]  # the rest is a banner

    def _benchmark_game(self, number: int) -> dict[str, Any]:
        """Game ``number``, or the next one after it that ALFWorld has found to be solvable."""
        for path in self.games[number:] + self.games[:number]:
            game: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if game.get("solvable"):
                return game
        raise ValueError(f"none of the {len(self.games)} games is marked as solvable; the last looked at is {path}.")

    def _own_game(self, seed: int) -> dict[str, Any]:
        task = draw_task(np.random.default_rng(seed), self.task_types, self.receptacles, self.objects)
        grammar = self._modules.grammar.replace("UNKNOWN GOAL", task.goal)
        return {"pddl_domain": self._modules.domain, "grammar": grammar, "pddl_problem": task.problem}

    def _allowed(self, command: str) -> bool:
        return self.looking or super()._allowed(command)

    def _advance(self, action: str) -> None:
        super()._advance(action)
        self._said = _one_line(self._answer["feedback"])

    def _view(self) -> View:
        facts = [fact for fact in self._answer["_facts"] if not _HISTORY.match(fact.name)]
        return View(self._said, f"{self._where(facts)} {digest(facts)}", list(self._commands))

    def _where(self, facts: Iterable[Any]) -> str:
        names = self._engine._entity_infos
        here = next(fact.arguments[1].name for fact in facts if fact.name == "atlocation")
        at = [
            names[fact.arguments[0].name].name
            for fact in facts
            if fact.name == "receptacleatlocation" and fact.arguments[1].name == here
        ]
        held = [names[fact.arguments[1].name].name for fact in facts if fact.name == "holds"]
        return f"At {', '.join(sorted(at)) or 'the middle of the room'} with {', '.join(sorted(held)) or 'nothing'}."

    def _plan(self) -> list[str]:
        # Asked for in EnvInfos, the engine would plan at every step.
        plan = self._engine._pddl_state.replan(self._engine._entity_infos)
        return [" ".join(command.lower().split()) for command in plan]

    def close(self) -> None:
        """Let the engine go."""
        super().close()
        self._loaded = None

    def _info(self, *, valid: bool, success: bool) -> dict[str, Any]:
        return super()._info(valid=valid, success=success) | {"data": self._data}


def find_games(split: str, task_types: Iterable[str], environ: Mapping[str, str]) -> list[Path]:
    """Return ALFWorld's games of a split in a fixed order.

    As in ALFWorld, those with movable receptacles and slicing are left out. Folders are named after their tasks, so
    that thousands of files need not be opened; games that turn out to be unsolvable are passed over when they come up.

    Raises:
        ValueError: ALFWORLD_DATA is not set, or names a folder without such games; with what to do.
    """
    advice = (
        "ALFWorld's games are not part of its package: fetch them with `alfworld-download` and set the environment "
        f"variable ALFWORLD_DATA to the folder they went to. Without them, split={OWN} makes tasks of its own."
    )
    data = environ.get("ALFWORLD_DATA")
    if not data:
        raise ValueError(f"split={split} needs ALFWorld's games, and ALFWORLD_DATA is not set. {advice}")
    folder = Path(data) / "json_2.1.1" / split
    wanted = set(task_types)
    games = [
        path
        for path in sorted(folder.glob("*/*/game.tw-pddl"))
        if (name := path.parent.parent.name).split("-")[0] in wanted and not ("movable" in name or "Sliced" in name)
    ]
    if not games:
        raise ValueError(f"no games of {', '.join(sorted(wanted))} in {folder} (TASK-.../TRIAL/game.tw-pddl). {advice}")
    return games


def _task_types(given: object) -> tuple[str, ...]:
    if given is None:
        return TASK_TYPES
    if not isinstance(given, list | tuple) or not given or not all(kind in TASK_TYPES for kind in given):
        raise ValueError(f"task_types must be a list of some of {', '.join(TASK_TYPES)}, got {given!r}.")
    return tuple(sorted(set(given)))


class _Engine:
    """What is used of ALFWorld and TextWorld: two classes, a module, and the texts of the domain."""

    def __init__(self) -> None:
        import alfworld
        import textworld
        from alfworld.agents.utils.misc import Demangler
        from textworld.envs.pddl import PddlEnv

        self.textworld, self.Demangler, self.PddlEnv = textworld, Demangler, PddlEnv
        rules = Path(alfworld.__file__).parent / "data"
        self.domain = (rules / "alfred.pddl").read_text(encoding="utf-8")
        self.grammar = (rules / "alfred.twl2").read_text(encoding="utf-8")
        PddlEnv().close()  # raises ImportError where its planner is missing
        _parse_once()


def _load_engine() -> _Engine:
    # ALFWorld sets the variable, and makes the folder it names, when it is imported; later environments of this
    # process must still see what the user has set.
    given = os.environ.get("ALFWORLD_DATA")
    os.environ["ALFWORLD_DATA"] = tempfile.gettempdir()
    try:
        return _Engine()
    except ImportError as error:
        raise ImportError(
            "ALFWorld tasks need ALFWorld and TextWorld's planner: pip install 'agentgrpo[alfworld]'"
        ) from error
    finally:
        del os.environ["ALFWORLD_DATA"]
        if given is not None:
            os.environ["ALFWORLD_DATA"] = given


def _parse_once() -> None:
    """Let the engine parse a sentence of its grammar once, not at every use: the same text in a third of the time."""
    from textworld.envs.pddl import textgen
    from textworld.logic import Rule

    parse = getattr(textgen, "_parse_and_convert", None)
    if parse is None or hasattr(parse, "__wrapped__"):  # another version, which does it differently; or done before
        return
    remembered = functools.lru_cache(maxsize=4096)(parse)

    @functools.wraps(parse)
    def parse_once(*args: Any, **kwargs: Any) -> Any:
        return copy.deepcopy(remembered(*args, **kwargs))  # the engine writes into what it gets

    textgen._parse_and_convert = parse_once
    Rule.parse_conjunctive_query = functools.lru_cache(maxsize=4096)(Rule.parse_conjunctive_query)


@contextmanager
def _untouched_arguments() -> Iterator[None]:
    """The planner's translator writes its own options into ``sys.argv``."""
    arguments = sys.argv
    try:
        yield
    finally:
        sys.argv = arguments


def _one_line(text: str) -> str:
    return " ".join(text.split())
