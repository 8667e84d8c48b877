"""A player that lets an expert lead in, and then goes on as the policy.

In tasks of several turns the expert is ``oracle_actions()``: its first actions are played in the environment. In a task
of one turn it is the text in ``info["reference"]``: its first tokens stand in the answer before the policy goes on.
Either way the expert's tokens are marked as given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from agentgrpo.context import ChatFormat
from agentgrpo.deadline import Failure
from agentgrpo.env_pool import EnvPools
from agentgrpo.environments import oracle_plan, reference_trace
from agentgrpo.episode import Episode
from agentgrpo.players import Ask, PolicyPlayer
from agentgrpo.samplers.base import Completion
from agentgrpo.types import StopReason


@dataclass(frozen=True)
class GuidedPlayer(PolicyPlayer):
    """The policy behind a sampler, after an expert's lead of ``episode.guidance`` turns or tokens.

    What an expert gave counts towards the limit of tokens.

    Args:
        chat: turns the expert's text into token ids.
        pools: keeps an oracle that hangs from stopping the run.
    """

    chat: ChatFormat
    pools: EnvPools

    def given(self, episodes: Sequence[Episode]) -> dict[int, Completion]:
        """Turns that the oracle plays, by ``id`` of the episode. The last action to the goal is always the policy's."""
        asked = [e for e in episodes if len(e.steps) < e.guidance and _still_led(e)]
        out: dict[int, Completion] = {}
        for episode, plan in zip(asked, self.pools.run([partial(oracle_plan, e.env) for e in asked]), strict=True):
            if isinstance(plan, Failure):
                raise ValueError(f"The oracle of the environment failed on task {episode.task.seed}: {plan.error}")
            if len(plan) > 1:
                ids = (*self.chat.encode(plan[0]), self.chat.end_id)
                out[id(episode)] = Completion(ids, (), StopReason.STOP, num_guided=len(ids))
        return out

    def ask(self, episode: Episode) -> Ask:
        """What the sampler is asked: to go on where a trace stops, if one leads in."""
        ask = super().ask(episode)
        lead = self._trace_tokens(episode)
        if not lead:
            return ask
        params = replace(ask.params, max_new_tokens=ask.params.max_new_tokens - len(lead))
        return Ask([*ask.prompt, *lead], params, lead)

    def _trace_tokens(self, episode: Episode) -> tuple[int, ...]:
        """The trace's first tokens; the policy keeps at least one of the trace and of the answer's limit to write."""
        trace = reference_trace(episode.task_info)
        if trace is None or not episode.guidance or episode.steps:
            return ()
        ids = self.chat.encode(trace)
        return ids[: max(0, min(episode.guidance, len(ids) - 1, self.params.max_new_tokens - 1))]


def _still_led(episode: Episode) -> bool:
    """Whether an oracle has played every turn so far: once the policy has taken over, it goes on alone."""
    return reference_trace(episode.task_info) is None and all(step.num_guided for step in episode.steps)
