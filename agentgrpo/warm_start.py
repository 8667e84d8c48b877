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
from agentgrpo.config import EnvConfig, TrainConfig
from agentgrpo.context import ChatFormat
from agentgrpo.deadline import DeadlineRunner, Failure
from agentgrpo.env_pool import EnvPools
from agentgrpo.environments import checked_reset, checked_step, make_env, oracle_plan
from agentgrpo.episode import Episode, Task
from agentgrpo.learner import Learner
from agentgrpo.mix import Mix
from agentgrpo.rollout import RolloutRunner
from agentgrpo.samplers.base import Completion
from agentgrpo.seeding import derive, permutation, training_task_seed
from agentgrpo.types import Credit, StopReason

_TEXT_EPISODES = 128


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


def warm_start(config: TrainConfig, chat: ChatFormat, runner: RolloutRunner, learner: Learner) -> WarmStartReport:
    """Plays episodes with the mixed player, imitates its actions, and leaves the optimiser as new.

    Raises:
        ValueError: the environment offers nobody to imitate.
    """
    w, seed = config.warm_start, config.seed
    mix = Mix(config.environments, seed)
    tasks = [
        Task(training_task_seed(seed, -1, i), (seed, "warm start", i), mix.name(i)) for i in range(w.episodes)
    ]  # update -1: tasks that no update draws
    groups = runner.collect(MixedPlayer(chat, w.oracle_share, runner.pools), tasks, group_size=1)
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


def sample_texts(config: TrainConfig) -> list[str]:
    """Texts that an agent meets and writes in the environments: what a nano tokenizer learns its words from."""
    return [text for env in config.environments.values() for text in _texts_of(env, config)]


def _texts_of(env_config: EnvConfig, config: TrainConfig) -> list[str]:
    env = make_env(env_config)
    texts = [env_config.instructions]

    def play(index: int) -> None:
        rng = random.Random(derive(config.seed, "texts", index))
        observation, info = checked_reset(env, training_task_seed(config.seed, -2, index), index)
        texts.append(observation)
        for _ in range(config.rollout.max_turns):
            action = rng.choice(list(info.get("admissible_actions") or [""]))
            observation, _, terminated, truncated, info = checked_step(env, action)
            texts.extend([action, observation])
            if terminated or truncated:
                break

    # An episode that fails or hangs gives the texts that it got to.
    runner = DeadlineRunner(config.rollout.step_timeout)
    runner.run([partial(play, index) for index in range(_TEXT_EPISODES)])
    env.close()
    return texts
