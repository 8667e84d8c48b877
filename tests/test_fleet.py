"""Samplers that die, are late, or answer too late: every group is played, and counts once. The actors are stand-ins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
import ray
from helpers import tiny_llama

from agentgrpo.cluster import fleet
from agentgrpo.cluster.errors import ClusterError
from agentgrpo.cluster.fleet import FleetStage
from agentgrpo.cluster.settings import RaySettings
from agentgrpo.episode import Task
from agentgrpo.rollout import Order
from agentgrpo.samplers.base import SamplerStats
from agentgrpo.types import Group


def until(true: Callable[[], bool]) -> None:
    """Waits for the fleet's thread."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


class Reference:
    """What a call of an actor gives at once."""

    def __init__(self) -> None:
        self.result: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self.result


class Method:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.remote = function


class Actor:
    """Plays what it is given when the test says so."""

    answers = True
    """Whether weights and orders are acknowledged: a new actor is not there yet."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.orders: list[Order] = []
        self.versions: list[int] = []
        self.killed = False
        self._asked: Reference | None = None
        self.sync, self.submit, self.finished = Method(self._sync), Method(self._submit), Method(self._finished)

    def _sync(self, weights: object, version: int) -> Reference:
        self.versions.append(version)
        return self._answer()

    def _submit(self, orders: Sequence[Order], version: int) -> Reference:
        assert version in self.versions
        self.orders += orders
        return self._answer()

    def _answer(self) -> Reference:
        done = Reference()
        if self.answers:
            done.result.set_result(None)
        return done

    def _finished(self) -> Reference:
        self._asked = Reference()
        return self._asked

    def play(self, count: int | None = None) -> None:
        """Plays what it was given, or the first few of it."""
        orders, self.orders = self.orders[:count], self.orders[len(self.orders[:count]) :]
        groups = [(order.key, Group((), order.task.seed, env=f"actor {self.number}")) for order in orders]
        until(lambda: self._asked is not None and not self._asked.result.done())
        assert self._asked is not None
        self._asked.result.set_result((groups, SamplerStats(sampled_tokens=10)))

    def fail(self, error: Exception) -> None:
        assert self._asked is not None
        self._asked.result.set_exception(error)


class Actors:
    """Every actor that was started, the living ones by number."""

    def __init__(self) -> None:
        self.started: list[Actor] = []

    def __call__(self, number: int) -> Actor:
        self.started.append(Actor(number))
        return self.started[-1]

    def __getitem__(self, number: int) -> Actor:
        return [actor for actor in self.started if actor.number == number][-1]


def settings(**changes: Any) -> RaySettings:
    values: dict[str, Any] = {
        "kind": "ray", "address": None, "samplers": 2, "learners": 1, "sharding": "replicated", "backend": "auto",
        "timeout": 60.0, "cpus_per_sampler": 1.0, "gpus_per_sampler": 0.0, "cpus_per_learner": 1.0,
        "gpus_per_learner": 0.0, "episodes_per_sampler": 4, "deadline": 60.0, "max_replacements": 3,
    }  # fmt: skip
    return RaySettings(**{**values, **changes})


def orders(count: int, size: int = 2) -> list[Order]:
    return [Order((0, i), Task(100 + i, ("t", i)), (0,) * size) for i in range(count)]


KEYS = [order.key for order in orders(4)]
DIED = ray.exceptions.ActorDiedError()
Made = Callable[..., tuple[FleetStage, Actors, list[str]]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    monkeypatch.setattr(fleet.ray, "put", lambda value: value)
    monkeypatch.setattr(fleet.ray, "kill", lambda actor: setattr(actor, "killed", True))
    monkeypatch.setattr(fleet, "_LOOK", 0.01)
    stages = []

    def make(**changes: Any) -> tuple[FleetStage, Actors, list[str]]:
        actors, said = Actors(), list[str]()
        stage = FleetStage(actors, 2, settings(**changes), said.append)
        stage.sync(tiny_llama(), 0)
        stages.append(stage)
        return stage, actors, said

    yield make
    for stage in stages:
        stage.close()
        assert all(sampler.handle.killed for sampler in stage._samplers)


def test_groups_are_dealt_evenly_and_come_in_order(made: Made) -> None:
    stage, actors, _ = made()
    stage.submit(orders(4))
    assert [[o.key for o in actors[i].orders] for i in (0, 1)] == [[(0, 0), (0, 2)], [(0, 1), (0, 3)]]
    actors[1].play()
    actors[0].play()
    found = stage.take(KEYS)
    assert [g.task_seed for g in found] == [100, 101, 102, 103]
    assert stage.stats.sampled_tokens == 20


def test_what_has_no_room_waits_for_whoever_is_done_first(made: Made) -> None:
    stage, actors, _ = made(episodes_per_sampler=2)
    stage.submit(orders(4))
    assert [len(actors[i].orders) for i in (0, 1)] == [1, 1]
    for left in (1, 0):
        actors[1].play()
        until(lambda left=left: len(stage._orders) == left)
    actors[1].play()
    actors[0].play()
    assert [g.env for g in stage.take(KEYS)] == ["actor 0", "actor 1", "actor 1", "actor 1"]


def test_a_group_larger_than_the_limit_is_played_alone(made: Made) -> None:
    stage, actors, _ = made(episodes_per_sampler=1)
    stage.submit(orders(2, size=8))
    assert [len(actors[i].orders) for i in (0, 1)] == [1, 1]


def test_groups_of_an_actor_that_dies_are_played_again_with_the_last_weights(made: Made) -> None:
    stage, actors, said = made()
    stage.sync(tiny_llama(), 5)
    stage.submit(orders(4))
    dead = actors[0]
    dead.fail(DIED)
    until(lambda: len(actors.started) == 3)
    assert dead.killed
    until(lambda: len(actors[0].orders) == 2)  # its own two again: the other has no room
    assert actors[0].versions == [5]
    actors[1].play()
    actors[0].play()
    assert [g.task_seed for g in stage.take(KEYS)] == [100, 101, 102, 103]
    assert said == ["warning: sampler 0 died: replaced, 2 groups begin again"]


def test_an_idle_actor_that_dies_is_replaced_too(made: Made) -> None:
    _, actors, said = made()
    actors[1].fail(DIED)
    until(lambda: len(actors.started) == 3)
    until(lambda: said == ["warning: sampler 1 died: replaced, 0 groups begin again"])


def test_what_a_replaced_actor_sends_late_counts_for_nothing(made: Made) -> None:
    stage, actors, said = made(deadline=0.5)
    stage.submit(orders(1))
    slow = actors[0]
    until(lambda: len(actors.started) == 3)
    slow.play()  # after all
    until(lambda: len(actors[1].orders) == 1)
    actors[1].play()
    (group,) = stage.take([(0, 0)])
    assert group.task_seed == 100
    assert not stage._done
    assert said == [
        "warning: sampler 0 took more than 0.5 s for a group (cluster.deadline): replaced, 1 groups begin again"
    ]


def test_a_new_actor_has_time_to_load_its_model(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Actor, "answers", False)
    stage, actors, _ = made(deadline=1.0)
    stage.submit(orders(1))
    first = stage._samplers[0]
    first.playing[(0, 0)] = first.playing[(0, 0)][0], time.monotonic() - 10  # it should have been played long ago
    time.sleep(0.1)
    assert len(actors.started) == 2
    actors[0].play(0)  # it is there: from now on its time counts
    until(lambda: first.proven)
    assert first.playing[(0, 0)][1] > time.monotonic() - 1
    actors[0].play()
    stage.take([(0, 0)])


def test_a_new_actor_gets_nothing_before_it_is_there(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, actors, _ = made(episodes_per_sampler=2)
    monkeypatch.setattr(Actor, "answers", False)
    stage.submit(orders(4))
    actors[0].fail(DIED)
    until(lambda: len(actors.started) == 3)
    assert len(actors[1].orders) == 1  # has no room for more
    assert actors[0].orders == []
    actors[0].play(0)
    until(lambda: [o.key for o in actors[0].orders] == [(0, 0)])  # the lowest that waits


def test_an_actor_that_cannot_start_says_why(made: Made) -> None:
    stage, actors, said = made()
    stage.submit(orders(1))
    cause = ray.exceptions.RayTaskError("__init__", "Traceback ...\nValueError: No bf16.", ValueError("No bf16."))
    actors[0].fail(ray.exceptions.ActorDiedError(cause))
    with pytest.raises(ValueError, match=r"^Sampler 0 cannot start: No bf16\.$"):
        stage.take([(0, 0)])
    assert said == []


def test_groups_that_get_lost_on_their_way_are_played_again(made: Made) -> None:
    stage, actors, said = made()
    stage.submit(orders(1))
    actors[0].fail(ray.exceptions.ObjectLostError("00" * 28, None, ""))
    until(lambda: len(actors[1].orders) == 1)
    actors[1].play()
    assert len(stage.take([(0, 0)])) == 1
    assert said == ["warning: sampler 0 lost what it had played: replaced, 1 groups begin again"]


def test_too_many_replacements_end_the_run(made: Made) -> None:
    stage, actors, _ = made(max_replacements=1)
    stage.submit(orders(1))
    actors[0].fail(DIED)
    until(lambda: len(actors.started) == 3)
    until(lambda: len(actors[1].orders) == 1)
    actors[1].fail(DIED)
    with pytest.raises(ClusterError, match=r"Sampler 1 died, and 1 samplers were replaced before it"):
        stage.take([(0, 0)])


def test_memory_that_ran_out_is_named(made: Made) -> None:
    _, actors, said = made()
    actors[0].fail(ray.exceptions.OutOfMemoryError("killed"))
    until(lambda: len(said) == 1)
    assert "ran out of memory" in said[0]
    assert "sampler.cache_gb" in said[0]


def test_an_environment_that_breaks_its_contract_is_no_reason_to_replace_anybody(made: Made) -> None:
    stage, actors, said = made()
    stage.submit(orders(1))
    cause = ValueError("gave the members of one group different tasks")
    actors[0].fail(ray.exceptions.RayTaskError("finished", "traceback", cause))
    with pytest.raises(ValueError, match="different tasks"):
        stage.take([(0, 0)])
    assert len(actors.started) == 2
    assert said == []


def test_a_full_object_store_says_what_to_do(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, _, _ = made()

    def full(value: object) -> None:
        raise ray.exceptions.ObjectStoreFullError("no room")

    monkeypatch.setattr(fleet.ray, "put", full)
    with pytest.raises(ClusterError, match=r"object store.*--object-store-memory"):
        stage.sync(tiny_llama(), 1)


def test_waiting_ends_as_soon_as_the_last_group_is_there(made: Made) -> None:
    stage, actors, _ = made()
    stage.submit(orders(2))
    found: list[Group] = []
    waiting = threading.Thread(target=lambda: found.extend(stage.take(KEYS[:2])))
    waiting.start()
    actors[0].play()
    waiting.join(0.1)
    assert waiting.is_alive()
    assert not found
    actors[1].play()
    waiting.join(20)
    assert len(found) == 2
