"""Phases of an update: what is counted where."""

import threading

import pytest

from agentgrpo import timing
from agentgrpo.timing import phase


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is one second later than the one before."""
    now = iter(range(1000))
    monkeypatch.setattr("agentgrpo.timing.time.perf_counter", lambda: float(next(now)))
    timing.take()


def test_seconds_add_up_by_name_and_are_taken_once() -> None:
    for _ in range(3):
        with phase("a"):
            pass
    assert timing.take() == {"a": 3.0}
    assert timing.take() == {}


def test_an_inner_phase_is_not_counted_twice() -> None:
    with phase("outer"), phase("inner"):  # looks at 0, 1, 2, 3: inner took 1 of the 3 seconds
        pass
    assert timing.take() == {"outer": 2.0, "inner": 1.0}


def test_a_phase_that_fails_counts_too() -> None:
    with pytest.raises(ZeroDivisionError), phase("a"):
        raise ZeroDivisionError
    assert timing.take() == {"a": 1.0}


def test_share_of_everything_but_model_arithmetic() -> None:
    found = timing.metrics({"sampling": 2.0, "backward": 4.0, "packing": 1.0}, total=8.0)
    assert found["time/other_share"] == 0.25
    assert found["time/packing"] == 1.0


def test_calls_of_all_threads_make_one_mean_that_is_taken_once() -> None:
    calls = timing.Calls()
    calls.timed(lambda: None)()  # one second
    thread = threading.Thread(target=calls.timed(lambda: timing.time.perf_counter()))  # looks thrice: two seconds
    thread.start()
    thread.join()
    assert calls.take_mean() == 1.5
    assert calls.take_mean() == 0.0
