"""What goes wrong with processes, and not with a configuration."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """A run that cannot go on because a process of it is gone; the message says which, and how to go on."""


def cannot_start(who: str, error: Exception) -> Exception:
    """What to raise for Ray's error about a process that failed before it was ready: its text ends with the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind, _, text = lines[-1].partition(": ")
    sentence = f"{who} cannot start: {text if text and kind.isidentifier() else lines[-1]}"
    return ValueError(sentence) if kind == "ValueError" else ClusterError(sentence)
