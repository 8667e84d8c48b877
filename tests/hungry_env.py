"""An environment that takes more memory than there is, once, at a sampler."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import psutil

from agentgrpo.envs.number_guess import NumberGuessEnv


class HungryGuess(NumberGuessEnv):
    """NumberGuess that fills the memory of a sampler of Ray's at its first step, unless one has before it.

    Args:
        gigabytes: that are filled.
        mark: file that says that one has.
    """

    def __init__(self, gigabytes: float, mark: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._gigabytes = gigabytes
        self._mark = Path(mark)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        # Not where the settings are tried before a run starts.
        if psutil.Process().cmdline()[0].startswith("ray::SamplerActor"):
            self._fill()
        return super().step(action)

    def _fill(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._mark.touch(exist_ok=False)
            filled = bytearray(b"1") * int(self._gigabytes * 1e9)
            time.sleep(60)  # whoever watches memory looks from time to time
            del filled


gym.register("Tests/HungryGuess-v0", entry_point=HungryGuess)
