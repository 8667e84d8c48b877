"""Runs other people's code so that a call that hangs or raises ends itself only, never the run."""

from __future__ import annotations

import ctypes
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that gave no value."""

    error: str
    """The traceback, or what the deadline was."""
    timed_out: bool = False


class Abandoned(BaseException):
    """Raised inside a thread whose call outlasted its deadline. No ``except Exception`` in the way catches it."""


class _Job(Generic[T]):
    """Calls that one thread makes one after the other, until they are done or given up."""

    def __init__(self, calls: Sequence[Callable[[], T]]) -> None:
        self._calls = calls
        self._results: list[T | Failure] = []
        self._lock = threading.Lock()
        self._given_up = False
        self.started = time.monotonic()
        self.done = threading.Event()

    def run(self) -> bool:
        """Makes the calls; False when the job was given up meanwhile, and its thread with it."""
        for call in self._calls:
            self.started = time.monotonic()
            try:
                result: T | Failure = call()
            except BaseException:  # SystemExit, too, is the environment's affair and not the run's
                result = Failure(traceback.format_exc())
            with self._lock:
                if self._given_up:
                    return False
                self._results.append(result)
        self.done.set()
        return True

    def give_up(self) -> list[T | Failure]:
        """Ends the job; the results so far. A call that returns after this is not counted."""
        with self._lock:
            self._given_up = True
            return self._results


class DeadlineRunner:
    """Makes calls in a background thread, each with a deadline of its own.

    One thread serves a whole list of calls, so a turn of 64 environments costs one hand-over, not 64. A thread whose
    call hangs is abandoned (and stopped, where it runs Python code) and a new one takes the calls that remain.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        """Seconds that one call may take."""
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T | Failure]:
        """The value of each call, or a :class:`Failure`, in order."""
        results: list[T | Failure] = []
        while len(results) < len(calls):
            job = _Job(calls[len(results) :])
            self._submit(job)  # type: ignore[arg-type]
            in_time = self._wait(job)
            results += job.give_up()
            if not in_time and len(results) < len(calls):
                self._abandon()
                results.append(Failure(f"No answer within {self.timeout:g} s.", timed_out=True))
        return results

    def _wait(self, job: _Job[T]) -> bool:
        """False when a call of the job outlasted its deadline."""
        while not job.done.wait(max(job.started + self.timeout - time.monotonic(), 0.001)):
            if time.monotonic() > job.started + self.timeout:
                return False
        return True

    def _submit(self, job: _Job[object]) -> None:
        if self._thread is None:
            self._jobs = queue.SimpleQueue()
            self._thread = threading.Thread(target=_serve, args=(self._jobs,), daemon=True, name="environments")
            self._thread.start()
        self._jobs.put(job)

    def _abandon(self) -> None:
        assert self._thread is not None
        thread, self._thread = self._thread, None
        # Without this a `while True` in an environment would take its share of the interpreter for ever.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Abandoned))


def _serve(jobs: queue.SimpleQueue[_Job[object] | None]) -> None:
    try:
        while (job := jobs.get()) is not None and job.run():
            pass
    except Abandoned:
        return
