"""What an agent reads and writes in its environments: a nano tokenizer learns its words from it."""

from __future__ import annotations

import random
from functools import partial

from agentgrpo.config import EnvConfig, TrainConfig
from agentgrpo.deadline import DeadlineRunner
from agentgrpo.environments import checked_reset, checked_step, make_env
from agentgrpo.seeding import derive, training_task_seed

_TEXT_EPISODES = 128


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
