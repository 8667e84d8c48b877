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

from agentgrpo.advantages import EPS, returns, returns_to_go, standardize, step_rewards
from agentgrpo.algorithm import Algorithm
from agentgrpo.checks import one_of
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

    def advantages(self, group: Group) -> list[Tensor]:
        if self.supervision == "process":
            return self._process(group)
        episode = self.episode_advantages(group)  # (G,)
        return [a.expand(len(t.steps)) for a, t in zip(episode, group, strict=True)]

    def episode_advantages(self, group: Group) -> Tensor:
        """(G,) one per trajectory."""
        return standardize(returns(group), scale=self.scale == "group")

    def batch_advantages(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        per_group = [self.advantages(group) for group in groups]
        if self.scale != "batch" or not groups:
            return per_group
        known = torch.cat([returns(group) for group in groups])
        known = known[~known.isnan()]
        if len(known) < 2 or known.max() == known.min():
            return per_group  # all zero
        return [[a / (known.std(correction=1) + EPS) for a in group] for group in per_group]

    def _process(self, group: Group) -> list[Tensor]:
        alone = sum(t.has_return for t in group) < 2  # nobody to compare with
        rewards = [[] if alone or not t.has_return else step_rewards(t) for t in group]
        flat = torch.tensor([r for member in rewards for r in member], dtype=torch.float64)
        pooled = standardize(flat, scale=self.scale == "group")
        out = []
        for part, trajectory in zip(torch.split(pooled, [len(member) for member in rewards]), group, strict=True):
            values = part.tolist() or [0.0] * len(trajectory.steps)  # a crashed member gets 0
            out.append(torch.tensor(returns_to_go(values, 1.0), dtype=torch.float64))
        return out
