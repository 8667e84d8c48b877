"""What the contract demands of an environment, one function for each part of it."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from agentgrpo.env_check.subject import (
    MAX_STEPS,
    BrokenEnv,
    Episode,
    Finding,
    Player,
    Subject,
    explain,
    nonsense_player,
    one_line,
)

HOSTILE_TEXTS = {
    "empty": "",
    "100 kB": "go north " * 11_112,
    "control characters": "\x00\x07\x1b[2J\r\n\t\x7f",
    "non-ASCII": "ünïcödé 到北方去 🗝️ \u202e\ud800",
    "markup": "<think></action><|im_end|>[/INST] {0} %s ${x} [red]",
    "special tokens": "<|im_start|>system\n</s><eos><|eot_id|><start_of_turn>user\n<|endoftext|><tool_call>",
    "a word of 100 kB": "a" * 100_000,
    "a number of 5,000 digits": "9" * 5_000,
    "open brackets": "search[" * 2_000,
}

PATIENCE = 1.0
"""Seconds after which an answer to hostile text counts as stuck."""
MAX_OBSERVATION = 100_000
"""Characters. More than most context windows hold."""
DEFAULT_MAX_TURNS = 64
"""``rollout.max_turns`` of ``conf/train.yaml``."""
CONTRACT_FIELDS = ("anchor", "admissible_actions", "valid_action", "success", "task_id")

Check = Callable[[Subject], Iterator[Finding]]


def check_text(subject: Subject) -> Iterator[Finding]:
    """Whether there is anything to talk about: everything else plays episodes."""
    players: tuple[Player, ...] = (subject.random_player, nonsense_player)
    episodes = [subject.play(seed, player, limit=20) for seed in range(2) for player in players]
    subject.single_turn = all(episode.ended and len(episode.steps) == 1 for episode in episodes)
    turns = "; every episode is a single step" if subject.single_turn else ""
    yield Finding("ok", "text", f"reset and step take and return str{turns}")


def check_gymnasium(subject: Subject) -> Iterator[Finding]:
    """gymnasium's own check, whose assertions and warnings become findings."""
    with subject.fresh() as env, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gymnasium_check_env(env.unwrapped)
        except Exception as error:
            message = one_line(str(error)) if isinstance(error, AssertionError) and str(error) else explain(error)
            # The one rule that does not hold for tasks of one turn: it is the last thing that is looked at but one.
            if not (subject.single_turn and "truncates after 1 step" in message):
                yield Finding("problem", "gymnasium check_env", message, _gymnasium_advice(message))
                return
    messages = dict.fromkeys(one_line(str(warning.message)) for warning in caught)
    for message in messages:
        yield Finding("advice", "gymnasium check_env", message.removeprefix("WARN: "), "look at gymnasium.Env's rules")
    if not messages:
        yield Finding("ok", "gymnasium check_env", "passes without a warning")


def _gymnasium_advice(message: str) -> str:
    if "space" in message:
        return "spaces.Text admits few characters: agentgrpo.envs.base.AnyText admits all"
    if "share an object" in message:
        return "build info anew in every call, lists in it included: list(self._actions)"
    if "eterministic" in message:
        return "draw from self.np_random only, and set all state anew in reset()"
    return "follow gymnasium.Env's rules"


def check_seeds(subject: Subject) -> Iterator[Finding]:
    """Same seed, same task; same actions, same episode; the global random numbers are left alone."""
    before = _global_random_state()
    episodes = [subject.play(seed, subject.random_player) for seed in range(subject.num_tasks)]
    disturbed = _global_random_state() != before
    advice = "draw only from self.np_random after super().reset(seed=seed)"
    with subject.fresh() as other:
        different = _first_different_episode(subject, other, episodes)
    if different is None:
        found = f"{len(episodes)} seeds: same first observation and exact replay, also in a new object"
        yield Finding("ok", "same seed, same task", found)
    else:
        check, found = different
        more = "" if check == "same seed, same task" else "; noise, too, must derive from the seed"
        yield Finding("problem", check, found, advice + more)
    if disturbed:
        found = "it drew from, or seeded, the global random or numpy.random, which all the others share"
        yield Finding("advice", "global random", found, f"{advice}; an adapter saves and restores the global state")
    yield _different_tasks(episodes)


def _first_different_episode(
    subject: Subject, env: gym.Env[Any, Any], episodes: list[Episode]
) -> tuple[str, str] | None:
    """Replay in another object, last seed first: what an object keeps from one episode to the next shows, too."""
    found = None
    for seed in reversed(range(len(episodes))):
        found = _difference(subject, env, seed, episodes[seed]) or found
    return found


def _difference(subject: Subject, env: gym.Env[Any, Any], seed: int, episode: Episode) -> tuple[str, str] | None:
    first, info = subject.reset(seed, env)
    if first != episode.first:
        return "same seed, same task", f"two first observations for seed {seed}"
    if name := _different_field(info, episode.info):
        return "same seed, same task", f"two values of info[{name!r}] for seed {seed}"
    for turn, action in enumerate(episode.actions, start=1):
        *result, info = subject.step(action, env)
        name = _different_field(info, episode.infos[turn - 1])
        what = "something else" if tuple(result) != episode.steps[turn - 1] else f"another info[{name!r}]"
        if name or what == "something else":
            return "exact replay", f"the same actions after reset(seed={seed}) gave {what} at step {turn}"
    return None


def _different_field(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    return next((name for name in CONTRACT_FIELDS if repr(one.get(name)) != repr(other.get(name))), None)


def _different_tasks(episodes: list[Episode]) -> Finding:
    distinct = len({(e.first, *(step[0] for step in e.steps)) for e in episodes})
    if distinct == 1 and len(episodes) > 1:
        advice = "if the task should vary, draw it from self.np_random in reset"
        return Finding("advice", "different seeds", f"all {len(episodes)} seeds gave the same task", advice)
    return Finding("ok", "different seeds", f"{distinct} different episodes from {len(episodes)} seeds")


def check_end(subject: Subject) -> Iterator[Finding]:
    """Episodes end for a random player as well as for one who writes nonsense."""
    players: dict[str, Player] = {"random": subject.random_player, "nonsense": nonsense_player}
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
    limit = subject.attribute("max_turns")
    if isinstance(limit, int) and longest > limit:
        found = f"an episode took {longest} steps, although max_turns is {limit}"
        yield Finding("problem", "turn limit", found, "return truncated=True with step number max_turns")
    elif longest > DEFAULT_MAX_TURNS:
        found = f"an episode took {longest} steps, more than the {DEFAULT_MAX_TURNS} that a run allows by default"
        yield Finding("advice", "turn limit", found, f"train with rollout.max_turns={longest}")
    else:
        yield Finding("ok", "turn limit", f"every episode ends; the longest took {_count(longest, 'step')}")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def check_anchors(subject: Subject) -> Iterator[Finding]:
    """Anchors name states: they stay when nothing happens, and episodes of one task meet some of them again."""
    advice = "leave counters, scores, hints and history out of the anchor"
    for seed in range(min(subject.num_tasks, 3)):
        if (change := _change_by_nonsense(subject, seed)) is not None:
            before, after = (one_line(repr(anchor), 60) for anchor in change)
            found = f"after an action that it calls invalid {before} became {after}"
            yield Finding("advice", "anchors stay", found, advice)
            break
    visits = []
    for player_seed in range(6):
        episode = subject.play(0, subject.random_player, player_seed=player_seed, limit=30)
        visits.append({anchor for info in episode.infos if isinstance(anchor := info.get("anchor"), str)})
    total, distinct = sum(map(len, visits)), len(set().union(*visits))
    if total >= 12 and distinct == total:
        found = f"{total} states in 6 episodes of one task, and no two episodes share one"
        yield Finding("advice", "anchors repeat", found, advice)


def _change_by_nonsense(subject: Subject, seed: int) -> tuple[str, str] | None:
    """The anchor before and after an invalid action, if they differ."""
    rng = random.Random(seed)
    _, info = subject.reset(seed)
    for turn in range(6):
        nonsense = turn % 2 == 1  # in between things happen, so that the anchor is that of a state under way
        before = info.get("anchor")
        action = nonsense_player(info, rng) if nonsense else subject.random_player(info, rng)
        _, _, terminated, truncated, info = subject.step(action)
        if terminated or truncated:
            return None
        after = info.get("anchor")
        invalid = info.get("valid_action", True) is False
        if nonsense and invalid and isinstance(before, str) and isinstance(after, str) and before != after:
            return before, after
    return None


def check_hostile(subject: Subject) -> Iterator[Finding]:
    """Whatever a model may write: in the first state and further on, answered in time, and leaving nothing behind."""
    first, _ = subject.reset(0)
    texts = list(HOSTILE_TEXTS.items())
    fault = _first_fault(subject, texts, moves=False) or _first_fault(subject, texts[::-1], moves=True)
    if fault is not None:
        yield Finding("problem", "hostile text", *fault)
    elif subject.reset(0)[0] != first:
        found = "after it, reset(seed=0) gives another first observation than before"
        yield Finding("problem", "hostile text", found, "reset all state in reset()")
    else:
        yield Finding("ok", "hostile text", f"survives {', '.join(HOSTILE_TEXTS)}")


def _first_fault(subject: Subject, texts: list[tuple[str, str]], *, moves: bool) -> tuple[str, str] | None:
    """Send texts one after the other, with a random action before each if ``moves``; resets may be expensive."""
    rng = random.Random(0)
    over, info = True, dict[str, Any]()
    for name, text in texts:
        if over:
            _, info = subject.reset(0)
            over = False
        if moves:
            *_, terminated, truncated, info = subject.step(subject.random_player(info, rng))
            if terminated or truncated:
                _, info = subject.reset(0)
        start = time.perf_counter()
        try:
            answer, _, terminated, truncated, info = subject.step(text)
        except BrokenEnv as error:
            return f"{name}: {error}", error.next_step
        seconds = time.perf_counter() - start
        if seconds > PATIENCE:
            advice = "look for a regular expression that backtracks, or refuse long text before it is parsed"
            return f"{name}: took {seconds:.1f} s to answer", advice
        if len(text) > 1000 and text in answer:
            return f"{name}: the observation repeats it", "quote at most its first 50 characters"
        over = terminated or truncated
    return None


def check_observations(subject: Subject) -> Iterator[Finding]:
    """How long everything was that has been read so far."""
    longest, mean = max(subject.lengths), sum(subject.lengths) / len(subject.lengths)
    if longest > MAX_OBSERVATION:
        found = f"one is {longest:,} characters long, more than a model's context holds"
        yield Finding("problem", "observations", found, "shorten it: a list of 10 things, a page of a long text")
    else:
        yield Finding("ok", "observations", f"{mean:.0f} characters on average, {longest:,} at most")


def _global_random_state() -> tuple[Any, ...]:
    """Return what tells whether anybody drew from the global ``random`` or ``numpy.random``."""
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:]
