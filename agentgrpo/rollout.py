"""Plays groups of episodes in lock-step: one generation batch per turn, without the episodes that have ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from agentgrpo.config import EnvConfig, RolloutConfig
from agentgrpo.context import Conversation
from agentgrpo.deadline import DeadlineRunner, Failure
from agentgrpo.environments import (
    Env,
    StepResult,
    attribute,
    checked_reset,
    checked_step,
    make_env,
    plain_entries,
)
from agentgrpo.samplers.base import Completion, Sampler, SamplingParams
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


@dataclass(slots=True)
class Episode:
    """An episode while it is played."""

    env: Env
    conversation: Conversation
    task: Task
    slot: int
    guidance: int = 0
    """Turns (tokens, in single-turn tasks) that an expert leads in with."""
    observation: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    pending: Step = field(default_factory=lambda: Step(""))
    """The turn under way: observation and prompt are known, the action is not."""
    steps: list[Step] = field(default_factory=list)
    status: RolloutStatus | None = None
    success: bool | None = None
    error: str = ""
    task_info: dict[str, Any] = field(default_factory=dict)
    """What can be written down of ``info`` at reset."""

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
    """Whoever answers observations: a policy, a script, a person."""

    def act(self, episodes: Sequence[Episode]) -> list[Completion]:
        """One completion per episode, in order."""


@dataclass(frozen=True, slots=True)
class PolicyPlayer:
    """The policy behind a sampler."""

    sampler: Sampler
    params: SamplingParams
    """Of every turn; the noise key is filled in."""

    def act(self, episodes: Sequence[Episode]) -> list[Completion]:
        params = [replace(self.params, noise_key=e.noise_key) for e in episodes]
        return self.sampler.generate([e.conversation.prompt for e in episodes], params)


class RolloutRunner:
    """Owns the environments and plays groups in them.

    Args:
        env_config: which environment, and how an action is read from the policy's text.
        config: limits.
        new_conversation: makes an episode's context.
        decode: token ids of an answer -> text.
        context_length: most tokens that a sequence may have.
    """

    def __init__(
        self,
        env_config: EnvConfig,
        config: RolloutConfig,
        new_conversation: Callable[[], Conversation],
        decode: Callable[[tuple[int, ...]], str],
        context_length: int,
    ) -> None:
        self._env_config = env_config
        self._config = config
        self._new_conversation = new_conversation
        self._decode = decode
        self._context_length = context_length
        self._action = re.compile(env_config.action_pattern) if env_config.action_pattern else None
        self.runner = DeadlineRunner(config.step_timeout)
        self._envs: list[Env] = []
        probe = self._take_env()
        self.max_return: float | None = attribute(probe, "max_return")
        self._envs.append(probe)
        self.num_env_steps = 0

    def collect(
        self, player: Player, tasks: Sequence[Task], group_size: int, guidance: Sequence[int] = ()
    ) -> list[Group]:
        """Plays ``group_size`` episodes of each task.

        Args:
            guidance: (group_size,) how far an expert leads each member in, for a player that asks one.
        Raises:
            ValueError: members of a group do not start from the same observation.
        """
        episodes = [
            Episode(self._take_env(), self._new_conversation(), task, slot, guidance[slot] if guidance else 0)
            for task in tasks
            for slot in range(group_size)
        ]
        self._reset(episodes)
        members = [episodes[i : i + group_size] for i in range(0, len(episodes), group_size)]
        for group in members:
            self._check_same_start(group)
        while active := [e for e in episodes if e.status is None and self._fits(e)]:
            completions = player.act(active)
            with phase("episodes"):
                self._play_turn(active, completions)
        groups = [
            Group(tuple(e.finish(self.max_return) for e in group), group[0].task.seed, self.max_return)
            for group in members
        ]
        # An environment that failed may be in any state, or still busy: it is not used again.
        self._envs += [e.env for e in episodes if e.status is not None and not e.status.crashed]
        return groups

    def close(self) -> None:
        """Closes every environment."""
        for env in self._envs:
            env.close()
        self._envs = []

    def _take_env(self) -> Env:
        return self._envs.pop() if self._envs else make_env(self._env_config)

    def _reset(self, episodes: Sequence[Episode]) -> None:
        calls = [
            partial(checked_reset, e.env, e.task.seed, derive(*e.task.coordinates, e.slot, "environment") >> 1)
            for e in episodes
        ]
        with phase("environments"):
            results = self.runner.run(calls)
        for episode, result in zip(episodes, results, strict=True):
            if isinstance(result, Failure):
                episode.fail(result)
            else:
                episode.task_info = plain_entries(result[1])
                self._observe(episode, *result)

    def _check_same_start(self, group: Sequence[Episode]) -> None:
        starts = {e.observation for e in group if e.status is None}
        if len(starts) > 1:
            one, other, *_ = sorted(starts)
            raise ValueError(
                f"Environment {self._env_config.id!r} gave the members of one group different tasks for seed "
                f"{group[0].task.seed}: {one[:80]!r} and {other[:80]!r}. reset(seed=s) must draw the task from "
                "self.np_random only; noise that may differ between members belongs to options['noise_seed']."
            )

    def _fits(self, episode: Episode) -> bool:
        if len(episode.conversation.prompt) + self._config.max_new_tokens <= self._context_length:
            return True
        episode.status = RolloutStatus.CONTEXT_LIMIT
        return False

    def _observe(self, episode: Episode, observation: str, info: dict[str, Any]) -> None:
        """Takes an observation that the policy will answer."""
        prompt_ids, starts = episode.conversation.observe(observation)
        anchor = info.get("anchor")
        episode.observation, episode.info = observation, info
        episode.pending = Step(
            observation,
            prompt_ids=prompt_ids,
            starts_sequence=starts,
            anchor=None if anchor is None else str(anchor),
        )

    def _play_turn(self, episodes: Sequence[Episode], completions: Sequence[Completion]) -> None:
        texts = [self._decode(c.token_ids) for c in completions]
        actions = [self._read_action(text) for text in texts]
        calls = [partial(checked_step, e.env, action) for e, action in zip(episodes, actions, strict=True)]
        with phase("environments"):
            results = self.runner.run(calls)
        self.num_env_steps += len(results)
        turns = zip(episodes, completions, texts, actions, results, strict=True)
        for episode, completion, text, action, result in turns:
            episode.conversation.answer(completion.token_ids, action)
            turn = replace(
                episode.pending,
                text=text,
                action=action,
                action_ids=completion.token_ids,
                num_guided=completion.num_guided,
                logprobs=completion.logprobs,
                stop_reason=completion.stop_reason,
            )
            if isinstance(result, Failure):
                episode.steps.append(turn)
                episode.fail(result)
            else:
                self._take_result(episode, turn, result)

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

    def _read_action(self, text: str) -> str:
        match = self._action.search(text) if self._action else None
        # The last group that took part, so that alternatives may have one each.
        return (match[match.lastindex] if match and match.lastindex else text).strip()
