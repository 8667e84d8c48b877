"""What the groups of an update hold, as columns: one tensor over all steps instead of one per trajectory.

A column runs trajectory after trajectory and group after group; counts say how many of its entries belong to which.
With columns a million steps take a few tensor operations. What a step's properties give is worked out here from its
fields, because a property called a million times takes longer than all that follows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import islice, repeat

import numpy as np
import torch
from torch import Tensor

from agentgrpo.types import Credit, Group, Step


def owners(groups: Sequence[Group]) -> Tensor:
    """(all members,) int64 number of each trajectory's group."""
    return torch.arange(len(groups)).repeat_interleave(int64([len(group) for group in groups]))


def step_counts(groups: Sequence[Group]) -> Tensor:
    """(all members,) int64 steps of each trajectory."""
    return int64([len(t.steps) for group in groups for t in group.trajectories])


def token_counts(groups: Sequence[Group]) -> Tensor:
    """(all steps,) int64 policy tokens of each step."""
    return int64([len(step.action_ids) - step.num_guided for step in all_steps(groups)])


def all_steps(groups: Sequence[Group]) -> list[Step]:
    """The steps of all trajectories."""
    return [step for group in groups for t in group.trajectories for step in t.steps]


def known(groups: Sequence[Group]) -> Tensor:
    """(all members,) bool: whether the return is known."""
    return torch.tensor([t.has_return for group in groups for t in group.trajectories], dtype=torch.bool)


def num_usable(usable: Tensor, groups: Sequence[Group]) -> Tensor:
    """(all members,) bool -> (all members,) int64: how many members of each one's group are usable."""
    owner = owners(groups)
    return owner[usable].bincount(minlength=len(groups))[owner]


def step_rewards(groups: Sequence[Group]) -> Tensor:
    """(all steps,) reward of each step, less its penalties."""
    steps = all_steps(groups)
    rewards, penalties = float64([step.reward for step in steps]), [step.token_penalties for step in steps]
    return rewards - float64([sum(p or ()) for p in penalties]) if any(penalties) else rewards


def token_rewards(groups: Sequence[Group]) -> Tensor:
    """(all policy tokens,) a step's reward at its last one, a penalty at the token that earned it."""
    steps, counts = all_steps(groups), token_counts(groups)
    wrote = counts > 0  # the rest are an expert's turns: what they earned is nobody's credit
    out = torch.zeros(int(counts.sum()), dtype=torch.float64)
    penalties = [step.token_penalties for step in steps]
    if any(penalties):
        pairs = zip(penalties, counts.tolist(), strict=True)
        out -= float64([p for given, count in pairs for p in given or (0.0,) * count])
    out[counts.cumsum(0)[wrote] - 1] += float64([step.reward for step in steps])[wrote]
    return out


def states(group: Group) -> list[str]:
    """(steps of a group,) what tells each one's state from others."""
    return [s.observation if s.anchor is None else s.anchor for t in group.trajectories for s in t.steps]


def numbered(rows: Sequence[Sequence[Hashable]]) -> Tensor:
    """(labels of all rows,) int64 numbers from 0 on, the same for equal labels of one row. Linear time."""
    out: list[int] = []
    count = 0
    for row in rows:
        number = {label: i for i, label in enumerate(dict.fromkeys(row), start=count)}
        out += map(number.__getitem__, row)
        count += len(number)
    return int64(out)


def positions(counts: Tensor) -> Tensor:
    """(sum of counts,) int64 place of each entry in its run: counts 2, 3 give 0 1 0 1 2."""
    starts = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum())) - starts.repeat_interleave(counts)


def run_sums(values: Tensor, counts: Tensor) -> Tensor:
    """(N,) sum of each run of ``counts`` (N,) values."""
    run = torch.arange(len(counts)).repeat_interleave(counts)
    return torch.zeros(len(counts), dtype=values.dtype).index_add(0, run, values)


def by_member(values: Tensor, groups: Sequence[Group]) -> list[list[Tensor]]:
    """(all steps,) values -> per group and trajectory (S_i,)."""
    parts = iter(torch.split(values, step_counts(groups).tolist()))
    return [list(islice(parts, len(group))) for group in groups]


def credit_of_tokens(
    groups: Sequence[Group], counts: Tensor, advantages: Tensor, targets: Tensor | None = None
) -> list[list[Credit]]:
    """Hands each trajectory what belongs to its policy tokens.

    Args:
        counts: (all members,) policy tokens of each trajectory.
        advantages: (all policy tokens,).
        targets: (all policy tokens,) what a critic should have predicted.
    """
    lengths = counts.tolist()
    parts = map(
        Credit, torch.split(advantages, lengths), repeat(None) if targets is None else torch.split(targets, lengths)
    )
    return [list(islice(parts, len(group))) for group in groups]


def float64(values: Sequence[float]) -> Tensor:
    """(N,) from a list, through numpy, which reads a million numbers three times faster than torch does."""
    return torch.from_numpy(np.array(values, dtype=np.float64))


def int64(values: Sequence[int]) -> Tensor:
    """(N,) the same for whole numbers."""
    return torch.from_numpy(np.array(values, dtype=np.int64))
