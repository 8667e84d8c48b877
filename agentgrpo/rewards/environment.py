"""The environment's own reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.rewards.base import RewardTerm, register_reward
from agentgrpo.types import Trajectory


@register_reward("environment")
@dataclass(frozen=True)
class EnvironmentReward(RewardTerm):
    """What ``env.step`` returned."""

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        return [[step.reward for step in t.steps] for t in trajectories]

    def max_return(self, env_max_return: float | None) -> float | None:
        return env_max_return
