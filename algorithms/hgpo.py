"""HGPO: step groups by how much of the history agrees, weighted by its depth (arXiv:2602.22817).

Level k compares steps whose last k states are the same; deeper levels compare fewer but more alike situations. A step's
advantage is the mean over levels where it is not 0, with weights (k + 1)^alpha. As in the released code the standard
deviation has ddof 0 and the sum of weights an eps of 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from agentgrpo.advantages import EPS, returns_to_go, standardize_groups
from agentgrpo.algorithm import Algorithm
from agentgrpo.checks import at_least, one_of, within
from agentgrpo.columns import float64, known, numbered, positions, states, step_counts, step_rewards
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

    @property
    def compares_states(self) -> bool:
        return True

    def step_advantages(self, groups: Sequence[Group]) -> Tensor:
        counts = step_counts(groups)
        state = numbered([states(group) for group in groups])
        values = float64(returns_to_go(step_rewards(groups).tolist(), self.gamma, counts.tolist()))
        first = positions(counts) == 0
        key = state.masked_fill(~known(groups).repeat_interleave(counts), -1)
        total, weights = torch.zeros_like(values), torch.zeros_like(values)
        for k in range(1, self.history + 2):
            if k > 1:
                key = _one_deeper(key, state, first)
            level = standardize_groups(key, values, scale=self.scale == "group", correction=0)
            # Not `!= 0`: a value that equals its group's mean gives 0 or 1e-17, depending on the order of the members.
            weight = (level.abs() > 1e-9).to(torch.float64) * float(k + 1) ** self.alpha
            total += weight * level
            weights += weight
        return total / (weights + EPS)


def _one_deeper(key: Tensor, state: Tensor, first: Tensor) -> Tensor:
    """Numbers for the last k + 1 states from those for the last k, -1 where there are fewer or the return is unknown.

    Args:
        key: (N,) numbers for the last k states of each step, -1 for none.
        state: (N,) numbers of the states themselves.
        first: (N,) bool, True at the first step of each trajectory.
    """
    before = key.roll(1).masked_fill(first, -1)
    there = before >= 0
    pairs = before[there] * len(state) + state[there]
    out = torch.full_like(key, -1)
    out[there] = torch.from_numpy(np.unique(pairs.numpy(), return_inverse=True)[1])
    return out
