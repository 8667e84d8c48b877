"""Corrections for a sampler whose probabilities are not the trainer's. All weights are constants, without gradient."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

CorrectionLevel = Literal["none", "token", "sequence", "geometric"]
CORRECTION_LEVELS: tuple[str, ...] = get_args(CorrectionLevel)
CorrectionMode = Literal["truncate", "mask"]
CORRECTION_MODES: tuple[str, ...] = get_args(CorrectionMode)


def mismatch(old_logprobs: Tensor, sampler_logprobs: Tensor, action_mask: Tensor, level: CorrectionLevel) -> Tensor:
    """Probability ratio trainer / sampler at the weights that sampled; 1 off the mask.

    Args:
        old_logprobs: (B, T) nats, recomputed by the trainer.
        sampler_logprobs: (B, T) nats, as the sampler gave them.
        level: ``token``; ``sequence``: their product; ``geometric``: their geometric mean.
    Returns:
        (B, T) for ``token``, else (B, 1).
    """
    log_ratio = torch.where(action_mask, old_logprobs - sampler_logprobs, 0.0).detach()
    if level == "sequence":
        log_ratio = log_ratio.sum(dim=1, keepdim=True)
    elif level == "geometric":
        log_ratio = log_ratio.sum(dim=1, keepdim=True) / action_mask.sum(dim=1, keepdim=True).clamp(min=1)
    return log_ratio.exp()


def importance_weights(ratio: Tensor, mode: CorrectionMode, low: float, high: float) -> Tensor:
    """What a token's loss is multiplied with.

    Args:
        ratio: from :func:`mismatch`.
        mode: ``truncate``: the ratio, at most ``high`` and at least ``low``. ``mask``: the ratio inside
            [low, high], 0 outside.
    Source: TRL's four modes (a cap of 2 for truncation, of 3 for masked sequences); masked tokens are IcePop's,
        with bounds of 0.5 and 5.
    """
    if mode == "truncate":
        return ratio.clamp(low, high)
    return torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)


def off_policy_weights(
    logprobs: Tensor, sampler_logprobs: Tensor, advantages: Tensor, action_mask: Tensor, max_kl: float
) -> Tensor:
    """(B, T) 0.0 on tokens with a negative advantage in sequences that the policy has left, else 1.0.

    Left means: the mean over the sequence of log(sampler / current) is above ``max_kl``. Pushing down what the policy
    no longer does teaches it nothing and can tear it apart.

    Source: DeepSeek-V3.2's off-policy sequence mask.
    """
    gap = torch.where(action_mask, sampler_logprobs - logprobs, 0.0).detach().sum(dim=1, keepdim=True)
    left = gap / action_mask.sum(dim=1, keepdim=True).clamp(min=1) > max_kl  # (B, 1)
    return torch.where(left & (advantages < 0), 0.0, 1.0)
