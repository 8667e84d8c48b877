"""Which environment a task is drawn from, where a run has several."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from agentgrpo.config import EnvConfig
from agentgrpo.seeding import derive

_GOLDEN = (5**0.5 - 1) / 2


class Mix:
    """Spreads tasks over environments by weight, evenly along the way: no stretch of tasks is far from the weights.

    Task i is at the fractional part of offset + i * golden ratio, a sequence that fills [0, 1) evenly; each environment
    has a stretch of it as long as its share of the weights.

    Args:
        envs: the environments by name, each with its weight.
        seed: of the run; decides the offset.
    """

    def __init__(self, envs: Mapping[str, EnvConfig], seed: int) -> None:
        self._names = list(envs)
        total = sum(env.weight for env in envs.values())
        self._bounds = [edge / total for edge in accumulate(env.weight for env in envs.values())]
        self._offset = derive(seed, "mix") / 2**63

    def name(self, index: int) -> str:
        """Environment of the index-th task of the run."""
        place = (self._offset + index * _GOLDEN) % 1.0
        return next(
            (name for name, edge in zip(self._names, self._bounds, strict=True) if place < edge), self._names[-1]
        )
