"""DAPO: a higher upper clip, tokens averaged over the batch, dynamic sampling, soft overlong punishment
(arXiv:2503.14476).

Groups whose returns, before the punishment, are all equal are dropped and replaced by newly collected ones, a bounded
number of times.
In tasks of several turns the punishment is a turn's: it is taken off the reward of a turn that comes near its limit.
It is floored at -1, as in the paper (verl lets it fall further).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.checks import at_least
from agentgrpo.filters import GroupFilter
from agentgrpo.losses import Aggregation
from agentgrpo.registry import register_algorithm
from agentgrpo.rewards.length import soft_overlong
from agentgrpo.types import Group, Trajectory


@register_algorithm("dapo")
@dataclass(frozen=True)
class DAPO(GRPO):
    """Decoupled clip and dynamic sampling policy optimisation."""

    formula: ClassVar[str] = "as grpo, R less soft overlong; groups without spread are sampled again"
    source: ClassVar[str] = "arXiv:2503.14476"

    clip_ratio_high: float = 0.28
    aggregation: Aggregation = "token-mean"
    group_filter: GroupFilter = "zero_variance"
    resample_rounds: int = 3
    overlong_limit: int = 0
    """Tokens of a turn from which on the punishment is whole; 0: no punishment."""
    overlong_buffer: int = 0
    """Tokens before that limit over which it grows from 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("algorithm.overlong_limit", self.overlong_limit, 0)
        at_least("algorithm.overlong_buffer", self.overlong_buffer, 0)
        if self.overlong_buffer > self.overlong_limit:
            raise ValueError(
                f"algorithm.overlong_buffer={self.overlong_buffer} is larger than "
                f"algorithm.overlong_limit={self.overlong_limit}: the punishment would start below 0 tokens."
            )

    def batch_advantages(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        return super().batch_advantages([self._punished(group) for group in groups])

    def _punished(self, group: Group) -> Group:
        if not self.overlong_limit:
            return group
        return replace(group, trajectories=tuple(self._punished_trajectory(t) for t in group))

    def _punished_trajectory(self, trajectory: Trajectory) -> Trajectory:
        steps = tuple(
            replace(s, reward=s.reward + soft_overlong(s.num_policy_tokens, self.overlong_limit, self.overlong_buffer))
            for s in trajectory.steps
        )
        return replace(trajectory, steps=steps)
