"""MT-GRPO: an advantage for each turn's own reward beside that of the outcome (arXiv:2505.11821).

The paper has two turns: what comes before the first tool result gets outcome plus weighted turn advantage, the rest
the outcome alone. Here a turn t gets the outcome's advantage plus ``turn_weight`` times the standardised reward of
turn t, compared with the same turn of the other members; the last turn's reward belongs to the outcome. With two turns
that is the paper's rule. Members whose episode had ended by turn t are not part of its comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agentgrpo.advantages import standardize_groups
from agentgrpo.algorithm import Algorithm
from agentgrpo.checks import above, at_least
from agentgrpo.columns import known, owners, positions, step_counts, step_rewards
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

    def step_advantages(self, groups: Sequence[Group]) -> Tensor:
        owner, usable, counts, rewards = owners(groups), known(groups), step_counts(groups), step_rewards(groups)
        turn = positions(counts)
        # A turn's group are the members that go on after it; the last turn belongs to nobody.
        goes_on = usable.repeat_interleave(counts) & (turn + 1 < counts.repeat_interleave(counts))
        longest = torch.zeros(len(groups), dtype=torch.int64).scatter_reduce(0, owner, counts, "amax")
        first_key = longest.cumsum(0) - longest  # every group has a key for each turn of its longest member
        keys = first_key[owner].repeat_interleave(counts) + turn
        turns = standardize_groups(keys.masked_fill(~goes_on, -1), rewards, eps=self.eps)
        outcome = torch.zeros(len(counts), dtype=torch.float64)
        outcome[counts > 0] = rewards[counts.cumsum(0)[counts > 0] - 1]
        episode = standardize_groups(owner.masked_fill(~usable, -1), outcome, eps=self.eps)
        return episode.repeat_interleave(counts) + self.turn_weight * turns
