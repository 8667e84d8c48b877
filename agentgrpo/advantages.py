"""Statistics that algorithms share. Everything is computed in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from agentgrpo.types import Group

EPS = 1e-6


def returns(group: Group) -> Tensor:
    """(G,) episode returns of a group; NaN for members whose environment crashed."""
    return torch.tensor([t.episode_return for t in group], dtype=torch.float64)


def standardize(values: Tensor, *, scale: bool = True, eps: float = EPS) -> Tensor:
    """(values - mean) / (std + eps) with the sample standard deviation (ddof 1).

    Args:
        values: (N,) rewards or returns; NaN marks a missing one.
        scale: False leaves out the division (Dr. GRPO, GiGPO's ``mean_norm``).
        eps: added to the standard deviation.
    Returns:
        (N,) float64. Missing values leave the statistics and get 0. A lone value gets 0, and so does every member
        when all are equal: decided by max == min, because the rounding error of a mean divided by a small
        ``std + eps`` would otherwise look like a signal.
    Source: GRPO, arXiv:2402.03300 section 4.1.2; ddof and the two edge cases are choices explained above.
    """
    values = values.to(torch.float64)
    present = ~values.isnan()
    known = values[present]
    out = torch.zeros_like(values)
    if len(known) < 2 or known.max() == known.min():
        return out
    centred = known - known.mean()
    out[present] = centred / (known.std(correction=1) + eps) if scale else centred
    return out


def returns_to_go(rewards: Sequence[float], gamma: float) -> list[float]:
    """Discounted return from each step on: R_t = r_t + gamma * R_{t+1}. Linear time."""
    out, value = [0.0] * len(rewards), 0.0
    for t in range(len(rewards) - 1, -1, -1):
        value = rewards[t] + gamma * value
        out[t] = value
    return out
