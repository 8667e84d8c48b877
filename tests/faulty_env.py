"""An environment whose faults come by chance: for tests and for showing that a run survives them.

python -m agentgrpo train env.id=faulty_env:Faulty/NumberGuess-v0     # from the folder that holds this file
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym

from agentgrpo.envs.number_guess import NumberGuessEnv


class FaultyNumberGuess(NumberGuessEnv):
    """NumberGuess in which a step may raise, hang, or return what is no text.

    Args:
        crash: chance per step of an exception.
        hang: chance per step of hanging for ``seconds``.
        garbage: chance per step of an observation that is no text.
        seconds: how long it hangs.
    """

    def __init__(
        self, crash: float = 0.05, hang: float = 0.05, garbage: float = 0.05, seconds: float = 5.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._chances = (crash, crash + hang, crash + hang + garbage)
        self._seconds = seconds

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        draw = self.noise_random.random()
        if draw < self._chances[0]:
            raise RuntimeError("injected crash")
        if draw < self._chances[1]:
            time.sleep(self._seconds)
        elif draw < self._chances[2]:
            return b"\xff\xfe garbage", 0.0, False, False, {}  # type: ignore[return-value]
        return super().step(action)


gym.register("Faulty/NumberGuess-v0", entry_point=FaultyNumberGuess)
