"""Environments with one fault each, for the tests of check-env."""

from __future__ import annotations

import itertools
import random
import re
import time
from typing import Any, ClassVar

import gymnasium as gym

from agentgrpo.envs.base import AnyText

Result = tuple[Any, float, bool, bool, dict[str, Any]]
NUMBERS = itertools.count()


class Good(gym.Env[str, str]):
    """A coin to be named; it offers nothing optional."""

    def __init__(self) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        self.coin = "heads" if self.np_random.random() < 0.5 else "tails"
        return "Heads or tails?", {}

    def step(self, action: str) -> Result:
        self.turn += 1
        return f"It was {self.coin}.", float(action == self.coin), self.turn >= 3, False, {}


class Numeric(Good):
    def step(self, action: str) -> Result:
        return (self.turn, *super().step(action)[1:])


class Raises(Good):
    def step(self, action: str) -> Result:
        return str(int(action)), 0.0, True, False, {}


class RaisesInReset(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        raise KeyError("level file\x1b[2J missing")


class NeverEnds(Good):
    def step(self, action: str) -> Result:
        return "Go on.", 0.0, False, False, {}


class Unseeded(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return f"Coin number {random.random()}", {}


class UnseededDynamics(Good):
    def step(self, action: str) -> Result:
        return f"Roll {random.random()}", *super().step(action)[1:]


class SeedsGlobally(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        random.seed(seed)
        return super().reset(seed=seed)


class FourTuple(Good):
    def step(self, action: str) -> Result:
        return super().step(action)[:4]  # type: ignore[return-value]


class NanReward(Good):
    def step(self, action: str) -> Result:
        return "?", float("nan"), True, False, {}


class BadInfo(Good):
    def step(self, action: str) -> Result:
        info = {"anchor": [1], "admissible_actions": ["b", "a"], "valid_action": action == "b", "success": 1}
        return *super().step(action)[:4], info


class CountingAnchor(Good):
    def step(self, action: str) -> Result:
        return *super().step(action)[:4], {"anchor": f"move {next(NUMBERS)}"}


class NoPlanObject(Good):
    def oracle_actions(self) -> None:
        return None


class LyingOracle(Good):
    def oracle_actions(self) -> list[str]:
        return ["edge", "edge", "edge"]


class ForgetfulSnapshot(Good):
    def snapshot(self) -> str:
        return self.coin

    def restore(self, state: str) -> None:
        self.coin = state  # the turn is forgotten


class SmallMaxReturn(Good):
    max_return: ClassVar[float] = -1.0


class NarrowSpace(Good):
    def __init__(self) -> None:
        self.observation_space = gym.spaces.Text(10)
        self.action_space = gym.spaces.Text(10)


class GrowsOld(Good):
    """What it says depends on how many episodes were played before."""

    games = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.games += 1
        return f"{super().reset(seed=seed)[0]} Game {self.games}.", {}


class FirstGameIsSpecial(Good):
    """The same, though not for the first observation: it tells only in the second step."""

    games = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.games += 1
        return super().reset(seed=seed)

    def step(self, action: str) -> Result:
        text, *rest = super().step(action)
        return f"{text} {self.games if self.turn == 2 else ''}", *rest  # type: ignore[return-value]


class RandomTaskId(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=seed)[0], {"task_id": str(next(NUMBERS))}


class NoReward(Good):
    def step(self, action: str) -> Result:
        return "?", None, self.turn > 2, False, {}  # type: ignore[return-value]


class TurnInAnchor(Good):
    """The anchor counts turns, so that a group's members share it only by accident."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=seed)[0], self._info(True)

    def step(self, action: str) -> Result:
        return *super().step(action)[:4], self._info(action in ("heads", "tails"))

    def _info(self, valid: bool) -> dict[str, Any]:
        return {"anchor": f"turn {self.turn}", "admissible_actions": ["heads", "tails"], "valid_action": valid}


class Chatty(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=seed)[0] + " blah" * 30_000, {}


class Echoes(Good):
    def step(self, action: str) -> Result:
        return f"You said {action}.", *super().step(action)[1:]


class LongNumbers(Good):
    """int() refuses more than 4,300 digits, with a ValueError that isdigit() does not foresee."""

    def step(self, action: str) -> Result:
        return f"{int(action) % 7 if action.isdecimal() else 'NaN'}", *super().step(action)[1:]


class Backtracks(Good):
    """A regular expression that takes exponential time for the wrong text."""

    def step(self, action: str) -> Result:
        re.match(r"(a+)+$", action[:21] + "!" if action.startswith("aaaa") else "")
        return super().step(action)


class ForgetsToReset(Good):
    """Keeps what it once was sent."""

    said = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return f"{super().reset(seed=seed)[0]}{self.said}", {}

    def step(self, action: str) -> Result:
        self.said = " You used markup." if "{" in action else self.said
        return super().step(action)


class BreaksItsLimit(Good):
    max_turns = 2


class Long(Good):
    def step(self, action: str) -> Result:
        return *super().step(action)[:2], self.turn >= 70, False, {}


class Sleeps(Good):
    def step(self, action: str) -> Result:
        time.sleep(0.006)
        return super().step(action)


class Computes(Good):
    def step(self, action: str) -> Result:
        end = time.thread_time() + 0.006
        while time.thread_time() < end:
            pass
        return super().step(action)


class SingleTurn(gym.Env[str, str]):
    """A sum to be answered at once; it offers a solution to imitate."""

    observation_space = action_space = AnyText()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        one, other = (int(n) for n in self.np_random.integers(10, size=2))
        self.answer = str(one + other)
        return f"{one} + {other} = ?", {"reference": self.answer}

    def step(self, action: str) -> Result:
        right = action.strip() == self.answer
        return "The end.", float(right), True, False, {"success": right}


class CutOffAtOnce(SingleTurn):
    """Says truncated where the contract says terminated; gymnasium's check calls that very wrong."""

    def step(self, action: str) -> Result:
        text, reward, _, _, info = super().step(action)
        return text, reward, False, True, info


class NeedsMissingPackage(Good):
    def __init__(self) -> None:
        import no_such_package_anywhere  # noqa: F401


class NeedsJava(Good):
    def __init__(self) -> None:
        raise ImportError("Dungeon needs its engine: pip install 'dungeon[java]'")


class NeedsData(Good):
    def __init__(self) -> None:
        raise ValueError("Dungeon's levels are not here. Set DUNGEON_DATA to their folder.")
