"""TextWorld: interactive fiction, made by TextWorld's own generator. Needs ``pip install 'agentgrpo[textworld]'``."""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from agentgrpo.envs.base import View, in_range
from agentgrpo.envs.text_world_engine import EngineEnv, digest
from agentgrpo.envs.text_world_games import CHALLENGES, GameKind, default_cache_dir, game_file

DIRECTIONS = ("east", "north", "south", "west")
MAX_LEVEL = {"coin_collector": 300, "treasure_hunter": 30}
DEFAULT_LEVEL = {"coin_collector": 104, "treasure_hunter": 6}

_PROMPT = re.compile(r"\n>.*\Z", re.DOTALL)
_ENDING = re.compile(r"\*\*\* (The End|You lost!) \*\*\*.*\Z", re.DOTALL)


class TextWorldEnv(EngineEnv):
    """A game of TextWorld: walk, open, take, unlock, put; reward 1.0 on winning, whatever the game's own score is.

    Games are made here, without network, and kept in a folder: the first game of a process takes 5 to 20 seconds to
    make, others 3 to 10, and starting one that is there less than 0.1. **Tasks repeat**: seed s plays game number
    ``first_game + s % num_games``. A held-out evaluation therefore needs other games than training: give it another
    ``first_game``. To make all games ahead of a run, which may have a time limit for each reset, play each once:
    ``python -m agentgrpo check-env agentgrpo/TextWorld-v0 --num-tasks 64``.

    The goal is one sentence, the command that wins: "Goal: take coin." TextWorld's own objective often spells out the
    whole way. In treasure_hunter the other object loses the game, in simple eating the food does.

    By default an observation is one line made from the game's facts, "Bedroom. Exits: north, west. Here: chest
    (closed).", and the commands that only look (examine, help, inventory, look) are no actions: the line tells what
    they would. With ``prose`` the text is TextWorld's own, and looking is allowed.

    The anchor names all that can change, in every room. The oracle is TextWorld's own policy: a way to win from any
    state, which after a detour first goes back; it has none where winning has become impossible.

    Args:
        challenge: coin_collector (find the coin), treasure_hunter (take the one object and not the other), simple (a
            small house with keys, doors and containers, long solutions) or custom (TextWorld's quest generator).
        level: TextWorld's level. coin_collector, 1..300: the quest takes as many commands as the last two digits say,
            in as many rooms (1..100), twice (101..200) or three times as many (201..300), at most 100 rooms.
            treasure_hunter, 1..30: more rooms from 11 and 21 on, doors and containers, longer quests. None: 104, 6.
        rooms: rooms of a custom game, 1..20; None: 4.
        objects: things in a custom game, 1..30; None: 6.
        quest_length: commands that a custom game takes, 1..10; None: 3.
        prose: TextWorld's own descriptions and answers instead of one line, and commands that look.
        max_turns: commands per episode, 1..10000.
        num_games: how many games there are, 1..100000.
        first_game: number of the first of them, 0..1000000000.
        cache_dir: folder of the games; None: agentgrpo/textworld under the user's cache directory.
    """

    def __init__(
        self,
        challenge: str = "coin_collector",
        level: int | None = None,
        rooms: int | None = None,
        objects: int | None = None,
        quest_length: int | None = None,
        prose: bool = False,
        max_turns: int = 12,
        num_games: int = 64,
        first_game: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(max_turns)
        self.kind = _kind(challenge, level, rooms, objects, quest_length)
        self.prose = prose
        self.num_games = in_range("num_games", num_games, 1, 100_000)
        self.first_game = in_range("first_game", first_game, 0, 1_000_000_000)
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
        self._loaded: Path | None = None
        try:
            import textworld
        except ImportError as error:
            raise ImportError("TextWorld games need TextWorld: pip install 'agentgrpo[textworld]'") from error
        self._infos = textworld.EnvInfos(admissible_commands=True, policy_commands=True, description=prose)

    def _new_task(self) -> str:
        self._begin(self.first_game + self._game_number(self.num_games))
        return f"Goal: {_goal(self._answer['policy_commands'][-1])}."

    def _open(self, game: int) -> None:
        import textworld

        path = game_file(self.kind, game, self.cache_dir)
        if path != self._loaded:
            self.close()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the interpreter warns of every game that is not a published one
                self._engine = textworld.start(str(path), request_infos=self._infos)
            self._loaded = path
        self._engine.seed(0)  # the interpreter's own random numbers, else seeded by the clock
        self._answer = self._engine.reset()
        # The opening is a banner in letters of letters; the room's description is what matters of it.
        self._said = _one_paragraph(self._answer["description"]) if self.prose else ""

    def _allowed(self, command: str) -> bool:
        return self.prose or super()._allowed(command)

    def _advance(self, action: str) -> None:
        super()._advance(action)
        self._said = _clean(self._answer["feedback"])

    def _view(self) -> View:
        names = {name: info.name for name, info in self._answer["game"].infos.items()}
        facts = self._answer["_facts"]
        line = describe(((fact.name, *(v.name for v in fact.arguments)) for fact in facts), names)
        return View(self._said if self.prose else line, f"{line} {digest(facts)}", list(self._commands))

    def _plan(self) -> list[str]:
        return [" ".join(command.lower().split()) for command in self._answer["policy_commands"]]

    def close(self) -> None:
        """Let the engine go."""
        super().close()
        self._loaded = None


def describe(facts: Iterable[tuple[str, ...]], names: Mapping[str, str]) -> str:
    """Put what can be seen into one line.

    Args:
        facts: all that is true in the game: the predicate, then the entities, such as ("at", "P", "r_0"). P is the
            player and I the inventory.
        names: what the entities are called.

    Returns:
        The room, its exits, what is in it and what is carried; what closed containers hold stays hidden.
    """
    by: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for predicate, *entities in facts:
        by[predicate].append(tuple(entities))
    state = {thing: word for word in ("open", "closed", "locked") for (thing,) in by[word]}
    room = next(place for thing, place in by["at"] if thing == "P")
    parts = [f"{names[room].capitalize()}. Exits: {', '.join(_exits(by, room, state, names)) or 'none'}."]
    here = [_thing(by, thing, state, names) for thing, place in by["at"] if place == room and thing != "P"]
    if here:
        parts.append(f"Here: {'; '.join(sorted(here))}.")
    carried = [names[thing] for thing, place in by["in"] if place == "I"]
    if carried:
        parts.append(f"You carry: {', '.join(sorted(carried))}.")
    return " ".join(parts)


def _exits(
    by: Mapping[str, list[tuple[str, ...]]], room: str, state: Mapping[str, str], names: Mapping[str, str]
) -> list[str]:
    doors = {there: door for start, door, there in by["link"] if start == room}
    free = {there for start, there in by["free"] if start == room}
    exits = []
    for direction in DIRECTIONS:
        for there, start in by[f"{direction}_of"]:
            if start != room:
                continue
            if there in doors:
                exits.append(f"{direction} ({state.get(doors[there], 'open')} {names[doors[there]]})")
            elif there in free:
                exits.append(direction)
    return exits


def _thing(
    by: Mapping[str, list[tuple[str, ...]]], thing: str, state: Mapping[str, str], names: Mapping[str, str]
) -> str:
    text = names[thing] + (f" ({state[thing]})" if thing in state else "")
    held = [names[item] for item, place in by["on"] if place == thing]
    if state.get(thing) == "open":
        held += [names[item] for item, place in by["in"] if place == thing]
    return f"{text}: {', '.join(sorted(held))}" if held else text


def _goal(command: str) -> str:
    """The command that wins, without the place, which is to be found out."""
    return command.split(" from ")[0]


def _clean(feedback: str) -> str:
    """TextWorld's answer without the prompt, the score and move counters after it, and the closing words."""
    return _one_paragraph(_PROMPT.sub("", _ENDING.sub("", feedback)))


def _one_paragraph(text: str) -> str:
    return " ".join(text.split())


def _kind(
    challenge: str, level: int | None, rooms: int | None, objects: int | None, quest_length: int | None
) -> GameKind:
    if challenge not in CHALLENGES:
        raise ValueError(f"challenge must be one of {', '.join(CHALLENGES)}, got {challenge!r}.")
    sizes = {"rooms": rooms, "objects": objects, "quest_length": quest_length}
    leveled = challenge in MAX_LEVEL
    unused = {"level": level} if not leveled else {}
    if challenge != "custom":
        unused |= sizes
    for name, value in unused.items():
        if value is not None:
            which = "coin_collector and treasure_hunter" if name == "level" else "custom"
            raise ValueError(f"{name} is for challenge {which}; leave it out (null) for {challenge!r}, got {value!r}.")
    if challenge == "custom":
        return GameKind(
            challenge,
            rooms=in_range("rooms", 4 if rooms is None else rooms, 1, 20),
            objects=in_range("objects", 6 if objects is None else objects, 1, 30),
            quest_length=in_range("quest_length", 3 if quest_length is None else quest_length, 1, 10),
        )
    if not leveled:
        return GameKind(challenge)
    level = in_range("level", DEFAULT_LEVEL[challenge] if level is None else level, 1, MAX_LEVEL[challenge])
    quest, times = (level - 1) % 100 + 1, (level - 1) // 100 + 1
    if challenge == "coin_collector" and quest * times > 100:
        raise ValueError(
            f"level {level} has {quest * times} rooms, and TextWorld takes at most 100: choose a lower one."
        )
    return GameKind(challenge, level=level)
