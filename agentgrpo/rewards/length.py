"""Rewards that shape how much the policy writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.checks import at_least, within
from agentgrpo.rewards.base import RewardTerm, register_reward
from agentgrpo.types import Trajectory


def soft_overlong(length: int, limit: int, buffer: int) -> float:
    """0 up to ``limit - buffer`` tokens, then falling in a line to -1 at ``limit``, and -1 beyond.

    Source: DAPO, arXiv:2503.14476 eq. 13.
    """
    if length <= limit - buffer:
        return 0.0
    return (limit - buffer - length) / buffer if length <= limit else -1.0


@register_reward("length")
@dataclass(frozen=True)
class LengthReward(RewardTerm):
    """Soft overlong punishment of each turn."""

    limit: int = 0
    """Tokens of a turn from which on the punishment is whole."""
    buffer: int = 0
    """Tokens before the limit over which it grows from 0."""

    def __post_init__(self) -> None:
        at_least("limit", self.limit, 1)
        within("buffer", self.buffer, f"[0, {self.limit}]")

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        return [[soft_overlong(s.num_policy_tokens, self.limit, self.buffer) for s in t.steps] for t in trajectories]

    def max_return(self, env_max_return: float | None) -> float | None:
        return 0.0
