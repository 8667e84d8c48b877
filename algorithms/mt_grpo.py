"""MT-GRPO: an advantage for each turn's own reward beside that of the outcome (arXiv:2505.11821).

The paper has two turns: what comes before the first tool result gets outcome plus weighted turn advantage, the rest
the outcome alone. Here a turn t gets the outcome's advantage plus ``turn_weight`` times the standardised reward of
turn t, compared with the same turn of the other members; the last turn's reward belongs to the outcome. With two turns
that is the paper's rule. Members whose episode had ended by turn t are not part of its comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agentgrpo.advantages import returns, standardize, standardize_groups, step_rewards
from agentgrpo.algorithm import Algorithm
from agentgrpo.checks import above, at_least
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Group


@register_algorithm("mt_grpo")
@dataclass(frozen=True)
class MTGRPO(Algorithm):
    """GRPO with turn-level credit."""

    formula: ClassVar[str] = "A_t = standardized(outcome) + turn_weight * standardized(r_t)"
    source: ClassVar[str] = "arXiv:2505.11821"

    turn_weight: float = 1.0
    """Weight of the turn's own advantage, >= 0."""
    eps: float = 1e-4
    """Added to standard deviations, > 0; 1e-4 as in the released code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("algorithm.turn_weight", self.turn_weight, 0)
        above("algorithm.eps", self.eps, 0)

    @property
    def divides_by_spread(self) -> bool:
        return True

    def advantages(self, group: Group) -> list[Tensor]:
        known = ~returns(group).isnan()
        rewards = [step_rewards(t) for t in group]
        outcome = torch.tensor([r[-1] if r else 0.0 for r in rewards], dtype=torch.float64)  # (G,)
        outcome[~known] = torch.nan
        episode = standardize(outcome, eps=self.eps)
        # A turn's group are the members that go on after it; the last turn belongs to nobody.
        keys = [t if known[i] and t < len(r) - 1 else None for i, r in enumerate(rewards) for t in range(len(r))]
        flat = [x for r in rewards for x in r]
        turns = standardize_groups(keys, flat, eps=self.eps)
        return [
            a + self.turn_weight * turn
            for a, turn in zip(episode, torch.split(turns, [len(r) for r in rewards]), strict=True)
        ]
