"""What the checks read and what they find."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from omegaconf import DictConfig, OmegaConf

from agentgrpo.algorithm import Algorithm

FEW = 5
"""Updates that a figure is averaged over: one odd round is no symptom."""
RECENT = 20
"""Updates that the checks look back."""

Record = Mapping[str, Any]
"""A line of ``metrics.jsonl``."""


class Severity(IntEnum):
    """How much a finding matters; the number is what TensorBoard shows."""

    NOTE = 1
    """Worth knowing; the run may be as it should be."""
    ALARM = 2
    """Something is wrong, or the run learns nothing."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """What a check sees in the last updates of a run: sentences, each with its full stop."""

    severity: Severity
    figure: float
    """The number that crossed the check's threshold."""
    what: str
    cause: str
    """The likely cause."""
    change: str
    """The setting to change."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A symptom with its name and dates."""

    name: str
    symptom: Symptom
    """As it was when it was last seen."""
    first_update: int
    last_update: int

    @property
    def text(self) -> str:
        """All of it in words, on three lines."""
        s = self.symptom
        return f"{s.severity.name.lower()}: {self.name}: {s.what}\n  Likely cause: {s.cause}\n  Change: {s.change}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the checks may know about a run's configuration; no check knows its environment or algorithm by name."""

    group_size: int = 8
    max_turns: int = 64
    """The runner's own limit."""
    max_new_tokens: int = 8
    temperature: float = 1.0
    max_grad_norm: float = 1.0
    clip_width: float = 0.2
    """How far the probability ratio may go up before the clip acts."""
    exact_sampler: bool = True
    """The sampler's log-probabilities should be the trainer's, up to rounding in fp32."""
    max_staleness: int = 0
    """Updates that sampled tokens may be behind; 0 where rollouts wait for the trainer."""
    corrected: bool = False
    """The loss weighs tokens by the gap between sampler and trainer."""
    compares_members: bool = True
    """The algorithm takes its baseline from the members of a group."""
    compares_states: bool = False
    """The algorithm compares the visits of a group to one state."""


def facts_of(config: DictConfig, algorithm: Algorithm) -> Facts:
    """The facts of a composed configuration.

    Args:
        algorithm: with ``auto`` decided.
    """

    def setting(key: str) -> Any:
        return OmegaConf.select(config, key)

    ahead = setting("rollout.mode") == "async"
    # ``auto`` is decided by the machine; a folder may be looked at on another one.
    fp32 = setting("model.precision") == setting("sampler.precision") == "fp32"
    return Facts(
        group_size=int(setting("group_size")),
        max_turns=int(setting("rollout.max_turns")),
        max_new_tokens=int(setting("rollout.max_new_tokens")),
        temperature=float(setting("rollout.temperature")),
        max_grad_norm=float(setting("optim.max_grad_norm")),
        clip_width=algorithm.clip_ratio_high,
        exact_sampler=fp32 and setting("sampler.kind") == "transformers" and not ahead,
        max_staleness=int(setting("rollout.max_staleness")) if ahead else 0,
        corrected=algorithm.correction != "none",
        compares_members=algorithm.min_group_size > 1,
        compares_states=algorithm.compares_states,
    )


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a run that the checks look at. Metrics that are no finite numbers are left out, and named."""

    start: Mapping[str, float]
    """The first update of the run, whose episodes were played before anything was learned."""
    recent: Sequence[Mapping[str, float]]
    """The last ``RECENT`` updates, oldest first."""
    not_finite: Sequence[str] = ()
    """Metrics of the last update that are infinite or no number."""

    @property
    def started(self) -> bool:
        """True when the first update is not among the last ``FEW``."""
        return len(self.recent) > FEW

    def last(self, metric: str) -> float | None:
        """Mean over the last ``FEW`` updates; None before there are as many, or where one does not have it."""
        return mean_of(self.recent[-FEW:], metric) if len(self.recent) >= FEW else None

    def last_trained(self, metric: str) -> float | None:
        """Mean over those of the last ``FEW`` updates that have it; None where fewer than half do.

        An update that was skipped has no metrics of the loss.
        """
        values = [r[metric] for r in self.recent[-FEW:] if metric in r]
        return sum(values) / len(values) if len(self.recent) >= FEW and 2 * len(values) > FEW else None


def mean_of(records: Sequence[Mapping[str, float]], metric: str) -> float | None:
    """Mean of a metric; None where a record does not have it."""
    values = [r[metric] for r in records if metric in r]
    return sum(values) / len(values) if values and len(values) == len(records) else None


def split(record: Record) -> tuple[dict[str, float], list[str]]:
    """The finite numbers of a line, and the names of the numbers that are not finite."""
    numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    finite = {k: float(v) for k, v in numbers.items() if abs(v) <= LARGEST}
    return finite, sorted(k for k, v in numbers.items() if isinstance(v, float) and not math.isfinite(v))


LARGEST = 1e300
"""Numbers beyond this are left out, so that no sum of them overflows."""
