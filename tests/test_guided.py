"""An expert leads in: whose tokens are whose, in tasks of several turns and of one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch
from helpers import tiny_tokenizer

from agentgrpo.config import EnvConfig, RolloutConfig
from agentgrpo.context import ChatFormat, make_conversation
from agentgrpo.episode import Task
from agentgrpo.guided import GuidedPlayer
from agentgrpo.packing import sequences
from agentgrpo.rollout import Order, RolloutRunner
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.scripted import ScriptedSampler
from agentgrpo.types import Credit, Group, StopReason, Trajectory

CHAT = ChatFormat(tiny_tokenizer())
PLAN = ["go north", "go south", "open the door"]


class Corridor(gym.Env[str, str]):
    """Three actions in a row lead to the goal; anything else changes nothing."""

    max_return = 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._done = 0
        self._turn = 0
        return "You are in a maze.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._turn += 1
        self._done += action == PLAN[self._done]
        won = self._done == len(PLAN)
        return f"{self._done} done", float(won), won, self._turn >= 5, {}

    def oracle_actions(self) -> list[str]:
        return PLAN[self._done :]


class Question(gym.Env[str, str]):
    """One turn, with a written solution."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "What now?", {"reference": "open the door go north", "answer": "go north"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "Thanks.", float(action.endswith("go north")), True, False, {}


class Helpless(Corridor):
    """Its oracle fails."""

    def oracle_actions(self) -> list[str]:
        raise KeyError("no way")


gym.register("GuidedTest/Corridor-v0", entry_point=lambda: Corridor())
gym.register("GuidedTest/Question-v0", entry_point=lambda: Question())
gym.register("GuidedTest/Helpless-v0", entry_point=lambda: Helpless())


def play(env_id: str, guidance: list[int], answer: str, max_new_tokens: int = 12) -> tuple[Group, list[list[int]]]:
    """A group whose policy always answers the same; also the prompts that it was asked to continue."""
    prompts: list[list[int]] = []

    def script(prompt: list[int]) -> list[int]:
        prompts.append(prompt)
        return [*CHAT.encode(answer), CHAT.end_id]

    config = EnvConfig(name="test", id=env_id)
    limits = RolloutConfig(temperature=1.0, top_p=1.0, max_new_tokens=max_new_tokens, max_turns=5, step_timeout=5.0)
    runner = RolloutRunner(
        {config.name: config}, limits, lambda name: make_conversation(CHAT, "transcript", 2), CHAT, 500
    )
    player = GuidedPlayer(ScriptedSampler(script), SamplingParams(max_new_tokens), CHAT, runner.pools)
    (group,) = runner.play(player, [Order((0,), Task(3, ("test",)), guidance)])
    return group, prompts


def actions(trajectory: Trajectory) -> list[str]:
    return [step.action for step in trajectory.steps]


def test_expert_turns_are_played_and_the_policy_goes_on() -> None:
    group, _ = play("GuidedTest/Corridor-v0", [2, 0], "open the door")
    led, free = group
    assert actions(led) == PLAN
    assert led.success
    assert actions(free) == ["open the door"] * 5
    assert not free.success
    assert [step.num_policy_tokens == 0 for step in led.steps] == [True, True, False]
    assert led.guided
    assert not free.guided


def test_expert_turns_are_read_but_not_trained_on() -> None:
    group, prompts = play("GuidedTest/Corridor-v0", [2], "open the door")
    (led,) = group
    (item,) = sequences(led, Credit(torch.ones(led.num_policy_tokens)))
    last = led.steps[-1].action_ids
    assert [item.token_ids[at] for at in item.action_index] == list(last)
    # What the policy was asked to continue is exactly what stands before its first token.
    assert prompts == [list(item.token_ids[: item.action_index[0]])]


def test_the_last_action_to_the_goal_is_the_policys() -> None:
    group, _ = play("GuidedTest/Corridor-v0", [99], "go north")
    (led,) = group
    assert actions(led) == [*PLAN[:2], "go north", "go north", "go north"]


def test_the_expert_does_not_come_back() -> None:
    # The policy's first move of its own is wrong, so the plan is still long; it has to go on alone all the same.
    group, _ = play("GuidedTest/Corridor-v0", [1], "open the door")
    assert actions(group.trajectories[0]) == ["go north", *["open the door"] * 4]
    group, _ = play("GuidedTest/Corridor-v0", [99], "go south")
    assert actions(group.trajectories[0]) == ["go north", "go south", *["go south"] * 3]


def test_a_reference_trace_starts_the_answer() -> None:
    trace = CHAT.encode("open the door go north")
    group, prompts = play("GuidedTest/Question-v0", [3, 0], "go north")
    led, free = group
    (step,) = led.steps
    assert step.num_guided == 3
    assert step.action_ids[:3] == trace[:3]
    assert len(step.logprobs) == step.num_policy_tokens == len(step.action_ids) - 3
    assert prompts[0] == [*step.prompt_ids, *trace[:3]]
    assert step.action == CHAT.decode(step.action_ids).strip()
    assert free.steps[0].num_guided == 0


@pytest.mark.parametrize(("length", "limit", "expected"), [(99, 50, "all but one"), (99, 4, 3)])
def test_the_policy_always_has_something_to_write(length: int, limit: int, expected: int | str) -> None:
    trace = CHAT.encode("open the door go north")
    group, _ = play("GuidedTest/Question-v0", [length], "go north", limit)
    (step,) = group.trajectories[0].steps
    assert step.num_guided == (len(trace) - 1 if expected == "all but one" else expected)
    assert step.num_policy_tokens >= 1
    assert len(step.action_ids) <= limit or step.stop_reason is StopReason.STOP


def test_an_oracle_that_fails_says_where() -> None:
    with pytest.raises(ValueError, match=r"(?s)oracle of the environment failed on task 3.*no way"):
        play("GuidedTest/Helpless-v0", [2], "go north")


def test_the_task_info_stays_with_the_trajectory() -> None:
    group, _ = play("GuidedTest/Question-v0", [0], "go north")
    assert group.trajectories[0].task_info["answer"] == "go north"
