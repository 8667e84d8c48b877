"""NGRPO: virtual samples with the highest reward join the statistics, so that failures teach too (arXiv:2509.18851).

A group in which everything failed has a mean above its rewards and hence negative advantages; one in which everything
succeeded has none and is left out. The virtual samples have no loss term. Which direction failure pushes in is up to
the clip, tighter from below. The highest reward is the one that the environment declares, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agentgrpo.advantages import returns, standardize_groups
from agentgrpo.algorithm import RunFacts
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.checks import at_least
from agentgrpo.columns import float64, num_usable, owners
from agentgrpo.filters import GroupFilter
from agentgrpo.losses import Aggregation
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Group

_NO_MAXIMUM = (
    "ngrpo compares with the highest return possible, which is not known here: the environment declares none, or a "
    "reward term has none (a reward model, a negative weight). Give the environment an attribute max_return (a float), "
    "leave the term out, or choose another algorithm, e.g. algorithm=grpo."
)


@register_algorithm("ngrpo")
@dataclass(frozen=True)
class NGRPO(GRPO):
    """Negative-enhanced GRPO."""

    formula: ClassVar[str] = "A = (R - mean(R + r_max)) / (std(R + r_max) + eps)"
    source: ClassVar[str] = "arXiv:2509.18851"

    clip_ratio_low: float = 0.16
    clip_ratio_high: float = 0.24
    aggregation: Aggregation = "token-mean"
    group_filter: GroupFilter = "all_correct"
    num_virtual: int = 1
    """Copies of the highest return that join the statistics, at least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("algorithm.num_virtual", self.num_virtual, 1)
        if self.supervision == "process" or self.scale == "batch":
            raise ValueError(
                "NGRPO's virtual samples are whole episodes of one group: it needs algorithm.supervision=outcome and "
                "algorithm.scale=group or none."
            )

    def check(self, facts: RunFacts) -> None:
        super().check(facts)
        if facts.max_return is None:
            raise ValueError(_NO_MAXIMUM)

    def member_advantages(self, groups: Sequence[Group]) -> Tensor:
        highest = [group.max_return for group in groups if group.max_return is not None]
        if len(highest) < len(groups):
            raise ValueError(_NO_MAXIMUM)
        values, owner = returns(*groups), owners(groups)
        virtual = float64(highest).repeat(self.num_virtual)
        pool = (torch.cat([owner, torch.arange(len(groups)).repeat(self.num_virtual)]), torch.cat([values, virtual]))
        # As everywhere, one episode alone says nothing.
        keys = owner.masked_fill(num_usable(~values.isnan(), groups) < 2, -1)
        return standardize_groups(keys, values, scale=self.scale == "group", pool=pool)
