"""How fast an environment is, and where its calls are best made."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from agentgrpo.env_check.subject import Finding, Subject

SECONDS = 0.3
"""How long episodes are played."""
SLOW_STEP = 0.005
"""Seconds. From here on the 64 episodes of a default update keep the policy waiting, one after the other."""
EPISODES_AT_ONCE = 64
"""``groups_per_update`` times ``group_size`` of ``conf/train.yaml``."""
STEP_TIMEOUT = 10.0
"""``rollout.step_timeout`` of ``conf/train.yaml``."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What random episodes took."""

    step: float
    """Seconds per step, resets included."""
    computing: float
    """Share of these seconds in which it computed; the rest it waited for others."""
    slowest: float
    """Seconds of the slowest single call."""
    episode: float
    """Seconds per episode."""


def measure(subject: Subject, seconds: float = SECONDS) -> Pace:
    """Play random episodes, whole ones while there is time; a single one may be cut off."""
    calls: list[float] = []
    num_steps = num_episodes = 0
    available = _share_of_a_core()
    cpu = time.thread_time()
    start = time.perf_counter()

    def over() -> bool:
        return time.perf_counter() - start > seconds

    while num_episodes == 0 or not over():
        rng = random.Random(num_episodes)
        begun = time.perf_counter()
        _, info = subject.reset(num_episodes)
        calls.append(time.perf_counter() - begun)
        num_episodes += 1
        ended = False
        for _ in range(50):
            begun = time.perf_counter()
            _, _, terminated, truncated, info = subject.step(subject.random_player(info, rng))
            calls.append(time.perf_counter() - begun)
            num_steps += 1
            ended = terminated or truncated
            if ended or over():
                break
    wall = time.perf_counter() - start
    used = (time.thread_time() - cpu) / wall
    computing = min(used / max(available, _share_of_a_core()), 1.0)
    return Pace(wall / num_steps, computing, max(calls), wall / num_episodes)


def _share_of_a_core(seconds: float = 0.1) -> float:
    """How much of a core a thread gets that does nothing but compute: where others compute as well, less than all."""
    cpu = time.thread_time()
    start = time.perf_counter()
    while (wall := time.perf_counter() - start) < seconds:
        pass
    return (time.thread_time() - cpu) / wall


def check_speed(subject: Subject) -> Iterator[Finding]:
    """Steps per second, and the value of ``env.execution`` that suits."""
    pace = measure(subject)
    rate = f"{1 / pace.step:,.0f} steps/s" if pace.step < 0.1 else f"{1 / pace.step:.1f} steps/s"
    if pace.step < SLOW_STEP:
        yield Finding("ok", "speed", f"{rate}, resets included: env.execution=inline suits")
    else:
        took = f"{pace.step * 1000:.3g} ms a step, resets included; a turn of {EPISODES_AT_ONCE} episodes would take "
        turn = f"{pace.step * EPISODES_AT_ONCE:.2g} s, one after the other"
        yield Finding("advice", "speed", f"{rate}: {took}{turn}", _execution(pace))
    if pace.slowest > STEP_TIMEOUT / 2:
        found = f"a call took {pace.slowest:.1f} s; a run gives up on one after {STEP_TIMEOUT:g} s"
        advice = f"train with rollout.step_timeout={10 * max(round(pace.slowest / 2), 1)}"
        yield Finding("advice", "slow calls", found, advice)


def _execution(pace: Pace) -> str:
    if pace.computing < 0.5:
        return f"set env.execution=thread: it waits {1 - pace.computing:.0%} of the time, and several can wait at once"
    return "set env.execution=process: it computes, and several processes use several cores"
