"""CISPO: the clipped ratio is a constant weight of -A log p, so that no token loses its gradient (arXiv:2506.13585).

Bounds are 1 - low and 1 + high, as in verl, and low = 1 means no lower bound; an absolute cap of 5.0 (TRL) is
``clip_ratio_high=4.0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from agentgrpo import losses
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.losses import Aggregation
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Batch


@register_algorithm("cispo")
@dataclass(frozen=True)
class CISPO(GRPO):
    """Clipped importance-sampling weights."""

    formula: ClassVar[str] = "as grpo, loss = -sg(clip(ratio)) * A * log p"
    source: ClassVar[str] = "arXiv:2506.13585"

    clip_ratio_low: float = 1.0
    aggregation: Aggregation = "token-mean"

    @property
    def unused(self) -> tuple[str, ...]:
        return ("dual_clip",)

    def clipped(self, ratio: Tensor, batch: Batch) -> Tensor:
        outside = (ratio < 1 - self.clip_ratio_low) | (ratio > 1 + self.clip_ratio_high)
        return (outside & batch.action_mask).to(ratio.dtype)

    def surrogate(self, logprobs: Tensor, ratio: Tensor, batch: Batch) -> Tensor:
        return losses.clipped_weight_surrogate(logprobs, ratio, batch.advantages, batch.action_mask, **self._bounds)
