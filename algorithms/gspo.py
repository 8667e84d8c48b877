"""GSPO: the ratio of whole sequences, as the geometric mean of their tokens' ratios (arXiv:2507.18071).

The clip acts on sequences, so its bounds are a thousandth of PPO's. Every token's gradient carries its sequence's
ratio. Averaging must treat sequences alike: a token-normalised mean would undo what the ratio is for, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from agentgrpo import losses
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Batch


@register_algorithm("gspo")
@dataclass(frozen=True)
class GSPO(GRPO):
    """Group sequence policy optimisation."""

    formula: ClassVar[str] = "as grpo, ratio = exp(mean_t log(p_t / old_t)) of the sequence"
    source: ClassVar[str] = "arXiv:2507.18071"

    clip_ratio_low: float = 3e-4
    clip_ratio_high: float = 4e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aggregation == "token-mean":
            raise ValueError(
                "algorithm.aggregation=token-mean weighs long sequences more, which GSPO's ratio per sequence is there "
                "to avoid. Set algorithm.aggregation=seq-mean-token-mean."
            )

    def ratio(self, logprobs: Tensor, batch: Batch) -> Tensor:
        return losses.sequence_ratio(logprobs, batch.old_logprobs, batch.action_mask)
