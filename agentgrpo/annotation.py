"""What models say about the policy tokens of a round before any advantage is computed.

Log-probabilities of the trainer and of the reference policy, the critic's values, and from these the penalties of a KL
term in the reward. One pass per round each, whatever the number of epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from agentgrpo import losses, packing
from agentgrpo.algorithm import Algorithm
from agentgrpo.learner import NOTHING, Learner
from agentgrpo.types import Batch, Credit, Group, Trajectory


def annotate(groups: Sequence[Group], algorithm: Algorithm, learner: Learner) -> list[Group]:
    """The groups with the columns filled in that the algorithm asks for."""
    passes: dict[str, Callable[[Batch], Tensor]] = {}
    if algorithm.old_logprobs == "recompute" and not learner.single_step:
        passes["old_logprobs"] = learner.logprobs
    if algorithm.needs_reference:
        passes["ref_logprobs"] = lambda batch: learner.logprobs(batch, learner.reference)
    if algorithm.critic_rate is not None:
        passes["values"] = learner.values
    if not passes:
        return list(groups)
    trajectories = [t for group in groups for t in group]
    for name, function in passes.items():
        columns = _columns(trajectories, function, learner)
        trajectories = [_with_column(t, name, c) for t, c in zip(trajectories, columns, strict=True)]
    if algorithm.needs_reference and algorithm.kl_in == "reward":
        trajectories = [_with_penalties(t, algorithm) for t in trajectories]
    rest = iter(trajectories)
    return [replace(group, trajectories=tuple(next(rest) for _ in group)) for group in groups]


def worth(groups: Sequence[Group], algorithm: Algorithm) -> list[list[Credit]]:
    """What each policy token was worth.

    Whether there is anything to learn is up to the rewards alone: where they give nothing, penalties give nothing
    either, because an optimiser that normalises its steps would make a full one of them.
    """
    if algorithm.kl_coef > 0 and algorithm.kl_in == "reward":
        plain = algorithm.credit([_without_penalties(group) for group in groups])
        if not any(bool((c.advantages.abs() > NOTHING).any()) for group in plain for c in group):
            return plain
    return algorithm.credit(groups)


def _without_penalties(group: Group) -> Group:
    members = [replace(t, steps=tuple(replace(s, token_penalties=None) for s in t.steps)) for t in group]
    return replace(group, trajectories=tuple(members))


def _columns(
    trajectories: Sequence[Trajectory], function: Callable[[Batch], Tensor], learner: Learner
) -> list[list[float]]:
    """Per trajectory (A,) values of its policy tokens."""
    owners, items = [], []
    for owner, trajectory in enumerate(trajectories):
        for item in packing.sequences(trajectory, Credit(torch.zeros(trajectory.num_policy_tokens))):
            owners.append(owner)
            items.append(item)
    found = learner.columns(items, function)
    columns: list[list[float]] = [[] for _ in trajectories]
    for owner, values_of_one in zip(owners, found, strict=True):
        columns[owner] += values_of_one
    return columns


def _with_column(trajectory: Trajectory, name: str, column: Sequence[float]) -> Trajectory:
    counts = [step.num_policy_tokens for step in trajectory.steps]
    ends = accumulate(counts)
    parts: list[dict[str, Any]] = [
        {name: tuple(column[end - count : end])} for count, end in zip(counts, ends, strict=True)
    ]
    steps = [replace(step, **part) for step, part in zip(trajectory.steps, parts, strict=True)]
    return replace(trajectory, steps=tuple(steps))


def _with_penalties(trajectory: Trajectory, algorithm: Algorithm) -> Trajectory:
    steps = []
    for step in trajectory.steps:
        old = torch.tensor(step.logprobs if step.old_logprobs is None else step.old_logprobs, dtype=torch.float64)
        ref = torch.tensor(step.ref_logprobs, dtype=torch.float64)
        mask = torch.ones_like(old, dtype=torch.bool)
        penalties = algorithm.kl_coef * losses.kl(old, ref, mask, algorithm.kl_estimator)
        steps.append(replace(step, token_penalties=tuple(penalties.tolist())))
    return replace(trajectory, steps=tuple(steps))
