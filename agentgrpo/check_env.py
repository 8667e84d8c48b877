"""``python -m agentgrpo check-env ID``: does an environment keep the contract, and what would it gain?

Every check gives one line: ``ok``; ``advice``, for something that works but could bring more; or ``problem``, for
something that would break a run or spoil its results. What the environment raises becomes a finding, too.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import math
import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import yaml
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from rich.console import Console
from rich.text import Text

MAX_STEPS = 1000
"""An episode of more steps than this counts as endless."""

HOSTILE_TEXTS = {
    "empty": "",
    "100 kB": "go north " * 11_112,
    "control characters": "\x00\x07\x1b[2J\r\n\t\x7f",
    "non-ASCII": "ünïcödé 到北方去 🗝️ \u202e\ud800",
    "markup": "<think></action><|im_end|>[/INST] {0} %s ${x} [red]",
}

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

    def __str__(self) -> str:
        return f"{self.level:8}{self.check:28}{self.found}" + (f" -> {self.next_step}" if self.next_step else "")


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one environment."""

    env_id: str
    kwargs: dict[str, Any]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that must be dealt with before training."""
        return tuple(finding for finding in self.findings if finding.level == "problem")

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))


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
        self.env = self.make()

    def make(self) -> gym.Env[Any, Any]:
        """Return a new copy. gymnasium's own run-time checks are off: they would hide what is looked for here."""
        try:
            return gym.make(self.env_id, disable_env_checker=True, **self.kwargs)
        except gym.error.UnregisteredEnv as error:
            raise ValueError(unknown_env_message(self.env_id)) from error
        except Exception as error:
            raise BrokenEnv(f"it cannot be made: {_explain(error)}", "check its arguments and imports") from error

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
        except Exception as error:
            raise BrokenEnv(f"reset(seed={seed}) raised {_explain(error)}", "make every seed give a task") from error
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise BrokenEnv("reset() did not return (text, info dict)", "return text, {}")
        _insist_on_text("reset()", result[0])
        return result[0], result[1]

    def step(self, action: str, env: gym.Env[Any, Any] | None = None) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Step, and insist on a text, a finite number, two truth values and a dict."""
        shown = _clean(repr(action), 40)
        try:
            result: Any = (env or self.env).step(action)
        except Exception as error:
            advice = "answer text that cannot be used with valid_action=False and a hint, never with an exception"
            raise BrokenEnv(f"step({shown}) raised {_explain(error)}", advice) from error
        if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
            raise BrokenEnv("step() did not return (text, reward, terminated, truncated, info dict)", "return all five")
        text, reward, terminated, truncated, info = result
        _insist_on_text("step()", text)
        try:
            value = float(reward)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise BrokenEnv(f"step({shown}) gave the reward {reward!r}", "return a finite number")
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


# --- the checks: each yields findings -----------------------------------------------------------------------------

Check = Callable[[Subject], Iterator[Finding]]


def _check_text(subject: Subject) -> Iterator[Finding]:
    subject.play(0, subject.random_player, limit=20)
    yield Finding("ok", "text", "reset and step take and return str")


def _check_gymnasium(subject: Subject) -> Iterator[Finding]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gymnasium_check_env(subject.make().unwrapped)
        except Exception as error:
            advice = (
                "spaces.Text admits few characters: agentgrpo.envs.base.AnyText admits all" if _is_space(error) else ""
            )
            yield Finding("problem", "gymnasium check_env", _explain(error), advice or "follow gymnasium.Env's rules")
            return
    for message in dict.fromkeys(_clean(str(warning.message)) for warning in caught):
        yield Finding("advice", "gymnasium check_env", message)
    if not caught:
        yield Finding("ok", "gymnasium check_env", "passes without a warning")


def _check_seeds(subject: Subject) -> Iterator[Finding]:
    """Same seed, same task; same actions, same episode; the global random numbers are left alone."""
    other = subject.make()
    before = _global_random_state()
    episodes = [subject.play(seed, subject.random_player) for seed in range(subject.num_tasks)]
    disturbed = _global_random_state() != before
    advice = "draw only from self.np_random after super().reset(seed=seed)"
    for seed, episode in enumerate(episodes):
        first, _ = subject.reset(seed, other)
        if first != episode.first:
            yield Finding("problem", "same seed, same task", f"two first observations for seed {seed}", advice)
            break
        if (turn := _first_difference(subject, other, episode)) is not None:
            found = f"the same actions after reset(seed={seed}) gave something else at step {turn}"
            yield Finding("problem", "exact replay", found, f"{advice}; noise, too, must derive from the seed")
            break
    else:
        yield Finding("ok", "same seed, same task", f"{len(episodes)} seeds: same first observation, exact replay")
    if disturbed:
        found = "the state of the global random or numpy.random changed"
        yield Finding("advice", "global random", found, f"{advice}; an adapter saves and restores the global state")
    yield _different_tasks(episodes)


def _different_tasks(episodes: list[Episode]) -> Finding:
    distinct = len({(e.first, *(step[0] for step in e.steps)) for e in episodes})
    found = f"{distinct} different episodes from {len(episodes)} seeds"
    if distinct == 1 and len(episodes) > 1:
        advice = "if the task should vary, draw it from self.np_random in reset"
        return Finding("advice", "different seeds", f"all {len(episodes)} seeds gave the same task", advice)
    return Finding("ok", "different seeds", found)


def _check_end(subject: Subject) -> Iterator[Finding]:
    """Episodes end for a random player as well as for one who writes nonsense."""
    players: dict[str, Player] = {"random": subject.random_player, "nonsense": lambda info, rng: "xyzzy plugh"}
    longest = 0
    for name, player in players.items():
        for seed in range(min(subject.num_tasks, 5)):
            episode = subject.play(seed, player)
            longest = max(longest, len(episode.steps))
            if not episode.ended:
                found = f"an episode of the {name} player (seed {seed}) did not end within {MAX_STEPS} steps"
                advice = "count turns and return truncated=True, or register with max_episode_steps="
                yield Finding("problem", "turn limit", found, advice)
                return
            if episode.steps[-1][2] and episode.steps[-1][3]:
                found = f"seed {seed} ended both terminated and truncated"
                yield Finding("advice", "turn limit", found, "return terminated for a finished task, else truncated")
                return
    yield Finding("ok", "turn limit", f"every episode ends; the longest took {longest} steps")


_INFO_FIELDS: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "anchor": (
        "a str without history or counters",
        lambda value: isinstance(value, str),
        "step advantages (GiGPO) will compare observations, which must then repeat word for word",
    ),
    "admissible_actions": (
        "a sorted list of str",
        lambda value: (
            isinstance(value, list | tuple) and all(isinstance(v, str) for v in value) and list(value) == sorted(value)
        ),
        "random players and warm starts by a mixed player are not available",
    ),
    "valid_action": ("a bool", lambda value: isinstance(value, bool | np.bool_), "invalid actions cannot be counted"),
    "success": ("a bool", lambda value: isinstance(value, bool | np.bool_), "success is taken as a return above 0"),
    "task_id": ("a str or int", lambda value: isinstance(value, str | int), "tasks are named by their seed"),
}


def _check_info(subject: Subject) -> Iterator[Finding]:
    episodes = [subject.play(seed, subject.random_player, limit=50) for seed in range(min(subject.num_tasks, 5))]
    infos = [info for episode in episodes for info in episode.all_infos]
    for name, (expected, fits, lost) in _INFO_FIELDS.items():
        given = [info[name] for info in infos if name in info]
        wrong = [value for value in given if not fits(value)]
        if wrong:
            found = f"expected {expected}, got {_clean(repr(wrong[0]), 60)}"
            yield Finding("problem", f"info[{name!r}]", found, "correct it or leave it out")
        elif not given:
            yield Finding("advice", f"info[{name!r}]", f"missing: {lost}", f"supply {expected}")
        elif len(given) < len(infos):
            found = f"in {len(given)} of {len(infos)} infos"
            yield Finding("advice", f"info[{name!r}]", found, "supply it after reset and after every step")
        else:
            yield Finding("ok", f"info[{name!r}]", expected)
    yield from _admissible_are_valid(episodes)
    yield from _anchors_repeat(subject)


def _admissible_are_valid(episodes: list[Episode]) -> Iterator[Finding]:
    for episode in episodes:
        for before, action, after in zip(episode.all_infos, episode.actions, episode.infos, strict=False):
            if action in (before.get("admissible_actions") or ()) and after.get("valid_action", True) is False:
                found = f"{_clean(repr(action), 40)} was listed as admissible, but then called invalid"
                yield Finding("problem", "admissible actions", found, "list what step() accepts, word for word")
                return


def _anchors_repeat(subject: Subject) -> Iterator[Finding]:
    """Several episodes of one task meet some state again; anchors that never do probably hold a counter."""
    visits = []
    for player_seed in range(6):
        episode = subject.play(0, subject.random_player, player_seed=player_seed, limit=30)
        visits.append({anchor for info in episode.infos if isinstance(anchor := info.get("anchor"), str)})
    total, distinct = sum(map(len, visits)), len(set().union(*visits))
    if total >= 12 and distinct == total:
        found = f"{total} states in 6 episodes of one task, and no two episodes share one"
        yield Finding("advice", "anchors repeat", found, "leave counters, scores and history out of the anchor")


def _check_oracle(subject: Subject) -> Iterator[Finding]:
    if not callable(subject.attribute("oracle_actions")):
        found = "no oracle_actions(): warm start by imitation and guided rollouts are not available"
        yield Finding("advice", "oracle", found, "return an optimal list of actions from the current state")
        return
    noisy = _is_noisy(subject)
    claimed = solved = num_steps = 0
    for seed in range(subject.num_tasks):
        subject.reset(seed)
        plan = list(_call(subject, "oracle_actions"))
        if plan:
            won, taken = _follow_oracle(subject, plan, ask_each_step=noisy)
            claimed, solved, num_steps = claimed + 1, solved + won, num_steps + taken
    found = f"solved {solved} of {claimed} tasks it had a plan for ({subject.num_tasks} asked)"
    if solved < claimed and not noisy:
        yield Finding("problem", "oracle", found, "a plan must end in success; return [] where there is none")
    elif claimed == 0:
        yield Finding("advice", "oracle", found, "it should have plans for most tasks")
    else:
        average = f"{num_steps / claimed:.1f} steps on average"
        yield Finding("ok", "oracle", f"{found}, {average}{'; the dynamics are noisy' if noisy else ''}")


def _follow_oracle(subject: Subject, plan: list[str], *, ask_each_step: bool) -> tuple[bool, int]:
    """Play a plan, or, where noise can spoil it, the first step of ever new plans; return success and steps taken."""
    total = 0.0
    num_steps = 0
    while plan and num_steps < MAX_STEPS:
        _, reward, terminated, truncated, info = subject.step(plan[0])
        num_steps += 1
        total += reward
        if terminated or truncated:
            return bool(info.get("success", total > 0)), num_steps
        plan = list(_call(subject, "oracle_actions")) if ask_each_step else plan[1:]
    return False, num_steps


def _is_noisy(subject: Subject) -> bool:
    """Whether members of a group, who share the seed and the actions, can see different episodes."""
    for seed in range(min(subject.num_tasks, 5)):
        actions = subject.play(seed, subject.random_player, limit=50).actions
        episodes = set()
        for noise_seed in range(6):
            try:
                subject.env.reset(seed=seed, options={"noise_seed": noise_seed})
            except Exception:
                return False
            episodes.add(tuple(_replay(subject, actions)))
        if len(episodes) > 1:
            return True
    return False


def _check_snapshot(subject: Subject) -> Iterator[Finding]:
    if not (callable(subject.attribute("snapshot")) and callable(subject.attribute("restore"))):
        found = "no snapshot()/restore(): branching from the middle of an episode needs a replay from the start"
        yield Finding("advice", "snapshot", found, "offer both if a copy of the state is cheap")
        return
    for seed in range(min(subject.num_tasks, 5)):
        actions = subject.play(seed, subject.random_player, limit=50).actions
        half = len(actions) // 2
        subject.reset(seed)
        for action in actions[:half]:
            subject.step(action)
        snapshot = _call(subject, "snapshot")
        expected = list(_replay(subject, actions[half:]))
        for attempt in ("first", "second"):
            subject.reset(seed + 1)
            _call(subject, "restore", snapshot)
            if list(_replay(subject, actions[half:])) != expected:
                found = f"after the {attempt} restore the same actions gave something else (seed {seed})"
                yield Finding("problem", "snapshot", found, "copy all that changes, noise and turn counter included")
                return
    yield Finding("ok", "snapshot", "restores to exactly the same episode, twice")


def _check_hostile(subject: Subject) -> Iterator[Finding]:
    for name, text in HOSTILE_TEXTS.items():
        subject.reset(0)
        try:
            subject.step(text)
        except BrokenEnv as error:
            yield Finding("problem", "hostile text", f"{name}: {error}", error.next_step)
            return
    yield Finding("ok", "hostile text", f"survives {', '.join(HOSTILE_TEXTS)}")


def _check_max_return(subject: Subject) -> Iterator[Finding]:
    limit = subject.attribute("max_return")
    if limit is None:
        found = "no max_return: returns are shown without a scale"
        yield Finding("advice", "max_return", found, "set the class attribute to the largest possible return")
        return
    best = max(subject.play(seed, subject.random_player).total_reward for seed in range(subject.num_tasks))
    if not isinstance(limit, int | float) or best > limit:
        found = f"it is {limit!r}, but a random episode returned {best:g}"
        yield Finding("problem", "max_return", found, "set it to the largest possible return")
    else:
        yield Finding("ok", "max_return", f"{limit:g}")


def _check_speed(subject: Subject) -> Iterator[Finding]:
    start = time.perf_counter()
    num_steps = seed = 0
    while time.perf_counter() - start < 0.3:
        num_steps += len(subject.play(seed, subject.random_player).steps)
        seed += 1
    rate = num_steps / (time.perf_counter() - start)
    slow = rate < 100
    advice = "a group waits for its slowest member: consider a cheaper reset or step" if slow else ""
    yield Finding("advice" if slow else "ok", "speed", f"{rate:,.0f} steps/s, resets included", advice)


_BASIC_CHECKS: dict[str, Check] = {"text": _check_text}
_CHECKS: dict[str, Check] = {
    "gymnasium check_env": _check_gymnasium,
    "seeds": _check_seeds,
    "turn limit": _check_end,
    "info": _check_info,
    "oracle": _check_oracle,
    "snapshot": _check_snapshot,
    "hostile text": _check_hostile,
    "max_return": _check_max_return,
    "speed": _check_speed,
}


def check_env(env_id: str, *, num_tasks: int = 20, **kwargs: Any) -> Report:
    """Check an environment against the contract.

    Args:
        env_id: gymnasium id; ``my_module:Maze-v0`` imports ``my_module`` first.
        num_tasks: seeds to try, at least 1.
        **kwargs: arguments of the environment's constructor.

    Returns:
        The findings. What the environment raises is among them.

    Raises:
        ValueError: there is no such id, or ``num_tasks`` is too small.
    """
    if num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1, got {num_tasks}.")
    importlib.import_module("agentgrpo.envs")  # registers the built-in tasks; none is named here
    try:
        subject = Subject(env_id, kwargs, num_tasks)
    except BrokenEnv as error:
        return Report(env_id, kwargs, (Finding("problem", "construction", str(error), error.next_step),))
    try:
        findings = _run(subject, _BASIC_CHECKS)
        if all(finding.level != "problem" for finding in findings):  # else every other check would say the same again
            findings += _run(subject, _CHECKS)
    finally:
        with contextlib.suppress(Exception):  # gymnasium's check has looked at close() already
            subject.env.close()
    return Report(env_id, kwargs, tuple(findings))


def _run(subject: Subject, checks: dict[str, Check]) -> list[Finding]:
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings.extend(check(subject))
        except BrokenEnv as error:
            findings.append(Finding("problem", name, str(error), error.next_step))
        except Exception as error:  # something returned that no check foresaw: still a finding, not a traceback of ours
            advice = "look at what the environment returns here"
            findings.append(Finding("problem", name, f"the check could not be finished: {_explain(error)}", advice))
    return findings


def unknown_env_message(env_id: str) -> str:
    """Say that ``env_id`` is not registered, what may have been meant, and what there is."""
    module, _, name = env_id.rpartition(":")
    close = difflib.get_close_matches(name, list(gym.registry), n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    ours = ", ".join(sorted(known for known in gym.registry if known.startswith("agentgrpo/")))
    where = f" by module {module!r}" if module else ""
    return (
        f"Environment {name!r} is not registered{where}.{hint} Built in: {ours}. "
        "Your own is named 'my_module:Name-v0', where my_module calls gymnasium.register."
    )


# --- the command --------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """Run ``check-env ID [key=value ...]`` and print the report; ``argv`` is without the command's name.

    Returns:
        1 if there are problems or the id is unknown, else 0.
    """
    parser = argparse.ArgumentParser(prog="agentgrpo check-env", description="Check an environment's contract.")
    parser.add_argument("env_id", metavar="ID", help="gymnasium id, such as agentgrpo/KeyMaze-v0 or my_module:Maze-v0")
    parser.add_argument("kwargs", metavar="key=value", nargs="*", help="arguments of the environment's constructor")
    parser.add_argument("--num-tasks", type=int, default=20, help="seeds to try (default: 20)")
    args = parser.parse_args(list(argv))
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # where a user's own module lies; `python -m` does the same
    try:
        kwargs = dict(_parse_pair(pair) for pair in args.kwargs)
        report = check_env(args.env_id, num_tasks=args.num_tasks, **kwargs)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print_report(report)
    return 1 if report.problems else 0


def _parse_pair(pair: str) -> tuple[str, Any]:
    key, separator, value = pair.partition("=")
    if not (separator and key.isidentifier()):
        raise ValueError(f"expected key=value, got {pair!r}; for example rooms=4.")
    if key in ("env_id", "num_tasks"):
        raise ValueError(f"{key} is no argument of an environment; the number of seeds is --num-tasks.")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{pair!r}: {value!r} is not a YAML value.") from error


def print_report(report: Report, console: Console | None = None) -> None:
    """Print one line per finding, coloured on a terminal and plain elsewhere."""
    console = console or Console(highlight=False)
    arguments = "".join(f" {key}={value}" for key, value in report.kwargs.items())
    console.print(Text(f"{report.env_id}{arguments}", style="bold"), soft_wrap=True)
    styles = {"ok": "green", "advice": "yellow", "problem": "bold red"}
    for finding in report.findings:
        line = Text(f"{finding.level:8}", style=styles[finding.level])
        line.append(f"{finding.check:28}", style="default not bold").append(finding.found, style="default not bold")
        if finding.next_step:
            line.append(f" -> {finding.next_step}", style="italic not bold")
        console.print(line, soft_wrap=True)
    num_advice = sum(finding.level == "advice" for finding in report.findings)
    console.print(Text(f"{len(report.problems)} problems, {num_advice} pieces of advice"), soft_wrap=True)


# --- helpers --------------------------------------------------------------------------------------------------------


def _replay(subject: Subject, actions: list[str], env: gym.Env[Any, Any] | None = None) -> Iterator[tuple[Any, ...]]:
    """Play ``actions`` from the current state until they or the episode end; yield what the agent gets."""
    for action in actions:
        text, reward, terminated, truncated, _ = subject.step(action, env)
        yield text, reward, terminated, truncated
        if terminated or truncated:
            return


def _first_difference(subject: Subject, env: gym.Env[Any, Any], episode: Episode) -> int | None:
    """Return the first step (from 1) at which a replay in ``env``, which is just reset, differs; None if none does."""
    replayed = list(_replay(subject, episode.actions, env))
    for turn, (old, new) in enumerate(zip(episode.steps, replayed, strict=False), start=1):
        if old != new:
            return turn
    return None if len(replayed) == len(episode.steps) else len(replayed)


def _call(subject: Subject, name: str, *args: Any) -> Any:
    try:
        return subject.attribute(name)(*args)
    except Exception as error:
        raise BrokenEnv(f"{name}() raised {_explain(error)}", "correct it, or leave the method out") from error


def _insist_on_text(source: str, value: Any) -> None:
    if not isinstance(value, str):
        found = f"{source} returned an observation of type {type(value).__name__}, expected str"
        raise BrokenEnv(found, "render the observation as text, in the environment or in a gymnasium wrapper")


def _global_random_state() -> tuple[Any, ...]:
    """Return what tells whether anybody drew from the global ``random`` or ``numpy.random``."""
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:]


def _is_space(error: Exception) -> bool:
    return "space" in str(error)


def _explain(error: Exception) -> str:
    """Name an exception and the line of code it comes from, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {_clean(str(error))}{place}"


def _clean(text: str, limit: int = 300) -> str:
    """Keep an environment's text to one printable line."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
