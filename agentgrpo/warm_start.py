"""Imitation of a mixed player before reinforcement learning, as R1's cold start.

Each action is the oracle's with a given chance, else a random admissible one. What a policy learns from that is the
language of the task (what may be answered, and when) and a slight preference for what helps; the rest is left to learn.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from agentgrpo import packing
from agentgrpo.cluster.ranks import Ranks
from agentgrpo.config import TrainConfig
from agentgrpo.context import ChatFormat
from agentgrpo.deadline import Failure
from agentgrpo.env_pool import EnvPools
from agentgrpo.environments import oracle_plan
from agentgrpo.episode import Episode, Task
from agentgrpo.learner import Learner
from agentgrpo.mix import Mix
from agentgrpo.samplers.base import Completion
from agentgrpo.seeding import permutation, training_task_seed
from agentgrpo.setup import Policy, build_runner
from agentgrpo.types import Credit, Group, StopReason


@dataclass(frozen=True, slots=True)
class MixedPlayer:
    """Plays oracle and random admissible actions.

    Args:
        chat: turns an action's text into token ids.
        oracle_share: chance of each action to be the oracle's, in [0, 1].
        pools: keeps an oracle that hangs from stopping the run.
    """

    chat: ChatFormat
    oracle_share: float
    pools: EnvPools

    def act(self, episodes: Sequence[Episode]) -> list[Completion]:
        texts = self.pools.run([partial(self._choose, e) for e in episodes])
        out = []
        for episode, text in zip(episodes, texts, strict=True):
            if isinstance(text, Failure):
                raise ValueError(f"The oracle of the environment failed on task {episode.task.seed}: {text.error}")
            ids = (*self.chat.encode(text), self.chat.end_id)
            out.append(Completion(ids, (0.0,) * len(ids), StopReason.STOP))
        return out

    def _choose(self, episode: Episode) -> str:
        # `random.Random` with a derived key, not the global generator: the choice depends on its coordinates only.
        rng = random.Random(episode.noise_key)
        admissible = episode.info.get("admissible_actions")
        if rng.random() < self.oracle_share or not admissible:
            actions = oracle_plan(episode.env)
            if actions:
                return actions[0]
        if not admissible:
            raise ValueError(
                "it has neither oracle_actions() nor info['admissible_actions'], so there is nobody to imitate. "
                "Give it one of them, or start from a model that needs no warm start: "
                "warm_start.episodes=0 model=smollm2."
            )
        return str(rng.choice(list(admissible)))


@dataclass(frozen=True, slots=True)
class WarmStartReport:
    """What the warm start did."""

    success: float
    """Of the mixed player whose episodes were imitated."""
    steps: int
    first_loss: float
    """Cross-entropy per policy token, nats, at the first optimiser step."""
    last_loss: float


def warm_start(config: TrainConfig, policy: Policy, learner: Learner, ranks: Ranks) -> WarmStartReport:
    """Plays episodes with the mixed player, imitates its actions, and leaves the optimiser as new.

    Args:
        ranks: that imitate together; the first one plays.
    Raises:
        ValueError: the environment offers nobody to imitate.
    """
    w, seed = config.warm_start, config.seed
    mix = Mix(config.environments, seed)
    tasks = [
        Task(training_task_seed(seed, -1, i), (seed, "warm start", i), mix.name(i)) for i in range(w.episodes)
    ]  # update -1: tasks that no update draws
    groups = ranks.from_first(lambda: _played(config, policy, tasks))
    episodes = [group.trajectories[0] for group in groups]
    played = [t for t in episodes if t.has_return]
    items = [s for t in played for s in packing.sequences(t, Credit(torch.zeros(t.num_policy_tokens)))]
    # In the window context an episode is many sequences: keep the number of episodes per step.
    size = max(1, round(w.batch_episodes * len(items) / max(len(episodes), 1)))
    total = w.epochs * math.ceil(len(items) / size)
    losses: list[float] = []
    for epoch in range(w.epochs):
        order = permutation(len(items), seed, "warm start order", epoch)
        for start in range(0, len(items), size):
            cosine = 0.5 * (1 + math.cos(math.pi * len(losses) / total))
            rate = w.lr * (0.1 + 0.9 * cosine)
            losses.append(learner.imitate([items[i] for i in order[start : start + size]], rate))
    learner.reset_optimizer()
    return WarmStartReport(sum(t.success for t in episodes) / len(episodes), len(losses), losses[0], losses[-1])


def _played(config: TrainConfig, policy: Policy, tasks: Sequence[Task]) -> list[Group]:
    runner = build_runner(config, policy)
    try:
        player = MixedPlayer(policy.chat, config.warm_start.oracle_share, runner.pools)
        return runner.collect(player, tasks, group_size=1)
    finally:
        runner.close()
