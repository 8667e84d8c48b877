"""GraphGPO: steps are rewarded by how near the goal they lead on the group's own map (arXiv:2605.26684).

All trajectories of a group are merged into one graph of states. From the successful ends the shortest distance d to the
goal is found backwards; a step earns ``goal_reward * gamma^d(next state)``, nothing where no known way leads on, and
is compared with the other visits to its state. The paper was read at second hand: unit lengths and 0 for unreachable
states are inferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agentgrpo.advantages import standardize_groups
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.checks import above, at_least, within
from agentgrpo.columns import float64, int64, known, numbered, states, step_counts
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Group


@register_algorithm("graph_gpo")
@dataclass(frozen=True)
class GraphGPO(GRPO):
    """Credit by distance on the state graph."""

    formula: ClassVar[str] = "A = episode_weight * A_episode + standardized(goal_reward * gamma^d(next)) per state"
    source: ClassVar[str] = "arXiv:2605.26684"

    gamma: float = 0.2
    """Factor per step of distance, in (0, 1)."""
    goal_reward: float = 10.0
    """Reward of the step that reaches the goal, > 0."""
    episode_weight: float = 1.0
    """Weight of GRPO's episode advantage beside the step's, >= 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("algorithm.gamma", self.gamma, "(0, 1)")
        above("algorithm.goal_reward", self.goal_reward, 0)
        at_least("algorithm.episode_weight", self.episode_weight, 0)
        if self.supervision == "process" or self.scale == "batch":
            raise ValueError(
                "GraphGPO gives each step its own credit inside its group: it needs algorithm.supervision=outcome and "
                "algorithm.scale=group or none."
            )

    @property
    def compares_states(self) -> bool:
        return True

    def step_advantages(self, groups: Sequence[Group]) -> Tensor:
        state, after, goal = _edges(groups)
        distance = _distances(state, after, goal)
        rewards = [self.goal_reward * self.gamma**d for d in range(max(distance) + 1)]
        values = float64([*rewards, 0.0])[int64(distance)[after]]  # a distance of -1 reads the last one
        steps = standardize_groups(state, values, scale=self.scale != "none")
        return self.episode_weight * super().step_advantages(groups) + steps


def _edges(groups: Sequence[Group]) -> tuple[Tensor, Tensor, int]:
    """(all steps,) state of each step, (all steps,) next state, and the number that stands for every group's goal.

    An end without success is a place from which no way leads on; so is all that follows in an episode of unknown
    return. Its states are -1: they are compared with nothing. Where an episode was cut off, nobody knows what its last
    step led to: that one is not compared either.
    """
    counts = step_counts(groups)
    state = numbered([states(group) for group in groups])
    goal = int(state.max()) + 1 if len(state) else 0
    nowhere = goal + 1
    unknown = ~known(groups).repeat_interleave(counts)
    ends = counts.cumsum(0)[counts > 0] - 1
    episodes = [t for group in groups for t in group if t.steps]
    won = torch.tensor([t.success for t in episodes], dtype=torch.bool)
    cut = torch.tensor([t.status.truncated for t in episodes], dtype=torch.bool)
    after = state.roll(-1)
    after[ends] = torch.where(won, goal, nowhere)
    state[ends[cut & ~won]] = -1
    return state.masked_fill(unknown, -1), after.masked_fill(unknown, nowhere), goal


def _distances(state: Tensor, after: Tensor, goal: int) -> list[int]:
    """(goal + 2,) steps to the goal from every place; -1 where no known way leads there."""
    order = after.argsort(stable=True)
    leading = state[order].tolist()  # where one can come from, sorted by where that leads
    ends = after.bincount(minlength=goal + 2).cumsum(0).tolist()
    starts = [0, *ends]
    distance = [-1] * (goal + 2)
    distance[goal] = 0
    queue = [goal]
    for place in queue:  # which grows meanwhile
        for previous in leading[starts[place] : ends[place]]:
            if distance[previous] < 0:
                distance[previous] = distance[place] + 1
                queue.append(previous)
    return distance
