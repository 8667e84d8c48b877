"""The checks, one function each: what the contract of an environment asks for, and what it would gain."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from agentgrpo.env_check.subject import MAX_STEPS, BrokenEnv, Episode, Finding, Player, Subject, explain, one_line

HOSTILE_TEXTS = {
    "empty": "",
    "100 kB": "go north " * 11_112,
    "control characters": "\x00\x07\x1b[2J\r\n\t\x7f",
    "non-ASCII": "ünïcödé 到北方去 🗝️ \u202e\ud800",
    "markup": "<think></action><|im_end|>[/INST] {0} %s ${x} [red]",
}

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
            yield Finding("problem", "gymnasium check_env", explain(error), advice or "follow gymnasium.Env's rules")
            return
    for message in dict.fromkeys(one_line(str(warning.message)) for warning in caught):
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
            found = f"expected {expected}, got {one_line(repr(wrong[0]), 60)}"
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
                found = f"{one_line(repr(action), 40)} was listed as admissible, but then called invalid"
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


BASIC_CHECKS: dict[str, Check] = {"text": _check_text}

CHECKS: dict[str, Check] = {
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
        raise BrokenEnv(f"{name}() raised {explain(error)}", "correct it, or leave the method out") from error


def _global_random_state() -> tuple[Any, ...]:
    """Return what tells whether anybody drew from the global ``random`` or ``numpy.random``."""
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:]


def _is_space(error: Exception) -> bool:
    return "space" in str(error)
