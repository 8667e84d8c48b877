"""Guided GRPO: an expert leads part of each group in, for a length that adapts (G2RPO-A, arXiv:2508.13023).

An expert plays the first actions of a share of every group (turns of ``oracle_actions()``; in single-turn tasks tokens
of ``info["reference"]``). The better the policy, the shorter: l' = l * mean(last rewards) / reward; a reward of 0
doubles it, as it would never change. Guidance is masked from loss, KL and clip statistics; in released code it is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from agentgrpo.advantages import returns, standardize_groups
from agentgrpo.algorithm import RunFacts, State
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.checks import above, at_least, one_of
from agentgrpo.columns import int64, owners
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Group


@register_algorithm("guided")
@dataclass(frozen=True)
class Guided(GRPO):
    """GRPO with adaptive expert guidance."""

    formula: ClassVar[str] = "as grpo over guided and unguided members; length *= mean(last rewards) / reward"
    source: ClassVar[str] = "arXiv:2508.13023"

    guided_share: float = 0.25
    """Share of each group that an expert leads in, rounded up to members; in (0, 1)."""
    initial_length: int = 4
    """Turns (tokens in single-turn tasks) of the first update."""
    min_length: int = 1
    max_length: int = 64
    baseline: Literal["shared", "separate"] = "shared"
    """``shared``: all members are compared. ``separate``: guided ones among themselves, and so the others."""
    max_change: float = math.inf
    """Most that an update changes the length by, >= 1: a ratio of two small means is mostly noise."""
    window: int = 2
    """How many earlier rewards are averaged; T in the paper."""
    target: float | None = None
    """Reward that the length is steered to, > 0; None: the mean of the earlier ones, as in the paper."""
    schedule: Literal["paper", "released_code"] = "paper"
    """``paper``: after every update. ``released_code``: after every third, rounded down."""
    signal: Literal["all", "unguided"] = "all"
    """Whose mean return is the reward that the length follows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.guided_share < 1:
            given = f"algorithm.guided_share must be in (0, 1), got {self.guided_share:g}"
            raise ValueError(f"{given}: all members guided say nothing about the policy alone; with none this is grpo.")
        at_least("algorithm.min_length", self.min_length, 0)
        at_least("algorithm.initial_length", self.initial_length, self.min_length)
        at_least("algorithm.max_length", self.max_length, self.initial_length)
        one_of("algorithm.baseline", self.baseline, ("shared", "separate"))
        at_least("algorithm.max_change", self.max_change, 1)
        at_least("algorithm.window", self.window, 1)
        above("algorithm.target", 1.0 if self.target is None else self.target, 0)
        one_of("algorithm.schedule", self.schedule, ("paper", "released_code"))
        one_of("algorithm.signal", self.signal, ("all", "unguided"))

    def check(self, facts: RunFacts) -> None:
        super().check(facts)
        if not facts.has_expert:
            raise ValueError(
                "guided needs an expert, and the environment has none. Give it oracle_actions() -> list[str], or, in a "
                "single-turn task, a written solution in info['reference']; or choose algorithm=grpo."
            )
        if self.num_guided(facts.group_size) >= facts.group_size:
            given = f"algorithm.guided_share={self.guided_share:g} of group_size={facts.group_size}"
            raise ValueError(f"{given} leaves no unguided member. Lower the share, or raise group_size.")

    def member_advantages(self, groups: Sequence[Group]) -> Tensor:
        apart = self.baseline == "separate"
        keys = 2 * owners(groups) + int64([apart and t.guided for group in groups for t in group])
        return standardize_groups(keys, returns(*groups), scale=self.scale == "group")

    def num_guided(self, group_size: int) -> int:
        """Guided members of a group, the first ones; rounded up."""
        return math.ceil(self.guided_share * group_size - 1e-9)  # 0.07 * 100 is a little more than 7

    def initial_state(self) -> State:
        return {"length": self.initial_length, "rewards": [], "updates": 0}

    def guidance(self, state: State, group_size: int) -> tuple[int, ...]:
        led = self.num_guided(group_size)
        return (state["length"],) * led + (0,) * (group_size - led)

    def next_state(self, state: State, groups: Sequence[Group]) -> State:
        heard = [t for g in groups for t in g if t.has_return and (self.signal == "all" or not t.guided)]
        return self.adapt(state, math.fsum(t.episode_return for t in heard) / len(heard)) if heard else state

    def adapt(self, state: State, reward: float) -> State:
        """The state after an update with the given mean reward."""
        length, earlier = state["length"], state["rewards"]
        due = self.schedule == "paper" or (state["updates"] + 1) % 3 == 0
        mean = sum(earlier) / max(len(earlier), 1) if self.target is None else self.target
        if due and (reward == 0 or (reward > 0 and mean > 0)):
            factor = mean / (reward + 1e-8) if reward else 2.0  # 1e-8 as in the repetition of the paper
            wanted = min(max(length * factor, length - self.max_change), length + self.max_change)
            wanted = round(wanted) if self.schedule == "paper" else int(wanted + 1e-6)
            length = min(max(wanted, self.min_length if reward else length + 1), self.max_length)
        rewards = ([*earlier, reward] if reward else earlier)[-self.window :]
        return {"length": length, "rewards": rewards, "updates": state["updates"] + 1}
