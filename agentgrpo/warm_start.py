"""Imitation of a mixed player before reinforcement learning, as R1's cold start.

Each action is the oracle's with a given chance, else a random admissible one. What a policy learns from that is the
language of the task (what may be answered, and when) and a slight preference for what helps; the rest is left to learn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from agentgrpo.context import ChatFormat
from agentgrpo.deadline import DeadlineRunner, Failure
from agentgrpo.environments import attribute
from agentgrpo.rollout import Episode
from agentgrpo.samplers.base import Completion
from agentgrpo.types import StopReason


@dataclass(frozen=True, slots=True)
class MixedPlayer:
    """Plays oracle and random admissible actions.

    Args:
        chat: turns an action's text into token ids.
        oracle_share: chance of each action to be the oracle's, in [0, 1].
        runner: keeps an oracle that hangs from stopping the run.
    """

    chat: ChatFormat
    oracle_share: float
    runner: DeadlineRunner

    def act(self, episodes: Sequence[Episode]) -> list[Completion]:
        texts = self.runner.run([partial(self._choose, e) for e in episodes])
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
            plan = attribute(episode.env, "oracle_actions")
            actions = plan() if plan is not None else []
            if actions:
                return str(actions[0])
        if not admissible:
            raise ValueError(
                "it has neither oracle_actions() nor info['admissible_actions'], so there is nobody to imitate. "
                "Give it one of them, or start from a model that needs no warm start: warm_start.episodes=0 model=smollm2."
            )
        return str(rng.choice(list(admissible)))
