"""A task, and an episode of it while it is played."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from agentgrpo.context import Conversation
from agentgrpo.deadline import Failure
from agentgrpo.environments import Env
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.seeding import derive
from agentgrpo.types import RolloutStatus, Step, Trajectory


@dataclass(frozen=True, slots=True)
class Task:
    """One initial state to play from."""

    seed: int
    """Given to ``env.reset``, the same for all members of the group."""
    coordinates: tuple[int | str, ...]
    """Names the task's randomness: with slot, turn and position they give every uniform that a token is drawn with."""
    env: str = ""
    """Name of the environment, where a run has several; empty: the only one."""


@dataclass(slots=True)
class Episode:
    """An episode while it is played."""

    conversation: Conversation
    task: Task
    slot: int
    group: tuple[int, ...] = ()
    """Key of the group that it belongs to."""
    guidance: int = 0
    """Turns (tokens, in single-turn tasks) that an expert leads in with."""
    params: SamplingParams | None = None
    """How the policy's turns are drawn; None: as its player says."""
    held: Env | None = None
    """The environment while the episode is under way."""
    observation: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    started: bool = False
    """True once the environment has answered its reset."""
    pending: Step = field(default_factory=lambda: Step(""))
    """The turn under way: observation and prompt are known, and what was answered once that is with the environment."""
    steps: list[Step] = field(default_factory=list)
    status: RolloutStatus | None = None
    success: bool | None = None
    error: str = ""
    task_info: dict[str, Any] = field(default_factory=dict)
    """What can be written down of ``info`` at reset."""

    @property
    def env(self) -> Env:
        """The environment of an episode under way."""
        assert self.held is not None
        return self.held

    @property
    def noise_key(self) -> int:
        """Key of this turn's uniforms."""
        return derive(*self.task.coordinates, self.slot, len(self.steps))

    def fail(self, failure: Failure) -> None:
        self.status = RolloutStatus.ENV_TIMEOUT if failure.timed_out else RolloutStatus.ENV_ERROR
        self.error = failure.error

    def finish(self, max_return: float | None) -> Trajectory:
        assert self.status is not None
        trajectory = Trajectory(tuple(self.steps), self.status, False, self.observation, self.task_info, self.error)
        success = self.success
        if success is None:  # the environment does not say: full marks, or any where it declares no maximum
            best = trajectory.episode_return
            success = best >= max_return - 1e-9 if max_return is not None else best > 0
        return replace(trajectory, success=success and not self.status.crashed)
