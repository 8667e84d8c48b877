"""Environments that a policy cannot learn from, each for another reason; for the tests of the doctor."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym

from agentgrpo.envs.base import AnyText

_NUMBERS = itertools.count()


class Sick(gym.Env[str, str]):
    """Two turns in which numbers are named; nothing is ever right."""

    observation_space = action_space = AnyText()
    turns = 2

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        self.even = bool(self.np_random.integers(2))
        return "Name 1, 2 or 3.", self.info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        return "Name another.", self.reward(action), self.over(action), False, self.info()

    def over(self, action: str) -> bool:
        """Whether an action ends the episode."""
        return self.turn == self.turns

    def reward(self, action: str) -> float:
        """Of one action."""
        return 0.0

    def info(self) -> dict[str, Any]:
        """What goes with an observation."""
        return {"admissible_actions": ["1", "2", "3"]}


class EasyOrImpossible(Sick):
    """Half of the tasks are won by any text, the others by none."""

    def reward(self, action: str) -> float:
        return 0.5 * self.even


class NewStates(Sick):
    """Every state has a name of its own after the first."""

    turns = 3

    def reward(self, action: str) -> float:
        return float(action == "2")

    def info(self) -> dict[str, Any]:
        return {**super().info(), "anchor": f"state {next(_NUMBERS)}" if self.turn else "start"}


class Endless(Sick):
    """Ends by one of the actions alone."""

    def over(self, action: str) -> bool:
        return action == "1"


class CutOff(Sick):
    """Rewards something, and always runs out of turns."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        text, _, over, _, info = super().step(action)
        return text, float(action == "2"), False, over, info


class Crashing(Sick):
    """Takes actions of an odd length only."""

    def reward(self, action: str) -> float:
        if len(action) % 2 == 0:
            raise RuntimeError("the door jams")
        return float(action == "2")


class Trivial(Sick):
    """Any text wins."""

    def reward(self, action: str) -> float:
        return 0.5


gym.register("Sick/Sick-v0", entry_point=f"{__name__}:Sick")
gym.register("Sick/EasyOrImpossible-v0", entry_point=f"{__name__}:EasyOrImpossible")
gym.register("Sick/NewStates-v0", entry_point=f"{__name__}:NewStates")
gym.register("Sick/Endless-v0", entry_point=f"{__name__}:Endless")
gym.register("Sick/CutOff-v0", entry_point=f"{__name__}:CutOff")
gym.register("Sick/Crashing-v0", entry_point=f"{__name__}:Crashing")
gym.register("Sick/Trivial-v0", entry_point=f"{__name__}:Trivial")
