"""What the tasks on TextWorld's engines share: commands, replay as snapshots, and which facts make up a state."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from agentgrpo.envs.base import Snapshot, TextEnv

LOOKING = ("examine", "help", "inventory", "look")
"""First words of the commands that change nothing in a game."""

_LONGEST_LIST = 300
"""Characters of actions that a reply to a wrong action lists in full."""


class EngineEnv(TextEnv[int, tuple[str, ...]]):
    """A numbered game that is played in TextWorld's engine.

    The engine's memory cannot be copied between processes, so the state kept here is the list of the commands played
    so far: a snapshot is free, and restoring one plays them again.

    A task writes ``_open``, and keeps the engine in ``self._engine`` and its latest answer in ``self._answer``.
    """

    _engine: Any = None
    _answer: Any = None

    @abstractmethod
    def _open(self, game: int) -> None:
        """Start game number ``game`` from its beginning."""

    def _begin(self, game: int) -> None:
        self.task = game
        self.state = ()
        self._open(game)

    def _allowed(self, command: str) -> bool:
        """Whether a command of the engine is an action of the task."""
        return command.split()[0] not in LOOKING

    @property
    def _commands(self) -> dict[str, str]:
        """The actions of now, as the agent writes them, and the engine's commands for them."""
        commands = filter(self._allowed, self._answer["admissible_commands"])
        return {_normal(command): command for command in sorted(commands)}

    def _advance(self, action: str) -> None:
        self._answer, _, _ = self._engine.step(self._commands[action])
        self.state = (*self.state, action)

    def _outcome(self) -> bool | None:
        if self._answer["won"]:
            return True
        return False if self._answer["lost"] else None

    def _expected(self) -> str:
        actions = self._now.admissible
        listed = ", ".join(actions)
        if len(listed) <= _LONGEST_LIST:
            return f"one of: {listed}"
        return f"one of the actions that start with: {', '.join(sorted({action.split()[0] for action in actions}))}"

    def _game_number(self, num_games: int) -> int:
        """Draw a game: a given seed counts through the games, so that each comes up equally often."""
        if self._num_unseeded == 0 and self.np_random_seed >= 0:
            return self.np_random_seed % num_games
        return int(self.np_random.integers(num_games))

    def restore(self, snapshot: Snapshot[int, tuple[str, ...]]) -> tuple[str, dict[str, Any]]:
        """Continue from ``snapshot``; return the state's text (without the goal) and info."""
        self._begin(snapshot.task)
        for action in snapshot.state:
            self._advance(action)
        return super().restore(snapshot)

    def close(self) -> None:
        """Let the engine go."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def digest(facts: Iterable[Any]) -> str:
    """Name a set of facts, so that equal names mean equal states."""
    return hashlib.blake2b(repr(sorted(map(str, facts))).encode(), digest_size=6).hexdigest()


def _normal(command: str) -> str:
    return " ".join(command.lower().split())
