"""GRPO: the group's mean and spread as the baseline instead of a critic (arXiv:2402.03300).

Outcome supervision: one advantage per trajectory, A = (r - mean) / (std + eps), given to all of its tokens.
Choices where paper and released code differ: ddof 1 and eps 1e-6; a group of one gives 0 (verl keeps the raw reward).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agentgrpo.advantages import returns, standardize
from agentgrpo.algorithm import Algorithm, LossOutput
from agentgrpo.losses import AGGREGATIONS, Aggregation, aggregate, clip_fraction, clipped_surrogate, kl_k3, masked_ratio
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Batch, Denominators, Group


@register_algorithm("grpo")
@dataclass(frozen=True)
class GRPO(Algorithm):
    """Group-relative policy optimisation with outcome supervision."""

    min_group_size: ClassVar[int] = 2

    clip_ratio_low: float = 0.2
    """The probability ratio is clipped below 1 - this; in [0, 1)."""
    clip_ratio_high: float = 0.2
    """The probability ratio is clipped above 1 + this; >= 0."""
    kl_coef: float = 0.0
    """Weight of the k3 KL term in the loss; 0 saves the reference model and its forward pass."""
    scale_by_std: bool = True
    """Divide centred returns by the group's standard deviation."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How token losses are averaged."""

    def __post_init__(self) -> None:
        if not 0 <= self.clip_ratio_low < 1:
            raise ValueError(f"algorithm.clip_ratio_low must be in [0, 1), got {self.clip_ratio_low}.")
        if self.clip_ratio_high < 0:
            raise ValueError(f"algorithm.clip_ratio_high must be at least 0, got {self.clip_ratio_high}.")
        if self.kl_coef < 0:
            raise ValueError(f"algorithm.kl_coef must be at least 0, got {self.kl_coef}.")
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(
                f"algorithm.aggregation must be one of {', '.join(AGGREGATIONS)}, got {self.aggregation!r}."
            )

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    def advantages(self, group: Group) -> list[Tensor]:
        episode = standardize(returns(group), scale=self.scale_by_std)  # (G,)
        return [a.expand(len(t.steps)) for a, t in zip(episode, group, strict=True)]

    def loss(self, logprobs: Tensor, batch: Batch, denominators: Denominators) -> LossOutput:
        bounds = {"clip_ratio_low": self.clip_ratio_low, "clip_ratio_high": self.clip_ratio_high}
        mask = batch.action_mask
        token_loss = clipped_surrogate(logprobs, batch.old_logprobs, batch.advantages, mask, **bounds)
        with torch.no_grad():
            ratio = masked_ratio(logprobs, batch.old_logprobs, mask)
            sums = {"loss/clip_fraction": clip_fraction(ratio, batch.advantages, mask, **bounds).sum()}
            # k3 between sampling and current policy: how far this update has moved.
            sums["loss/old_kl"] = kl_k3(batch.old_logprobs, logprobs, mask).sum()
        if self.kl_coef > 0:
            assert batch.ref_logprobs is not None, "the learner fills ref_logprobs when needs_reference is True"
            kl = kl_k3(logprobs, batch.ref_logprobs, mask)
            token_loss = token_loss + self.kl_coef * kl
            sums["loss/ref_kl"] = kl.detach().sum()
        return LossOutput(aggregate(token_loss, mask, self.aggregation, denominators), sums)
