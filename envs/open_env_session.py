"""The connection to a server that speaks OpenEnv's protocol: JSON over a WebSocket, one session per connection."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

MAX_MESSAGE = 16 * 2**20
"""Bytes of the longest message that is read at all."""
_FAREWELL = 1.0
"""Seconds that a server gets to give up a session."""
SEE_LOG = "Check the server's log."
SEE_PROTOCOL = "Check that base_url is that of an OpenEnv server."
_SEE_SESSIONS = (
    "Check base_url, the token (token_variable), and that the server has /ws (openenv-core 0.2 or newer): its plain "
    "/reset and /step do not tell the episodes of a group apart, so they are not used."
)
_SEE_CAPACITY = (
    "Every episode under way needs a session: serve with create_app(..., max_concurrent_envs=N) for N episodes at a "
    "time (groups_per_update * group_size, or eval.num_tasks if that is more), or play as many at a time as the server "
    "has sessions: env.execution=process env.workers=N."
)


class ServerError(RuntimeError):
    """A server gave no usable answer; the message says what was asked, what came, and what to check."""

    def __init__(self, base_url: str, asked: str, came: str, check: str) -> None:
        super().__init__(f"The server at {base_url} was asked to {asked}; {came}. {check}")


class ConnectionLost(ServerError):
    """The connection ended instead of an answer."""


class ActionRefused(ServerError):
    """The server could not read an action, and has not stepped.

    Attributes:
        reasons: a place in the action, a type and a message for each part that it could not read.
    """

    def __init__(self, base_url: str, asked: str, came: str, check: str, reasons: Sequence[Any]) -> None:
        self.reasons = [r for r in reasons if isinstance(r, dict) and isinstance(r.get("loc"), list)]
        said = "; ".join(f"{'.'.join(map(str, r['loc']))}: {r.get('msg')}" for r in self.reasons)
        super().__init__(base_url, asked, f"{came} ({short(said)})", check)


class Session:
    """A WebSocket connection, for which a server keeps an environment of its own.

    Args:
        base_url: the server's address, as ``ws://host:port/path``.
        token: sent as a bearer token, if any.
        timeout: seconds that one answer may take.
    """

    def __init__(self, base_url: str, token: str | None, timeout: float) -> None:
        from websockets.exceptions import InvalidStatus, WebSocketException
        from websockets.sync.client import connect

        self._base_url, self._timeout = base_url, timeout
        check = f"Check that the server runs: {base_url.replace('ws', 'http', 1)}/health."
        try:
            opening = connect(
                f"{base_url}/ws",
                additional_headers={"Authorization": f"Bearer {token}"} if token else None,
                proxy=None if urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1") else True,
                compression=None,
                open_timeout=timeout,
                ping_interval=None,  # the server's pings are answered; one of ours that is not would end the session
                close_timeout=_FAREWELL,
                max_size=MAX_MESSAGE,
            )
            self._socket = opening.__enter__()  # `with` is how newer versions connect; `drop` closes
        except InvalidStatus as error:
            status = error.response.status_code
            said = short((error.response.body or b"").decode(errors="replace"))
            check = _SEE_SESSIONS if status in (401, 403, 404) else check
            came = f"it answered with HTTP status {status}: {said!r}"
            raise ServerError(base_url, "open a session", came, check) from error
        except (WebSocketException, OSError, UnicodeError) as error:  # a timeout is an OSError
            raise ServerError(base_url, "open a session", f"there is no connection: {error}", check) from error

    def ask(self, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        """Send a message of a kind, ``reset`` or ``step``, and return the observation message's data.

        Raises:
            ServerError: anything else came, or nothing in time.
        """
        from websockets.exceptions import ConnectionClosed

        try:
            with suppress(ConnectionClosed):  # why the server hung up may lie there to be read
                self._socket.send(json.dumps({"type": kind, "data": data}))
            text = self._socket.recv(self._timeout)
        except TimeoutError as error:
            check = f"{SEE_LOG} If it is only slow, raise timeout and, above that, rollout.step_timeout."
            came = f"it did not answer within {self._timeout:g} s"
            raise ServerError(self._base_url, kind, came, check) from error
        except ConnectionClosed as error:
            raise ConnectionLost(self._base_url, kind, f"it closed the connection ({error})", SEE_LOG) from error
        try:
            message = json.loads(text)
            what, answer = message["type"], message["data"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            came = f"it answered {short(str(text))!r}, which is no JSON object with type and data"
            raise ServerError(self._base_url, kind, came, SEE_PROTOCOL) from error
        if what == "error" and isinstance(answer, dict):
            raise self._reported(kind, answer)
        if what != "observation" or not isinstance(answer, dict):
            came = f"it answered with {short(repr(what))} and not with an observation"
            raise ServerError(self._base_url, kind, came, SEE_PROTOCOL)
        return answer

    def _reported(self, kind: str, error: dict[str, Any]) -> ServerError:
        code, reasons = error.get("code"), error.get("errors")
        came = f"it reported {code}: {short(str(error.get('message')))!r}"
        if code == "CAPACITY_REACHED":
            return ServerError(self._base_url, kind, came, _SEE_CAPACITY)
        if code == "VALIDATION_ERROR" and kind == "step":
            check = "Check action_field and action_constants against the action's fields, which /schema lists."
            return ActionRefused(self._base_url, kind, came, check, reasons if isinstance(reasons, list) else [])
        return ServerError(self._base_url, kind, came, SEE_LOG)

    def close(self) -> None:
        """End the session, and wait a moment until the server has given its environment up: it may allow only few."""
        with suppress(Exception):
            self._socket.send(json.dumps({"type": "close"}))
            self._socket.recv(_FAREWELL)
        self.drop()

    def drop(self) -> None:
        """End the connection."""
        with suppress(Exception):
            self._socket.close()


def short(text: str) -> str:
    """The beginning of a text, in one line."""
    line = " ".join(text[:1000].split())
    return line if len(line) <= 200 else f"{line[:200]}..."
