"""GiGPO: episode advantages plus step advantages from repeated states (arXiv:2505.10978).

A step group holds every visit of the task's group to one state; the discounted return from there is compared among
them. Choices: episode statistics are taken over trajectories as in the paper (released code averages over steps, so
that long episodes weigh more); a state visited once gives 0.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from agentgrpo.advantages import returns_to_go, standardize
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Group


@register_algorithm("gigpo")
@dataclass(frozen=True)
class GiGPO(GRPO):
    """Group-in-group policy optimisation: A = A_episode + step_weight * A_step."""

    gamma: float = 0.95
    """Discount per turn, in (0, 1]."""
    step_weight: float = 1.0
    """Weight of the step advantage; omega in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma <= 1:
            raise ValueError(f"algorithm.gamma must be in (0, 1], got {self.gamma}.")

    def advantages(self, group: Group) -> list[Tensor]:
        episode = super().advantages(group)  # G x (S_i,)
        steps = self._step_advantages(group)  # G x (S_i,)
        return [a + self.step_weight * s for a, s in zip(episode, steps, strict=True)]

    def _step_advantages(self, group: Group) -> list[Tensor]:
        out = [torch.zeros(len(t.steps), dtype=torch.float64) for t in group]
        visits: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
        for i, trajectory in enumerate(group):
            if trajectory.status.crashed:  # the return from its states on is unknown
                continue
            to_go = returns_to_go([s.reward for s in trajectory.steps], self.gamma)
            for t, (step, value) in enumerate(zip(trajectory.steps, to_go, strict=True)):
                visits[step.state].append((i, t, value))
        for members in visits.values():
            values = torch.tensor([value for _, _, value in members], dtype=torch.float64)
            for (i, t, _), advantage in zip(members, standardize(values, scale=self.scale_by_std), strict=True):
                out[i][t] = advantage
        return out
