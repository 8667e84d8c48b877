"""Follows a run update by update."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agentgrpo.doctor import rollout_checks, update_checks
from agentgrpo.doctor.findings import RECENT, Facts, Finding, Record, Severity, Symptom, Window, split

CHECKS: Mapping[str, Callable[[Window, Facts], Symptom | None]] = {
    "not_finite": update_checks.not_finite,
    "env_failures": rollout_checks.env_failures,
    "all_failure": rollout_checks.all_failure,
    "one_env_fails": rollout_checks.one_env_fails,
    "no_signal": rollout_checks.no_signal,
    "reward_spread_cliff": rollout_checks.reward_spread_cliff,
    "skipped_updates": update_checks.skipped_updates,
    "invalid_actions": rollout_checks.invalid_actions,
    "cut_off_actions": rollout_checks.cut_off_actions,
    "context_limit": rollout_checks.context_limit,
    "turn_limit": rollout_checks.turn_limit,
    "length_explosion": rollout_checks.length_explosion,
    "repeated_episodes": rollout_checks.repeated_episodes,
    "entropy_collapse": rollout_checks.entropy_collapse,
    "gradient_spike": update_checks.gradient_spike,
    "clip_share": update_checks.clip_share,
    "logprob_gap": update_checks.logprob_gap,
    "staleness": update_checks.staleness,
    "step_groups": rollout_checks.step_groups,
    "solved": rollout_checks.solved,
}
"""Every check by the name of its finding, in the order in which findings are told."""


@dataclass
class Doctor:
    """Looks at each update's metrics; what it finds depends on the records alone, in whatever process they come.

    Args:
        facts: what the checks may know about the configuration.
    """

    facts: Facts
    update: int = 0
    """The last one that was looked at."""
    found: dict[str, Finding] = field(default_factory=dict)
    """Everything that was found so far, by name, in the order in which it came up."""
    _said: dict[str, Severity] = field(default_factory=dict)
    _start: Mapping[str, float] = field(default_factory=dict)
    _recent: deque[Mapping[str, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def look(self, record: Record) -> list[Finding]:
        """Takes the metrics of the next update; returns the findings that are new, or have become worse."""
        numbers, not_finite = split(record)
        self.update = int(numbers.get("update", self.update + 1))
        self._start = self._start or numbers
        self._recent.append(numbers)
        window = Window(self._start, tuple(self._recent), not_finite)
        new = []
        for name, check in CHECKS.items():
            symptom = check(window, self.facts)
            if symptom is None:
                continue
            first = self.found[name].first_update if name in self.found else self.update
            self.found[name] = Finding(name, symptom, first, self.update)
            if symptom.severity > self._said.get(name, 0):
                self._said[name] = symptom.severity
                new.append(self.found[name])
        return new

    @property
    def standing(self) -> list[Finding]:
        """What the last update still shows, alarms first."""
        now = [self.found[name] for name in CHECKS if name in self.found and self._stands(self.found[name])]
        return sorted(now, key=lambda finding: -finding.symptom.severity)

    @property
    def past(self) -> list[Finding]:
        """What has gone away again."""
        return [finding for finding in self.found.values() if not self._stands(finding)]

    def scalars(self) -> dict[str, float]:
        """How many alarms stand, and the severity of all that ever was found: 1 a note, 2 an alarm, 0 gone again."""
        return {"doctor/num_alarms": float(self.num_alarms)} | {
            f"doctor/{name}": float(f.symptom.severity) if self._stands(f) else 0.0 for name, f in self.found.items()
        }

    @property
    def num_alarms(self) -> int:
        """Alarms that still stand."""
        return sum(finding.symptom.severity is Severity.ALARM for finding in self.standing)

    def summary(self) -> list[dict[str, object]]:
        """All findings as plain values, for ``summary.json``."""
        return [
            {
                "name": f.name,
                "severity": f.symptom.severity.name.lower(),
                "figure": f.symptom.figure,
                "what": f.symptom.what,
                "cause": f.symptom.cause,
                "change": f.symptom.change,
                "first_update": f.first_update,
                "last_update": f.last_update,
                "standing": self._stands(f),
            }
            for f in (*self.standing, *self.past)
        ]

    def _stands(self, finding: Finding) -> bool:
        return finding.last_update == self.update


def closing_words(doctor: Doctor, run_dir: str) -> str:
    """What a run repeats at its end: alarms and notes that its last updates still show. Empty where there are none."""
    lines = [f"doctor: {f.symptom.severity.name.lower()}: {f.name}: {f.symptom.what}" for f in doctor.standing]
    if lines:
        lines.append(f"What to change: python -m agentgrpo doctor run_dir={run_dir}")
    return "\n".join(lines)
