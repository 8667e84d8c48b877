"""GraphGPO: steps are rewarded by how near the goal they lead on the group's own map (arXiv:2605.26684).

All trajectories of a group are merged into one graph of states. From the successful ends the shortest distance d to the
goal is found backwards; a step earns ``goal_reward * gamma^d(next state)``, nothing where no known way leads on, and
is compared with the other visits to its state. The paper was read at second hand: unit lengths and 0 for unreachable
states are inferred.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agentgrpo.advantages import standardize_groups
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.checks import above, at_least, within
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Group, Trajectory

_GOAL = ("goal",)


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

    def advantages(self, group: Group) -> list[Tensor]:
        edges = [[] if not t.has_return else _edges(i, t) for i, t in enumerate(group)]
        distance = _distances([edge for member in edges for edge in member])
        keys: list[Hashable] = []
        values: list[float] = []
        for trajectory, member in zip(group, edges, strict=True):
            keys += [state for state, _ in member] or [None] * len(trajectory.steps)
            values += [self._reward(distance.get(after)) for _, after in member] or [0.0] * len(trajectory.steps)
        found = standardize_groups(keys, values, scale=self.scale != "none")
        steps = torch.split(found, [len(t.steps) for t in group])
        return [self.episode_weight * a + s for a, s in zip(super().advantages(group), steps, strict=True)]

    def _reward(self, distance: int | None) -> float:
        return 0.0 if distance is None else self.goal_reward * self.gamma**distance


def _edges(index: int, trajectory: Trajectory) -> list[tuple[Hashable, Hashable]]:
    """(state, next state) of each step; an end without success is a place of its own.

    Where an episode was cut off, nobody knows what its last step led to: that one is compared with nothing.
    """
    states: list[Hashable] = [step.state for step in trajectory.steps]
    if not states:
        return []
    end: Hashable = _GOAL if trajectory.success else ("end", index)
    after = [*states[1:], end]
    if trajectory.status.truncated and not trajectory.success:
        states[-1] = None
    return list(zip(states, after, strict=True))


def _distances(edges: list[tuple[Hashable, Hashable]]) -> dict[Hashable, int]:
    """Steps to the goal from every state that has a known way there."""
    before: dict[Hashable, set[Hashable]] = defaultdict(set)
    for state, after in edges:
        before[after].add(state)
    distance: dict[Hashable, int] = {_GOAL: 0}
    queue: deque[Hashable] = deque([_GOAL])
    while queue:
        state = queue.popleft()
        for previous in before[state]:
            if previous not in distance:
                distance[previous] = distance[state] + 1
                queue.append(previous)
    return distance
