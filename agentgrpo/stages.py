"""Where episodes are played: orders go in, and groups come out under the orders' keys, whoever played them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from transformers import PreTrainedModel

from agentgrpo.cluster.ranks import Ranks
from agentgrpo.context import ChatFormat
from agentgrpo.guided import GuidedPlayer
from agentgrpo.rewards import RewardScorer
from agentgrpo.rollout import Order, RolloutRunner
from agentgrpo.samplers.base import SamplerStats, SamplingParams
from agentgrpo.samplers.versioned import VersionedSampler
from agentgrpo.timing import phase
from agentgrpo.types import Group
from agentgrpo.weights import whole

Key = tuple[int, ...]


class Stage(Protocol):
    """Plays groups of episodes with the policy's weights, and scores them."""

    @property
    def stats(self) -> SamplerStats:
        """What its samplers have counted."""

    def submit(self, orders: Sequence[Order]) -> None:
        """Takes orders, whose keys no other may have that was not taken back yet."""

    def take(self, keys: Sequence[Key]) -> list[Group]:
        """The groups of these orders, in order, as soon as all of them are complete."""

    def sync(self, model: PreTrainedModel, version: int) -> None:
        """What is drawn from here on is drawn from these weights, which have seen ``version`` updates."""

    def rest(self) -> None:
        """Nothing is ordered before the next sync: memory that only sampling needs may be given back."""

    def close(self) -> None:
        """Closes the environments; what is under way is given up."""


def play(stage: Stage, orders: Sequence[Order]) -> list[Group]:
    """Plays orders, and waits for them."""
    stage.submit(orders)
    return stage.take([order.key for order in orders])


class InlineStage:
    """Plays in the caller's thread, when it takes the groups.

    Args:
        runner: owns the environments.
        sampler: draws the policy's turns.
        chat: turns an expert's text into token ids.
        params: how a turn is drawn where the order does not say.
    """

    def __init__(
        self, runner: RolloutRunner, sampler: VersionedSampler, chat: ChatFormat, params: SamplingParams
    ) -> None:
        self._runner = runner
        self._sampler = sampler
        self._player = GuidedPlayer(sampler, params, chat, runner.pools)
        self._orders: dict[Key, Order] = {}

    @property
    def stats(self) -> SamplerStats:
        return self._sampler.stats

    def submit(self, orders: Sequence[Order]) -> None:
        self._orders |= {order.key: order for order in orders}

    def take(self, keys: Sequence[Key]) -> list[Group]:
        return self._runner.play(self._player, [self._orders.pop(key) for key in keys])

    def sync(self, model: PreTrainedModel, version: int) -> None:
        self._sampler.sync(model, version)

    def rest(self) -> None:
        self._sampler.rest()

    def close(self) -> None:
        self._runner.close()


class ThreadStage:
    """Plays in a thread of its own, from the moment that something is ordered. Nobody else may use the runner.

    Each turn is drawn from the weights of its time and says which they were. Of what is under way, the lowest keys come
    first. Arguments as for :class:`InlineStage`.
    """

    def __init__(
        self, runner: RolloutRunner, sampler: VersionedSampler, chat: ChatFormat, params: SamplingParams
    ) -> None:
        self._runner = runner
        self._sampler = sampler
        self._player = GuidedPlayer(sampler, params, chat, runner.pools)
        self._changed = threading.Condition()
        self._new: deque[Order] = deque()
        self._done: dict[Key, Group] = {}
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def stats(self) -> SamplerStats:
        return self._sampler.stats

    def submit(self, orders: Sequence[Order]) -> None:
        with self._changed:
            self._new.extend(orders)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="rollouts")
                self._thread.start()

    def take(self, keys: Sequence[Key]) -> list[Group]:
        with phase("waiting"), self._changed:
            self._changed.wait_for(lambda: self._error or all(key in self._done for key in keys))
            if self._error is not None:
                raise self._error
            return [self._done.pop(key) for key in keys]

    def take_any(self) -> list[tuple[Key, Group]]:
        """Whatever is complete, as soon as anything is."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._done)
            if self._error is not None:
                raise self._error
            found = list(self._done.items())
            self._done.clear()
            return found

    def sync(self, model: PreTrainedModel, version: int) -> None:
        self._sampler.sync(model, version)

    def rest(self) -> None:
        """Rollouts go on meanwhile."""

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._runner.close()

    # --- in the thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            for key, group in self._runner.stream(self._player, self._next):
                with self._changed:
                    self._done[key] = group
                    self._changed.notify_all()
        except _Closed:
            pass
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self, wait: bool) -> Sequence[Order]:
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._new or self._closed)
            if self._closed:
                raise _Closed
            orders = list(self._new)
            self._new.clear()
            return orders


class _Closed(Exception):
    """The stage was closed."""


class ScoredStage:
    """A stage whose groups come out scored.

    Args:
        stage: plays.
        scorer: gives the rewards.
    """

    def __init__(self, stage: Stage, scorer: RewardScorer) -> None:
        self._stage = stage
        self._scorer = scorer

    @property
    def stats(self) -> SamplerStats:
        return self._stage.stats

    def submit(self, orders: Sequence[Order]) -> None:
        self._stage.submit(orders)

    def take(self, keys: Sequence[Key]) -> list[Group]:
        return self._scorer.score(self._stage.take(keys))

    def sync(self, model: PreTrainedModel, version: int) -> None:
        self._stage.sync(model, version)

    def rest(self) -> None:
        self._stage.rest()

    def close(self) -> None:
        self._stage.close()


class RankStage:
    """The stages of all ranks as one: each group is played, and scored, at one rank, and taken at all.

    Args:
        own: this rank's; None where it plays nothing.
        ranks: all of them make the same calls.
        owner: the rank that plays the group of a key.
    """

    def __init__(self, own: Stage | None, ranks: Ranks, owner: Callable[[Key], int]) -> None:
        self._own = own
        self._ranks = ranks
        self._owner = owner

    @property
    def stats(self) -> SamplerStats:
        return SamplerStats() if self._own is None else self._own.stats

    def submit(self, orders: Sequence[Order]) -> None:
        mine = [order for order in orders if self._owner(order.key) == self._ranks.rank]
        if self._own is not None and mine:
            self._own.submit(mine)

    def take(self, keys: Sequence[Key]) -> list[Group]:
        mine = [key for key in keys if self._owner(key) == self._ranks.rank]

        def played() -> dict[Key, Group]:
            return {} if self._own is None else dict(zip(mine, self._own.take(mine), strict=True))

        found = {key: group for part in self._ranks.gather(played) for key, group in part.items()}
        return [found[key] for key in keys]

    def sync(self, model: PreTrainedModel, version: int) -> None:
        if self._own is not None:
            self._own.sync(model, version)
            return
        for weight in model.parameters():
            if weight.requires_grad:
                whole(weight)  # the first rank cannot gather what is spread over all of them without the others

    def rest(self) -> None:
        if self._own is not None:
            self._own.rest()

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
