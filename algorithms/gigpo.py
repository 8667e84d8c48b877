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

from agentgrpo.advantages import returns, returns_to_go, standardize, standardize_groups, step_rewards
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
        penalties = [
            torch.tensor([0.0 if s.valid_action else self.invalid_action_penalty for s in t.steps], dtype=torch.float64)
            for t in group
        ]
        lengths = [len(t.steps) for t in group]
        episode = self._episode_advantages(group, penalties)
        steps = self._step_advantages(group, penalties)
        return list(torch.split(episode + self.step_weight * steps, lengths))

    def _episode_advantages(self, group: Group, penalties: Sequence[Tensor]) -> Tensor:
        """(sum of S_i,) over the steps of all members."""
        episode = returns(group)  # (G,)
        none = torch.zeros(0, dtype=torch.float64)  # of a group without members
        scores = torch.cat([none, *(r - p for r, p in zip(episode, penalties, strict=True))])
        pool = episode if self.episode_stats == "trajectory" else scores
        return standardize(scores, scale=self.scale == "group", pool=pool)

    def _step_advantages(self, group: Group, penalties: Sequence[Tensor]) -> Tensor:
        """(sum of S_i,) over the steps of all members."""
        keys: list[str | None] = []
        values: list[float] = []
        for trajectory, penalty in zip(group, penalties, strict=True):
            unknown = not trajectory.has_return
            to_go = returns_to_go(step_rewards(trajectory), self.gamma)
            keys += [None if unknown else step.state for step in trajectory.steps]
            values += [value - p for value, p in zip(to_go, penalty.tolist(), strict=True)]
        if self.similarity is not None:
            keys = similar(keys, self.similarity)
        return standardize_groups(keys, values, scale=self.scale == "group")


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
