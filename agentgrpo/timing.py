"""Where the time of an update goes: seconds by phase, always counted, since a count costs a microsecond."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

MODEL_PHASES = ("sampling", "forward", "backward", "optimizer")
"""Phases that are model arithmetic; the rest of an update is everything around it."""

_seconds: dict[str, float] = defaultdict(float)
_inside: list[str] = []


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Counts what runs inside under ``name``; a phase inside a phase counts for the inner one only."""
    started = time.perf_counter()
    _inside.append(name)
    try:
        yield
    finally:
        _inside.pop()
        elapsed = time.perf_counter() - started
        _seconds[name] += elapsed
        if _inside:
            _seconds[_inside[-1]] -= elapsed


def take() -> dict[str, float]:
    """Seconds per phase since the last call."""
    taken = dict(_seconds)
    _seconds.clear()
    return taken


def metrics(seconds: Mapping[str, float], total: float) -> dict[str, float]:
    """Seconds by phase as ``time/...``, and the share of ``total`` that is no model arithmetic.

    On a GPU arithmetic runs on after the call that started it, so there the split between phases is rough.
    """
    model = sum(seconds.get(name, 0.0) for name in MODEL_PHASES)
    named = {f"time/{name}": value for name, value in seconds.items()}
    return {**named, "time/other_share": 1 - model / total if total else 0.0}
