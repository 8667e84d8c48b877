"""What tests of several environments need."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from java_processes import MARK, ended, marked


@pytest.fixture
def mark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Marks the Java processes of a test, and insists that none outlives it."""
    name = f"{request.node.name}-{random.SystemRandom().random()}"
    monkeypatch.setenv(MARK, name)
    yield name
    assert [pid for pid in marked(name) if not ended(pid, within=5.0)] == []
