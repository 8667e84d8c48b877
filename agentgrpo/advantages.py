"""Statistics that algorithms share. Everything is computed in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from agentgrpo.columns import float64, known, run_sums
from agentgrpo.types import Group

EPS = 1e-6


def returns(*groups: Group) -> Tensor:
    """(all members,) episode returns less penalties; NaN for members whose return is unknown."""
    return float64(
        [
            t.episode_return - sum([sum(step.token_penalties) for step in t.steps if step.token_penalties])
            for group in groups
            for t in group.trajectories
        ]
    )


def standardize(
    values: Tensor, *, scale: bool = True, eps: float = EPS, correction: int = 1, pool: Tensor | None = None
) -> Tensor:
    """(values - mean) / (std + eps) with the sample standard deviation (ddof 1).

    Args:
        values: (N,) rewards or returns; NaN marks a missing one.
        scale: False leaves out the division (Dr. GRPO, GiGPO's ``mean_norm``).
        eps: added to the standard deviation.
        correction: delta degrees of freedom of the standard deviation.
        pool: (M,) what mean and standard deviation are taken over; None: the values themselves.
    Returns:
        (N,) float64. Missing values leave the statistics and get 0; all get 0 where the pool has fewer than two.
        A pool whose values are all equal has nothing to divide by: what is compared with it keeps its difference, so
        its own members get exactly 0. That is decided by max == min, because the rounding error of a mean divided by a
        small ``std + eps`` would look like a signal.
    Source: GRPO, arXiv:2402.03300 section 4.1.2; ddof and the edge cases are choices explained above.
    """
    everything = torch.zeros(len(values), dtype=torch.int64)
    pools = None if pool is None else (torch.zeros(len(pool), dtype=torch.int64), pool)
    return standardize_groups(everything, values, scale=scale, eps=eps, correction=correction, pool=pools)


def standardize_groups(
    keys: Tensor,
    values: Tensor,
    *,
    scale: bool = True,
    eps: float = EPS,
    correction: int = 1,
    pool: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """(N,) :func:`standardize` among values of equal key. Linear time in N and in the highest key.

    Args:
        keys: (N,) int64 number of what each value belongs to; negative: to nothing, which gives 0.
        values: (N,) NaN marks a missing one.
        pool: (M,) keys and values that statistics are taken over; None: the same ones.
    """
    key, every = _placed(keys, values)
    member, present = (key, every) if pool is None else _placed(*pool)
    zeros = torch.zeros(1 + max([int(k.max()) for k in (key, member) if len(k)], default=0), dtype=torch.float64)
    count = zeros.index_add(0, member, torch.ones_like(present))
    mean = zeros.index_add(0, member, present) / count.clamp(min=1)
    spread = zeros.index_add(0, member, (present - mean[member]).square()) / (count - correction).clamp(min=1)
    high = zeros.scatter_reduce(0, member, present, "amax", include_self=False)
    low = zeros.scatter_reduce(0, member, present, "amin", include_self=False)
    found = every - mean[key]
    if scale:
        found = found / (spread.sqrt() + eps)[key]
    # As in `standardize`: no spread is decided by max == min, and a pool of one compares with nothing.
    found = torch.where((high > low)[key], found, every - high[key])
    compared = count >= 2
    compared[0] = False
    return torch.where(compared[key], found, 0.0)


def _placed(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) keys from 1 on and float64 values; whatever is missing or belongs to nothing is a 0 under key 0."""
    every = values.to(torch.float64)
    missing = every.isnan() | (keys < 0)
    return (keys + 1).masked_fill(missing, 0), every.masked_fill(missing, 0.0)


def whiten(values: Tensor, eps: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(var + eps) over all values, with the sample variance; 0 for all where they are equal.

    Source: REINFORCE++, arXiv:2501.03262; eps under the root as in verl.
    """
    if len(values) < 2 or values.max() == values.min():
        return torch.zeros_like(values)
    return (values - values.mean()) * (values.var(correction=1) + eps).rsqrt()


def whiten_known(values: Tensor, counts: Tensor, groups: Sequence[Group]) -> Tensor:
    """Whitens (all policy tokens,) values together; those of a trajectory of unknown return stay out and get 0.

    Args:
        counts: (all members,) policy tokens of each trajectory.
    """
    usable = known(groups).repeat_interleave(counts)
    out = torch.zeros_like(values)
    out[usable] = whiten(values[usable])
    return out


def returns_to_go(rewards: Sequence[float], gamma: float, counts: Sequence[int] | None = None) -> list[float]:
    """Discounted return from each entry on: R_t = r_t + gamma * R_{t+1}. Linear time.

    Args:
        counts: entries of each episode, one after the other; None: all are one episode's.
    """
    out, end = [0.0] * len(rewards), len(rewards)
    for count in reversed([end] if counts is None else counts):
        value = 0.0
        for t in range(end - 1, end - count - 1, -1):
            value = rewards[t] + gamma * value
            out[t] = value
        end -= count
    return out


def gae(
    rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float, counts: Sequence[int] | None = None
) -> list[float]:
    """Generalised advantage estimates of finished episodes: the value after the last entry is 0. Linear time.

    Args:
        counts: entries of each episode, one after the other; None: all are one episode's.
    Source: arXiv:1506.02438 eq. 16.
    """
    out, end, factor = [0.0] * len(rewards), len(rewards), gamma * lam
    for count in reversed([end] if counts is None else counts):
        advantage, following = 0.0, 0.0
        for t in range(end - 1, end - count - 1, -1):
            value = values[t]
            advantage = rewards[t] + gamma * following - value + factor * advantage
            out[t], following = advantage, value
        end -= count
    return out


def bilevel_gae(
    rewards: Tensor,
    values: Tensor,
    tokens: Tensor,
    turns: Tensor,
    token: tuple[float, float],
    turn: tuple[float, float],
) -> list[float]:
    """(A,) generalised advantage estimates over turn ends, and from these over the tokens inside each turn.

    Args:
        rewards: (A,) of the policy tokens of all episodes.
        values: (A,) before each token.
        tokens: policy tokens of each turn, none 0.
        turns: turns of each episode.
        token: gamma and lambda inside a turn.
        turn: gamma and lambda from turn to turn.
    Source: RAGEN, arXiv:2504.20073, where turns end at a reward that is not 0; here every turn ends where it ends.
    """
    ends = tokens.cumsum(0) - 1
    last = values[ends]
    outer = gae(run_sums(rewards, tokens).tolist(), last.tolist(), *turn, turns.tolist())
    # Inside a turn the only reward is what the outer level makes of its end.
    inner = torch.zeros_like(rewards).index_put((ends,), float64(outer) + last)
    return gae(inner.tolist(), values.tolist(), *token, tokens.tolist())
