"""Soft gate: a sigmoid of the ratio instead of a clip, so that the gradient fades instead of ending
(Soft Adaptive Policy Optimization, arXiv:2511.20347).

The paper's short name is also that of a different method for swarms, which is why it is not used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from agentgrpo import losses
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.checks import above
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Batch


@register_algorithm("soft_gate")
@dataclass(frozen=True)
class SoftGate(GRPO):
    """GRPO with a soft gate."""

    formula: ClassVar[str] = "as grpo, loss = -4 / tau * sigmoid(tau * (ratio - 1)) * A"
    source: ClassVar[str] = "arXiv:2511.20347"

    tau_positive: float = 1.0
    """Steepness of the gate where the advantage is positive, > 0."""
    tau_negative: float = 1.05
    """The same where it is negative; larger fades sooner, as such tokens are the less stable ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        above("algorithm.tau_positive", self.tau_positive, 0)
        above("algorithm.tau_negative", self.tau_negative, 0)

    @property
    def unused(self) -> tuple[str, ...]:
        return ("clip_ratio_low", "clip_ratio_high", "dual_clip")

    def clipped(self, ratio: Tensor, batch: Batch) -> None:
        return None

    def surrogate(self, logprobs: Tensor, ratio: Tensor, batch: Batch) -> Tensor:
        return losses.soft_gate_surrogate(
            ratio, batch.advantages, batch.action_mask, tau_positive=self.tau_positive, tau_negative=self.tau_negative
        )
