"""GiGPO: episode advantages plus step advantages from repeated states (arXiv:2505.10978).

A step group holds every visit of the task's group to one state; the discounted return from there is compared among
them. Choices: episode statistics are taken over trajectories as in the paper (released code averages over steps, so
that long episodes weigh more); a state visited once gives 0. The penalty of an invalid action is taken off that step's
episode score and off its return after discounting, so that it does not reach the steps before; the statistics over
trajectories do not see it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from agentgrpo.advantages import by_member, returns, returns_to_go, standardize_groups, step_rewards
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.checks import at_least, one_of, within
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Group


@register_algorithm("gigpo")
@dataclass(frozen=True)
class GiGPO(GRPO):
    """Group-in-group policy optimisation."""

    formula: ClassVar[str] = "A = A_episode + step_weight * A_step, A_step over visits to one state"
    source: ClassVar[str] = "arXiv:2505.10978"

    gamma: float = 0.95
    """Discount per turn, in (0, 1]."""
    step_weight: float = 1.0
    """Weight of the step advantage; omega in the paper."""
    episode_stats: Literal["trajectory", "step"] = "trajectory"
    """What mean and standard deviation of the episode advantage are taken over."""
    similarity: float | None = None
    """States count as one when difflib's ratio is at least this, in (0, 1); None: when they are equal."""
    invalid_action_penalty: float = 0.0
    """Taken off a step whose action the environment could not read, >= 0; 0.1 in the paper's experiments."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("algorithm.gamma", self.gamma, "(0, 1]")
        at_least("algorithm.step_weight", self.step_weight, 0)
        one_of("algorithm.episode_stats", self.episode_stats, ("trajectory", "step"))
        at_least("algorithm.invalid_action_penalty", self.invalid_action_penalty, 0)
        if self.similarity is not None:
            within("algorithm.similarity", self.similarity, "(0, 1)")
        if self.supervision == "process" or self.scale == "batch":
            raise ValueError(
                "GiGPO compares inside groups and gives each step its own credit: it needs "
                "algorithm.supervision=outcome and algorithm.scale=group or none."
            )

    def advantages(self, group: Group) -> list[Tensor]:
        return self.batch_advantages([group])[0]

    def batch_advantages(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        # All groups in one pass: a group's number is part of its keys.
        owner = [i for i, group in enumerate(groups) for t in group for _ in t.steps]
        void = torch.tensor([not s.valid_action for group in groups for t in group for s in t.steps])
        penalties = self.invalid_action_penalty * void.double()
        step_part = self.step_weight * self._step_advantages(groups, owner, penalties)
        return by_member(self._episode_advantages(groups, owner, penalties) + step_part, groups)

    def _episode_advantages(self, groups: Sequence[Group], owner: Sequence[int], penalties: Tensor) -> Tensor:
        episode = torch.cat([torch.zeros(0, dtype=torch.float64), *map(returns, groups)])  # (all members,)
        lengths = torch.tensor([len(t.steps) for group in groups for t in group], dtype=torch.int64)
        scores = episode.repeat_interleave(lengths) - penalties
        members = [i for i, group in enumerate(groups) for _ in group]
        pool = (members, episode) if self.episode_stats == "trajectory" else (owner, scores)
        return standardize_groups(owner, scores, scale=self.scale == "group", pool=pool)

    def _step_advantages(self, groups: Sequence[Group], owner: Sequence[int], penalties: Tensor) -> Tensor:
        states: list[str | None] = []
        values: list[float] = []
        for group in groups:
            found: list[str | None] = []
            for trajectory in group:
                known = trajectory.has_return
                found += [step.state if known else None for step in trajectory.steps]
                values += returns_to_go(step_rewards(trajectory), self.gamma)
            states += found if self.similarity is None else similar(found, self.similarity)
        keys = [None if state is None else (i, state) for i, state in zip(owner, states, strict=True)]
        to_go = torch.tensor(values, dtype=torch.float64) - penalties
        return standardize_groups(keys, to_go, scale=self.scale == "group")


def similar(states: Sequence[str | None], threshold: float) -> list[str | None]:
    """Replaces each state by the first one met that it resembles. Greedy, so the order of the members matters."""
    first: list[str] = []
    found: dict[str, str] = {}
    for state in states:
        if state is None or state in found:
            continue
        match = next((f for f in first if _alike(state, f, threshold)), None)
        if match is None:
            first.append(state)
        found[state] = state if match is None else match
    return [None if state is None else found[state] for state in states]


def _alike(a: str, b: str, threshold: float) -> bool:
    matcher = difflib.SequenceMatcher(None, a, b)
    # The first two are upper bounds of the third, and much faster.
    return all(ratio() >= threshold for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio))
