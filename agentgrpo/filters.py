"""Which groups of an update are trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from agentgrpo.advantages import returns
from agentgrpo.types import Group

GroupFilter = Literal["none", "zero_variance", "all_correct", "spread_top_k", "spread_top_p"]
GROUP_FILTERS: tuple[str, ...] = get_args(GroupFilter)


def keep(groups: Sequence[Group], group_filter: GroupFilter, share: float) -> list[bool]:
    """True for each group that stays.

    ``zero_variance`` drops groups whose known returns are all equal (DAPO, arXiv:2503.14476). ``all_correct`` drops
    groups in which every known episode succeeded (NGRPO, arXiv:2509.18851). ``spread_top_k`` keeps the given share of
    groups with the highest standard deviation of returns, ``spread_top_p`` the fewest whose standard deviations make
    up that share of the sum (StarPO-S, arXiv:2504.20073); neither keeps a group without spread.
    """
    if group_filter == "zero_variance":
        return [spread(group) > 0 for group in groups]
    if group_filter == "all_correct":
        return [not all_correct(group) for group in groups]
    if group_filter == "spread_top_k":
        return _marked(len(groups), top_k([spread(g) for g in groups], share))
    if group_filter == "spread_top_p":
        return _marked(len(groups), top_p([spread(g) for g in groups], share))
    return [True] * len(groups)


def spread(group: Group) -> float:
    """Sample standard deviation of a group's known returns; exactly 0 where all are equal or fewer than two known."""
    known = returns(group)
    known = known[~known.isnan()]
    if len(known) < 2 or known.max() == known.min():
        return 0.0
    return float(known.std(correction=1))


def all_correct(group: Group) -> bool:
    """Whether every episode of known return has the highest return declared, or succeeded where none is declared."""
    known = [t for t in group if t.has_return]
    if group.max_return is None:
        return all(t.success for t in known)
    return all(t.episode_return >= group.max_return - 1e-9 for t in known)


def top_k(spreads: Sequence[float], share: float) -> list[int]:
    """Indices of the ``share`` of groups with the largest spread, largest first; at least one, never without spread."""
    count = max(1, int(share * len(spreads) + 1e-9))  # 0.29 * 100 is a little less than 29
    return [i for i in _ranked(spreads)[:count] if spreads[i] > 0]


def top_p(spreads: Sequence[float], share: float) -> list[int]:
    """Indices of the fewest groups whose spreads make up ``share`` of the sum, largest first."""
    ranked = [i for i in _ranked(spreads) if spreads[i] > 0]
    goal = share * math.fsum(spreads) - 1e-12  # a sum that equals the share up to rounding has reached it
    total, kept = 0.0, []
    for i in ranked:
        if total >= goal:
            break
        total += spreads[i]
        kept.append(i)
    return kept


def _ranked(spreads: Sequence[float]) -> list[int]:
    return [int(i) for i in torch.tensor(spreads, dtype=torch.float64).argsort(descending=True, stable=True)]


def _marked(count: int, kept: Sequence[int]) -> list[bool]:
    chosen = set(kept)
    return [i in chosen for i in range(count)]
