"""One round's experience: groups are collected, scored, and sampled again where the algorithm has no use for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agentgrpo.algorithm import Algorithm, State
from agentgrpo.config import TrainConfig
from agentgrpo.curriculum import Curriculum
from agentgrpo.curriculum import State as CurriculumState
from agentgrpo.mix import Mix
from agentgrpo.rollout import Order
from agentgrpo.stages import Stage
from agentgrpo.types import Group


@dataclass(frozen=True, slots=True)
class Experience:
    """What a round of sampling gave."""

    groups: tuple[Group, ...]
    """Everything that was collected, scored: what is reported."""
    kept: tuple[Group, ...]
    """What is trained on."""
    num_rounds: int
    """Times that groups were collected; above 1 where dropped ones were replaced."""


@dataclass
class Collector:
    """Orders the groups of an update, and those of ``rollout.max_staleness`` updates to come where they are played
    while the trainer learns.

    An update is made of its own tasks and no others, so no episode is lost and none counts twice: what was under way
    when a run stopped is played again when it goes on.
    """

    config: TrainConfig
    algorithm: Algorithm
    stage: Stage
    _ahead: dict[int, list[Order]] = field(default_factory=dict, init=False)
    """First orders of updates that have not been collected."""

    def __post_init__(self) -> None:
        c = self.config
        self.curriculum = Curriculum(c.curriculum, Mix(c.environments, c.seed), c.seed)

    def collect(self, update: int, state: State, curriculum: CurriculumState) -> Experience:
        """Groups of one update; which tasks and which noise depends on seed, update, position and the states only."""
        c = self.config
        groups: list[Group] = []
        kept: list[Group] = []
        rounds = 0
        while len(kept) < c.groups_per_update and rounds <= self.algorithm.resample_rounds:
            if groups:  # in place of dropped ones
                orders = self._orders(update, len(groups), c.groups_per_update - len(kept), state, curriculum)
                self.stage.submit(orders)
            else:
                orders = self._first_orders(update, state, curriculum)
            groups += self.stage.take([order.key for order in orders])
            kept = [g for g, stays in zip(groups, self.algorithm.keep(groups), strict=True) if stays]
            rounds += 1
        return Experience(tuple(groups), tuple(kept), rounds)

    def _first_orders(self, update: int, state: State, curriculum: CurriculumState) -> list[Order]:
        c = self.config
        last = update
        if c.rollout.mode == "async":
            last = min(update + c.rollout.max_staleness, max(c.num_updates - 1, update))
        for coming in range(update, last + 1):
            if coming not in self._ahead:
                self._ahead[coming] = self._orders(coming, 0, c.groups_per_update, state, curriculum)
                self.stage.submit(self._ahead[coming])
        return self._ahead.pop(update)

    def _orders(self, update: int, first: int, count: int, state: State, curriculum: CurriculumState) -> list[Order]:
        """Groups to play for an update, of which ``first`` have been played."""
        c = self.config
        guidance: Sequence[int] = self.algorithm.guidance(state, c.group_size)
        tasks = self.curriculum.tasks(curriculum, update, first, count, c.groups_per_update)
        return [Order((update, first + i), task, tuple(guidance)) for i, task in enumerate(tasks)]
