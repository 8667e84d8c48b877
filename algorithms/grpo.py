"""GRPO: the group's mean and spread as the baseline instead of a critic (arXiv:2402.03300).

Outcome supervision gives a trajectory's standardised return to all of its tokens. Process supervision standardises the
rewards of all steps of the group together and gives a token the sum of those still to come.
Choices where paper and released code differ: ddof 1 and eps 1e-6; a group of one gives 0 (verl keeps the raw reward).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from agentgrpo.advantages import EPS, returns, returns_to_go, standardize_groups
from agentgrpo.algorithm import Algorithm
from agentgrpo.checks import one_of
from agentgrpo.columns import float64, known, num_usable, owners, step_counts, step_rewards
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Group


@register_algorithm("grpo")
@dataclass(frozen=True)
class GRPO(Algorithm):
    """Group-relative policy optimisation."""

    formula: ClassVar[str] = "A = (R - mean(R)) / (std(R) + eps)"
    source: ClassVar[str] = "arXiv:2402.03300"

    supervision: Literal["outcome", "process"] = "outcome"
    """What is standardised: the return of each trajectory, or the reward of each step."""
    scale: Literal["group", "batch", "none"] = "group"
    """What centred returns are divided by: the group's standard deviation, that of all groups together, or nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("algorithm.supervision", self.supervision, ("outcome", "process"))
        one_of("algorithm.scale", self.scale, ("group", "batch", "none"))
        if self.supervision == "process" and self.scale == "batch":
            raise ValueError(
                "algorithm.scale=batch is defined for outcome supervision only: process supervision already pools the "
                "steps of a group. Set algorithm.scale=group or none, or algorithm.supervision=outcome."
            )

    @property
    def divides_by_spread(self) -> bool:
        return self.scale != "none"

    def step_advantages(self, groups: Sequence[Group]) -> Tensor:
        if self.supervision == "process":
            return self._process(groups)
        if type(self).episode_advantages is GRPO.episode_advantages:
            episode = self.member_advantages(groups)  # (all members,)
        else:
            episode = torch.cat([torch.zeros(0).double(), *map(self.episode_advantages, groups)])
        return episode.repeat_interleave(step_counts(groups))

    def episode_advantages(self, group: Group) -> Tensor:
        """(G,) one per trajectory."""
        return self.member_advantages([group])

    def member_advantages(self, groups: Sequence[Group]) -> Tensor:
        """(all members,) what ``episode_advantages`` gives, for many groups in one pass."""
        return standardize_groups(owners(groups), returns(*groups), scale=self.scale == "group")

    def batch_advantages(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        per_group = super().batch_advantages(groups)
        if self.scale != "batch":
            return per_group
        values = returns(*groups)
        values = values[~values.isnan()]
        if len(values) < 2 or values.max() == values.min():
            return per_group  # all zero
        spread = values.std(correction=1) + EPS
        return [[a / spread for a in group] for group in per_group]

    def _process(self, groups: Sequence[Group]) -> Tensor:
        owner, usable, counts = owners(groups), known(groups), step_counts(groups)
        # Who has nobody to compare with gets 0, and so does a crashed member.
        alone = num_usable(usable, groups) < 2
        keys = owner.masked_fill(~usable | alone, -1).repeat_interleave(counts)
        pooled = standardize_groups(keys, step_rewards(groups), scale=self.scale == "group")
        return float64(returns_to_go(pooled.tolist(), 1.0, counts.tolist()))
