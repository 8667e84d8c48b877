"""RLOO: each trajectory is compared with the mean of the others (arXiv:2402.14740).

REINFORCE with a leave-one-out baseline. Where a round of samples is used for one optimiser step the ratio is 1, so
``ratio_level=none`` drops it; with several epochs or minibatches keep ``ratio_level=token``. The distance from the
reference policy, where asked for, is the k1 estimate in the reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from agentgrpo.advantages import returns, standardize_groups
from agentgrpo.algorithm import Algorithm, RunFacts
from agentgrpo.checks import one_of
from agentgrpo.columns import num_usable, owners, step_counts
from agentgrpo.losses import KlEstimator
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Batch, Group


@register_algorithm("rloo")
@dataclass(frozen=True)
class RLOO(Algorithm):
    """REINFORCE with a leave-one-out baseline."""

    formula: ClassVar[str] = "A_i = R_i - mean(R without i) = (R_i - mean(R)) * G / (G - 1)"
    source: ClassVar[str] = "arXiv:2402.14740"

    kl_in: Literal["loss", "reward"] = "reward"
    kl_estimator: KlEstimator = "k1"
    ratio_level: Literal["token", "none"] = "token"
    """``token``: PPO's clipped ratio. ``none``: plain -A log p, for one optimiser step per round."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("algorithm.ratio_level", self.ratio_level, ("token", "none"))

    @property
    def unused(self) -> tuple[str, ...]:
        return ("clip_ratio_low", "clip_ratio_high", "dual_clip") if self.ratio_level == "none" else ()

    def step_advantages(self, groups: Sequence[Group]) -> Tensor:
        values = returns(*groups)
        count = num_usable(~values.isnan(), groups).clamp(min=2)
        out = standardize_groups(owners(groups), values, scale=False) * count / (count - 1)
        return out.repeat_interleave(step_counts(groups))

    def check(self, facts: RunFacts) -> None:
        super().check(facts)
        if self.ratio_level == "none" and facts.steps_per_round > 1:
            raise ValueError(
                "algorithm.ratio_level=none has no ratio that tells how far the policy has moved, so it is right for "
                f"one optimiser step per round; optim.epochs times optim.minibatches is {facts.steps_per_round}. "
                "Set both to 1, or algorithm.ratio_level=token."
            )

    def clipped(self, ratio: Tensor, batch: Batch) -> Tensor | None:
        return super().clipped(ratio, batch) if self.ratio_level == "token" else None

    def surrogate(self, logprobs: Tensor, ratio: Tensor, batch: Batch) -> Tensor:
        if self.ratio_level == "token":
            return super().surrogate(logprobs, ratio, batch)
        return torch.where(batch.action_mask, -batch.advantages * logprobs, 0.0)
