"""Calls that raise or hang end themselves only."""

import sys
import threading
import time
from collections.abc import Callable

import pytest

from agentgrpo.deadline import DeadlineRunner, Failure

TIMEOUT = 0.5


def fail() -> str:
    raise KeyError("no such room")


def spin() -> str:
    while True:
        pass


def sleep() -> str:
    time.sleep(3.0)
    return "late"


def value(text: str) -> Callable[[], str]:
    return lambda: text


def failure(result: object) -> Failure:
    assert isinstance(result, Failure)
    return result


def test_values_come_in_order() -> None:
    assert DeadlineRunner(TIMEOUT).run([value(str(i)) for i in range(100)]) == [str(i) for i in range(100)]


def test_no_calls() -> None:
    assert DeadlineRunner(TIMEOUT).run([]) == []


def test_an_exception_becomes_a_failure_with_its_traceback() -> None:
    before, broken, after = DeadlineRunner(TIMEOUT).run([value("a"), fail, value("b")])
    assert (before, after) == ("a", "b")
    assert not failure(broken).timed_out
    assert "in fail" in failure(broken).error
    assert "KeyError: 'no such room'" in failure(broken).error


@pytest.mark.parametrize("hang", [spin, sleep])
def test_a_hanging_call_times_out_and_the_others_give_values(hang: Callable[[], str]) -> None:
    start = time.monotonic()
    before, hung, after = DeadlineRunner(TIMEOUT).run([value("a"), hang, value("b")])
    assert time.monotonic() - start < 3.0  # what sleep() takes
    assert (before, after) == ("a", "b")
    assert failure(hung) == Failure("No answer within 0.5 s.", timed_out=True)


def test_several_hanging_calls() -> None:
    results = DeadlineRunner(0.05).run([sleep, value("a"), sleep, sleep, value("b")])
    assert [isinstance(r, Failure) for r in results] == [True, False, True, True, False]


def test_the_deadline_is_each_calls_own() -> None:
    def slow() -> str:
        time.sleep(0.6 * TIMEOUT)
        return "in time"

    assert DeadlineRunner(TIMEOUT).run([slow] * 3) == ["in time"] * 3


def test_a_runner_goes_on_after_a_hang() -> None:
    runner = DeadlineRunner(TIMEOUT)
    runner.run([spin])
    assert runner.run([value("a")]) == ["a"]


def test_a_spinning_call_is_stopped() -> None:
    before = threading.active_count()
    DeadlineRunner(0.05).run([spin])
    deadline = time.monotonic() + 2
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_one_thread_serves_all_calls() -> None:
    runner = DeadlineRunner(TIMEOUT)
    assert len({*runner.run([threading.get_ident] * 5), *runner.run([threading.get_ident] * 5)}) == 1


def test_a_call_that_returns_just_after_its_deadline_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = DeadlineRunner(0.05)
    released = threading.Event()

    def late() -> str:
        released.wait(2)
        return "late"

    def abandon() -> None:
        released.set()  # the call ends between the timeout and the reading of its results
        time.sleep(0.05)
        runner._thread = None

    monkeypatch.setattr(runner, "_abandon", abandon)
    results = runner.run([late, value("b")])
    assert len(results) == 2
    assert results[1] == "b"


def test_a_call_that_swallows_its_abandonment_does_not_go_on_to_the_next_calls() -> None:
    made: list[str] = []
    stubborn_over = threading.Event()

    def stubborn() -> str:
        try:
            while True:
                pass
        except:  # noqa: E722
            stubborn_over.set()
        return "x"

    def once() -> str:
        made.append("call")
        stubborn_over.wait(1)
        time.sleep(0.02)
        return "y"

    assert DeadlineRunner(0.1).run([stubborn, once])[1] == "y"
    time.sleep(0.05)
    assert made == ["call"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_environment_that_exits_the_interpreter_is_an_error_not_a_hang() -> None:
    (result,) = DeadlineRunner(TIMEOUT).run([lambda: sys.exit(1)])
    assert not failure(result).timed_out
