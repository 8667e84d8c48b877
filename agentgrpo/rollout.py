"""Plays groups of episodes: whoever has been answered by its environment is answered by the policy, nobody waits.

With a sampler that writes batches, environments that answer at once (``execution=inline``) go in lock-step: one
generation batch per turn, without the episodes that have ended. Slow ones step side by side in threads or processes,
and the policy writes for those that are ready meanwhile. With a continuous sampler an episode goes on as soon as its
own turn is written, while the others are still being written.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

from agentgrpo.config import EnvConfig, RolloutConfig
from agentgrpo.context import ChatFormat, Conversation
from agentgrpo.deadline import Failure
from agentgrpo.env_pool import EnvPools
from agentgrpo.environments import (
    Env,
    StepResult,
    checked_reset,
    checked_step,
    plain_entries,
    seed_advice,
)
from agentgrpo.samplers.base import Completion, ContinuousSampler, Sampler, SamplingParams
from agentgrpo.seeding import derive
from agentgrpo.timing import phase
from agentgrpo.types import Group, RolloutStatus, Step, Trajectory


@dataclass(frozen=True, slots=True)
class Task:
    """One initial state to play from."""

    seed: int
    """Given to ``env.reset``, the same for all members of the group."""
    coordinates: tuple[int | str, ...]
    """Names the task's randomness: with slot, turn and position they give every uniform that a token is drawn with."""
    env: str = ""
    """Name of the environment, where a run has several; empty: the only one."""


@dataclass(frozen=True, slots=True)
class Order:
    """A group that is to be played."""

    key: tuple[int, ...]
    """What it is handed over with; of the episodes that are ready together, those of the lowest key come first."""
    task: Task
    guidance: tuple[int, ...]
    """(G,) how far an expert leads each member in, for a player that asks one."""


Orders = Callable[[bool], Sequence[Order] | None]
"""Gives the orders that are new, or None when no more will come. Called with True it may wait until there are some."""


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


class Player(Protocol):
    """Whoever answers observations, all that are ready at once: a policy, a script, a person."""

    def act(self, episodes: Sequence[Episode]) -> list[Completion]:
        """One completion per episode, in order."""


@runtime_checkable
class ContinuousPlayer(Protocol):
    """A player that takes episodes at any time, and answers each when it is ready."""

    @property
    def num_taken(self) -> int:
        """Episodes that have no answer yet."""

    def take(self, episodes: Sequence[Episode]) -> None:
        """Takes episodes that wait for an answer."""

    def answered(self) -> list[tuple[Episode, Completion]]:
        """Goes on with what was taken, and hands out what is ready: maybe nothing yet."""

    def abandon(self) -> None:
        """Forgets what was taken."""


class InBatches:
    """A player that acts on whole batches, as a continuous one: it answers everything that it has, at once."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._taken: list[Episode] = []

    @property
    def num_taken(self) -> int:
        return len(self._taken)

    def take(self, episodes: Sequence[Episode]) -> None:
        self._taken += episodes

    def answered(self) -> list[tuple[Episode, Completion]]:
        # In the order of the tasks, whoever came first: a batch does not depend on it more than it must.
        episodes, self._taken = sorted(self._taken, key=lambda e: (e.group, e.slot)), []
        return list(zip(episodes, self._player.act(episodes), strict=True))

    def abandon(self) -> None:
        self._taken = []


@dataclass(frozen=True, slots=True)
class PolicyPlayer:
    """The policy behind a sampler that writes batches."""

    sampler: Sampler
    params: SamplingParams
    """Of every turn; the noise key is filled in."""

    def act(self, episodes: Sequence[Episode]) -> list[Completion]:
        params = [replace(self.params, noise_key=e.noise_key) for e in episodes]
        return self.sampler.generate([e.conversation.prompt for e in episodes], params)


class ContinuousPolicyPlayer:
    """The policy behind a continuous sampler.

    Args:
        params: of every turn; the noise key is filled in.
    """

    def __init__(self, sampler: ContinuousSampler, params: SamplingParams) -> None:
        self._sampler = sampler
        self._params = params
        self._taken: dict[Hashable, Episode] = {}

    @property
    def num_taken(self) -> int:
        return len(self._taken)

    def take(self, episodes: Sequence[Episode]) -> None:
        for episode in episodes:
            key = (episode.group, episode.slot)
            self._taken[key] = episode
            self._sampler.submit(key, episode.conversation.prompt, replace(self._params, noise_key=episode.noise_key))

    def answered(self) -> list[tuple[Episode, Completion]]:
        return [(self._taken.pop(key), completion) for key, completion in self._sampler.poll()]

    def abandon(self) -> None:
        self._taken = {}
        self._sampler.cancel()


def policy_player(sampler: Sampler, params: SamplingParams) -> Player | ContinuousPlayer:
    """The policy as a player, in the way that its sampler works.

    Args:
        params: of every turn; the noise key is filled in.
    """
    if isinstance(sampler, ContinuousSampler):
        return ContinuousPolicyPlayer(sampler, params)
    return PolicyPlayer(sampler, params)


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
        chat: ChatFormat,
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
        self.num_env_steps = 0

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
        writer = player if isinstance(player, ContinuousPlayer) else InBatches(player)
        more = True
        try:
            while True:
                busy = bool(waiting or writer.num_taken or self.pools.num_pending)
                new = orders(not busy) if more else None
                more = new is not None
                for order in new or ():
                    episodes = self._episodes(order)
                    under_way[order.key], left[order.key] = episodes, len(episodes)
                    waiting.extend(episodes)
                if not (busy or waiting):
                    if not more:
                        return
                    continue
                self._start(waiting)
                with phase("environments"):
                    finished = self.pools.finished(wait=not writer.num_taken)
                with phase("episodes"):
                    for episode, result in finished:
                        self._take(episode, result, starts)
                    writer.take([e for e, _ in finished if e.status is None and self._fits(e)])
                over = [e for e, _ in finished if e.status is not None]
                for episode in over:
                    # An environment that failed may be in any state, or still busy: it is not used again.
                    usable = episode.status is not None and not episode.status.crashed
                    self.pools.give_back(episode.task.env, episode.env, usable=usable)
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
            Episode(self._new_conversation(task.env), task, slot, order.key, lead)
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
        self.num_env_steps += 1
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
