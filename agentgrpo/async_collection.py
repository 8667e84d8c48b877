"""Episodes of the updates to come are played while the trainer learns from earlier ones."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from agentgrpo.algorithm import State
from agentgrpo.collection import Collector
from agentgrpo.curriculum import State as CurriculumState
from agentgrpo.rollout import Order
from agentgrpo.timing import phase
from agentgrpo.types import Group


class AsyncCollector(Collector):
    """Plays in a thread of its own, up to ``rollout.max_staleness`` updates ahead.

    An update is made of its own tasks and no others, as without this, so no episode is lost and none counts twice: what
    was under way when a run stopped is played again when it goes on. The groups of update u are ordered when update
    u - max_staleness is collected. Each turn is drawn from the weights of its time and says which they were.

    Nobody else may use the runner; other threads may use the sampler.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._changed = threading.Condition()
        self._new: deque[Order] = deque()
        self._done: dict[tuple[int, ...], Group] = {}
        self._ahead: dict[int, list[Order]] = {}
        """First orders of updates that have not been collected."""
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """Ends the thread; what was under way is given up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        super().close()

    def _orders(
        self, update: int, first: int, count: int, state: State, curriculum: CurriculumState
    ) -> Sequence[Order]:
        if first:  # in place of dropped groups
            orders = super()._orders(update, first, count, state, curriculum)
            self._add(orders)
            return orders
        last = min(update + self.config.rollout.max_staleness, max(self.config.num_updates - 1, update))
        for coming in range(update, last + 1):
            if coming not in self._ahead:
                self._ahead[coming] = list(super()._orders(coming, 0, count, state, curriculum))
                self._add(self._ahead[coming])
        return self._ahead.pop(update)

    def _add(self, orders: Sequence[Order]) -> None:
        with self._changed:
            self._new.extend(orders)
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="rollouts")
            self._thread.start()

    def _play(self, orders: Sequence[Order]) -> list[Group]:
        with phase("waiting"), self._changed:
            self._changed.wait_for(lambda: self._error or all(order.key in self._done for order in orders))
            if self._error is not None:
                raise self._error
            return [self._done.pop(order.key) for order in orders]

    # --- in the thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            for key, group in self.runner.stream(self.player, self._take):
                with self._changed:
                    self._done[key] = group
                    self._changed.notify_all()
        except _Closed:
            pass
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _take(self, wait: bool) -> Sequence[Order]:
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._new or self._closed)
            if self._closed:
                raise _Closed
            orders = list(self._new)
            self._new.clear()
            return orders


class _Closed(Exception):
    """The collector was closed."""
