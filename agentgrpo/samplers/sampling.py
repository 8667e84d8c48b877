"""From logits to a token: distribution, log-probability, and a draw by inverse CDF."""

from __future__ import annotations

import torch
from torch import Tensor

from agentgrpo.distribution import log_distribution

_BLOCK = 256


def draw(logits: Tensor, temperature: Tensor, top_p: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws one token per row.

    Args:
        logits: (B, V) any floating dtype.
        temperature: (B,) float32, 0 for the most probable token.
        top_p: (B,) float32 in (0, 1]; without effect where the temperature is 0.
        uniforms: (B,) float64 in [0, 1).
    Returns:
        (B,) int64 token ids and (B,) float32 log-probabilities under the distribution that was drawn from; at
        temperature 0 under the one at temperature 1.
    """
    greedy = temperature == 0
    cut = torch.where(greedy, 1.0, top_p)[:, None]
    logprobs = log_distribution(logits.float(), torch.where(greedy, 1.0, temperature)[:, None], cut)  # (B, V)
    tokens = inverse_cdf(logprobs.exp(), uniforms)
    if bool(greedy.any()):
        tokens = torch.where(greedy, logprobs.argmax(dim=-1), tokens)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The first index at which the running sum of (B, V) probabilities exceeds each of the (B,) uniforms.

    Runs over block sums first, in float64: a float32 running sum over a large vocabulary would be off by more than
    the probability of many tokens, and one pass over all of it in float64 costs more.
    """
    batch, vocabulary = probabilities.shape
    padded = torch.nn.functional.pad(probabilities, (0, -vocabulary % _BLOCK)).view(batch, -1, _BLOCK)
    block_sums = padded.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)  # (B, V / block)
    target = (uniforms * block_sums[:, -1])[:, None]  # (B, 1): the sum need not be exactly 1
    block = torch.searchsorted(block_sums, target, right=True).clamp(max=block_sums.shape[1] - 1)  # (B, 1)
    before = torch.where(block > 0, block_sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = padded.gather(1, block[:, :, None].expand(-1, -1, _BLOCK))[:, 0].double().cumsum(dim=-1)  # (B, block)
    offset = torch.searchsorted(inside, target - before, right=True)
    # Rounding may carry the target past a block's last positive probability: stay on it.
    last_positive = torch.searchsorted(inside, inside[:, -1:].contiguous())
    return (block * _BLOCK + torch.minimum(offset, last_positive))[:, 0]
