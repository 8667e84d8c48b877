"""Where episodes are played, at once or ahead of the trainer: which tasks, how stale, and what may go wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator, Sequence

import pytest
import torch
from continuous_sampler import Continuous
from helpers import default_algorithm, tiny_tokenizer

from agentgrpo.algorithm import Algorithm
from agentgrpo.collection import Collector, Experience
from agentgrpo.composing import compose_config
from agentgrpo.config import TrainConfig, parse
from agentgrpo.context import ChatFormat, make_conversation
from agentgrpo.rewards import RewardScorer, build_terms
from agentgrpo.rollout import RolloutRunner
from agentgrpo.samplers.base import Completion, SamplingParams
from agentgrpo.samplers.scripted import ScriptedSampler
from agentgrpo.samplers.versioned import ContinuousVersionedSampler, VersionedSampler, versioned
from agentgrpo.stages import InlineStage, ScoredStage, ThreadStage

CHAT = ChatFormat(tiny_tokenizer())
MODEL = torch.nn.Identity()
SMALL = [
    "env=number_guess",
    "env.kwargs.max_turns=3",
    "groups_per_update=2",
    "group_size=2",
    "num_updates=6",
    "rollout.mode=async",
]


def settings(*overrides: str) -> TrainConfig:
    return parse(compose_config("train", [*SMALL, *overrides]))


def guessing() -> ScriptedSampler:
    """Guesses 3, whatever it reads."""
    return ScriptedSampler(lambda prompt: (*CHAT.encode("3"), CHAT.end_id))


def made(
    cls: type[InlineStage] | type[ThreadStage], config: TrainConfig, sampler: VersionedSampler, algorithm: Algorithm
) -> Collector:
    runner = RolloutRunner(
        config.environments, config.rollout, lambda name: make_conversation(CHAT, "transcript", 2), CHAT, 1000
    )
    stage = cls(runner, sampler, CHAT, config.rollout.params())
    return Collector(config, algorithm, ScoredStage(stage, RewardScorer(build_terms(config.reward))))


@pytest.fixture
def open_collectors() -> Iterator[list[Collector]]:
    collectors: list[Collector] = []
    yield collectors
    for collector in collectors:
        collector.stage.close()
    assert not [t for t in threading.enumerate() if t.name == "rollouts"]


def collect_all(collector: Collector, sampler: VersionedSampler, updates: Sequence[int]) -> list[Experience]:
    out = []
    for update in updates:
        sampler.sync(MODEL, update)  # type: ignore[arg-type]
        out.append(collector.collect(update, {}, {}))
    return out


def tasks(found: Sequence[Experience]) -> list[list[int]]:
    return [[group.task_seed for group in experience.groups] for experience in found]


@pytest.mark.parametrize("staleness", [1, 3])
def test_every_update_has_its_own_tasks_and_no_token_is_too_old(
    staleness: int, open_collectors: list[Collector]
) -> None:
    ahead = settings(f"rollout.max_staleness={staleness}")
    found = {}
    for cls, config in ((InlineStage, settings("rollout.mode=sync")), (ThreadStage, ahead)):
        sampler = VersionedSampler(guessing())
        open_collectors.append(made(cls, config, sampler, default_algorithm("grpo")))
        found[cls] = collect_all(open_collectors[-1], sampler, range(6))
    assert tasks(found[ThreadStage]) == tasks(found[InlineStage])
    assert len({seed for seeds in tasks(found[ThreadStage]) for seed in seeds}) == 12
    for update, experience in enumerate(found[ThreadStage]):
        versions = {s.policy_version for group in experience.groups for t in group for s in t.steps}
        assert all(0 <= update - version <= staleness for version in versions)
        assert [len(group) for group in experience.groups] == [2, 2]


class Gate(ScriptedSampler):
    """Answers, but from a number of calls on only when it is let."""

    def __init__(self, free_calls: int) -> None:
        super().__init__(guessing()._answer)
        self.free_calls = free_calls
        self.opened = threading.Event()
        self.calls = 0

    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        self.calls += 1
        if self.calls > self.free_calls:
            assert self.opened.wait(30)
        return super().generate(prompts, params)


def test_the_next_update_is_played_while_nobody_asks_for_it(open_collectors: list[Collector]) -> None:
    sampler = VersionedSampler(guessing())
    collector = made(ThreadStage, settings(), sampler, default_algorithm("grpo"))
    assert isinstance(collector.stage, ScoredStage)
    stage = collector.stage._stage
    assert isinstance(stage, ThreadStage)
    open_collectors.append(collector)
    collector.collect(0, {}, {})
    with stage._changed:  # as long as the trainer learns
        assert stage._changed.wait_for(lambda: len(stage._done) == 2, 30)
        assert {update for update, _ in stage._done} == {1}  # and no further


def test_a_turn_is_drawn_from_the_weights_of_its_time(open_collectors: list[Collector]) -> None:
    gate = Gate(free_calls=1)
    sampler = VersionedSampler(gate)
    config = settings("num_updates=1")
    collector = made(ThreadStage, config, sampler, default_algorithm("grpo"))
    open_collectors.append(collector)
    found: list[Experience] = []
    waiting = threading.Thread(target=lambda: found.append(collector.collect(0, {}, {})))
    waiting.start()
    while gate.calls < 2:  # the first turn was drawn from version 0, the second is about to be
        time.sleep(0.001)
    new_weights = threading.Thread(target=lambda: sampler.sync(MODEL, 7))  # type: ignore[arg-type]
    new_weights.start()
    gate.opened.set()
    new_weights.join(30)
    waiting.join(30)
    for trajectory in found[0].groups[0]:
        versions = [step.policy_version for step in trajectory.steps]
        assert versions == sorted(versions)
        assert versions[0] == 0


def test_dropped_groups_are_replaced_here_too(open_collectors: list[Collector]) -> None:
    # Who always guesses 3 gives no group with a spread: every round is dropped, and replaced twice.
    algorithm = default_algorithm("dapo", resample_rounds=2)
    found = {}
    for cls, mode in ((InlineStage, "sync"), (ThreadStage, "async")):
        sampler = VersionedSampler(guessing())
        open_collectors.append(made(cls, settings(f"rollout.mode={mode}"), sampler, algorithm))
        found[cls] = collect_all(open_collectors[-1], sampler, range(3))
    assert [e.num_rounds for e in found[ThreadStage]] == [3, 3, 3]
    assert [len(e.kept) for e in found[ThreadStage]] == [0, 0, 0]
    assert tasks(found[ThreadStage]) == tasks(found[InlineStage])


def test_what_goes_wrong_in_the_thread_reaches_the_trainer(open_collectors: list[Collector]) -> None:
    def fail(prompt: list[int]) -> Sequence[int]:
        raise ValueError("no such token")

    sampler = VersionedSampler(ScriptedSampler(fail))
    open_collectors.append(made(ThreadStage, settings(), sampler, default_algorithm("grpo")))
    for update in (0, 1):
        with pytest.raises(ValueError, match="no such token"):
            open_collectors[-1].collect(update, {}, {})


def test_closing_gives_up_what_is_under_way() -> None:
    sampler = VersionedSampler(guessing())
    config = settings("rollout.max_staleness=5")
    collector = made(ThreadStage, config, sampler, default_algorithm("grpo"))
    collector.collect(0, {}, {})
    collector.stage.close()
    assert not [t for t in threading.enumerate() if t.name == "rollouts"]


def test_threads_are_handed_their_own_completions_and_new_weights_wait_for_what_is_under_way() -> None:
    long, short = (*CHAT.encode("north go north go"), CHAT.end_id), (*CHAT.encode("3"), CHAT.end_id)
    inner = Continuous(lambda prompt: long if prompt == [1] else short)
    sampler = versioned(inner)
    assert isinstance(sampler, ContinuousVersionedSampler)
    sampler.submit("mine", [1], SamplingParams(20))
    theirs: list[tuple[Hashable, Completion]] = []

    def other() -> None:
        sampler.submit("mine", [2], SamplingParams(20))  # keys of two threads may be equal
        while not theirs:
            theirs.extend(sampler.poll())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(30)
    assert [key for key, _ in theirs] == ["mine"]
    assert inner.writing  # the long one goes on
    sampler.sync(MODEL, 5)  # type: ignore[arg-type]
    assert not inner.writing
    [(key, completion)] = sampler.poll()
    assert (key, completion.token_ids, completion.version) == ("mine", long, 0)
    sampler.submit("next", [2], SamplingParams(20))
    while not (found := sampler.poll()):
        pass
    assert found[0][1].version == 5


def test_what_a_thread_cancels_is_handed_to_nobody() -> None:
    inner = Continuous(lambda prompt: (*CHAT.encode("3"), CHAT.end_id))
    sampler = versioned(inner)
    assert isinstance(sampler, ContinuousVersionedSampler)
    sampler.submit("a", [1], SamplingParams(20))
    sampler.cancel(["a"])
    sampler.submit("a", [1], SamplingParams(20))
    found = [sampler.poll() for _ in range(9)]
    assert sum(map(len, found)) == 1
