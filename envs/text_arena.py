"""TextArena's games for one player. Needs ``pip install 'agentgrpo[textarena]'``."""

import copy
import dataclasses
import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agentgrpo.checks import did_you_mean
from agentgrpo.envs.base import Snapshot, TextEnv, View, in_range
from agentgrpo.envs.global_random import seeded_global_random
from agentgrpo.envs.text_arena_games import BROKEN, RULES, Rules

LONGEST_ACTION = 1000
"""Characters. TextArena's games convert digits of any number, and Python refuses more than 4300."""
LONGEST_OBSERVATION = 20_000
NOISE = re.compile(
    r"^(?:Available (?:Actions|Moves):.*|(?:Current|Game) Board: *|Board state: *|Current grid state .*"
    r"|[-+= ]*|\.)$\n?",
    re.MULTILINE,
)
"""Lines which say nothing of the state, or count moves: left out where observations are brief."""
REFUSAL = re.compile(r"You attempted an invalid move\. Reason: (.*?) Please resubmit a valid move and .*", re.DOTALL)


class Moment(NamedTuple):
    """What TextArena's last answer was, apart from what the game keeps itself."""

    text: str
    refused: bool = False
    """Whether the game called the last action invalid."""
    raw_reward: float = 0.0
    outcome: bool | None = None


class TextArenaEnv(TextEnv[str, Any]):
    """A game of TextArena for one player, with its own boards and messages, of which the agent gets what is new.

    These work as they are installed, name their admissible actions, and replay exactly; those marked * have an oracle,
    those marked + are the same task for every seed: GuessTheNumber*, FrozenLake*, TowerOfHanoi*+, LightsOut*,
    Mastermind*, ThreeCardMonte*, RushHour*, PegJump*+, Sudoku*, Crosswords*, Slitherlink*, Cryptarithm+, Countdown+,
    Minesweeper, 2048, Blackjack, Secretary*. Variants are named as in TextArena, such as
    GuessTheNumber-v0-hardcore. The oracles of Secretary, Sudoku and Crosswords look up what is hidden.

    Any other game for one player is played in free text, without admissible actions and oracle: LogicPuzzle, Set and
    Sokoban (1 s for a new task) work at once; Hangman, WordLadder, Wordle and WordSearch need word lists which
    ``python -m nltk.downloader words averaged_perceptron_tagger_eng`` fetches.

    The task is drawn from the seed; what the game draws later, from the noise stream. TextArena draws from the global
    ``random``, which is put back after every call. Text that is no action uses up a turn but never reaches the game.

    Args:
        game: TextArena's id, or its name without version.
        max_turns: actions per episode, 1..10000; None: as many as the game has use for.
        brief: state the goal in a sentence instead of with TextArena's page of rules, where this module has one.
        success_at: reward of the game, at its end, from which on an episode is a success; None: 1, Blackjack 0.5.
        partial_credit: reward an episode without success with what the game gives for it, limited to 0..1; else 0.
        game_kwargs: further arguments of the game, such as ``{"max_number": 100}``.
    """

    def __init__(
        self,
        game: str = "GuessTheNumber",
        max_turns: int | None = None,
        brief: bool = True,
        success_at: float | None = None,
        partial_credit: bool = False,
        game_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if max_turns is not None:
            in_range("max_turns", max_turns, 1, 10_000)
        self.inner, self._add_brackets = make_game(game, game_kwargs or {})
        self.rules: Rules | None = RULES.get(type(self.inner).__name__)
        enough = self.rules.max_turns(self.inner) if self.rules else getattr(self.inner, "max_turns", None) or 100
        super().__init__(min(int(enough), 10_000) if max_turns is None else max_turns)
        if self.rules:
            list(self.rules.moves(self.inner))  # too many to list is found now
        self.brief = brief and self.rules is not None
        self.success_at = float(success_at if success_at is not None else self.rules.success_at if self.rules else 1.0)
        self.partial_credit = partial_credit

    # --- the task ---------------------------------------------------------------------------------------------------

    def _new_task(self) -> str:
        seed = int(self.np_random.integers(2**31))
        with seeded_global_random(seed):
            self.inner.reset(num_players=1, seed=seed)
        rules, messages = self._heard()
        self.task = self.rules.goal if self.rules and self.brief else "\n".join(rules)
        self.state = Moment("\n".join(messages) or f"Answer with {self._expected()}.")
        return self.task

    def _view(self) -> View:
        text = self.state.text
        if self.rules is None:
            return View(text, text, [])
        over = self.state.outcome is not None
        moves = self._now.admissible if over else sorted(self.rules.moves(self.inner))
        return View(text, _name(self.rules.state(self.inner)) + (" over" if over else ""), moves)

    def _read(self, action: str) -> str | None:
        stripped = action.strip()
        if self.rules is None:
            return stripped if 0 < len(stripped) <= LONGEST_ACTION else None
        if stripped.startswith("[") and stripped.endswith("]"):
            stripped = stripped[1:-1]
        return super()._read(stripped)

    def _expected(self) -> str:
        return self.rules.example if self.rules else f"up to {LONGEST_ACTION} characters"

    def _advance(self, action: str) -> None:
        bare = self._add_brackets and "[" not in action and "]" not in action
        errors = getattr(self.inner.state, "error_count", 0)
        with seeded_global_random(int(self.noise_random.integers(2**62))):
            over, _ = self.inner.step(f"[{action}]" if bare else action)
        _, messages = self._heard()
        facts = self.inner.state.game_info[0]
        refused = bool(facts.get("invalid_move")) or getattr(self.inner.state, "error_count", 0) > errors
        if not over:
            self.state = Moment("\n".join(messages), refused)
            return
        reward = self.inner.state.rewards[0]
        reward = float(reward) if isinstance(reward, int | float) else 0.0  # some games mix up their arguments
        reason = str(facts.get("reason") or "").strip()
        text = "\n".join([*messages, reason]) if reason else "\n".join(messages)
        self.state = Moment(text[:LONGEST_OBSERVATION], refused, reward, reward >= self.success_at)

    def _heard(self) -> tuple[list[str], list[str]]:
        """What the game has said since the last call: its rules, and other messages but the agent's own."""
        _, heard = self.inner.get_observation()
        rules, messages = [], []
        for _, message, kind in heard:
            # Some games mix up the arguments of the agent's own message, so that what was said stands for its kind.
            name = getattr(kind, "name", "PLAYER_ACTION")
            if name == "PROMPT":
                rules.append(message.strip()[:LONGEST_OBSERVATION])
            elif name != "PLAYER_ACTION":
                text = REFUSAL.sub(r"Not possible: \1", message)
                text = NOISE.sub("", text) if self.brief else text
                messages.append(text.strip("\n").rstrip()[:LONGEST_OBSERVATION])
        return rules, messages

    def _outcome(self) -> bool | None:
        outcome: bool | None = self.state.outcome
        return outcome

    def _reward(self, outcome: bool | None) -> float:
        if outcome or not self.partial_credit:
            return float(outcome is True)
        over = outcome is not None
        if not over and self._turn < self.max_turns:
            return 0.0
        return min(max(self.state.raw_reward if over else self._progress(), 0.0), 1.0)

    def _progress(self) -> float:
        """What the game would give if it were over now; 0 where it does not tell."""
        for name in ("_get_percentage_completion", "_progress", "_calculate_progress"):
            if (progress := getattr(self.inner, name, None)) is not None:
                return float(progress())
        return 0.0

    def _info(self, *, valid: bool, success: bool) -> dict[str, Any]:
        # What is admissible may still be a mistake in the game: a mine, a wrong digit. That is no invalid action.
        understood = valid and (self.rules is not None or not self.state.refused)
        raw_reward = self.state.raw_reward if valid else 0.0
        return {**super()._info(valid=understood, success=success), "raw_reward": raw_reward}

    def _plan(self) -> list[str]:
        return self.rules.solve(self.inner) if self.rules and self.rules.solve else []

    # --- snapshots --------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot[str, Any]:
        """Return a copy of the running episode."""
        return dataclasses.replace(super().snapshot(), state=(self.state, copy.deepcopy(self.inner)))

    def restore(self, snapshot: Snapshot[str, Any]) -> tuple[str, dict[str, Any]]:
        """Continue from ``snapshot``; return what the game said last and info."""
        moment, inner = snapshot.state
        self.inner = copy.deepcopy(inner)
        return super().restore(dataclasses.replace(snapshot, state=moment._replace(refused=False)))


def make_game(game: str, game_kwargs: Mapping[str, Any]) -> tuple[Any, bool]:
    """Make a game of TextArena and try whether it starts.

    Returns:
        The game without TextArena's wrappers, and whether its actions stand in squared brackets.

    Raises:
        ImportError: TextArena is not installed.
        ValueError: there is no such game, it is not for one player, or it needs what is not here.
    """
    try:
        import textarena
        from textarena.envs.registration import ENV_REGISTRY
    except ImportError as error:
        raise ImportError("TextArena's games need TextArena: pip install 'agentgrpo[textarena]'") from error
    known = [name.removesuffix("-raw") for name in ENV_REGISTRY if name.endswith("-raw")]
    name = game if "-v" in str(game) else f"{game}-v0"
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"game {game!r} is not one of TextArena's.{hint} Names are as in GuessTheNumber-v0-hardcore.")
    try:
        with seeded_global_random(0):
            made: Any = textarena.make(f"{name}-raw", **game_kwargs)
            _silence(made)
            made.reset(num_players=1, seed=0)
    except Exception as error:  # whatever is missing: a key, word lists, other players, a newer Python
        raise ValueError(f"game {game!r} cannot be played here: {_first_line(error)}") from error
    if type(made).__name__ in BROKEN:
        raise ValueError(f"game {game!r} cannot be played: {BROKEN[type(made).__name__]}.")
    wrappers: list[Callable[..., Any]] = ENV_REGISTRY[name].default_wrappers or []
    return made, textarena.wrappers.ActionFormattingWrapper in wrappers


def _silence(game: Any) -> None:
    """Some games print what they draw; a name in their module hides the built-in from them alone."""
    vars(sys.modules[type(game).__module__])["print"] = lambda *args, **kwargs: None


def _first_line(error: Exception) -> str:
    lines = [line.strip(" *\t") for line in str(error).splitlines()]
    return f"{type(error).__name__}: {next((line for line in lines if line), 'no reason given')[:200]}"


def _name(state: object) -> str:
    text = repr(state)
    return text if len(text) <= 100 else hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
