"""Where the time of an update goes: seconds by phase, always counted, since a count costs a microsecond."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

MODEL_PHASES = ("sampling", "forward", "backward", "optimizer")
"""Phases that are model arithmetic; the rest of an update is everything around it."""


class _Clock(threading.local):
    """What a thread has counted: threads that work at the same time do not add up to a time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside: list[str] = []


_clock = _Clock()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Counts what runs inside under ``name``; a phase inside a phase counts for the inner one only."""
    clock = _clock
    started = time.perf_counter()
    clock.inside.append(name)
    try:
        yield
    finally:
        clock.inside.pop()
        elapsed = time.perf_counter() - started
        clock.seconds[name] += elapsed
        if clock.inside:
            clock.seconds[clock.inside[-1]] -= elapsed


def take() -> dict[str, float]:
    """Seconds per phase that this thread has counted since the last call."""
    taken = dict(_clock.seconds)
    _clock.seconds.clear()
    return taken


def metrics(seconds: Mapping[str, float], total: float) -> dict[str, float]:
    """Seconds by phase as ``time/...``, and the share of ``total`` that is no model arithmetic.

    On a GPU arithmetic runs on after the call that started it, so there the split between phases is rough.
    """
    model = sum(seconds.get(name, 0.0) for name in MODEL_PHASES)
    named = {f"time/{name}": value for name, value in seconds.items()}
    return {**named, "time/other_share": 1 - model / total if total else 0.0}


class Calls:
    """How long calls of one kind take, in whatever threads they are made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._seconds = 0.0

    def timed(self, call: Callable[[], T]) -> Callable[[], T]:
        """The same call, which counts."""

        def run() -> T:
            started = time.perf_counter()
            try:
                return call()
            finally:
                seconds = time.perf_counter() - started
                with self._lock:
                    self._count += 1
                    self._seconds += seconds

        return run

    def take_mean(self) -> float:
        """Mean seconds of the calls that have ended since the last time; 0 if there are none."""
        with self._lock:
            mean = self._seconds / self._count if self._count else 0.0
            self._count, self._seconds = 0, 0.0
        return mean


environment_calls = Calls()
"""Resets and steps, of whatever they are played for: whoever wants to know of a while takes the mean before, too."""
