"""What a reward term is, and the registry of kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from agentgrpo.types import Trajectory

T = TypeVar("T", bound="type[RewardTerm]")

KINDS: dict[str, type[RewardTerm]] = {}


@dataclass(frozen=True)
class RewardTerm(ABC):
    """Base of every term. Subclasses are frozen dataclasses whose fields are the keys of ``reward.<name>.*``."""

    weight: float = 1.0
    """What the term's values are multiplied with; negative makes it a cost."""

    @abstractmethod
    def score(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """One value per step of each trajectory, unweighted. NaN: unknown, and so is the episode's return then."""

    def check(self, info_keys: frozenset[str]) -> None:  # noqa: B027 - most terms work everywhere
        """Refuses a run that the term cannot work in; called before a model loads.

        Args:
            info_keys: what the environment's ``reset`` gives in ``info``.
        Raises:
            ValueError: what is missing, and what to do.
        """

    def max_return(self, env_max_return: float | None) -> float | None:
        """Highest sum of values that an episode can have; None where that is unknown."""
        return None


def register_reward(kind: str) -> Callable[[T], T]:
    """Class decorator: makes a term selectable as ``reward.<name>.kind=<kind>``."""

    def add(cls: T) -> T:
        KINDS[kind] = cls
        return cls

    return add


def at_the_end(trajectory: Trajectory, value: float) -> list[float]:
    """A value for the whole episode, given at its last step."""
    return [0.0] * (len(trajectory.steps) - 1) + [value] if trajectory.steps else []
