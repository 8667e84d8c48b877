"""A task whose steps take a while, as those of servers and simulators do."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym

from agentgrpo.envs.number_guess import NumberGuessEnv


class SlowNumberGuess(NumberGuessEnv):
    """NumberGuess that waits.

    Args:
        seconds: how long a step waits.
    """

    def __init__(self, seconds: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._seconds = seconds

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        time.sleep(self._seconds)
        return super().step(action)


gym.register("Benchmarks/SlowNumberGuess-v0", entry_point=SlowNumberGuess)
