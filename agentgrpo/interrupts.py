"""Ctrl-C: once to end in good order, twice to end at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def on_ctrl_c(say: Callable[[str], None], end: Callable[[], None]) -> Iterator[None]:
    """Inside, the first Ctrl-C calls ``end``, so that an update is never left half done; the second stops at once.

    In any thread but the main one signals cannot be handled, and nothing happens.

    Args:
        say: tells of it.
    """
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        say("Ctrl-C: finishing this update, then writing a checkpoint. Press again to stop at once.")
        end()

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
