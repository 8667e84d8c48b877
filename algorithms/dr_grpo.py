"""Dr. GRPO: GRPO without the two divisions that bias it (arXiv:2503.20783).

Dividing by the group's standard deviation favours tasks that are nearly solved or nearly hopeless; dividing by a
sequence's own length favours long wrong answers. Both go. The constant length is that of the longest answer allowed,
and the sum is divided by it and by the number of sequences, as in TRL (verl divides by the length only).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.losses import Aggregation
from agentgrpo.registry import register_algorithm


@register_algorithm("dr_grpo")
@dataclass(frozen=True)
class DrGRPO(GRPO):
    """GRPO done right: centred, not scaled."""

    formula: ClassVar[str] = "A = R - mean(R), loss = sum / (sequences * L)"
    source: ClassVar[str] = "arXiv:2503.20783"

    scale: Literal["group", "batch", "none"] = "none"
    aggregation: Aggregation = "seq-mean-token-sum-norm"
