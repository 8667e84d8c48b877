"""Finds the Java processes that a test has started, wherever they hang in the tree of processes. Linux only."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

MARK = "AGENTGRPO_TEST_MARK"
"""Environment variable that processes inherit from the test."""


def marked(mark: str) -> set[int]:
    """Ids of the living Java processes with this mark."""
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):  # it has ended meanwhile, or is not ours
            is_java = (folder / "comm").read_text().strip() == "java"
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if is_java and state != "Z" and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
    return found


def ended(pid: int, within: float = 20.0) -> bool:
    """Whether the process ends in time."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False
