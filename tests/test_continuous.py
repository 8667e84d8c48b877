"""Playing with a sampler that takes prompts while it writes: an episode goes on as soon as its own turn is written."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import gymnasium as gym
import pytest
from continuous_sampler import Continuous
from helpers import tiny_tokenizer

from agentgrpo.config import EnvConfig, RolloutConfig
from agentgrpo.context import ChatFormat, make_conversation
from agentgrpo.episode import Task
from agentgrpo.players import PolicyPlayer
from agentgrpo.rollout import RolloutRunner
from agentgrpo.samplers.base import Completion, ContinuousSampler, SamplingParams
from agentgrpo.samplers.scripted import ScriptedSampler
from agentgrpo.types import RolloutStatus

CHAT = ChatFormat(tiny_tokenizer())


class Echo(gym.Env[str, str]):
    """Says who is told what, for three turns."""

    def __init__(self, log: list[str], fails: bool = False) -> None:
        self._log = log
        self._fails = fails

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._turn = 0
        return f"start {seed}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._turn += 1
        self._log.append(action)
        if self._fails:
            raise KeyError("no such room")
        return f"turn {self._turn}", 1.0, self._turn == 3, False, {}


LOG: list[str] = []
gym.register("ContinuousTest/Echo-v0", entry_point=lambda **kwargs: Echo(LOG, **kwargs))


def answer(prompt: list[int]) -> Sequence[int]:
    """Episodes of task 7 write one word per turn, those of others eight."""
    text = CHAT.decode(tuple(prompt))
    return (*CHAT.encode("go " + ("north" if "start 7" in text else "north go north go north go north")), CHAT.end_id)


def runner(**kwargs: Any) -> RolloutRunner:
    return RolloutRunner(
        {"echo": EnvConfig("echo", "ContinuousTest/Echo-v0", kwargs)},
        RolloutConfig(temperature=1.0, top_p=1.0, max_new_tokens=40, max_turns=10, step_timeout=5.0),
        lambda name: make_conversation(CHAT, "transcript", 2),
        CHAT,
        1000,
    )


TASKS = [Task(1, ("a",)), Task(7, ("b",))]


def test_a_sampler_that_takes_prompts_at_any_time_is_known_by_its_methods() -> None:
    assert isinstance(Continuous(answer), ContinuousSampler)
    assert not isinstance(ScriptedSampler(answer), ContinuousSampler)


def test_an_episode_goes_on_while_others_are_written() -> None:
    LOG.clear()
    groups = runner().collect(PolicyPlayer(Continuous(answer), SamplingParams(40)), TASKS, 1)
    assert [t.status for g in groups for t in g] == [RolloutStatus.TERMINATED] * 2
    # Three short turns are written before the first long one is.
    assert [len(action.split()) for action in LOG] == [2, 2, 2, 8, 8, 8]
    # In batches both wait for the longer turn.
    LOG.clear()
    runner().collect(PolicyPlayer(ScriptedSampler(answer), SamplingParams(40)), TASKS, 1)
    assert [len(action.split()) for action in LOG] == [8, 2, 8, 2, 8, 2]


def test_the_episodes_are_those_of_batches() -> None:
    in_batches = runner().collect(PolicyPlayer(ScriptedSampler(answer), SamplingParams(40)), TASKS, 3)
    assert runner().collect(PolicyPlayer(Continuous(answer), SamplingParams(40)), TASKS, 3) == in_batches


def test_a_broken_environment_ends_its_own_episode() -> None:
    groups = runner(fails=True).collect(PolicyPlayer(Continuous(answer), SamplingParams(40)), TASKS, 2)
    assert {t.status for g in groups for t in g} == {RolloutStatus.ENV_ERROR}


def test_what_is_under_way_is_forgotten_when_a_run_stops() -> None:
    class Failing(Continuous):
        def poll(self) -> list[tuple[Hashable, Completion]]:
            super().poll()
            raise RuntimeError("out of memory")

    sampler = Failing(answer)
    with pytest.raises(RuntimeError, match="out of memory"):
        runner().collect(PolicyPlayer(sampler, SamplingParams(40)), TASKS, 2)
    assert sampler.cancelled
    assert not sampler.writing
