"""MT-GRPO: an advantage for each turn's own reward beside that of the outcome (arXiv:2505.11821).

The paper has two turns: what comes before the first tool result gets outcome plus weighted turn advantage, the rest
the outcome alone. Here a turn t gets the outcome's advantage plus ``turn_weight`` times the standardised reward of
turn t, compared with the same turn of the other members; the last turn's reward belongs to the outcome. With two turns
that is the paper's rule. Members whose episode had ended by turn t are not part of its comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agentgrpo.advantages import by_member, standardize_groups, step_rewards
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
        return self.batch_advantages([group])[0]

    def batch_advantages(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        keys: list[tuple[int, int] | None] = []
        rewards: list[list[float]] = []
        for i, group in enumerate(groups):
            for trajectory in group:
                rewards.append(step_rewards(trajectory))
                known, last = trajectory.has_return, len(rewards[-1]) - 1
                # A turn's group are the members that go on after it; the last turn belongs to nobody.
                keys += [(i, t) if known and t < last else None for t in range(last + 1)]
        turns = standardize_groups(keys, [x for r in rewards for x in r], eps=self.eps)
        members = [(i, t.has_return) for i, group in enumerate(groups) for t in group]
        outcome = [(r[-1] if r else 0.0) if ok else math.nan for r, (_, ok) in zip(rewards, members, strict=True)]
        episode = standardize_groups([i for i, _ in members], outcome, eps=self.eps)
        lengths = torch.tensor([len(r) for r in rewards], dtype=torch.int64)
        return by_member(episode.repeat_interleave(lengths) + self.turn_weight * turns, groups)
