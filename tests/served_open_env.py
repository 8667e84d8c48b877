"""A task served by the openenv package itself, on this machine, for as long as a test needs it."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State, create_app
from pydantic import Field

HIGHEST = 4
RAISES, NOT_A_NUMBER, LONG = 99, 98, 97
"""Guesses that do harm."""


class Guess(Action):
    number: int


class Hint(Observation):
    text: str
    numbers: list[int] = Field(default_factory=lambda: list(range(1, HIGHEST + 1)))


class GuessingServer(Environment[Guess, Hint, State]):
    """A number from 1 to 4, to be guessed in three turns; every step takes ``seconds``."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self._seconds = seconds

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Hint:
        self._target = random.Random(seed).randint(1, HIGHEST)
        self._left = 3
        return Hint(text=f"Guess a number from 1 to {HIGHEST}.")

    def step(self, action: Guess, timeout_s: float | None = None, **kwargs: Any) -> Hint:
        time.sleep(self._seconds)
        match action.number:
            case number if number == RAISES:
                raise KeyError("no such number")
            case number if number == NOT_A_NUMBER:
                return Hint(text="?", reward=float("nan"))
            case number if number == LONG:
                return Hint(text="x" * 1_000_000)
        self._left -= 1
        won = action.number == self._target
        text = "Correct." if won else "higher" if action.number < self._target else "lower"
        return Hint(text=text, reward=float(won), done=won or self._left == 0, metadata={"success": won})

    @property
    def state(self) -> State:
        return State(step_count=3 - self._left)


@contextmanager
def serving(sessions: int, seconds: float = 0.0, port: int = 0) -> Iterator[str]:
    """Serve the task to so many sessions; gives the address."""
    app = create_app(partial(GuessingServer, seconds), Guess, Hint, max_concurrent_envs=sessions)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(256)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30.0
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20.0)
            assert not thread.is_alive()
