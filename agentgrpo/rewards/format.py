"""Does what the policy writes have the form that was asked for?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.rewards.base import RewardTerm, at_the_end, register_reward
from agentgrpo.types import Trajectory


@register_reward("format")
@dataclass(frozen=True)
class FormatReward(RewardTerm):
    """Share of an episode's turns whose whole text matches a pattern, given at the last one."""

    pattern: str = "<think>.*?</think>\\s*<action>.*?</action>"
    """Regular expression that the text must match from end to end, with ``.`` for line breaks too."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}.") from error

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        matches = re.compile(self.pattern, re.DOTALL).fullmatch
        # At the end, as one division: a sum of tenths is not 1, and would look like a spread between good episodes.
        return [
            at_the_end(t, sum(matches(s.text.strip()) is not None for s in t.steps) / max(len(t.steps), 1))
            for t in trajectories
        ]

    def max_return(self, env_max_return: float | None) -> float | None:
        return 1.0
