"""Calls side by side: order of results, deadlines, and threads that are replaced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from agentgrpo.deadline import Failure
from agentgrpo.workers import Workers


def all_of(workers: Workers[str, str]) -> dict[str, str | Failure]:
    out: dict[str, str | Failure] = {}
    while workers.num_pending:
        out |= dict(workers.finished(wait=True))
    return out


def said(text: str) -> Callable[[], str]:
    return lambda: text


def test_results_come_with_their_tags() -> None:
    workers: Workers[str, str] = Workers(3)
    for name in "abcdefgh":
        workers.submit(name, said(name.upper()), 5.0)
    assert all_of(workers) == {name: name.upper() for name in "abcdefgh"}
    assert workers.finished(wait=True) == []


def test_who_is_done_first_is_handed_out_first() -> None:
    workers: Workers[str, str] = Workers(2)
    gate = threading.Event()
    workers.submit("slow", lambda: str(gate.wait(5.0)), 10.0)
    workers.submit("fast", said("fast"), 10.0)
    assert workers.finished(wait=True) == [("fast", "fast")]
    assert workers.finished(wait=False) == []
    gate.set()
    assert workers.finished(wait=True) == [("slow", "True")]


def test_as_many_at_a_time_as_there_are_threads() -> None:
    workers: Workers[str, str] = Workers(4)
    everybody = threading.Barrier(4, timeout=5.0)  # passed only by four calls at once
    for name in "abcdefgh":
        workers.submit(name, lambda: str(everybody.wait() >= 0), 10.0)
    assert set(all_of(workers).values()) == {"True"}


def test_a_call_that_raises_is_a_failure_with_its_traceback() -> None:
    workers: Workers[str, str] = Workers(1)

    def fail() -> str:
        raise KeyError("no such room")

    workers.submit("bad", fail, 5.0)
    workers.submit("good", said("fine"), 5.0)
    results = all_of(workers)
    assert isinstance(results["bad"], Failure)
    assert "no such room" in results["bad"].error
    assert not results["bad"].timed_out
    assert results["good"] == "fine"


def test_a_call_that_hangs_is_given_up_and_its_thread_replaced() -> None:
    workers: Workers[str, str] = Workers(1)
    release = threading.Event()
    workers.submit("hangs", lambda: str(release.wait(30.0)), 0.05)
    workers.submit("after", said("fine"), 5.0)
    results = all_of(workers)
    assert isinstance(results["hangs"], Failure)
    assert results["hangs"].timed_out
    assert results["after"] == "fine"
    release.set()
    time.sleep(0.05)
    assert workers.finished(wait=False) == []  # what the abandoned call returns in the end counts no more


def test_waiting_for_a_thread_is_not_part_of_the_deadline() -> None:
    workers: Workers[str, str] = Workers(1)
    for name in "abc":
        workers.submit(name, lambda: time.sleep(0.08) or "done", 0.2)
    assert list(all_of(workers).values()) == ["done"] * 3


def test_lingering_hands_out_what_comes_close_together() -> None:
    workers: Workers[str, str] = Workers(2)
    workers.submit("a", lambda: time.sleep(0.02) or "a", 5.0)
    workers.submit("b", lambda: time.sleep(0.05) or "b", 5.0)
    assert [tag for tag, _ in workers.finished(wait=True, linger=2.0)] == ["a", "b"]
