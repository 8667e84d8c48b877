"""How hard an environment is, and how fast: a random player, the oracle, and what they read."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentgrpo.environments import Env, attribute, checked_reset, checked_step
from agentgrpo.seeding import derive

GROUP = 8
"""Episodes of one task that are compared with each other, as in the default run."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode of one task."""

    success: bool
    anchors: tuple[str, ...]
    """Of the states in which something was done, in order."""
    lengths: tuple[int, ...]
    """Characters of each observation."""
    named: bool
    """Whether the environment named admissible actions throughout."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What an environment's card tells. None: the question makes no sense for it."""

    first: str
    """The first observation of task 0."""
    num_tasks: int
    num_rollouts: int
    success: float | None
    """Share of the random player's episodes that succeed."""
    mixed: float | None
    """Share of groups with successes and failures: those that teach group-relative algorithms something."""
    shared: float | None
    """Share of steps after the first whose state another member of the group acts in as well."""
    oracle_success: float | None
    oracle_steps: float | None
    """Of its successful episodes."""
    steps_per_second: float
    """Of the random player in one thread, resets included."""
    length_mean: float
    length_max: int


Choose = Callable[[Env, Mapping[str, Any]], str]


def play(env: Env, seed: int, noise_seed: int, choose: Choose) -> Episode:
    """Play an episode to its end."""
    text, info = checked_reset(env, seed, noise_seed)
    anchors, lengths, named, total, ended = [], [len(text)], True, 0.0, False
    while not ended:
        anchors.append(str(info.get("anchor", text)))
        named &= bool(info.get("admissible_actions"))
        text, reward, terminated, truncated, info = checked_step(env, choose(env, info))
        lengths.append(len(text))
        total += reward
        ended = terminated or truncated
    success = bool(info.get("success", total > 0))
    return Episode(success, tuple(anchors), tuple(lengths), named)


def random_player(seed: int) -> Choose:
    """Uniform over the admissible actions; the empty text where none are named."""
    rng = random.Random(seed)
    return lambda env, info: str(rng.choice(info.get("admissible_actions") or [""]))


def oracle_player(plan: Sequence[str]) -> Choose:
    """The first action of a plan made anew; where there is none from the middle of an episode, the rest of the old."""
    kept = list(plan)

    def choose(env: Env, info: Mapping[str, Any]) -> str:
        kept[:] = attribute(env, "oracle_actions")() or kept
        return str(kept.pop(0)) if kept else ""

    return choose


def measure(env: Env, *, num_tasks: int, num_rollouts: int, seconds: float) -> Figures:
    """Figures over the tasks of seeds 0, 1, ...: ``num_tasks`` of them, or as many as are played in ``seconds``."""
    first, _ = checked_reset(env, 0, 0)
    start = time.perf_counter()
    tasks: list[list[Episode]] = []
    while len(tasks) < num_tasks and (len(tasks) < 2 or time.perf_counter() - start < seconds):
        tasks.append([_random_episode(env, len(tasks), rollout) for rollout in range(num_rollouts)])
    took = time.perf_counter() - start
    solved = [_oracle_steps(env, seed) for seed in range(len(tasks))]
    episodes = [episode for task in tasks for episode in task]
    groups = [task[at : at + GROUP] for task in tasks for at in range(0, len(task) - GROUP + 1, GROUP)]
    named = all(episode.named for episode in episodes)
    lengths = [length for episode in episodes for length in episode.lengths]
    steps = [number for number in solved if number]
    asked = [number for number in solved if number is not None]
    return Figures(
        first=first,
        num_tasks=len(tasks),
        num_rollouts=num_rollouts,
        success=statistics.mean(e.success for e in episodes) if named else None,
        mixed=mixed_share([[e.success for e in group] for group in groups]) if named else None,
        shared=shared_share([[e.anchors for e in group] for group in groups]) if named else None,
        oracle_success=len(steps) / len(asked) if asked else None,
        oracle_steps=statistics.mean(steps) if steps else None,
        steps_per_second=sum(len(e.anchors) for e in episodes) / took,
        length_mean=statistics.mean(lengths),
        length_max=max(lengths),
    )


def _random_episode(env: Env, seed: int, rollout: int) -> Episode:
    return play(env, seed, _noise_seed(seed, rollout), random_player(derive("random player", seed, rollout)))


def _oracle_steps(env: Env, seed: int) -> int | None:
    """Steps to success; 0 if it fails or has no plan; None if there is no oracle."""
    oracle = attribute(env, "oracle_actions")
    if oracle is None:
        return None
    noise_seed = _noise_seed(seed, 0)
    checked_reset(env, seed, noise_seed)
    plan = [str(action) for action in oracle()]
    if not plan:
        return 0
    episode = play(env, seed, noise_seed, oracle_player(plan))
    return len(episode.anchors) if episode.success else 0


def _noise_seed(seed: int, rollout: int) -> int:
    return derive("noise", seed, rollout)


def mixed_share(groups: Sequence[Sequence[bool]]) -> float | None:
    """Share of groups in which some succeed and some fail."""
    return statistics.mean(0 < sum(group) < len(group) for group in groups) if groups else None


def shared_share(groups: Sequence[Sequence[Sequence[str]]]) -> float | None:
    """Share of steps after the first whose anchor is among those of another member; None if nobody takes a second."""
    met = [
        any(anchor in other for j, other in enumerate(group) if j != i)
        for group in groups
        for i, member in enumerate(group)
        for anchor in member[1:]
    ]
    return statistics.mean(met) if met else None


def percentages(values: Sequence[float | None]) -> Iterator[str]:
    """Shares in three digits; a dash for what makes no sense."""
    return ("-" if value is None else f"{value:.3f}" for value in values)
