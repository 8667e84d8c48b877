"""Threads that make other people's calls side by side, each call with a deadline of its own."""

from __future__ import annotations

import ctypes
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from agentgrpo.deadline import Abandoned, Failure

Tag = TypeVar("Tag")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job(Generic[Tag, T]):
    tag: Tag
    call: Callable[[], T]
    timeout: float
    started: float | None = None
    """When a thread took it; None: it waits for one."""
    given_up: bool = False


class Workers(Generic[Tag, T]):
    """Makes calls in background threads and hands the results out as they come.

    A thread whose call outlasts its deadline is abandoned (and stopped, where it runs Python code); a new one takes its
    place. A deadline runs from the moment at which a thread takes the call, not from when it was submitted.

    Args:
        num_threads: calls that are made at one time, at least 1.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._jobs: queue.SimpleQueue[_Job[Tag, T] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[_Job[Tag, T], T | Failure]] = queue.SimpleQueue()
        self._pending: set[_Job[Tag, T]] = set()
        self._threads: dict[threading.Thread, _Job[Tag, T] | None] = {}
        self._lock = threading.Lock()

    @property
    def num_pending(self) -> int:
        """Calls whose results have not been handed out."""
        return len(self._pending)

    def submit(self, tag: Tag, call: Callable[[], T], timeout: float) -> None:
        """Takes a call.

        Args:
            tag: handed out with the result.
            timeout: seconds that the call may take.
        """
        job = _Job(tag, call, timeout)
        self._pending.add(job)
        if len(self._threads) < min(self._num_threads, len(self._pending)):
            self._start_thread()
        self._jobs.put(job)

    def finished(self, *, wait: bool, linger: float = 0.0) -> list[tuple[Tag, T | Failure]]:
        """Results that are there, in the order in which they came.

        Args:
            wait: wait for the first one if there is none yet and some are pending.
            linger: after the first one, go on as long as the next comes within so many seconds.
        """
        out: list[tuple[Tag, T | Failure]] = []
        while self._pending:
            patience = 0.0
            if out:
                patience = linger
            elif wait:
                patience = max(self._next_deadline() - time.monotonic(), 0.001)
            try:
                job, result = self._results.get(timeout=patience) if patience else self._results.get_nowait()
            except queue.Empty:
                expired = self._expire()
                out += expired
                if not wait or out:
                    break
                continue
            if job in self._pending:
                self._pending.remove(job)
                out.append((job.tag, result))
        return out

    def close(self) -> None:
        """Lets the threads end when their calls do."""
        for _ in self._threads:
            self._jobs.put(None)

    def _next_deadline(self) -> float:
        with self._lock:
            deadlines = [j.started + j.timeout for j in self._threads.values() if j is not None and j.started]
        # With no call under way yet, a thread is about to take one.
        return min(deadlines, default=time.monotonic() + 0.01)

    def _expire(self) -> list[tuple[Tag, T | Failure]]:
        now = time.monotonic()
        out: list[tuple[Tag, T | Failure]] = []
        with self._lock:
            late = [
                (thread, job)
                for thread, job in self._threads.items()
                if job is not None and job.started is not None and now > job.started + job.timeout
            ]
            for thread, job in late:
                job.given_up = True
                del self._threads[thread]
        for thread, job in late:
            # Without this a `while True` in an environment would take its share of the interpreter for ever.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Abandoned))
            self._pending.discard(job)
            out.append((job.tag, Failure(f"No answer within {job.timeout:g} s.", timed_out=True)))
            if len(self._threads) < min(self._num_threads, len(self._pending)):
                self._start_thread()
        return out

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, daemon=True, name="environment")
        with self._lock:
            self._threads[thread] = None
        thread.start()

    def _serve(self) -> None:
        me = threading.current_thread()
        try:
            while (job := self._jobs.get()) is not None:
                job.started = time.monotonic()
                with self._lock:
                    self._threads[me] = job
                try:
                    result: T | Failure = job.call()
                except BaseException:  # SystemExit, too, is the environment's affair and not the run's
                    result = Failure(traceback.format_exc())
                with self._lock:
                    if job.given_up:
                        return
                    self._threads[me] = None
                self._results.put((job, result))
        except Abandoned:
            return
