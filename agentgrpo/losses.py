"""Pure tensor functions: surrogates, KL estimators, aggregation. No state, no configuration, no model."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from agentgrpo.types import Denominators

Aggregation = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    action_mask: Tensor,
    *,
    clip_ratio_low: float = 0.2,
    clip_ratio_high: float = 0.2,
) -> Tensor:
    """Per-token policy loss, to be minimised.

    Args:
        logprobs: (B, T) log-probabilities (nats) of the sampled tokens under the current policy.
        old_logprobs: (B, T) the same under the policy that sampled them; carries no gradient.
        advantages: (B, T) or (B, 1), unitless.
        action_mask: (B, T) bool, True on tokens the policy wrote; prompt, environment text and padding are False.
        clip_ratio_low: the ratio is clipped from below at 1 - this.
        clip_ratio_high: the ratio is clipped from above at 1 + this.
    Returns:
        (B, T) loss, 0 where ``action_mask`` is False. The caller averages, because GRPO variants differ in how.
    Raises:
        ValueError: the shapes cannot be broadcast.
    Source: PPO, arXiv:1707.06347 eq. 7; separate bounds from DAPO, arXiv:2503.14476.
    """
    _check_shapes(logprobs, old_logprobs, advantages, action_mask)
    ratio = masked_ratio(logprobs, old_logprobs, action_mask)
    clipped = ratio.clamp(1 - clip_ratio_low, 1 + clip_ratio_high)
    return torch.where(action_mask, -torch.minimum(ratio * advantages, clipped * advantages), 0.0)


def masked_ratio(logprobs: Tensor, old_logprobs: Tensor, action_mask: Tensor) -> Tensor:
    """(B, T) probability ratio current / sampling policy, 1 where ``action_mask`` is False."""
    # Masked before exp, not after: exp of padding may overflow, and inf * 0 would put NaN into the gradient.
    return torch.where(action_mask, logprobs - old_logprobs.detach(), 0.0).exp()


def clip_fraction(
    ratio: Tensor, advantages: Tensor, action_mask: Tensor, *, clip_ratio_low: float, clip_ratio_high: float
) -> Tensor:
    """(B, T) 1.0 on tokens whose gradient the clip removed, else 0.0."""
    above = (ratio > 1 + clip_ratio_high) & (advantages > 0)
    below = (ratio < 1 - clip_ratio_low) & (advantages < 0)
    return ((above | below) & action_mask).to(ratio.dtype)


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor, action_mask: Tensor) -> Tensor:
    """(B, T) k3 estimate of KL(policy || reference): exp(d) - d - 1 with d = ref - logprob; 0 off the mask.

    Source: GRPO, arXiv:2402.03300 eq. 4; J. Schulman, "Approximating KL divergence" (2020).
    """
    d = torch.where(action_mask, ref_logprobs.detach() - logprobs, 0.0)
    return d.exp() - d - 1


def aggregate(token_loss: Tensor, action_mask: Tensor, mode: Aggregation, denominators: Denominators) -> Tensor:
    """A micro-batch's share of the averaged loss (scalar): shares of all micro-batches of a step add up.

    Args:
        token_loss: (B, T) per-token loss.
        action_mask: (B, T) bool; rows without policy tokens leave the mean.
        mode: ``token-mean``: sum / tokens. ``seq-mean-token-mean``: mean over sequences of the mean over tokens.
            ``seq-mean-token-sum``: mean over sequences of the sum. ``seq-mean-token-sum-norm``: the same / L.
        denominators: counts over the whole optimiser step.
    Source: names from verl; Dr. GRPO's ``sum / (B * L)`` (arXiv:2503.20783, as in TRL) is the last of them.
    """
    token_loss = torch.where(action_mask, token_loss, 0.0)
    if mode == "token-mean":
        return token_loss.sum() / max(denominators.tokens, 1)
    per_sequence = token_loss.sum(dim=1)  # (B,)
    if mode == "seq-mean-token-mean":
        per_sequence = per_sequence / action_mask.sum(dim=1).clamp(min=1)
    elif mode == "seq-mean-token-sum-norm":
        per_sequence = per_sequence / max(denominators.max_length, 1)
    elif mode != "seq-mean-token-sum":
        raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, got {mode!r}.")
    return per_sequence.sum() / max(denominators.sequences, 1)


def _check_shapes(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, action_mask: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (logprobs, old_logprobs, advantages, action_mask)]
    rows, columns = shapes[0] if len(shapes[0]) == 2 else (-1, -1)
    whole, per_row = (rows, columns), (rows, 1)
    if shapes[1] != whole or shapes[3] != whole or shapes[2] not in (whole, per_row):
        raise ValueError(
            "logprobs, old_logprobs, advantages and action_mask must be (B, T), or (B, 1) for advantages; "
            f"got {', '.join(map(str, shapes))}."
        )
