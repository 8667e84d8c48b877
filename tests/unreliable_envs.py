"""Environments for tests of the runner: slow ones, and ones that fail in every way. Imported by child processes too."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import gymnasium as gym

from agentgrpo.envs.number_guess import NumberGuessEnv


class Countdown(gym.Env[str, str]):
    """Counts down from ``turns``; every step takes ``seconds``. Some actions do harm."""

    max_return = 1.0

    def __init__(self, turns: int = 3, seconds: float = 0.0) -> None:
        self._turns = turns
        self._seconds = seconds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._left = self._turns
        return f"task {int(self.np_random.integers(10**6))}", {"pid": os.getpid(), "strange": object()}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        time.sleep(self._seconds)
        match action:
            case "raise":
                raise KeyError("no such room")
            case "die":
                print("segmentation fault, say", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                sys.exit(3)
            case "hang":
                time.sleep(60.0)
            case "print":
                print("an engine's banner")
        self._left -= 1
        return f"{self._left} left", 1.0 / self._turns, self._left == 0, False, {"success": self._left == 0}

    def oracle_actions(self) -> list[str]:
        """Anything but harm."""
        return ["wait"] * self._left


class Refusing(gym.Env[str, str]):
    """Cannot be made."""

    def __init__(self) -> None:
        raise ValueError("this engine needs Java")


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


gym.register("TestEnvs/Countdown-v0", entry_point=Countdown)
gym.register("TestEnvs/Refusing-v0", entry_point=Refusing)
gym.register("Faulty/NumberGuess-v0", entry_point=FaultyNumberGuess)
