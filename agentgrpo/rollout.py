"""Plays groups of episodes: whoever has been answered by its environment is answered by the policy, nobody waits.

With a sampler that writes batches, environments that answer at once (``execution=inline``) go in lock-step: one
generation batch per turn, without the episodes that have ended. Slow ones step side by side in threads or processes,
and the policy writes for those that are ready meanwhile. With a continuous sampler an episode goes on as soon as its
own turn is written, while others are still being written.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from agentgrpo.config import EnvConfig, RolloutConfig
from agentgrpo.context import Conversation, TextReader
from agentgrpo.deadline import Failure
from agentgrpo.env_pool import EnvPools
from agentgrpo.environments import (
    StepResult,
    checked_reset,
    checked_step,
    plain_entries,
    seed_advice,
)
from agentgrpo.episode import Episode, Task
from agentgrpo.players import ContinuousPlayer, Player, continuous
from agentgrpo.samplers.base import Completion, SamplingParams
from agentgrpo.seeding import derive
from agentgrpo.timing import phase
from agentgrpo.types import Group, RolloutStatus, Step


@dataclass(frozen=True, slots=True)
class Order:
    """A group that is to be played."""

    key: tuple[int, ...]
    """What it is handed over with; of the episodes that are ready together, those of the lowest key come first."""
    task: Task
    guidance: tuple[int, ...]
    """(G,) how far an expert leads each member in, for a player that asks one."""
    params: SamplingParams | None = None
    """How the policy's turns are drawn; None: as in training. The noise key is filled in."""


Orders = Callable[[bool], Sequence[Order] | None]
"""Gives the orders that are new, or None when no more will come. Called with True it may wait until there are some."""


class RolloutRunner:
    """Owns the environments and plays groups in them.

    Args:
        envs: the environments by name, and how an action is read from the policy's text.
        config: limits.
        new_conversation: makes the context of an episode of the named environment.
        chat: reads the policy's answers.
        context_length: most tokens that a sequence may have.
    """

    def __init__(
        self,
        envs: Mapping[str, EnvConfig],
        config: RolloutConfig,
        new_conversation: Callable[[str], Conversation],
        chat: TextReader,
        context_length: int,
    ) -> None:
        self._config = config
        self._new_conversation = new_conversation
        self._decode = chat.decode
        self._context_length = context_length
        self._most_characters = context_length * chat.longest_token  # more need not be tokenised to be too much
        self._only = next(iter(envs))
        self._actions = {
            name: re.compile(env.action_pattern) if env.action_pattern else None for name, env in envs.items()
        }
        self.pools = EnvPools(envs, config.step_timeout)

    def collect(self, player: Player | ContinuousPlayer, tasks: Sequence[Task], group_size: int) -> list[Group]:
        """Plays ``group_size`` episodes of each task, which nobody leads in.

        Raises:
            ValueError: members of a group do not start from the same observation.
        """
        return self.play(player, [Order((i,), task, (0,) * group_size) for i, task in enumerate(tasks)])

    def play(self, player: Player | ContinuousPlayer, orders: Sequence[Order]) -> list[Group]:
        """Plays groups; in the order of the orders, whose keys must differ."""
        rounds = iter([orders])
        found = dict(self.stream(player, lambda wait: next(rounds, None)))
        return [found[order.key] for order in orders]

    def stream(self, player: Player | ContinuousPlayer, orders: Orders) -> Iterator[tuple[tuple[int, ...], Group]]:
        """Plays groups as they are ordered, side by side, and gives each with its key as soon as it is complete.

        Raises:
            ValueError: members of a group do not start from the same observation.
        """
        under_way: dict[tuple[int, ...], list[Episode]] = {}
        left: Counter[tuple[int, ...]] = Counter()
        waiting: deque[Episode] = deque()
        starts: dict[tuple[int, ...], str] = {}
        writer = continuous(player)
        more = True
        try:
            while True:
                idle = not (waiting or self.pools.num_pending or writer.num_taken)
                new = orders(idle) if more else None
                more = new is not None
                for order in new or ():
                    episodes = self._episodes(order)
                    under_way[order.key], left[order.key] = episodes, len(episodes)
                    waiting.extend(episodes)
                if not (waiting or self.pools.num_pending or writer.num_taken):
                    if not more:
                        return
                    continue
                self._start(waiting)
                with phase("environments"):
                    finished = self.pools.finished(wait=not writer.num_taken)
                with phase("episodes"):
                    for episode, result in finished:
                        self._take(episode, result, starts)
                    ready = [e for e, _ in finished if e.status is None and self._fits(e)]
                over = [e for e, _ in finished if e.status is not None]
                for episode in over:
                    # An environment that failed may be in any state, or still busy: it is not used again.
                    usable = episode.status is not None and not episode.status.crashed
                    self.pools.give_back(episode.task.env, episode.env, usable=usable)
                # By order, whoever came first: a batch does not depend on it more than it must.
                writer.take(sorted(ready, key=lambda e: (e.group, e.slot)))
                if writer.num_taken:
                    answered = writer.answered()
                    with phase("episodes"):
                        self._submit_turns(answered)
                left.subtract(e.group for e in over)
                for key in dict.fromkeys(e.group for e in over):
                    if not left[key]:
                        del left[key]
                        starts.pop(key, None)  # none where every member failed
                        yield key, self._group(under_way.pop(key))
        except BaseException:
            self.pools.abandon()  # calls may be under way, and their environments half way through a step
            writer.abandon()
            raise

    def _episodes(self, order: Order) -> list[Episode]:
        task = order.task if order.task.env else replace(order.task, env=self._only)
        return [
            Episode(self._new_conversation(task.env), task, slot, order.key, lead, order.params)
            for slot, lead in enumerate(order.guidance)
        ]

    def _group(self, episodes: Sequence[Episode]) -> Group:
        task = episodes[0].task
        best = self.pools.max_return(task.env)
        return Group(tuple(e.finish(best) for e in episodes), task.seed, best, task.env)

    def close(self) -> None:
        """Closes every environment."""
        self.pools.close()

    # --- turns -------------------------------------------------------------------------------------------------------

    def _start(self, waiting: deque[Episode]) -> None:
        """Resets an environment for each episode that there is one for; the others wait until one is free."""
        for _ in range(len(waiting)):
            episode = waiting.popleft()
            episode.held = self.pools.take(episode.task.env)
            if episode.held is None:
                waiting.append(episode)
                continue
            noise_seed = derive(*episode.task.coordinates, episode.slot, "environment") >> 1
            call = partial(checked_reset, episode.held, episode.task.seed, noise_seed)
            self.pools.submit(episode.task.env, episode, call, episode.held)

    def _submit_turns(self, answered: Sequence[tuple[Episode, Completion]]) -> None:
        for episode, completion in answered:
            text = self._decode(completion.token_ids)
            action = self._read_action(episode.task.env, text)
            episode.conversation.answer(completion.token_ids, action)
            episode.pending = replace(
                episode.pending,
                text=text,
                action=action,
                action_ids=completion.token_ids,
                num_guided=completion.num_guided,
                logprobs=completion.logprobs,
                stop_reason=completion.stop_reason,
                policy_version=completion.version,
            )
            self.pools.submit(episode.task.env, episode, partial(checked_step, episode.env, action), episode.env)

    def _take(self, episode: Episode, result: Any, starts: dict[tuple[int, ...], str]) -> None:
        """Takes what an environment answered: to its reset, or to a turn."""
        if not episode.started:
            episode.started = True
            if isinstance(result, Failure):
                episode.fail(result)
                return
            episode.task_info = plain_entries(result[1])
            self._observe(episode, *result)
            self._check_same_start(episode, starts)
            return
        if isinstance(result, Failure):
            episode.steps.append(episode.pending)
            episode.fail(result)
        else:
            self._take_result(episode, episode.pending, result)

    # --- what an answer means -------------------------------------------------------------------------------------

    def _check_same_start(self, episode: Episode, starts: dict[tuple[int, ...], str]) -> None:
        one = starts.setdefault(episode.group, episode.observation)
        if one != episode.observation:
            raise ValueError(
                f"Environment {self.pools.env_id(episode.task.env)!r} gave the members of one group different tasks "
                f"for seed {episode.task.seed}: {one[:80]!r} and {episode.observation[:80]!r}. "
                f"{seed_advice(episode.env)}"
            )

    def _fits(self, episode: Episode) -> bool:
        if len(episode.conversation.prompt) + self._config.max_new_tokens <= self._context_length:
            return True
        episode.status = RolloutStatus.CONTEXT_LIMIT
        return False

    def _observe(self, episode: Episode, observation: str, info: dict[str, Any]) -> None:
        """Takes an observation that the policy will answer, if it has any chance to fit."""
        if len(observation) > self._most_characters:
            episode.observation, episode.status = observation, RolloutStatus.CONTEXT_LIMIT
            return
        prompt_ids, starts = episode.conversation.observe(observation)
        anchor = info.get("anchor")
        episode.observation, episode.info = observation, info
        episode.pending = Step(
            observation,
            prompt_ids=prompt_ids,
            starts_sequence=starts,
            anchor=None if anchor is None else str(anchor),
        )

    def _take_result(self, episode: Episode, turn: Step, result: StepResult) -> None:
        observation, reward, terminated, truncated, info = result
        valid = bool(info.get("valid_action", True))
        episode.steps.append(replace(turn, reward=reward, valid_action=valid))
        if terminated or truncated or len(episode.steps) >= self._config.max_turns:
            episode.status = RolloutStatus.TERMINATED if terminated else RolloutStatus.TURN_LIMIT
            episode.success = info.get("success")
            episode.observation = observation
        else:
            self._observe(episode, observation, info)

    def _read_action(self, env: str, text: str) -> str:
        pattern = self._actions[env]
        match = pattern.search(text) if pattern else None
        # The last group that took part, so that alternatives may have one each.
        return (match[match.lastindex] if match and match.lastindex else text).strip()
