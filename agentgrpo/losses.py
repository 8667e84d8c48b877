"""Pure tensor functions: surrogates, KL estimators, aggregation. No state, no configuration, no model."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from agentgrpo.types import Denominators

Aggregation = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)
KlEstimator = Literal["k1", "k2", "k3"]
KL_ESTIMATORS: tuple[str, ...] = get_args(KlEstimator)

_MAX_LOG_RATIO = 10.0
"""Log ratios of whole sequences are clamped here, as in verl: exp of more would swamp every other sequence."""


# --- probability ratios -----------------------------------------------------------------------------------------------


def masked_ratio(logprobs: Tensor, old_logprobs: Tensor, action_mask: Tensor) -> Tensor:
    """(B, T) probability ratio current / sampling policy, 1 where ``action_mask`` is False."""
    # Masked before exp, not after: exp of padding may overflow, and inf * 0 would put NaN into the gradient.
    return torch.where(action_mask, logprobs - old_logprobs.detach(), 0.0).exp()


def sequence_ratio(logprobs: Tensor, old_logprobs: Tensor, action_mask: Tensor) -> Tensor:
    """(B, T) geometric mean of a sequence's token ratios at each of its tokens, 1 where ``action_mask`` is False.

    Every token has the value of its sequence; its gradient is that of its own log-probability times this value.

    Source: GSPO-token, arXiv:2507.18071 section 4.3; the clamp as in verl.
    """
    log_ratio = torch.where(action_mask, logprobs - old_logprobs.detach(), 0.0)
    mean = log_ratio.sum(dim=1, keepdim=True) / action_mask.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
    own = torch.where(action_mask, logprobs - logprobs.detach(), 0.0)  # 0, with the token's gradient
    return torch.where(action_mask, (mean.detach() + own).clamp(max=_MAX_LOG_RATIO).exp(), 1.0)


# --- surrogates -------------------------------------------------------------------------------------------------------


def clipped_surrogate(
    ratio: Tensor,
    advantages: Tensor,
    action_mask: Tensor,
    *,
    clip_ratio_low: float = 0.2,
    clip_ratio_high: float = 0.2,
    dual_clip: float | None = None,
) -> Tensor:
    """Per-token policy loss, to be minimised.

    Args:
        ratio: (B, T) probability ratio of the sampled tokens, by token or by sequence.
        advantages: (B, T) or (B, 1), unitless.
        action_mask: (B, T) bool, True on tokens the policy wrote; prompt, environment text and padding are False.
        clip_ratio_low: the ratio is clipped from below at 1 - this.
        clip_ratio_high: the ratio is clipped from above at 1 + this.
        dual_clip: where the advantage is negative the loss is at most this times its size; None: no bound.
    Returns:
        (B, T) loss, 0 where ``action_mask`` is False. The caller averages, because GRPO variants differ in how.
    Raises:
        ValueError: the shapes cannot be broadcast.
    Source: PPO, arXiv:1707.06347 eq. 7; separate bounds from DAPO, arXiv:2503.14476; dual clip, arXiv:1912.09729.
    """
    _check_shapes(ratio, advantages, action_mask)
    clipped = ratio.clamp(1 - clip_ratio_low, 1 + clip_ratio_high)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    return torch.where(action_mask, loss, 0.0)


def clip_fraction(
    ratio: Tensor, advantages: Tensor, action_mask: Tensor, *, clip_ratio_low: float, clip_ratio_high: float
) -> Tensor:
    """(B, T) 1.0 on tokens whose gradient a clip at these bounds removes, else 0.0."""
    above = (ratio > 1 + clip_ratio_high) & (advantages > 0)
    below = (ratio < 1 - clip_ratio_low) & (advantages < 0)
    return ((above | below) & action_mask).to(ratio.dtype)


def clipped_weight_surrogate(
    logprobs: Tensor,
    ratio: Tensor,
    advantages: Tensor,
    action_mask: Tensor,
    *,
    clip_ratio_low: float,
    clip_ratio_high: float,
) -> Tensor:
    """(B, T) -weight * A * log p with the clipped ratio as a constant weight: no token loses its gradient.

    Source: CISPO, arXiv:2506.13585 eq. 4; bounds 1 - low and 1 + high as in verl.
    """
    _check_shapes(ratio, advantages, action_mask)
    weight = ratio.detach().clamp(1 - clip_ratio_low, 1 + clip_ratio_high)
    return torch.where(action_mask, -weight * advantages * logprobs, 0.0)


def soft_gate_surrogate(
    ratio: Tensor, advantages: Tensor, action_mask: Tensor, *, tau_positive: float = 1.0, tau_negative: float = 1.05
) -> Tensor:
    """(B, T) -gate * A with gate = 4 / tau * sigmoid(tau * (ratio - 1)): the gradient fades instead of being cut.

    Source: Soft Adaptive Policy Optimization, arXiv:2511.20347.
    """
    _check_shapes(ratio, advantages, action_mask)
    # Tensors, not numbers: `where` of two Python numbers gives float32, whatever the rest is computed in.
    tau = torch.where(advantages > 0, ratio.new_tensor(tau_positive), ratio.new_tensor(tau_negative))
    return torch.where(action_mask, -4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantages, 0.0)


# --- distance from another policy -------------------------------------------------------------------------------------


def kl(logprobs: Tensor, ref_logprobs: Tensor, action_mask: Tensor, estimator: KlEstimator = "k3") -> Tensor:
    """(B, T) estimate of KL(policy || reference) per sampled token, 0 off the mask; d = log p - log ref.

    ``k1``: d, unbiased, but its gradient is 0 in the mean. ``k2``: d^2 / 2, whose gradient is right on-policy.
    ``k3``: exp(-d) + d - 1, unbiased and never negative.

    Source: J. Schulman, "Approximating KL divergence" (2020); k3 in the loss: GRPO, arXiv:2402.03300 eq. 4.
    """
    d = torch.where(action_mask, logprobs - ref_logprobs.detach(), 0.0)
    if estimator == "k1":
        return d
    if estimator == "k2":
        return d.square() / 2
    return (-d).exp() + d - 1


# --- critic -----------------------------------------------------------------------------------------------------------


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, action_mask: Tensor, *, value_clip: float
) -> Tensor:
    """(B, T) half the larger squared error of the value and of the value kept near the old one; 0 off the mask.

    Source: PPO as in OpenAI's baselines and verl.
    """
    near = torch.minimum(torch.maximum(values, old_values - value_clip), old_values + value_clip)
    error = torch.maximum((values - returns).square(), (near - returns).square())
    return torch.where(action_mask, error / 2, 0.0)


# --- averages ---------------------------------------------------------------------------------------------------------


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


def _check_shapes(ratio: Tensor, advantages: Tensor, action_mask: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (ratio, advantages, action_mask)]
    rows, columns = shapes[0] if len(shapes[0]) == 2 else (-1, -1)
    if shapes[2] != (rows, columns) or shapes[1] not in ((rows, columns), (rows, 1)):
        raise ValueError(
            "ratio, advantages and action_mask must be (B, T), or (B, 1) for advantages; "
            f"got {', '.join(map(str, shapes))}."
        )
