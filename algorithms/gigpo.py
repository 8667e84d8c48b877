"""GiGPO: episode advantages plus step advantages from repeated states (arXiv:2505.10978).

A step group holds every visit of the task's group to one state; the discounted return from there is compared among
them. Choices: episode statistics are taken over trajectories as in the paper (released code averages over steps, so
that long episodes weigh more); a state visited once gives 0. The penalty of an invalid action is taken off that step's
episode score and off its return after discounting, so that it does not reach the steps before; the statistics over
trajectories do not see it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from agentgrpo.advantages import returns, returns_to_go, standardize_groups
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.checks import at_least, one_of, within
from agentgrpo.columns import all_steps, float64, known, numbered, owners, states, step_counts, step_rewards
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Group


@register_algorithm("gigpo")
@dataclass(frozen=True)
class GiGPO(GRPO):
    """Group-in-group policy optimisation."""

    formula: ClassVar[str] = "A = A_episode + step_weight * A_step, A_step over visits to one state"
    source: ClassVar[str] = "arXiv:2505.10978"

    gamma: float = 0.95
    """Discount per turn, in (0, 1]."""
    step_weight: float = 1.0
    """Weight of the step advantage; omega in the paper."""
    episode_stats: Literal["trajectory", "step"] = "trajectory"
    """What mean and standard deviation of the episode advantage are taken over."""
    similarity: float | None = None
    """States count as one when difflib's ratio is at least this, in (0, 1); None: when they are equal."""
    invalid_action_penalty: float = 0.0
    """Taken off a step whose action the environment could not read, >= 0; 0.1 in the paper's experiments."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("algorithm.gamma", self.gamma, "(0, 1]")
        at_least("algorithm.step_weight", self.step_weight, 0)
        one_of("algorithm.episode_stats", self.episode_stats, ("trajectory", "step"))
        at_least("algorithm.invalid_action_penalty", self.invalid_action_penalty, 0)
        if self.similarity is not None:
            within("algorithm.similarity", self.similarity, "(0, 1)")
        if self.supervision == "process" or self.scale == "batch":
            raise ValueError(
                "GiGPO compares inside groups and gives each step its own credit: it needs "
                "algorithm.supervision=outcome and algorithm.scale=group or none."
            )

    @property
    def compares_states(self) -> bool:
        return self.step_weight > 0 and self.similarity is None

    def step_advantages(self, groups: Sequence[Group]) -> Tensor:
        penalties = self.invalid_action_penalty * float64([not step.valid_action for step in all_steps(groups)])
        return self._episode_part(groups, penalties) + self.step_weight * self._state_part(groups, penalties)

    def _episode_part(self, groups: Sequence[Group], penalties: Tensor) -> Tensor:
        episode, owner, counts = returns(*groups), owners(groups), step_counts(groups)
        keys, scores = owner.repeat_interleave(counts), episode.repeat_interleave(counts) - penalties
        pool = (owner, episode) if self.episode_stats == "trajectory" else (keys, scores)
        return standardize_groups(keys, scores, scale=self.scale == "group", pool=pool)

    def _state_part(self, groups: Sequence[Group], penalties: Tensor) -> Tensor:
        counts = step_counts(groups)
        keys = numbered([self._labels(group) for group in groups])
        keys = keys.masked_fill(~known(groups).repeat_interleave(counts), -1)
        to_go = float64(returns_to_go(step_rewards(groups).tolist(), self.gamma, counts.tolist()))
        return standardize_groups(keys, to_go - penalties, scale=self.scale == "group")

    def _labels(self, group: Group) -> Sequence[str | None]:
        """(steps of the group,) what states that count as one have in common."""
        if self.similarity is None:
            return states(group)
        seen = [step.state if t.has_return else None for t in group for step in t.steps]
        return similar(seen, self.similarity)


def similar(seen: Sequence[str | None], threshold: float) -> list[str | None]:
    """Replaces each state by the first one met that it resembles. Greedy, so the order of the members matters."""
    first: list[str] = []
    found: dict[str, str] = {}
    for state in seen:
        if state is None or state in found:
            continue
        match = next((f for f in first if _alike(state, f, threshold)), None)
        if match is None:
            first.append(state)
        found[state] = state if match is None else match
    return [None if state is None else found[state] for state in seen]


def _alike(a: str, b: str, threshold: float) -> bool:
    matcher = difflib.SequenceMatcher(None, a, b)
    # The first two are upper bounds of the third, and much faster.
    return all(ratio() >= threshold for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio))
