"""The environment under test, and what a check says about it."""

from __future__ import annotations

import contextlib
import math
import os
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym

from agentgrpo.environments import import_failure, unknown_env_message

MAX_STEPS = 1000
"""An episode of more steps than this counts as endless."""

Level = Literal["ok", "advice", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    level: Level
    check: str
    """What was looked at, in a few words."""
    found: str
    """What was found, and what was expected."""
    next_step: str = ""
    """What to do about it; empty when there is nothing to do."""
    optional: bool = False
    """Advice on something that nobody has to offer."""

    def __str__(self) -> str:
        return f"{self.level:8}{self.check:28}{self.found}" + (f" -> {self.next_step}" if self.next_step else "")


class BrokenEnv(Exception):
    """An environment raised, or returned what cannot be used; carries what to do about it."""

    def __init__(self, found: str, next_step: str = "") -> None:
        super().__init__(found)
        self.next_step = next_step


@dataclass(slots=True)
class Episode:
    """One episode as it was played."""

    first: str
    info: dict[str, Any]
    actions: list[str] = field(default_factory=list)
    steps: list[tuple[str, float, bool, bool]] = field(default_factory=list)
    infos: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether the environment said that the episode is over."""
        return bool(self.steps) and (self.steps[-1][2] or self.steps[-1][3])

    @property
    def total_reward(self) -> float:
        """Sum of rewards."""
        return sum(step[1] for step in self.steps)

    @property
    def all_infos(self) -> list[dict[str, Any]]:
        """The info of the reset and of each step."""
        return [self.info, *self.infos]


Player = Callable[[dict[str, Any], random.Random], str]


class Subject:
    """The environment under test: makes copies of it and plays them, and turns what goes wrong into BrokenEnv."""

    def __init__(self, env_id: str, kwargs: dict[str, Any], num_tasks: int) -> None:
        self.env_id, self.kwargs, self.num_tasks = env_id, kwargs, num_tasks
        self.single_turn = False
        """Set once episodes have been played: whether every one of them was a single step."""
        self.lengths: list[int] = []
        """Characters of each observation so far."""
        self.env = self.make()

    def make(self) -> gym.Env[Any, Any]:
        """Return a new copy. gymnasium's own run-time checks are off: they would hide what is looked for here."""
        try:
            return gym.make(self.env_id, disable_env_checker=True, **self.kwargs)
        except gym.error.UnregisteredEnv as error:
            raise ValueError(unknown_env_message(self.env_id)) from error
        except ImportError as error:
            found, next_step = import_failure(self.env_id, error)
            raise BrokenEnv(f"it cannot be made: {one_line(found)}", next_step) from error
        except ValueError as error:  # what the contract has constructors raise; the message is written for the user
            advice = "give other arguments, as key=value after the id" if self.kwargs else ""
            raise BrokenEnv(f"it cannot be made: {one_line(str(error))}", advice) from error
        except Exception as error:
            raise BrokenEnv(f"it cannot be made: {explain(error)}", "check its arguments and imports") from error

    @contextlib.contextmanager
    def fresh(self) -> Iterator[gym.Env[Any, Any]]:
        """Lend a new copy, and close it: it may hold a process or a connection."""
        env = self.make()
        try:
            yield env
        finally:
            with contextlib.suppress(Exception):  # gymnasium's check looks at close()
                env.close()

    def attribute(self, name: str) -> Any:
        """Return a method or attribute, also of a wrapper or from behind one; None if there is none."""
        try:
            return self.env.get_wrapper_attr(name)
        except AttributeError:
            return None

    def reset(self, seed: int, env: gym.Env[Any, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Reset, and insist on a text and a dict."""
        try:
            result: Any = (env or self.env).reset(seed=seed)
        except ImportError as error:
            found, next_step = import_failure(self.env_id, error)
            raise BrokenEnv(f"reset(seed={seed}): {one_line(found)}", next_step) from error
        except Exception as error:
            raise BrokenEnv(f"reset(seed={seed}) raised {explain(error)}", "make every seed give a task") from error
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise BrokenEnv("reset() did not return (text, info dict)", "return text, {}")
        self._take_text("reset()", result[0])
        return result[0], result[1]

    def step(self, action: str, env: gym.Env[Any, Any] | None = None) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Step, and insist on a text, a finite number, two truth values and a dict."""
        shown = one_line(repr(action), 40)
        try:
            result: Any = (env or self.env).step(action)
        except Exception as error:
            advice = "answer text that cannot be used with valid_action=False and a hint, never with an exception"
            raise BrokenEnv(f"step({shown}) raised {explain(error)}", advice) from error
        if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
            raise BrokenEnv("step() did not return (text, reward, terminated, truncated, info dict)", "return all five")
        text, reward, terminated, truncated, info = result
        self._take_text("step()", text)
        try:
            value = float(reward)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise BrokenEnv(f"step({shown}) gave the reward {reward!r}", "return a finite number; 0.0 for no reward")
        return text, value, bool(terminated), bool(truncated), info

    def play(self, seed: int, player: Player, *, player_seed: int | None = None, limit: int = MAX_STEPS) -> Episode:
        """Play one episode of at most ``limit`` steps; ``player_seed`` (None: ``seed``) decides the choices."""
        rng = random.Random(seed if player_seed is None else player_seed)
        first, info = self.reset(seed)
        episode = Episode(first, info)
        while not episode.ended and len(episode.steps) < limit:
            action = player(info, rng)
            text, reward, terminated, truncated, info = self.step(action)
            episode.actions.append(action)
            episode.steps.append((text, reward, terminated, truncated))
            episode.infos.append(info)
        return episode

    def random_player(self, info: dict[str, Any], rng: random.Random) -> str:
        """Choose among the admissible actions, or else from the action space."""
        admissible = info.get("admissible_actions")
        if isinstance(admissible, list | tuple) and admissible:
            return str(rng.choice(admissible))
        self.env.action_space.seed(rng.randrange(2**31))
        return str(self.env.action_space.sample())

    def _take_text(self, source: str, value: Any) -> None:
        if not isinstance(value, str):
            found = f"{source} returned an observation of type {type(value).__name__}, expected str"
            raise BrokenEnv(found, "render the observation as text, in the environment or in a gymnasium wrapper")
        self.lengths.append(len(value))


def nonsense_player(info: dict[str, Any], rng: random.Random) -> str:
    """Write what no task expects."""
    return "xyzzy plugh"


def explain(error: Exception) -> str:
    """Name an exception and the line of code it comes from, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    known = frames and not frames[-1].filename.startswith("<")  # else it is Python's own importing
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if known else ""
    return f"{type(error).__name__}: {one_line(str(error))}{place}"


def one_line(text: str, limit: int = 300) -> str:
    """Keep an environment's text to one printable line."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
