"""Making TextWorld's games offline, once each: they are kept in a folder."""

import dataclasses
import hashlib
import json
import os
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

CHALLENGES = ("coin_collector", "treasure_hunter", "simple", "custom")
ATTEMPTS = 20
"""Draws of one game. TextWorld gives up on a map that has no room for the quest."""


@dataclasses.dataclass(frozen=True, slots=True)
class GameKind:
    """What kind of game to make; numbers that the challenge does not use are 0.

    Attributes:
        challenge: one of ``CHALLENGES``.
        level: TextWorld's difficulty of coin_collector and treasure_hunter.
        rooms: rooms of a custom game.
        objects: things in a custom game.
        quest_length: commands that a custom game takes.
    """

    challenge: str
    level: int = 0
    rooms: int = 0
    objects: int = 0
    quest_length: int = 0


def game_file(kind: GameKind, number: int, cache_dir: Path) -> Path:
    """Return the game's file, made now if the folder does not have it.

    Several processes may ask for the same game at once: each makes it under a name of its own, and the first to finish
    gives it the final name.

    Args:
        kind: the kind of game.
        number: which one, at least 0; the same number gives the same game everywhere.
        cache_dir: the folder; made if it is missing. A game takes 0.4 MB and some seconds.
    """
    import textworld

    identity = json.dumps([dataclasses.asdict(kind), number, textworld.__version__], sort_keys=True)
    name = hashlib.blake2b(identity.encode(), digest_size=10).hexdigest()
    folder = cache_dir / f"{kind.challenge}-{name}"
    if not folder.is_dir():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=cache_dir) as temporary:
            made = Path(temporary) / "game"
            _compile(kind, number, made)
            try:
                os.rename(made, folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster; its game is the same
                    raise
    return folder / "game.z8"


def _compile(kind: GameKind, number: int, folder: Path) -> None:
    from textworld.generator import compile_game

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interpreter warns of every game that is not a published one
        options, game = _draw(kind, number)
        options.path = str(folder / "game.z8")
        compile_game(game, options)
    (folder / "game.ni").unlink(missing_ok=True)  # the source is not needed to play


def _draw(kind: GameKind, number: int) -> tuple[Any, Any]:
    from textworld.generator import QuestGenerationError
    from textworld.generator.game import GameOptions

    for attempt in range(ATTEMPTS):
        options = GameOptions()
        options.seeds = number + attempt * 100_000_007  # below 2^32, which numpy's old generator needs
        with suppress(QuestGenerationError):
            return options, _make(kind, options)
    raise ValueError(
        f"TextWorld found no game of {dataclasses.asdict(kind)} in {ATTEMPTS} attempts (game {number}): "
        "ask for a shorter quest, or for more rooms or objects."
    )


def _make(kind: GameKind, options: Any) -> Any:
    import textworld.challenges
    from textworld.generator import make_game

    if kind.challenge == "custom":
        options.nb_rooms, options.nb_objects, options.quest_length = kind.rooms, kind.objects, kind.quest_length
        return make_game(options)
    settings: dict[str, Any] = {"level": kind.level}
    if kind.challenge == "simple":
        settings = {"rewards": "sparse", "goal": "brief", "test": False}
    make = textworld.challenges.CHALLENGES[f"tw-{kind.challenge}"][1]
    return make(settings, options)


def default_cache_dir() -> Path:
    """Return the folder for games, under the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentgrpo" / "textworld"
