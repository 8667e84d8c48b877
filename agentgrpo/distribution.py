"""The distribution that a token is drawn from: the same for the sampler that draws and the learner that looks back."""

from __future__ import annotations

import torch
from torch import Tensor


def log_distribution(
    logits: Tensor, temperature: Tensor | float, top_p: Tensor | float = 1.0, chosen: Tensor | None = None
) -> Tensor:
    """Log-probabilities (nats) after temperature and top-p; -inf on tokens that cannot be drawn.

    Top-p keeps the most probable tokens that together reach ``top_p`` and scales them up to a sum of 1. The set is that
    of the given logits: under a policy that has moved since it sampled, it is the moved one's, and holds ``chosen`` in
    any case, so that no sampled token ever becomes impossible.

    Args:
        logits: (N, V) float32 or wider.
        temperature: above 0; a number or (N, 1).
        top_p: in (0, 1]; a number or (N, 1).
        chosen: (N,) int64 tokens that are kept whatever their probability.
    """
    logprobs = (logits if _is_one(temperature) else logits / temperature).log_softmax(dim=-1)
    if _is_one(top_p):
        return logprobs
    kept = nucleus(logprobs.detach(), top_p)
    if chosen is not None:
        kept = kept.scatter(1, chosen[:, None], True)
    masked = logprobs.masked_fill(~kept, float("-inf"))
    return masked - masked.logsumexp(dim=-1, keepdim=True)


def _is_one(value: Tensor | float) -> bool:
    """True where a pass over all logits would change nothing."""
    return value == 1.0 if isinstance(value, float) else bool((value == 1.0).all())


def nucleus(logprobs: Tensor, top_p: Tensor | float) -> Tensor:
    """(N, V) bool: the fewest most probable tokens whose probabilities add up to ``top_p`` or more.

    Tokens exactly as probable as the last one are kept too, so that the set does not depend on the order of tokens.
    """
    ordered = logprobs.sort(dim=-1, descending=True).values
    before = ordered.exp().cumsum(dim=-1, dtype=torch.float64) - ordered.exp()
    last = (before < top_p).sum(dim=-1, keepdim=True).clamp(min=1) - 1
    kept = logprobs >= ordered.gather(1, last)
    return kept | torch.as_tensor(top_p == 1.0, device=kept.device)


def entropy(logprobs: Tensor) -> Tensor:
    """(N,) entropies in nats; tokens that cannot be drawn count 0."""
    possible = logprobs > float("-inf")
    safe = torch.where(possible, logprobs, 0.0)  # before the product: the gradient of 0 * -inf is NaN
    return -torch.where(possible, safe.exp() * safe, 0.0).sum(dim=-1)
