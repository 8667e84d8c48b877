"""How long one sampler takes for a round: one turn of every episode that is under way there."""

from __future__ import annotations

import heapq
import math
from collections import deque
from functools import lru_cache

from agentgrpo.cluster.costs import Costs

_ROUNDS = 40
"""Rounds that are simulated; the first half, in which batches find their size, does not count."""


def round_seconds(costs: Costs, groups: float) -> float:
    """Seconds of a round while so many groups are under way at a sampler that has its cores to itself.

    Exact for samplers that write round by round, where environments answer inline, or in as many threads as there are
    turns in a round, or in processes that are all busy (an episode holds its process to its end, and others wait). With
    fewer threads than turns the process itself is simulated. For a continuous sampler n turns are spread over policy
    and environments by Little's law, which is exact for many turns.
    """
    a, b, answer = costs.batch_seconds, costs.turn_seconds, costs.step_seconds
    n = groups * costs.turns_per_round
    if costs.execution == "inline":
        return a + n * (b + answer)
    waiting = 1.0
    if costs.execution == "process" and n > costs.workers:
        waiting, n = n / costs.workers, float(costs.workers)
    if costs.continuous:
        # A turn takes t = a + b * (n * t / (t + answer)): those that environments answer meanwhile are not written.
        p = answer - a - b * n
        written = (-p + math.sqrt(p * p + 4 * a * answer)) / 2
        through = n * answer / costs.workers
        return waiting * max(written + answer, through)
    if n > costs.workers:
        return batched_rounds(a, b, answer, costs.workers, math.ceil(n)) * n / math.ceil(n)
    return waiting * (a + n * b + answer)


@lru_cache(maxsize=4096)
def batched_rounds(batch: float, turn: float, answer: float, workers: int, episodes: int) -> float:
    """Seconds of a round, simulated: whoever is ready when the policy is free is in its next batch.

    Args:
        batch: seconds of the policy for each batch.
        turn: seconds more for each turn in it.
        answer: seconds of an environment.
        workers: environments that answer at one time, first come, first served.
        episodes: that are under way, none of which ends.
    """
    now, half = 0.0, 0.0
    written = counted = 0
    queue: deque[None] = deque()
    ends: list[float] = []
    ready = episodes
    while written < _ROUNDS * episodes:
        if not ready:
            now = ends[0]
        ready += _answers(ends, queue, now, answer)
        if not ready:
            continue
        before = written
        written += ready
        now += batch + turn * ready
        ready_now, ready = ready, _answers(ends, queue, now, answer)
        for _ in range(ready_now):
            if len(ends) < workers:
                heapq.heappush(ends, now + answer)
            else:
                queue.append(None)
        if before < _ROUNDS // 2 * episodes <= written:
            half, counted = now, written
    return (now - half) / ((written - counted) / episodes)


def _answers(ends: list[float], queue: deque[None], now: float, answer: float) -> int:
    """Environments that have answered; each takes the next call when it has."""
    found = 0
    while ends and ends[0] <= now:
        ended = heapq.heappop(ends)
        found += 1
        if queue:
            queue.popleft()
            heapq.heappush(ends, ended + answer)
    return found
