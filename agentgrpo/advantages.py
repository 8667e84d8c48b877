"""Statistics that algorithms share. Everything is computed in float64."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from agentgrpo.types import Group, Trajectory

EPS = 1e-6


def step_rewards(trajectory: Trajectory) -> list[float]:
    """(S,) reward of each step, less its penalties."""
    return [step.net_reward for step in trajectory.steps]


def token_rewards(trajectory: Trajectory) -> Tensor:
    """(A,) reward at each policy token: a step's reward at its last one, a penalty at the token that earned it."""
    out: list[float] = []
    for step in trajectory.steps:
        if step.num_policy_tokens == 0:  # an expert's turn: what it earned is nobody's credit
            continue
        out += [-p for p in step.token_penalties] if step.token_penalties else [0.0] * step.num_policy_tokens
        out[-1] += step.reward
    return torch.tensor(out, dtype=torch.float64)


def returns(group: Group) -> Tensor:
    """(G,) episode returns less penalties; NaN for members whose return is unknown."""
    values = [t.episode_return - sum(sum(s.token_penalties or ()) for s in t.steps) for t in group]
    return torch.tensor(values, dtype=torch.float64)


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
    values = values.to(torch.float64)
    present = ~values.isnan()
    pool = values if pool is None else pool.to(torch.float64)
    pool = pool[~pool.isnan()]
    out = torch.zeros_like(values)
    if len(pool) < 2:
        return out
    if pool.max() == pool.min():
        out[present] = values[present] - pool.max()
        return out
    centred = values[present] - pool.mean()
    out[present] = centred / (pool.std(correction=correction) + eps) if scale else centred
    return out


def standardize_groups(
    keys: Sequence[Hashable],
    values: Sequence[float] | Tensor,
    *,
    scale: bool = True,
    eps: float = EPS,
    correction: int = 1,
    pool: tuple[Sequence[Hashable], Sequence[float] | Tensor] | None = None,
) -> Tensor:
    """(N,) :func:`standardize` among values of equal key. Linear time.

    Args:
        keys: (N,) what each value belongs to; None: to nothing, which gives 0.
        values: (N,) NaN marks a missing one.
        pool: (M,) keys and values that statistics are taken over; None: the same ones.
    """
    ids: dict[Hashable, int] = {None: -1}
    every, group = _known(ids, keys, values)
    pool_values, pool_group = (every, group) if pool is None else _known(ids, *pool)
    out = torch.zeros_like(every)
    inside = pool_group >= 0
    known, member = pool_values[inside], pool_group[inside]
    zeros = torch.zeros(len(ids), dtype=torch.float64)
    count = zeros.index_add(0, member, torch.ones_like(known))
    mean = zeros.index_add(0, member, known) / count.clamp(min=1)
    spread = zeros.index_add(0, member, (known - mean[member]).square()) / (count - correction).clamp(min=1)
    high = zeros.scatter_reduce(0, member, known, "amax", include_self=False)
    low = zeros.scatter_reduce(0, member, known, "amin", include_self=False)
    at = group >= 0
    of = group[at]
    found = every[at] - mean[of]
    if scale:
        found = found / (spread.sqrt()[of] + eps)
    # As in `standardize`: no spread is decided by max == min, and a pool of one compares with nothing.
    found = torch.where((high > low)[of], found, every[at] - high[of])
    out[at] = torch.where((count >= 2)[of], found, 0.0)
    return out


def _known(
    ids: dict[Hashable, int], keys: Sequence[Hashable], values: Sequence[float] | Tensor
) -> tuple[Tensor, Tensor]:
    """(N,) float64 values and the numbers of their keys, -1 for what belongs to nothing; ``ids`` learns new keys."""
    every = torch.as_tensor(values, dtype=torch.float64)
    group = torch.tensor([ids.setdefault(key, len(ids)) for key in keys], dtype=torch.int64)
    return every, group.masked_fill(every.isnan(), -1)


def by_member(values: Tensor, groups: Sequence[Group]) -> list[list[Tensor]]:
    """(all steps of all groups,) values -> per group and trajectory (S_i,)."""
    parts = iter(torch.split(values, [len(t.steps) for group in groups for t in group]))
    return [[next(parts) for _ in group] for group in groups]


def whiten(values: Tensor, eps: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(var + eps) over all values, with the sample variance; 0 for all where they are equal.

    Source: REINFORCE++, arXiv:2501.03262; eps under the root as in verl.
    """
    if len(values) < 2 or values.max() == values.min():
        return torch.zeros_like(values)
    return (values - values.mean()) * (values.var(correction=1) + eps).rsqrt()


def whiten_tokens(groups: Sequence[Group], values: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Whitens (A_i,) values of all trajectories over their tokens together; those of unknown return stay out: 0."""
    usable = [[t.has_return for t in group] for group in groups]
    pool = [x for g, ok in zip(values, usable, strict=True) for x, y in zip(g, ok, strict=True) if y]
    whitened = iter(torch.split(whiten(torch.cat(pool)), [len(x) for x in pool]) if pool else ())
    return [
        [next(whitened) if y else torch.zeros_like(x) for x, y in zip(g, ok, strict=True)]
        for g, ok in zip(values, usable, strict=True)
    ]


def returns_to_go(rewards: Sequence[float], gamma: float) -> list[float]:
    """Discounted return from each step on: R_t = r_t + gamma * R_{t+1}. Linear time."""
    out, value = [0.0] * len(rewards), 0.0
    for t in range(len(rewards) - 1, -1, -1):
        value = rewards[t] + gamma * value
        out[t] = value
    return out


def gae(rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float) -> list[float]:
    """Generalised advantage estimates of a finished episode: the value after the last entry is 0. Linear time.

    Source: arXiv:1506.02438 eq. 16.
    """
    out, advantage, following = [0.0] * len(rewards), 0.0, 0.0
    for t in range(len(rewards) - 1, -1, -1):
        advantage = rewards[t] + gamma * following - values[t] + gamma * lam * advantage
        out[t], following = advantage, values[t]
    return out


def bilevel_gae(
    rewards: Sequence[float],
    values: Sequence[float],
    counts: Sequence[int],
    token: tuple[float, float],
    turn: tuple[float, float],
) -> list[float]:
    """(A,) generalised advantage estimates over turn ends, and from these over the tokens inside each turn.

    Args:
        rewards: (A,) of all policy tokens of an episode.
        values: (A,) before each token.
        counts: policy tokens of each turn, none 0.
        token: gamma and lambda inside a turn.
        turn: gamma and lambda from turn to turn.
    Source: RAGEN, arXiv:2504.20073, where turns end at a reward that is not 0; here every turn ends where it ends.
    """
    starts = list(accumulate(counts, initial=0))[:-1]
    spans = [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]
    last = [values[span.stop - 1] for span in spans]
    outer = gae([sum(rewards[span]) for span in spans], last, *turn)
    found: list[float] = []
    for span, advantage, value in zip(spans, outer, last, strict=True):
        # Inside a turn the only reward is what the outer level makes of its end.
        inner = [0.0] * (span.stop - span.start - 1) + [advantage + value]
        found += gae(inner, values[span], *token)
    return found
