"""ToyText: gymnasium's toy-text games, and any other small discrete gymnasium environment, told in words."""

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from agentgrpo.checks import did_you_mean
from agentgrpo.envs.base import Snapshot, TextEnv, View, in_range
from agentgrpo.envs.toy_games import GAMES, Game
from agentgrpo.envs.value_iteration import SuccessValues

FIXED = {"P", "initial_state_distrib", "desc", "observation_space", "action_space", "spec", "_np_random"}
"""Attributes of a game that no step changes, or that are set anew before each: a snapshot leaves them out."""


class Moment(NamedTuple):
    """Where a game stands after a step, apart from what it keeps itself."""

    observation: Any
    """An int, or a tuple of ints."""
    allowed: tuple[int, ...]
    """Places in the list of words: the actions which the game says would change something, or all."""
    raw_reward: float = 0.0
    outcome: bool | None = None


class ToyTextEnv(TextEnv[str, Any]):
    """A gymnasium environment with few states and actions, played in words.

    Taxi, CliffWalking, FrozenLake and Blackjack are told in a sentence or a drawing; of any other game with discrete
    observations and actions the agent reads "State 17 of 500." and answers with an action's number. The reward is 1.0
    on success and else 0.0; the game's own is in ``info["raw_reward"]``. The game's start is drawn from the seed, all
    that follows from the noise stream. CliffWalking and FrozenLake always start alike unless ``random_start`` is set;
    lakes that differ from seed to seed are ``agentgrpo/FrozenLake-v0``.

    The oracle is value iteration over the turns left: the most likely way to succeed. It needs the game's table of
    transitions, ``P`` (Blackjack's is made here). Where the dynamics are noisy, the first action of its plan is the
    best one, and the others are best if luck is good.

    Args:
        game: gymnasium id or name without version (then the newest): Taxi, CliffWalking, FrozenLake, Blackjack ...,
            or your own, my_module:Name-v0.
        max_turns: actions per episode, 1..10000; None: 25 for Taxi and CliffWalking, 40 for FrozenLake, 10 for
            Blackjack, else 100.
        random_start: start in any state from which the game can be won, instead of where the game itself starts.
        use_mask: admit only actions that change something, where the game tells them (Taxi does).
        win_above: an episode that the game ends with a last reward above this is a success; None: 0, and for
            CliffWalking any end.
        words: names of the actions in the game's order, in lower case; None: the game's own, or numbers.
        game_kwargs: further arguments of the game, such as ``{"is_slippery": False}`` for FrozenLake.
    """

    def __init__(
        self,
        game: str = "Taxi",
        max_turns: int | None = None,
        random_start: bool = False,
        use_mask: bool = True,
        win_above: float | None = None,
        words: Sequence[str] | None = None,
        game_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if max_turns is not None:
            in_range("max_turns", max_turns, 1, 10_000)
        self.inner: Any = make_game(game, game_kwargs or {})
        ours = type(self.inner).__module__.startswith("gymnasium.envs.toy_text.")
        self.game = GAMES.get(type(self.inner).__name__, Game()) if ours else Game()
        super().__init__(self.game.max_turns if max_turns is None else max_turns)
        self.use_mask = use_mask
        self.win_above = self.game.win_above if win_above is None else float(win_above)
        num_actions = int(self.inner.action_space.n)
        self.words = _checked_words(words or self.game.words or tuple(map(str, range(num_actions))), num_actions)
        self._first_action = int(self.inner.action_space.start)
        self._starts = self._winnable_states(game) if random_start else []

    def _winnable_states(self, game: str) -> list[int]:
        if not (hasattr(self.inner, "P") and hasattr(self.inner, "initial_state_distrib")):
            raise ValueError(
                f"random_start=True needs a table of transitions, P, and initial_state_distrib; {game!r} lacks them."
            )
        assert self._values is not None
        states = self._values.winnable(self.inner.initial_state_distrib)
        if not states:
            raise ValueError(f"random_start=True: no state of {game!r} can be won in max_turns={self.max_turns} turns.")
        return states

    @functools.cached_property
    def _values(self) -> SuccessValues | None:
        """Made when the oracle is first asked."""
        table = self.game.transitions(self.inner)
        if table is None:
            return None
        return SuccessValues(table, lambda reward: reward > self.win_above, self.max_turns)

    # --- the task ---------------------------------------------------------------------------------------------------

    def _new_task(self) -> str:
        observation, info = self.inner.reset(seed=int(self.np_random.integers(2**31)))
        mask = info.get("action_mask")
        if self._starts:
            self.inner.s = observation = self._starts[int(self.np_random.integers(len(self._starts)))]
            mask = self.inner.action_mask(observation) if hasattr(self.inner, "action_mask") else None
        self.task = self.game.goal
        self.state = Moment(_plain(observation), self._allowed(mask))
        return self.task

    def _view(self) -> View:
        now: Moment = self.state
        if now.outcome is not None and self.game.ending is not None:
            text = self.game.ending(self.inner, now.raw_reward)
        elif self.game.tell is not None:
            text = self.game.tell(self.inner, now.observation)
        else:
            text = _tell_any(self.inner.observation_space, now.observation)
        return View(text, text, sorted(self.words[action] for action in now.allowed))

    def _advance(self, action: str) -> None:
        self.inner.np_random = self.noise_random
        index = self.words.index(action)
        observation, reward, terminated, truncated, info = self.inner.step(self._first_action + index)
        outcome = reward > self.win_above if terminated else False if truncated else None
        self.state = Moment(
            _plain(observation),
            self._allowed(info.get("action_mask")),
            float(reward),
            None if outcome is None else bool(outcome),
        )

    def _allowed(self, mask: Any) -> tuple[int, ...]:
        everything = tuple(range(len(self.words)))
        if mask is None or not self.use_mask:
            return everything
        return tuple(action for action in everything if mask[action]) or everything

    def _outcome(self) -> bool | None:
        outcome: bool | None = self.state.outcome
        return outcome

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one turn, as all tasks; what has just happened stands before the state."""
        text, reward, terminated, truncated, info = super().step(action)
        event = None if terminated else self.game.events.get(info["raw_reward"])
        return f"{event} {text}" if event else text, reward, terminated, truncated, info

    def _info(self, *, valid: bool, success: bool) -> dict[str, Any]:
        raw_reward = self.state.raw_reward if valid else 0.0  # text that is no action never reached the game
        return {**super()._info(valid=valid, success=success), "raw_reward": raw_reward}

    def _plan(self) -> list[str]:
        if self._values is None:
            return []
        plan = self._values.plan(self.game.state(self.state.observation), self.max_turns - self._turn)
        return [self.words[action] for action in plan]

    # --- snapshots --------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot[str, Any]:
        """Return a copy of the running episode."""
        return dataclasses.replace(super().snapshot(), state=(self.state, self._changing_parts()))

    def restore(self, snapshot: Snapshot[str, Any]) -> tuple[str, dict[str, Any]]:
        """Continue from ``snapshot``; return the state's text (without the goal) and info."""
        moment, parts = snapshot.state
        vars(self.inner).update(copy.deepcopy(parts))
        return super().restore(dataclasses.replace(snapshot, state=moment._replace(raw_reward=0.0)))

    def _changing_parts(self) -> dict[str, Any]:
        return copy.deepcopy({name: part for name, part in vars(self.inner).items() if name not in FIXED})


def make_game(game: str, game_kwargs: Mapping[str, Any]) -> Any:
    """Make a gymnasium environment without wrappers.

    Raises:
        ValueError: there is none of that name, its arguments do not fit, or its spaces are not discrete.
    """
    env_id = _newest(game)
    try:
        made: Any = gym.make(env_id, disable_env_checker=True, **game_kwargs).unwrapped
    except (TypeError, KeyError) as error:
        raise ValueError(f"game_kwargs={dict(game_kwargs)} do not fit game {game!r}: {error}") from error
    if not (isinstance(made.action_space, spaces.Discrete) and _is_discrete(made.observation_space)):
        raise ValueError(
            f"game must have discrete observations and actions; {game!r} has {made.observation_space} and "
            f"{made.action_space}."
        )
    return made


def _newest(game: str) -> str:
    """Give the id of ``game``; without a version the newest one's."""
    if game in gym.registry or ":" in str(game):
        return game
    newest: dict[str, int] = {}
    for spec in gym.registry.values():
        if spec.namespace is None and spec.version is not None:
            newest[spec.name] = max(spec.version, newest.get(spec.name, 0))
    if game in newest:
        return f"{game}-v{newest[game]}"
    known = ["Taxi", "CliffWalking", "FrozenLake", "Blackjack"]
    hint = did_you_mean(game, known) or did_you_mean(game, gym.registry)
    raise ValueError(f"game {game!r} is no gymnasium environment.{hint} For example {', '.join(known)}.")


def _is_discrete(space: Any) -> bool:
    if isinstance(space, spaces.Tuple):
        return all(isinstance(part, spaces.Discrete) for part in space.spaces)
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def _plain(observation: Any) -> Any:
    if isinstance(observation, int | np.integer):
        return int(observation)
    return tuple(int(part) for part in np.ravel(observation))


def _tell_any(space: Any, observation: Any) -> str:
    if isinstance(space, spaces.Discrete):
        return f"State {observation - int(space.start)} of {int(space.n)}."
    return f"State {', '.join(map(str, observation))}."


def _checked_words(words: Sequence[str], num_actions: int) -> tuple[str, ...]:
    fits = len(words) == num_actions == len(set(words))
    if not fits or any(word != " ".join(word.lower().split()) or not word for word in words):
        raise ValueError(
            f"words must be {num_actions} different names in lower case, one for each action, got {list(words)}."
        )
    return tuple(words)
