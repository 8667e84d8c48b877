"""How many samplers and how many learners so many processes or devices are best split into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from agentgrpo.cluster.costs import Costs, Links, Setup
from agentgrpo.cluster.planning import Forecast, forecast

_MOST_TRIED = 8
"""Splits that are tried over the whole range, and again around the best of them."""
_EQUAL = 0.01
"""Share of an update by which splits may differ and count as equally fast."""


@dataclass(frozen=True, slots=True)
class Split:
    """A set-up with what it is expected to do."""

    setup: Setup
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class Devices:
    """What is to be split."""

    count: int
    per_sampler: int = 1
    per_learner: int = 1

    def samplers(self, learners: int) -> int:
        """Samplers that are left room for."""
        return (self.count - learners * self.per_learner) // self.per_sampler

    def most_learners(self, costs: Costs) -> int:
        """More than one learner per group would have nothing to do."""
        most = (self.count - self.per_sampler) // self.per_learner
        if most < 1:
            raise ValueError(
                f"{self.count} devices are too few for a sampler of {self.per_sampler} and a learner of "
                f"{self.per_learner}. Take at least {self.per_sampler + self.per_learner}."
            )
        return min(most, costs.groups_per_update)


def splits(costs: Costs, links: Links, setup: Setup, devices: Devices, *, updates: int = 16) -> list[Split]:
    """All splits of a few devices, or those around the best one of many; by number of learners.

    Args:
        setup: everything but the numbers of samplers and learners.
    """
    found: dict[int, Split] = {}

    def look(candidates: Iterator[int]) -> None:
        for learners in candidates:
            if learners not in found:
                tried = replace(setup, samplers=devices.samplers(learners), learners=learners)
                found[learners] = Split(tried, forecast(costs, links, tried, updates=updates))

    most = devices.most_learners(costs)
    look(_spread(1, most))
    ordered = sorted(found)
    at = ordered.index(best([found[n] for n in ordered]).setup.learners)
    look(_spread(ordered[max(at - 1, 0)], ordered[min(at + 1, len(ordered) - 1)]))
    return [found[n] for n in sorted(found)]


def best(tried: list[Split]) -> Split:
    """The one with the fewest learners among those that are not clearly slower than the fastest."""
    fastest = min(split.forecast.update_seconds for split in tried)
    near = [split for split in tried if split.forecast.update_seconds <= (1 + _EQUAL) * fastest]
    return min(near, key=lambda split: split.setup.learners)


def _spread(low: int, high: int) -> Iterator[int]:
    """Whole numbers from low to high, evenly spread on a logarithmic scale where there are many."""
    if high - low < _MOST_TRIED:
        yield from range(low, high + 1)
        return
    for i in range(_MOST_TRIED):
        yield round(low * (high / low) ** (i / (_MOST_TRIED - 1)))
