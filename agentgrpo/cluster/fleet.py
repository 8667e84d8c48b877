"""Sampler actors as one stage: groups are dealt to whoever has room, and played again where an actor was lost."""

from __future__ import annotations

import bisect
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)
from transformers import PreTrainedModel

from agentgrpo.cluster.errors import ClusterError, cannot_start
from agentgrpo.cluster.settings import RaySettings
from agentgrpo.rollout import Order
from agentgrpo.samplers.base import SamplerStats
from agentgrpo.stages import Key
from agentgrpo.timing import phase
from agentgrpo.types import Group
from agentgrpo.weights import learned

_LOOK = 1.0
"""Seconds between two looks for actors that are late."""
_START = 300.0
"""Seconds that a new actor may take until it plays: it loads libraries and a model."""
_FULL = (ObjectStoreFullError, OutOfDiskError)
_NO_ROOM = (
    "Ray's object store is full, and so is the disk that it moves to what does not fit: it holds the weights once per "
    "machine while samplers take them over, and groups until they are fetched. Free space in Ray's folder (/tmp/ray, "
    "or ray start --temp-dir=FOLDER), or give the store more memory: ray start --object-store-memory=BYTES."
)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Where sampler actors are placed, and with what."""

    bundles: tuple[int, ...]
    """Of the placement group, one per sampler."""
    group: Any
    num_cpus: float
    num_gpus: float

    def open(self, cls: type, origin: Any) -> Callable[[int], Any]:
        """A function that starts the sampler of a number."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        def start(number: int) -> Any:
            strategy = PlacementGroupSchedulingStrategy(
                placement_group=self.group, placement_group_bundle_index=self.bundles[number]
            )
            actor = ray.remote(cls).options(
                num_cpus=self.num_cpus,
                num_gpus=self.num_gpus,
                scheduling_strategy=strategy,
                max_concurrency=4,  # `finished` waits in one thread, and `sync` for what is being written in another
                max_restarts=0,
            )
            return actor.remote(origin)

        return start

    @property
    def size(self) -> int:
        """How many samplers there are."""
        return len(self.bundles)


@dataclass(slots=True)
class _Sampler:
    """An actor, and what it has been given."""

    number: int
    handle: Any
    playing: dict[Key, tuple[Order, float]] = field(default_factory=dict)
    """Orders, and until when each must be played."""
    stats: SamplerStats = field(default_factory=SamplerStats)
    proven: bool = False
    """Whether it has answered yet."""

    @property
    def episodes(self) -> int:
        return sum(len(order.guidance) for order, _ in self.playing.values())


class FleetStage:
    """Plays at sampler actors, side by side. An actor that dies or is late is replaced, and its groups begin again.

    Each group is played from seeds that name it, so it is the same group whoever plays it. Of groups that wait, the
    lowest keys come first.

    Args:
        start: starts the actor of a number.
        size: how many there are.
        settings: limits.
        say: tells of what was replaced.
    """

    def __init__(
        self, start: Callable[[int], Any], size: int, settings: RaySettings, say: Callable[[str], None]
    ) -> None:
        self._start = start
        self._settings = settings
        self._say = say
        self._changed = threading.Condition()
        self._orders: list[Order] = []
        """Sorted by key."""
        self._done: dict[Key, Group] = {}
        self._weights: tuple[Any, int] | None = None
        self._events: queue.SimpleQueue[tuple[_Sampler, str, Any] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._replaced = 0
        self._past = SamplerStats()
        self._samplers = [self._opened(number) for number in range(size)]
        self._thread = threading.Thread(target=self._work, daemon=True, name="fleet")
        self._thread.start()

    # --- the stage ------------------------------------------------------------------------------------------------

    @property
    def stats(self) -> SamplerStats:
        with self._changed:
            return _total([self._past, *(s.stats for s in self._samplers)])

    def submit(self, orders: Sequence[Order]) -> None:
        with self._changed:
            self._queue(orders)
            self._deal()

    def take(self, keys: Sequence[Key]) -> list[Group]:
        with phase("waiting"), self._changed:
            self._changed.wait_for(lambda: self._error or all(key in self._done for key in keys))
            if self._error is not None:
                raise self._error
            return [self._done.pop(key) for key in keys]

    def sync(self, model: PreTrainedModel, version: int) -> None:
        with phase("sync"):
            try:
                weights = ray.put(learned(model))
            except _FULL as error:
                raise ClusterError(_NO_ROOM) from error
        with self._changed:
            self._weights = weights, version
            for sampler in self._samplers:
                self._hand_over(sampler)

    def rest(self) -> None:
        """Samplers have memory of their own."""

    def close(self) -> None:
        self._events.put(None)
        self._thread.join()
        for sampler in self._samplers:
            ray.kill(sampler.handle)

    # --- actors ---------------------------------------------------------------------------------------------------

    def _opened(self, number: int) -> _Sampler:
        sampler = _Sampler(number, self._start(number))
        self._listen(sampler, "finished", sampler.handle.finished.remote())
        return sampler

    def _hand_over(self, sampler: _Sampler) -> None:
        assert self._weights is not None
        weights, version = self._weights
        self._listen(sampler, "sync", sampler.handle.sync.remote(weights, version))

    def _listen(self, sampler: _Sampler, call: str, answer: Any) -> None:
        """Has what a call gives, or what goes wrong with it, put among the events."""
        answer.future().add_done_callback(lambda future: self._events.put((sampler, call, future)))

    def _queue(self, orders: Iterable[Order]) -> None:
        for order in orders:
            bisect.insort(self._orders, order, key=lambda o: o.key)

    def _deal(self) -> None:
        """Gives waiting orders to samplers that have room, evenly: to those that have answered, if there are any."""
        new: dict[int, list[Order]] = {}
        now = time.monotonic()
        ready = [s for s in self._samplers if s.proven] or self._samplers
        while self._orders:
            sampler = min(ready, key=lambda s: s.episodes)
            order = self._orders[0]
            if sampler.playing and sampler.episodes + len(order.guidance) > self._settings.episodes_per_sampler:
                break
            self._orders.pop(0)
            sampler.playing[order.key] = order, now + self._settings.deadline
            new.setdefault(sampler.number, []).append(order)
        assert self._weights is not None or not new, "sync comes before orders"
        for number, orders in new.items():
            assert self._weights is not None
            sampler = self._samplers[number]
            self._listen(sampler, "submit", sampler.handle.submit.remote(orders, self._weights[1]))

    # --- in the thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            try:
                self._replace_late()
                with contextlib.suppress(queue.Empty):
                    event = self._events.get(timeout=_LOOK)
                    if event is None:
                        return
                    self._handle(*event)
            except Exception as error:  # told to whoever waits for groups
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return

    def _handle(self, sampler: _Sampler, call: str, future: Any) -> None:
        error = future.exception()
        with self._changed:
            if self._samplers[sampler.number] is not sampler:
                return  # it was replaced before
            if isinstance(error, _FULL) or isinstance(getattr(error, "cause", None), _FULL):
                raise ClusterError(_NO_ROOM) from error
            if isinstance(error, RayTaskError):  # of the environment, the engine or the configuration: not the actor's
                raise error.cause if isinstance(error.cause, Exception) else error
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise cannot_start(f"Sampler {sampler.number}", error)
            if isinstance(error, (RayActorError, OutOfMemoryError, ObjectLostError)):
                self._replace(sampler, _reason(error))
                return
            if error is not None:
                raise error
            if not sampler.proven:  # its time for what it was given before starts now
                sampler.proven = True
                until = time.monotonic() + self._settings.deadline
                sampler.playing = {key: (order, until) for key, (order, _) in sampler.playing.items()}
                self._deal()
            if call != "finished":
                return
            groups, sampler.stats = future.result()
            for key, group in groups:
                if sampler.playing.pop(key, None) is not None:
                    self._done[key] = group
            self._listen(sampler, "finished", sampler.handle.finished.remote())
            self._deal()
            self._changed.notify_all()

    def _replace_late(self) -> None:
        now = time.monotonic()
        with self._changed:
            for sampler in list(self._samplers):
                # One that is still loading its model is given the time for that.
                extra = 0.0 if sampler.proven else _START
                late = [key for key, (_, until) in sampler.playing.items() if now > until + extra]
                if late:
                    seconds = self._settings.deadline
                    self._replace(sampler, f"took more than {seconds:g} s for a group (cluster.deadline)")

    def _replace(self, sampler: _Sampler, reason: str) -> None:
        self._replaced += 1
        if self._replaced > self._settings.max_replacements:
            raise ClusterError(
                f"Sampler {sampler.number} {reason}, and {self._settings.max_replacements} samplers were replaced "
                "before it (cluster.max_replacements)."
            )
        again = [order for order, _ in sampler.playing.values()]
        self._say(f"warning: sampler {sampler.number} {reason}: replaced, {len(again)} groups begin again")
        ray.kill(sampler.handle)
        self._past = _total([self._past, sampler.stats])
        self._samplers[sampler.number] = new = self._opened(sampler.number)
        if self._weights is not None:
            self._hand_over(new)
        self._queue(again)
        self._deal()


def _reason(error: Exception) -> str:
    if isinstance(error, OutOfMemoryError):
        return (
            "was stopped because its machine ran out of memory (fewer samplers per machine, sampler.cache_gb or "
            "cluster.episodes_per_sampler use less)"
        )
    return "lost what it had played" if isinstance(error, ObjectLostError) else "died"


def _total(parts: Iterable[SamplerStats]) -> SamplerStats:
    total = SamplerStats()
    for part in parts:
        total.prompt_tokens += part.prompt_tokens
        total.prefilled_tokens += part.prefilled_tokens
        total.sampled_tokens += part.sampled_tokens
    return total
