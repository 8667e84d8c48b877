"""Which tasks an update trains on: ever new ones, or those of a pool that the policy solves now and then."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from agentgrpo.config import CurriculumConfig
from agentgrpo.episode import Task
from agentgrpo.mix import Mix
from agentgrpo.seeding import derive, training_task_seed
from agentgrpo.types import Group

State = dict[str, dict[str, float]]
"""Success by environment and task of the pool; plain, kept in the checkpoint."""

_POOL = -3
"""In the place of an update's number: tasks that no update draws afresh."""
_OUT_OF_BAND = 0.1
"""Weight of a task outside the band beside one inside: what was too hard or too easy is tried again now and then."""
_MEMORY = 0.5
"""Share of the old estimate in the new one: the policy changes, so what it could do fades."""


class Curriculum:
    """Draws the tasks of an update.

    ``static``: each task once, from a stream that never repeats. ``success_band``: from a pool of ``num_tasks`` per
    environment, where a task whose measured success lies within [low, high] is ten times as likely as another; one
    that was never played counts as inside. Which tasks are drawn depends on seed, update and what was measured only.

    Args:
        config: which kind.
        mix: says which environment a task belongs to.
        seed: of the run.
    """

    def __init__(self, config: CurriculumConfig, mix: Mix, seed: int) -> None:
        self._config = config
        self._mix = mix
        self._seed = seed

    def tasks(
        self, state: Mapping[str, Mapping[str, float]], update: int, first: int, count: int, size: int
    ) -> list[Task]:
        """Tasks number ``first`` .. ``first + count - 1`` of an update.

        Args:
            size: tasks of an update when none is sampled again.
        """
        seed = self._seed
        places = range(first, first + count)
        names = [self._mix.name(update * size + i) for i in places]
        coordinates: list[tuple[int | str, ...]] = [(seed, "train", update, i) for i in places]
        if self._config.kind == "static":
            seeds = [training_task_seed(seed, update, i) for i in places]
        else:
            orders = {name: iter(self._order(state.get(name, {}), name, update, first)) for name in sorted(set(names))}
            seeds = [training_task_seed(seed, _POOL, next(orders[name])) for name in names]
        return [Task(s, c, name) for s, c, name in zip(seeds, coordinates, names, strict=True)]

    def _order(self, success: Mapping[str, float], name: str, update: int, first: int) -> list[int]:
        """The pool, drawn without replacement by weight (Efraimidis & Spirakis 2006)."""

        def key(index: int) -> float:
            uniform = (derive(self._seed, "curriculum", name, update, first, index) + 1) / 2**63
            return -math.log(uniform) / self._weight(success.get(str(index)))

        return sorted(range(self._config.num_tasks), key=key)

    def _weight(self, success: float | None) -> float:
        inside = success is None or self._config.low <= success <= self._config.high
        return 1.0 if inside else _OUT_OF_BAND

    def measured(self, state: Mapping[str, Mapping[str, float]], groups: Sequence[Group]) -> State:
        """The state after the given groups have been played. Members that an expert led in do not count."""
        new = {name: dict(tasks) for name, tasks in state.items()}
        if self._config.kind == "static":
            return new
        index_of = {training_task_seed(self._seed, _POOL, i): str(i) for i in range(self._config.num_tasks)}
        for group in groups:
            played = [t.success for t in group if t.has_return and not t.guided]
            if not played:
                continue
            tasks, index = new.setdefault(group.env, {}), index_of[group.task_seed]
            found = sum(played) / len(played)
            tasks[index] = _MEMORY * tasks[index] + (1 - _MEMORY) * found if index in tasks else found
        return new

    def metrics(self, state: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Of the tasks that were played: their mean success, and the share inside the band."""
        found = [value for tasks in state.values() for value in tasks.values()]
        if not found:
            return {}
        inside = sum(self._config.low <= value <= self._config.high for value in found)
        return {
            "curriculum/tasks_played": float(len(found)),
            "curriculum/success_mean": sum(found) / len(found),
            "curriculum/in_band_share": inside / len(found),
        }


def loaded(state: Any) -> State:
    """The state from a checkpoint's JSON."""
    return {str(name): {str(k): float(v) for k, v in tasks.items()} for name, tasks in (state or {}).items()}
