"""One round's experience: groups are collected, scored, and sampled again where the algorithm has no use for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.algorithm import Algorithm, State
from agentgrpo.config import TrainConfig
from agentgrpo.context import ChatFormat
from agentgrpo.curriculum import Curriculum
from agentgrpo.curriculum import State as CurriculumState
from agentgrpo.guided import GuidedPlayer
from agentgrpo.mix import Mix
from agentgrpo.rewards import RewardScorer
from agentgrpo.rollout import Order, RolloutRunner
from agentgrpo.samplers.base import Sampler
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
    """Samples the groups of an update."""

    config: TrainConfig
    algorithm: Algorithm
    runner: RolloutRunner
    sampler: Sampler
    chat: ChatFormat
    scorer: RewardScorer

    def __post_init__(self) -> None:
        c = self.config
        self.player = GuidedPlayer(self.sampler, c.rollout.params(), self.chat, self.runner.pools)
        self.curriculum = Curriculum(c.curriculum, Mix(c.environments, c.seed), c.seed)

    def collect(self, update: int, state: State, curriculum: CurriculumState) -> Experience:
        """Groups of one update; which tasks and which noise depends on seed, update, position and the states only."""
        c = self.config
        groups: list[Group] = []
        kept: list[Group] = []
        rounds = 0
        while len(kept) < c.groups_per_update and rounds <= self.algorithm.resample_rounds:
            orders = self._orders(update, len(groups), c.groups_per_update - len(kept), state, curriculum)
            groups += self.scorer.score(self._play(orders))
            kept = [g for g, stays in zip(groups, self.algorithm.keep(groups), strict=True) if stays]
            rounds += 1
        return Experience(tuple(groups), tuple(kept), rounds)

    def close(self) -> None:
        """Closes the environments."""
        self.runner.close()

    def _orders(
        self, update: int, first: int, count: int, state: State, curriculum: CurriculumState
    ) -> Sequence[Order]:
        """Groups to play for an update, of which ``first`` have been played."""
        c = self.config
        guidance = self.algorithm.guidance(state, c.group_size)
        tasks = self.curriculum.tasks(curriculum, update, first, count, c.groups_per_update)
        return [Order((update, first + i), task, guidance) for i, task in enumerate(tasks)]

    def _play(self, orders: Sequence[Order]) -> list[Group]:
        return self.runner.play(self.player, orders)
