"""One round's experience: groups are collected, scored, and sampled again where the algorithm has no use for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.algorithm import Algorithm, State
from agentgrpo.config import TrainConfig
from agentgrpo.context import ChatFormat
from agentgrpo.guided import GuidedPlayer
from agentgrpo.rewards import RewardScorer
from agentgrpo.rollout import Player, PolicyPlayer, RolloutRunner, Task
from agentgrpo.samplers.base import Sampler
from agentgrpo.seeding import training_task_seed
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


class Collector:
    """Samples the groups of an update."""

    def __init__(
        self,
        config: TrainConfig,
        algorithm: Algorithm,
        runner: RolloutRunner,
        sampler: Sampler,
        chat: ChatFormat,
        scorer: RewardScorer,
    ) -> None:
        self._config = config
        self._algorithm = algorithm
        self._runner = runner
        self._sampler = sampler
        self._chat = chat
        self._scorer = scorer

    def collect(self, update: int, state: State) -> Experience:
        """Groups of one update; which tasks and which noise depends on seed, update and position only."""
        c = self._config
        guidance = self._algorithm.guidance(state, c.group_size)
        groups: list[Group] = []
        kept: list[Group] = []
        rounds = 0
        while len(kept) < c.groups_per_update and rounds <= self._algorithm.resample_rounds:
            tasks = self._tasks(update, len(groups), c.groups_per_update - len(kept))
            found = self._runner.collect(self._player(guidance), tasks, c.group_size, guidance)
            groups += self._scorer.score(found)
            kept = [g for g, stays in zip(groups, self._algorithm.keep(groups), strict=True) if stays]
            rounds += 1
        return Experience(tuple(groups), tuple(kept), rounds)

    def _tasks(self, update: int, first: int, count: int) -> list[Task]:
        seed = self._config.seed
        return [
            Task(training_task_seed(seed, update, i), (seed, "train", update, i)) for i in range(first, first + count)
        ]

    def _player(self, guidance: Sequence[int]) -> Player:
        params = self._config.rollout.params()
        if not any(guidance):
            return PolicyPlayer(self._sampler, params)
        return GuidedPlayer(self._sampler, params, self._chat, self._runner.runner)
