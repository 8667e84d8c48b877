"""A queueing model of samplers, driver, learners and hand-over of weights: what a set-up would do, before it exists.

Groups wait in one queue and are dealt one by one to the sampler with the fewest under way, if that is below
``groups_per_sampler`` and its weights are new enough. All groups under way at a sampler go on at the same speed, a
round at a time (:func:`agentgrpo.cluster.playing.round_seconds`). When all groups of an update are back, the driver
prepares them, learners learn, weights are written out and copied to samplers, and the groups of one more update are
ordered. At most ``1 + max_staleness`` updates are under way: a closed network. Where groups differ in length, no
formula is exact, so the process is simulated, event by event; where they do not, :func:`even_sync_seconds` and
:func:`limits` say the same by formula.

Processes on shared cores slow each other down evenly as soon as they keep more cores busy than there are.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from agentgrpo.cluster.costs import Costs, Links, Setup
from agentgrpo.cluster.playing import round_seconds


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a set-up does in the long run."""

    update_seconds: float
    groups_per_second: float
    sampler_idle: float
    """Share of their time in which samplers have no group under way, or take over weights."""
    learner_idle: float
    """Share of their time in which learners neither compute nor step: waiting for groups, others and links."""
    seconds: dict[str, float]
    """What each part is busy with an update: ``samplers`` (mean), ``learners`` (slowest), ``hand-over``, ``driver``."""

    @property
    def bottleneck(self) -> str:
        """The part that is busy for longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])


@dataclass(frozen=True, slots=True)
class Limits:
    """Groups per second that each side could do if it never waited for another."""

    samplers: float
    """With all the groups under way that they may have, but for the time in which they take over weights."""
    learners: float
    """Learners with driver and hand-over, which come one after the other."""


def learner_seconds(costs: Costs, links: Links, setup: Setup) -> float:
    """An update at the rank with the most groups, exchanges among ranks included."""
    return _computing(costs, setup, math.ceil(costs.groups_per_update / setup.learners)) + _exchanging(
        costs, links, setup
    )


def _computing(costs: Costs, setup: Setup, groups: float) -> float:
    """Seconds of a rank that learns from so many groups."""
    step = costs.optimizer_seconds / (setup.learners if setup.sharding == "fsdp" else 1)
    compute = costs.token_seconds * costs.tokens_per_group * groups + step * costs.optimizer_steps
    return compute * setup.learner_stretch(costs)


def _exchanging(costs: Costs, links: Links, setup: Setup) -> float:
    """Seconds of an update in which ranks exchange gradients or weights in rings, with nothing else at that time."""
    part = (setup.learners - 1) / setup.learners
    if setup.sharding == "replicated":
        sent = 2 * part * costs.optimizer_steps  # reduce-scatter and all-gather
    else:
        tokens = costs.tokens_per_group * math.ceil(costs.groups_per_update / setup.learners)
        passes = max(costs.optimizer_steps, math.ceil(tokens / costs.micro_batch_tokens))
        sent = 3 * part * passes  # weights for the forward and the backward pass, gradients after it
    return sent * costs.gradient_bytes / links.exchange_speed


def driver_seconds(costs: Costs, links: Links) -> float:
    """Of the driver for an update."""
    return costs.groups_per_update * (costs.group_seconds + links.message_seconds)


def limits(costs: Costs, links: Links, setup: Setup) -> Limits:
    """What either side can do at most, all cores its own: async tends to the smaller one as ``max_staleness`` grows."""
    full = setup.groups_per_sampler
    round_ = round_seconds(costs, full) * setup.sampler_stretch(costs)
    playing = costs.groups_per_update * costs.longest_turns * round_ / (setup.samplers * full)
    copies = math.ceil(setup.samplers / links.at_once(setup.samplers)) * links.copy_seconds(costs)
    turn = driver_seconds(costs, links) + learner_seconds(costs, links, setup) + links.pack_seconds(costs)
    # The next hand-over begins when the one before has ended; learners go on meanwhile.
    update = max(turn, copies + links.pack_seconds(costs))
    groups = costs.groups_per_update
    return Limits(groups / (playing + links.copy_seconds(costs)), groups / update)


def even_sync_seconds(costs: Costs, links: Links, setup: Setup) -> float:
    """Seconds of a ``sync`` update by formula, if all groups take equally long and processes share no cores.

    The fullest sampler plays its groups in waves of ``groups_per_sampler``. Samplers are served at the same time.
    """
    most = math.ceil(costs.groups_per_update / setup.samplers)
    waves, rest = divmod(most, setup.groups_per_sampler)
    rounds = waves * round_seconds(costs, setup.groups_per_sampler) + (round_seconds(costs, rest) if rest else 0.0)
    return (
        costs.longest_turns * rounds * setup.sampler_stretch(costs)
        + driver_seconds(costs, links)
        + learner_seconds(costs, links, setup)
        + links.hand_over_seconds(costs, setup.samplers)
    )


def forecast(costs: Costs, links: Links, setup: Setup, *, updates: int = 16, seed: int = 0) -> Forecast:
    """Simulates so many updates, or some more, after a few that fill the queues; the same seed gives the same.

    Updates that are under way together may end together, too, so that whole rounds of them are counted.
    """
    together = 1 + setup.staleness
    updates = together * math.ceil(updates / together)
    # Of more samplers than there are groups under way some never get one, and need not be simulated.
    used = min(setup.samplers, together * costs.groups_per_update)
    run = _Simulation(costs, links, replace(setup, samplers=used), seed)
    run.until(2 * together)
    started, played, learnt = run.now, run.played(), run.learnt
    run.until(2 * together + updates)
    seconds = run.now - started
    playing = (run.played() - played) / setup.samplers / updates
    learning = (run.learnt - learnt) / updates
    mean = _computing(costs, setup, costs.groups_per_update / setup.learners)
    own = learning * mean / max(learner_seconds(costs, links, setup), 1e-12)
    return Forecast(
        update_seconds=seconds / updates,
        groups_per_second=costs.groups_per_update * updates / seconds,
        sampler_idle=max(0.0, 1 - playing * updates / seconds),
        learner_idle=max(0.0, 1 - own * updates / seconds),
        seconds={
            "samplers": playing,
            "learners": learning,
            "hand-over": links.hand_over_seconds(costs, setup.samplers),
            "driver": driver_seconds(costs, links),
        },
    )


# --- the simulation ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sampler:
    """Groups under way have all had the same rounds since they were dealt."""

    had: float = 0.0
    """Rounds since the start, of whatever was under way."""
    since: float = 0.0
    """When that was."""
    rate: float = 0.0
    """Rounds per second from then on."""
    goals: list[tuple[float, int]] = field(default_factory=list)
    """A heap: ``had`` at which a group ends, and its update."""
    version: int = 0
    loading: bool = False
    stamp: int = 0
    """Of the end that is expected; others are out of date."""
    played: float = 0.0
    """Seconds with groups under way."""
    offered: int = -1
    """Groups that it had when it was last offered for more, and has not been dealt one since; -1: not offered."""

    @property
    def playing(self) -> bool:
        return bool(self.goals) and not self.loading


class _Simulation:
    def __init__(self, costs: Costs, links: Links, setup: Setup, seed: int) -> None:
        self._costs, self._links, self._setup, self._seed = costs, links, setup, seed
        self._rounds = [
            round_seconds(costs, k) * setup.sampler_stretch(costs) if k else 0.0
            for k in range(setup.groups_per_sampler + 1)
        ]
        self._samplers = [_Sampler() for _ in range(setup.samplers)]
        self._num_playing = 0
        self._room: list[tuple[int, int]] = []
        """A heap: groups under way, sampler; entries that are out of date are dropped when they come up."""
        self._queue: deque[tuple[int, float]] = deque()
        self._left: dict[int, int] = {}
        self._events: list[tuple[float, int, str, int, int]] = []
        self._num_events = 0
        self._speed = 1.0
        self._learning = False
        self._to_learn = 0.0
        """Seconds of learning that are left, alone on the cores, at ``_learning_since``."""
        self._learning_since = 0.0
        self._learner_stamp = 0
        self._collecting = True
        self._link_free = 0.0
        self.update = 0
        """Updates that are done."""
        self.now = 0.0
        self.learnt = 0.0
        """Seconds of learning so far."""
        for j in range(setup.samplers):
            self._offer(j)
        for coming in range(1 + setup.staleness):
            self._order(coming)
        self._settle(self._deal())

    def until(self, update: int) -> None:
        """Goes on until so many updates are done."""
        while self.update < update:
            self.now = self._events[0][0]
            changed: set[int] = set()
            while self._events and self._events[0][0] <= self.now:  # all of a moment, before anything is dealt
                _, _, kind, subject, stamp = heapq.heappop(self._events)
                changed |= self._happen(kind, subject, stamp)
            self._settle(changed | self._deal())
            if self._collecting and not self._left[self.update]:
                self._collecting = False
                self._push(self.now + driver_seconds(self._costs, self._links), "prepared")

    def _happen(self, kind: str, subject: int, stamp: int) -> set[int]:
        """Returns the samplers that go on differently."""
        if kind == "group" and stamp == self._samplers[subject].stamp:
            self._groups_end(subject)
            return {subject}
        if kind in ("load", "loaded"):
            return self._load(self._wave(subject), stamp, begins=kind == "load")
        if kind == "prepared":
            self._learning, self._learning_since = True, self.now
            self._to_learn = learner_seconds(self._costs, self._links, self._setup)
            self._expect_learnt()
        elif kind == "learnt" and stamp == self._learner_stamp:
            self._advance_learner()
            self._learning = False
            start = max(self.now, self._link_free)
            self._push(start + self._links.pack_seconds(self._costs), "published")
        elif kind == "published":
            self._publish()
        return set()

    def played(self) -> float:
        """Seconds with groups under way so far, all samplers together."""
        for j in range(len(self._samplers)):
            self._advance(j)
        return sum(s.played for s in self._samplers)

    # --- what happens -------------------------------------------------------------------------------------------------

    def _order(self, update: int) -> None:
        c = self._costs
        lengths = np.full(c.groups_per_update, c.longest_turns)
        if c.turns_spread > 0:
            shape = c.turns_spread**-2
            lengths = np.random.default_rng((self._seed, update)).gamma(shape, c.longest_turns / shape, len(lengths))
        self._queue.extend((update, float(x)) for x in lengths)
        self._left[update] = len(lengths)

    def _deal(self) -> set[int]:
        """Groups to whoever has room; returns the samplers that got some."""
        dealt: set[int] = set()
        while self._queue and self._room:
            update, rounds = self._queue[0]
            under_way, j = heapq.heappop(self._room)
            s = self._samplers[j]
            if under_way != s.offered:
                continue  # it has been offered anew since
            s.offered = -1
            if s.loading or s.version < update - self._setup.staleness:
                continue  # it is offered again when it has its weights
            self._queue.popleft()
            self._advance(j)
            self._num_playing += not s.goals
            heapq.heappush(s.goals, (s.had + rounds, update))
            self._offer(j)
            dealt.add(j)
        return dealt

    def _offer(self, j: int) -> None:
        s = self._samplers[j]
        under_way = len(s.goals)
        if under_way < self._setup.groups_per_sampler and under_way != s.offered:
            s.offered = under_way
            heapq.heappush(self._room, (under_way, j))

    def _groups_end(self, j: int) -> None:
        self._advance(j)
        s = self._samplers[j]
        s.had = max(s.had, s.goals[0][0])  # rounding
        while s.goals and s.goals[0][0] <= s.had * (1 + 1e-12):
            self._left[heapq.heappop(s.goals)[1]] -= 1
        self._num_playing -= not s.goals
        self._offer(j)

    def _publish(self) -> None:
        del self._left[self.update]
        self.update += 1
        copy = self._links.copy_seconds(self._costs)
        self._link_free = self.now
        for first in range(0, len(self._samplers), self._links.at_once(len(self._samplers))):
            self._push(self._link_free, "load", first)
            self._link_free += copy
            self._push(self._link_free, "loaded", first, self.update)
        self._collecting = True
        self._order(self.update + self._setup.staleness)

    def _wave(self, first: int) -> range:
        """Samplers that are served together."""
        return range(first, min(first + self._links.at_once(len(self._samplers)), len(self._samplers)))

    def _load(self, wave: range, version: int, *, begins: bool) -> set[int]:
        for j in wave:
            self._advance(j)
            s = self._samplers[j]
            s.loading = begins
            if s.goals:
                self._num_playing += -1 if begins else 1
            if not begins:
                s.version = version
                self._offer(j)
        return {j for j in wave if self._samplers[j].goals}

    # --- speeds and expected ends -------------------------------------------------------------------------------------

    def _push(self, time: float, kind: str, subject: int = 0, stamp: int = 0) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (time, self._num_events, kind, subject, stamp))

    def _advance(self, j: int) -> None:
        s = self._samplers[j]
        if s.since == self.now:
            return
        seconds = self.now - s.since
        s.had += seconds * s.rate
        s.played += seconds if s.rate else 0.0
        s.since = self.now

    def _advance_learner(self) -> None:
        if self._learning:
            seconds = self.now - self._learning_since
            self.learnt += seconds
            self._to_learn -= seconds * self._speed
            self._learning_since = self.now

    def _expect_learnt(self) -> None:
        self._learner_stamp += 1
        self._push(self.now + max(self._to_learn, 0.0) / self._speed, "learnt", stamp=self._learner_stamp)

    def _settle(self, changed: set[int]) -> None:
        """Speeds as they are now, and what they let expect: of those that changed, or of all if cores are contended."""
        speed = self._speed_now()
        if speed != self._speed:
            self._advance_learner()
            self._speed = speed
            if self._learning:
                self._expect_learnt()
            changed = set(range(len(self._samplers)))
        for j in sorted(changed):
            self._advance(j)
            s = self._samplers[j]
            s.rate = self._speed / self._rounds[len(s.goals)] if s.playing else 0.0
            s.stamp += 1
            if s.rate:
                self._push(self.now + max(s.goals[0][0] - s.had, 0.0) / s.rate, "group", j, s.stamp)

    def _speed_now(self) -> float:
        setup, c = self._setup, self._costs
        if setup.cores is None:
            return 1.0
        busy = self._num_playing * setup.sampler_demand(c)
        busy += setup.learners * setup.learner_demand(c) if self._learning else 0.0
        return min(1.0, setup.cores / busy) if busy else 1.0
