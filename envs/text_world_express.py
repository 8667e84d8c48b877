"""TextWorld-Express: eight text games on a fast Java engine. Needs ``pip install 'agentgrpo[textworld-express]'``."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from agentgrpo.envs.base import Snapshot, TextEnv, View, in_range, shortest_path
from agentgrpo.envs.jvm import EngineError, JavaEngine, JavaGame

GAMES = ("arithmetic", "coin", "cookingworld", "mapreader", "peckingorder", "simonsays", "sorting", "twc")
FOLDS: dict[str, range | None] = {"train": None, "dev": range(10_000, 11_000), "test": range(20_000, 21_000)}
"""The engine's seeds for each fold; training has all others."""

EASY_COIN = {"numLocations": 5, "numDistractorItems": 0, "includeDoors": 0, "limitInventorySize": 0}
GOALS = {"coin": "Goal: find the coin and take it."}
DEFAULT_TURNS = {"arithmetic": 8, "coin": 12, "mapreader": 20, "peckingorder": 16, "simonsays": 8, "sorting": 16}
FREE = {"inventory", "look around", "task"}
"""What changes nothing: an oracle's path still holds after it."""

MEMORY_MB = 256
MOST_REJECTED = 50
"""Seeds in a row at which the engine may raise before its reason is passed on."""

_ITEM = re.compile(r"(?:In (?:one|another) part of the room you see|There is also|You also see) ")
_EXIT = re.compile(r"To the (\w+) you see (?:the |an? )?")


class Answer(NamedTuple):
    """What the engine says about a state."""

    text: str
    look: str
    inventory: str
    actions: dict[str, str]
    """Admissible actions: in lower case -> in the engine's words; sorted."""
    score: float
    """Share of the task that is done, 0..1; 0 on failure."""
    won: bool
    lost: bool

    @property
    def anchor(self) -> str:
        """What can be seen and what is carried; in a game without places, what was said."""
        return f"{self.look} {self.inventory}" if self.look else self.text


class TextWorldExpressEnv(TextEnv[int, tuple[str, ...]]):
    """One of TextWorld-Express' games. By default: find the coin in a house of five rooms, without doors.

    Actions are the engine's own, such as ``move north`` or ``take coin``. The reward is 1.0 on success. The task is the
    engine's seed and the state is the actions played, so that a snapshot is replayed when it is restored.

    The anchor is what is in view and in the inventory. In ``coin`` without doors that is the whole state; elsewhere two
    states may share an anchor that differ in another room.

    The oracle of ``coin`` without doors is a shortest path from any state: it tries all moves in a second game. In all
    other cases it is the engine's gold path, and there is none once the actions, looking apart, have left it. Where the
    engine's own player walks at random (``twc``, ``cookingworld``, ``coin`` with doors) that path is long, may not lead
    to the end, and differs between processes.

    Args:
        game: arithmetic, coin, cookingworld, mapreader, peckingorder, simonsays, sorting or twc.
        params: the game's parameters, as a mapping or as the engine writes them: "numLocations=5,includeDoors=0". For
            ``coin`` they are added to those of five rooms; other games start from the engine's defaults.
        fold: train, dev or test: which objects occur, and which of the engine's seeds.
        max_turns: actions per episode, 1..10000; None: 8 to 50 by game.
        brief: leave out furniture that no action mentions, and filler words.
        partial_reward: reward the increase of the engine's score instead: 1.0 in all on success, 0.0 on failure.
    """

    def __init__(
        self,
        game: str = "coin",
        params: str | Mapping[str, int] | None = None,
        fold: str = "train",
        max_turns: int | None = None,
        brief: bool = True,
        partial_reward: bool = False,
    ) -> None:
        self.game = _one_of("game", game, GAMES)
        self.fold = _one_of("fold", fold, tuple(FOLDS))
        super().__init__(
            in_range("max_turns", DEFAULT_TURNS.get(game, 50) if max_turns is None else max_turns, 1, 10_000)
        )
        self.params = (EASY_COIN if game == "coin" else {}) | parse_params(params)
        self.brief = brief
        self.partial_reward = partial_reward
        self._engine = JavaEngine(_jar(), MEMORY_MB)
        try:
            self._game = Game(self._engine, game, self.params, fold)
        except ValueError:
            self._engine.close()
            raise
        self.task = -1  # none yet
        self._new_oracle()
        self._has_map = game == "coin" and not self.params["includeDoors"]

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    # --- the game -------------------------------------------------------------------------------------------------

    def _new_task(self) -> str:
        reason = "every game was over before it began"
        for _ in range(MOST_REJECTED):
            self.task = self._draw_seed()
            try:
                self._game.start(self.task)
            except EngineError as error:
                reason = str(error)
                continue
            if self._game.now.actions and not (self._game.now.won or self._game.now.lost):
                break
        else:
            raise ValueError(
                f"game {self.game} cannot be made with params {self.params}: for {MOST_REJECTED} seeds in a row the "
                f"engine says: {reason}"
            )
        self.state = ()
        self._answer = self._game.now
        self._new_oracle()
        return GOALS.get(self.game) or f"Goal: {self._game.goal().removeprefix('Your task is to ')}"

    def _draw_seed(self) -> int:
        seeds = FOLDS[self.fold]
        if seeds is not None:
            return int(self.np_random.choice(seeds))
        seed = int(self.np_random.integers(2**31 - 2000))
        return seed if seed < 10_000 else 11_000 + seed - 10_000 if seed < 19_000 else seed + 2000

    def _view(self) -> View:
        answer = self._answer
        actions = list(answer.actions)
        return View(shorten(answer.text, actions) if self.brief else answer.text, answer.anchor, actions)

    def _advance(self, action: str) -> None:
        self._game.go_to(self.task, self.state)  # an oracle may have been elsewhere
        self._answer = self._game.step(action)
        self.state = (*self.state, action)

    def _outcome(self) -> bool | None:
        return True if self._answer.won else False if self._answer.lost else None

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one turn. Text that is no admissible action changes nothing, but uses the turn up."""
        before = self._answer.score if self._running else 0.0
        text, reward, terminated, truncated, info = super().step(action)
        return text, self._answer.score - before if self.partial_reward else reward, terminated, truncated, info

    def restore(self, snapshot: Snapshot[int, tuple[str, ...]]) -> tuple[str, dict[str, Any]]:
        """Play the snapshot's actions again; return the state's text (without the goal) and info."""
        self._answer = self._game.go_to(snapshot.task, snapshot.state)
        if snapshot.task != self.task:
            self._new_oracle()
        return super().restore(snapshot)

    # --- the oracle -----------------------------------------------------------------------------------------------

    def _new_oracle(self) -> None:
        self._gold: list[str] | None = None
        self._map: Map | None = None

    def _plan(self) -> list[str]:
        if self._has_map:
            self._map = self._map or Map(self._game, self.task)
            return self._map.plan(self._answer.anchor, self.state)
        if self._gold is None:
            self._gold = [action for action in self._game.gold_path(self.task) if action not in FREE]
        played = [action for action in self.state if action not in FREE]
        return self._gold[len(played) :] if self._gold[: len(played)] == played else []


class Game(JavaGame[Answer]):
    """A game in the engine. Raises ValueError, with the engine's reason, where it does not take the parameters."""

    def __init__(self, engine: JavaEngine, name: str, params: Mapping[str, int], fold: str) -> None:
        super().__init__(engine, "textworldexpress.runtime.PythonInterface")
        self._fold = fold
        written = ",".join(f"{key}={value}" for key, value in params.items())
        if refused := engine.ask(self._java.load, name, written):
            raise ValueError(f"params {written!r} are refused by the game {name}: {str(refused).strip()}")

    def _start(self, number: int, *, gold: bool) -> Answer:
        return _answer(self._engine.ask(self._java.generateNewGameJSON, number, self._fold, gold))

    def _step(self, action: str) -> Answer:
        return _answer(self._engine.ask(self._java.stepJSON, self.now.actions[action]))

    def goal(self) -> str:
        """What to do, in the engine's words."""
        return _one_line(self._engine.ask(self._java.getTaskDescription))

    def gold_path(self, seed: int) -> list[str]:
        """What the engine's own player does, up to success; [] if that does not lead there."""
        self.start(seed, gold=True)
        path: list[str] = []
        for words in self._engine.ask(lambda: list(self._java.getGoldActionSequence())):
            action = _plain(str(words))
            if action not in self.now.actions:
                break
            path.append(action)
            if self.step(action).won:
                return path
        return []


class Map:
    """Where moves lead in one coin game, found out by trying them. Each state is reached from the start anew."""

    def __init__(self, game: Game, seed: int) -> None:
        self._game = game
        self._seed = seed
        self._ways: dict[str, tuple[str, ...]] = {}
        """anchor -> actions from the start to there."""
        self._moves: dict[str, dict[str, str]] = {}
        self._won: set[str] = set()

    def plan(self, anchor: str, way: tuple[str, ...]) -> list[str]:
        """A shortest path from ``anchor``, which ``way`` led to; [] if there is none."""
        self._ways.setdefault(anchor, way)
        return shortest_path(anchor, lambda a: self._tried(a).items(), self._won.__contains__) or []

    def _tried(self, anchor: str) -> dict[str, str]:
        if anchor not in self._moves:
            way = self._ways[anchor]
            actions = self._game.go_to(self._seed, way).actions
            self._moves[anchor] = {a: self._try(way, a) for a in actions if a == "take coin" or a.startswith("move ")}
        return self._moves[anchor]

    def _try(self, way: tuple[str, ...], action: str) -> str:
        self._game.go_to(self._seed, way)
        answer = self._game.step(action)
        self._ways.setdefault(answer.anchor, (*way, action))
        if answer.won:
            self._won.add(answer.anchor)
        return answer.anchor


def shorten(text: str, actions: list[str]) -> str:
    """Put a room into few words: what an action mentions, and the exits.

    Args:
        text: as the engine says it.
        actions: what can be done there.
    """
    names = {name for action in actions for name in re.split(r" (?:in|on|with|to) ", action.partition(" ")[2]) if name}
    sentences = []
    for sentence in re.split(r"(?<=\.)\s+", _one_line(text)):
        item = _ITEM.match(sentence)
        if item is None:
            sentences.append(_EXIT.sub(r"\1: ", sentence))
        elif any(name in sentence.lower() for name in names):
            sentences.append(f"You see {sentence[item.end() :]}")
    return " ".join(sentences)


def parse_params(params: str | Mapping[str, int] | None) -> dict[str, int]:
    """Read a game's parameters: a mapping, or "numLocations=5,includeDoors=0"."""
    if params is None:
        return {}
    pairs: Any = params.items() if isinstance(params, Mapping) else _split(params)
    out: dict[str, int] = {}
    for name, value in pairs:
        try:
            out[str(name)] = int(value)
        except (TypeError, ValueError):
            raise ValueError(f"params {name} must be an integer, got {value!r}.") from None
    return out


def _split(params: str) -> list[tuple[str, str]]:
    pairs = []
    for part in str(params).split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals):
            if part.strip():
                raise ValueError(f"params must look like 'numLocations=5,includeDoors=0', got {params!r}.")
            continue
        pairs.append((name, value))
    return pairs


def _answer(said: Any) -> Answer:
    found = json.loads(str(said))
    actions = {_plain(words): words for words in found["validActions"]}
    return Answer(
        _one_line(found["observation"]),
        _one_line(found["look"]),
        _one_line(found["inventory"]),
        dict(sorted(actions.items())),
        max(float(found["score"]), 0.0),  # the engine says -1 on failure
        bool(found["tasksuccess"]),
        bool(found["taskfailure"]),
    )


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())


def _plain(action: str) -> str:
    return _one_line(action).lower()


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
    return value


def _jar() -> str:
    try:
        from textworld_express.constants import JAR_PATH
    except ImportError as error:
        raise ImportError("TextWorld-Express is missing: pip install 'agentgrpo[textworld-express]'") from error
    return str(JAR_PATH)
