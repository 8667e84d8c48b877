"""A server that speaks OpenEnv's protocol and whose every answer is written by a test. Needs websockets only."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.sync.server import ServerConnection, serve

from agentgrpo.envs.open_env import OpenEnv

TIMEOUT = 10.0
"""Seconds; long, so that a busy machine fails no test."""
CLOSE = object()
"""Instead of an answer: the connection is closed."""

Message = dict[str, Any]
Answer = Any
"""A message as dict, a text that is sent as it is, None for silence, or ``CLOSE``."""


def seen(text: str = "a room", reward: Any = None, done: Any = False, **beside: Any) -> Message:
    return {"type": "observation", "data": {"observation": {"text": text}, "reward": reward, "done": done, **beside}}


def error(code: str, message: str = "so it is", **beside: Any) -> Message:
    return {"type": "error", "data": {"message": message, "code": code, **beside}}


@dataclass
class Served:
    """A server: what it was told, and what it answers."""

    reset: Callable[[Message], Answer] = lambda data: seen(f"start {data['seed']}")
    step: Callable[[Message], Answer] = lambda data: seen(f"heard {data['message']}")
    url: str = ""
    heard: list[tuple[int, Message]] = field(default_factory=list)
    """Session and message, in the order of arrival."""
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: list[ServerConnection] = field(default_factory=list)
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released by every session that ends."""

    def talk(self, connection: ServerConnection) -> None:
        session = len(self.connections)
        self.connections.append(connection)
        assert connection.request is not None
        self.headers.append(dict(connection.request.headers.raw_items()))
        for text in connection:
            message = json.loads(text)
            self.heard.append((session, message))
            if message["type"] == "close":
                break
            answer = (self.reset if message["type"] == "reset" else self.step)(message["data"])
            if answer is CLOSE:
                break
            if answer is not None:
                connection.send(answer if isinstance(answer, str) else json.dumps(answer))
        self.ended.release()

    def kinds(self) -> list[str]:
        return [message["type"] for _, message in self.heard]


@contextmanager
def running(served: Served, port: int = 0) -> Iterator[Served]:
    with serve(served.talk, "127.0.0.1", port) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        served.url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        yield served
        for connection in served.connections:
            connection.close()
    thread.join(5.0)
    assert not thread.is_alive()


def client(served: Served, **kwargs: Any) -> OpenEnv:
    return OpenEnv(served.url, **{"timeout": TIMEOUT, "observation_field": "text", **kwargs})
