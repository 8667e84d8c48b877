"""HGPO: step groups by how much of the history agrees, weighted by its depth (arXiv:2602.22817).

Level k compares steps whose last k states are the same; deeper levels compare fewer but more alike situations. A step's
advantage is the mean over levels where it is not 0, with weights (k + 1)^alpha. As in the released code the standard
deviation has ddof 0 and the sum of weights an eps of 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from agentgrpo.advantages import EPS, by_member, returns_to_go, standardize_groups, step_rewards
from agentgrpo.algorithm import Algorithm
from agentgrpo.checks import at_least, one_of, within
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Group


@register_algorithm("hgpo")
@dataclass(frozen=True)
class HGPO(Algorithm):
    """Hierarchy-of-groups policy optimisation."""

    formula: ClassVar[str] = "A = sum_k w_k A_k, A_k over steps whose last k states agree, w_k ~ (k + 1)^alpha"
    source: ClassVar[str] = "arXiv:2602.22817"

    gamma: float = 0.95
    """Discount per turn, in (0, 1]."""
    history: int = 2
    """H: levels are k = 1 .. H + 1."""
    alpha: float = 1.0
    """Exponent of the weights, >= 0; 0 weighs all levels alike."""
    scale: Literal["group", "none"] = "group"
    """Whether a level's advantages are divided by their standard deviation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("algorithm.gamma", self.gamma, "(0, 1]")
        at_least("algorithm.history", self.history, 0)
        at_least("algorithm.alpha", self.alpha, 0)
        one_of("algorithm.scale", self.scale, ("group", "none"))

    @property
    def divides_by_spread(self) -> bool:
        return self.scale == "group"

    def advantages(self, group: Group) -> list[Tensor]:
        return self.batch_advantages([group])[0]

    def batch_advantages(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        values = [v for group in groups for t in group for v in returns_to_go(step_rewards(t), self.gamma)]
        total = torch.zeros(len(values), dtype=torch.float64)
        weights = torch.zeros_like(total)
        for k in range(1, self.history + 2):
            keys = [key for i, group in enumerate(groups) for key in _histories(i, group, k)]
            level = standardize_groups(keys, values, scale=self.scale == "group", correction=0)
            # Not `!= 0`: a value that equals its group's mean gives 0 or 1e-17, depending on the order of the members.
            weight = (level.abs() > 1e-9).to(torch.float64) * float(k + 1) ** self.alpha
            total += weight * level
            weights += weight
        return by_member(total / (weights + EPS), groups)


def _histories(number: int, group: Group, k: int) -> list[tuple[int | str, ...] | None]:
    """Per step the group's number and its last k states; None where there are fewer, or the return is unknown."""
    out: list[tuple[int | str, ...] | None] = []
    for trajectory in group:
        states = [step.state for step in trajectory.steps]
        known = trajectory.has_return
        out += [(number, *states[t + 1 - k : t + 1]) if known and t + 1 >= k else None for t in range(len(states))]
    return out
