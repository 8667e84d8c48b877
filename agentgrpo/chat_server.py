"""A client for servers that speak OpenAI's protocol for chats: messages in, text out."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from agentgrpo.context import Message
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.settings import OpenAiSettings

_RETRIED = (408, 429, 500, 502, 503, 504)
_MOST_BYTES = 10_000_000
LONGEST_WAIT = 60.0
"""Seconds between two attempts at most, whatever the server asks for."""


class ServerError(ValueError):
    """A server that cannot be used, or did not answer; the message names the setting to look at."""


class _Transient(ServerError):
    """A failure that may pass.

    Args:
        wait: seconds after which the server wants to be asked again, if it says so.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would send the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class ChatServer:
    """Asks one model behind a server. May be used by several threads.

    Raises:
        ServerError: the server or the model is not named, or the variable that should hold the key is empty.
    """

    def __init__(self, settings: OpenAiSettings) -> None:
        for name in ("base_url", "model"):
            if not getattr(settings, name):
                raise ServerError(
                    f"sampler.{name} is not set. Name the server and what it serves, e.g. "
                    "sampler.base_url=http://localhost:8000/v1 sampler.model=Qwen/Qwen3-8B"
                )
        self._settings = settings
        self._url = str(settings.base_url).rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if settings.api_key_env:
            key = os.environ.get(settings.api_key_env, "").strip()
            if not key:
                raise ServerError(
                    f"sampler.api_key_env={settings.api_key_env}, but that environment variable is empty. "
                    f"Put the key into it: export {settings.api_key_env}=..."
                )
            self._headers["Authorization"] = f"Bearer {key}"
        self._opener = urllib.request.build_opener(_NoRedirects)

    @property
    def name(self) -> str:
        """The model and where it is."""
        return f"{self._settings.model} at {self._url}"

    def complete(self, messages: Sequence[Message], params: SamplingParams) -> str:
        """The model's answer to a conversation. What may pass is tried again, after ever longer waits.

        Raises:
            ServerError: there is none.
        """
        body = {
            "model": self._settings.model,
            "messages": list(messages),
            self._settings.token_limit: params.max_new_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
        }
        for attempt in range(self._settings.retries + 1):
            try:
                return self._text(self._request("/chat/completions", body))
            except _Transient as error:
                if attempt == self._settings.retries:
                    tries = f" ({attempt + 1} attempts)" if attempt else ""
                    raise ServerError(f"{error}{tries}") from error
                wait = self._settings.retry_wait * 2**attempt if error.wait is None else error.wait
                time.sleep(min(wait, LONGEST_WAIT))
        raise AssertionError("the last attempt returns or raises")

    def _request(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that the server answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers)
        try:
            with self._opener.open(request, timeout=self._settings.timeout) as response:
                content = response.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, _shown(error.read(_MOST_BYTES))) from error
        except TimeoutError as error:
            raise self._late() from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._late() from error
            if isinstance(error.reason, ConnectionError) and not isinstance(error.reason, ConnectionRefusedError):
                raise _Transient(f"{self._url} closed the connection without an answer.") from error
            raise self._nobody(error.reason) from error
        except http.client.InvalidURL as error:
            raise self._nobody(error) from error
        except (http.client.HTTPException, ConnectionError) as error:
            raise _Transient(f"{self._url} closed the connection without an answer: {_shown(str(error))}") from error
        except (ValueError, OSError) as error:
            raise self._nobody(error) from error
        try:
            return json.loads(content)
        except ValueError as error:
            raise ServerError(
                f"{self._url}{path} did not answer in JSON: {_shown(content) or '(nothing)'}. "
                "Does sampler.base_url name an OpenAI-compatible server? It usually ends in /v1."
            ) from error

    def _text(self, answer: Any) -> str:
        try:
            content = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise ServerError(
                f"{self._url} answered without a message: {_shown(json.dumps(answer))}. "
                "It is no OpenAI-compatible server of chats, or the model takes none."
            ) from error
        if content is None:  # all tokens went into what the model does not show, or a tool was called
            return ""
        if not isinstance(content, str):
            raise ServerError(f"{self._url} answered with something that is no text: {_shown(json.dumps(content))}.")
        return content

    # --- what went wrong ------------------------------------------------------------------------------------------

    def _refusal(self, error: urllib.error.HTTPError, said: str) -> ServerError:
        code, variable = error.code, self._settings.api_key_env
        if code in _RETRIED:
            return _Transient(f"{self._url} answered {code} {said}", _seconds(error.headers.get("Retry-After")))
        if code in (401, 403):
            key = f"the key in ${variable}" if variable else "requests without a key (sampler.api_key_env=null)"
            return ServerError(
                f"{self._url} refuses {key}: {code} {said}. sampler.api_key_env names the environment variable that "
                "holds the key."
            )
        if code == 404:
            return ServerError(
                f"{self._url} answered 404 {said}. Either it does not serve sampler.model={self._settings.model}"
                f"{self._served()}, or sampler.base_url is not where its API starts (it usually ends in /v1)."
            )
        if 300 <= code < 400:
            there = _shown(error.headers.get("Location") or "elsewhere")
            return ServerError(f"{self._url} redirects to {there}. Set sampler.base_url to where the API is.")
        return ServerError(f"{self._url} refused the request: {code} {said}")

    def _served(self) -> str:
        """`` (it has: a, b)``, where the server tells."""
        try:
            names = [str(entry["id"]) for entry in self._request("/models")["data"]]
        except (ServerError, KeyError, TypeError):
            return ""
        return f" (it has: {_shown(', '.join(names))})"

    def _late(self) -> _Transient:
        return _Transient(f"{self._url} gave no answer within {self._settings.timeout:g} s (sampler.timeout).")

    def _nobody(self, reason: object) -> ServerError:
        why = "no such host" if isinstance(reason, socket.gaierror) else _shown(str(reason))
        return ServerError(
            f"sampler.base_url={self._url}: nobody can be asked there ({why}). Is the server running, and is the "
            "address right? E.g. http://localhost:8000/v1"
        )


def _seconds(header: str | None) -> float | None:
    try:
        return max(float(header), 0.0) if header else None
    except ValueError:  # a date
        return None


def _shown(text: str | bytes, most: int = 300) -> str:
    """Somebody else's text, on one line and without characters that a terminal would obey."""
    whole = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    line = " ".join(whole.split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= most else line[:most] + "..."
