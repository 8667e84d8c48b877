"""Held-out success on frozen, hashed task panels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from agentgrpo.config import EnvConfig
from agentgrpo.environments import checked_reset, make_env
from agentgrpo.episode import Task
from agentgrpo.rollout import Order
from agentgrpo.seeding import panel_task_seed
from agentgrpo.types import Group


@dataclass(frozen=True, slots=True)
class Panel:
    """Tasks that every run of an environment is judged on. Training never draws their seeds."""

    name: str
    tasks: tuple[Task, ...]
    hash: str
    """SHA-256 over the environment's id, arguments, seeds and first observations: equal hash, equal tasks."""


def make_panel(envs: Mapping[str, EnvConfig], num_tasks: int) -> Panel:
    """The first ``num_tasks`` tasks of each environment's panel: the same for every run, seed and machine."""
    panels = [_panel(name, env, num_tasks) for name, env in envs.items()]
    if len(panels) == 1:
        return panels[0]
    together = hashlib.sha256("".join(panel.hash for panel in panels).encode()).hexdigest()
    return Panel(", ".join(p.name for p in panels), tuple(task for p in panels for task in p.tasks), together)


def _panel(name: str, env_config: EnvConfig, num_tasks: int) -> Panel:
    seeds = [panel_task_seed(env_config.id, i) for i in range(num_tasks)]
    env = make_env(env_config)
    starts = [checked_reset(env, seed, 0)[0] for seed in seeds]
    env.close()
    identity = json.dumps([env_config.id, env_config.kwargs, seeds, starts], sort_keys=True, default=str)
    tasks = tuple(Task(seed, ("panel", env_config.id, i), name) for i, seed in enumerate(seeds))
    return Panel(env_config.id, tasks, hashlib.sha256(identity.encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One pass over a panel."""

    outcomes: tuple[bool, ...]
    """Success per task, in the panel's order, so that two policies can be compared task by task."""
    return_mean: float
    turns_mean: float
    groups: tuple[Group, ...]
    """The episodes themselves, one per task."""

    @property
    def success(self) -> float:
        return sum(self.outcomes) / len(self.outcomes)

    @property
    def by_env(self) -> dict[str, float]:
        """Success by environment, where there are several."""
        outcomes: dict[str, list[bool]] = {}
        for group, outcome in zip(self.groups, self.outcomes, strict=True):
            outcomes.setdefault(group.env, []).append(outcome)
        return {name: sum(o) / len(o) for name, o in outcomes.items()} if len(outcomes) > 1 else {}

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the success rate over tasks (Wilson); it does not cover the spread over training seeds."""
        ci = binomtest(sum(self.outcomes), len(self.outcomes)).proportion_ci(method="wilson")
        return float(ci.low), float(ci.high)

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds of it."""
        low, high = self.interval
        return {
            "success": self.success,
            "success_low": low,
            "success_high": high,
            "return_mean": self.return_mean,
            "num_tasks": len(self.outcomes),
            **({"by_env": self.by_env} if self.by_env else {}),
        }


def evaluate(play: Callable[[Sequence[Order]], list[Group]], panel: Panel) -> Evaluation:
    """Has each task of the panel played and scored once, with noise that is the same at every evaluation."""
    orders = [Order((-1, i), task, (0,)) for i, task in enumerate(panel.tasks)]  # before all that is for training
    groups = play(orders)
    episodes = [group.trajectories[0] for group in groups]
    known = [t.episode_return for t in episodes if t.has_return]
    return Evaluation(
        outcomes=tuple(t.success for t in episodes),
        return_mean=sum(known) / max(len(known), 1),
        turns_mean=sum(len(t.steps) for t in episodes) / len(episodes),
        groups=tuple(groups),
    )
