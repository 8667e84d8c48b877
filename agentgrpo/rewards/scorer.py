"""From configured terms to the reward of every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, get_type_hints

from agentgrpo import rewards
from agentgrpo.checks import one_of, typed
from agentgrpo.rewards.base import KINDS, RewardTerm
from agentgrpo.rewards.environment import EnvironmentReward
from agentgrpo.types import Group, Step, Trajectory


def build_terms(config: Mapping[str, Mapping[str, Any]]) -> dict[str, RewardTerm]:
    """The terms of ``reward.*`` by name.

    Raises:
        ValueError: no term at all, an unknown kind, an unknown key, or a value out of range.
    """
    for module in iter_modules(rewards.__path__):
        import_module(f"{rewards.__name__}.{module.name}")
    if not config:
        raise ValueError("No reward term is chosen, so there is nothing to learn from. Set reward=environment.")
    terms = {}
    for name, keys in config.items():
        kind = keys.get("kind", name)
        one_of(f"reward.{name}.kind", kind, tuple(sorted(KINDS)))
        cls = KINDS[kind]
        values = {k: v for k, v in keys.items() if k != "kind"}
        known = tuple(f.name for f in dataclasses.fields(cls))
        for key in values:
            one_of(f"key of reward.{name}", key, known)
        hints = get_type_hints(cls)
        for key, value in values.items():
            typed(f"reward.{name}.{key}", value, hints[key])
        try:
            terms[name] = cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"reward.{name}: {error}") from error
    return terms


class RewardScorer:
    """Gives every step its reward: the weighted sum of the terms.

    Success is what the environment says of it as long as its own reward is among the terms. Without, an episode
    succeeds when its return is the highest possible.
    """

    def __init__(self, terms: Mapping[str, RewardTerm]) -> None:
        self._terms = dict(terms)
        self._judges = not any(isinstance(term, EnvironmentReward) for term in self._terms.values())

    def check(self, info_keys: frozenset[str]) -> None:
        """Asks every term whether it can work with an environment whose ``reset`` gives these keys."""
        for name, term in self._terms.items():
            try:
                term.check(info_keys)
            except ValueError as error:
                raise ValueError(f"reward.{name}: {error}") from error

    def max_return(self, env_max_return: float | None) -> float | None:
        """Highest return possible under these terms; None where one of them cannot say."""
        total = 0.0
        for term in self._terms.values():
            highest = term.max_return(env_max_return)
            if highest is None or term.weight < 0:
                return None
            total += term.weight * highest
        return total

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """The groups with rewards and terms filled in."""
        trajectories = [t for group in groups for t in group]
        columns = {name: term.score(trajectories) for name, term in self._terms.items()}
        scored = iter(
            self._with_rewards(t, {name: column[i] for name, column in columns.items()})
            for i, t in enumerate(trajectories)
        )
        return [
            replace(g, trajectories=tuple(next(scored) for _ in g), max_return=self.max_return(g.max_return))
            for g in groups
        ]

    def _with_rewards(self, trajectory: Trajectory, columns: Mapping[str, Sequence[float]]) -> Trajectory:
        steps = [
            self._with_reward(step, {name: column[k] for name, column in columns.items()})
            for k, step in enumerate(trajectory.steps)
        ]
        scored = replace(trajectory, steps=tuple(steps))
        highest = self.max_return(None)
        if not self._judges or highest is None:
            return scored
        return replace(scored, success=scored.has_return and scored.episode_return >= highest - 1e-9)

    def _with_reward(self, step: Step, values: dict[str, float]) -> Step:
        total = sum(self._terms[name].weight * value for name, value in values.items())
        return replace(step, reward=total, reward_terms=values)
