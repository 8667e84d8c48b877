"""The client for OpenAI-compatible servers, against a server written here that answers, refuses, lags and babbles."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentgrpo.chat_server import ChatServer, ServerError
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.settings import OpenAiSettings

Answer = tuple[int, dict[str, str], bytes | None]
"""Status, headers, body; without a body the connection is closed before anything is said."""


def saying(text: str | None) -> Answer:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


class Quiet(ThreadingHTTPServer):
    """Says nothing about clients that have gone, which would land in the output of whatever test runs by then."""

    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        pass


class Server:
    """Answers with what it is told to, request by request; the last answer again and again."""

    def __init__(self, *answers: Answer, act: Callable[[dict[str, Any]], Answer] | None = None) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer((200, {}, json.dumps({"data": [{"id": "small"}, {"id": "large"}]}).encode()))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.requests.append({"path": self.path, **body})
                owner.headers.append(dict(self.headers))
                if act is not None:
                    self._answer(act(body))
                else:
                    self._answer(owner.answers.pop(0) if len(owner.answers) > 1 else owner.answers[0])

            def _answer(self, answer: Answer) -> None:
                status, headers, content = answer
                if content is None:
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(*answers: Answer, **kwargs: Any) -> Server:
        made.append(Server(*answers, **kwargs))
        return made[-1]

    yield start
    for server in made:
        server.close()


def settings(url: str | None, **changed: Any) -> OpenAiSettings:
    values: dict[str, Any] = {
        "model": "small",
        "api_key_env": None,
        "timeout": 5.0,
        "retries": 2,
        "retry_wait": 0.01,
        "concurrency": 4,
        "token_limit": "max_tokens",
    }
    return OpenAiSettings("openai", url, **(values | changed))


def ask(server: Server | str, **changed: Any) -> str:
    url = server if isinstance(server, str) else server.url
    return ChatServer(settings(url, **changed)).complete(
        [{"role": "user", "content": "go?"}], SamplingParams(7, 0.5, 0.9)
    )


def test_what_is_sent(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", " secret\n")
    server = serve(saying("go north"))
    assert ask(server, api_key_env="MY_KEY") == "go north"
    assert server.requests == [
        {
            "path": "/v1/chat/completions",
            "model": "small",
            "messages": [{"role": "user", "content": "go?"}],
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
        }
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_without_a_key_none_is_sent_and_the_limit_has_another_name(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server = serve(saying("x"))
    ask(server, token_limit="max_completion_tokens")
    assert "Authorization" not in server.headers[0]
    assert server.requests[0]["max_completion_tokens"] == 7
    assert "max_tokens" not in server.requests[0]


@pytest.mark.parametrize("text", ["", None])
def test_an_answer_without_text_is_an_empty_answer(serve: Callable[..., Server], text: str | None) -> None:
    assert ask(serve(saying(text))) == ""


# --- what may pass ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(serve: Callable[..., Server], status: int) -> None:
    server = serve((status, {}, b"later"), (status, {}, b"later"), saying("done"))
    assert ask(server) == "done"
    assert len(server.requests) == 3


def test_a_server_that_stays_busy_is_given_up(serve: Callable[..., Server]) -> None:
    server = serve((429, {}, b'{"error": "quota"}'))
    with pytest.raises(ServerError, match=r'answered 429 \{"error": "quota"\} \(3 attempts\)'):
        ask(server)
    assert len(server.requests) == 3


def test_waits_double_unless_the_server_says_how_long(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("agentgrpo.chat_server.time.sleep", waits.append)
    busy: Answer = (503, {}, b"")
    server = serve(busy, busy, (429, {"Retry-After": "7"}, b""), (429, {"Retry-After": "900"}, b""), busy, saying("x"))
    ask(server, retries=5, retry_wait=1.0)
    assert waits == [1.0, 2.0, 7.0, 60.0, 16.0]


def test_a_closed_connection_is_tried_again(serve: Callable[..., Server]) -> None:
    server = serve((200, {}, None), saying("done"))
    assert ask(server) == "done"
    with pytest.raises(ServerError, match=r"closed the connection without an answer.*\(3 attempts\)"):
        ask(serve((200, {}, None)))


def test_a_late_server(serve: Callable[..., Server]) -> None:
    def late(body: dict[str, Any]) -> Answer:
        time.sleep(0.5)
        return saying("too late")

    with pytest.raises(ServerError, match=r"gave no answer within 0\.1 s \(sampler\.timeout\)"):
        ask(serve(act=late), timeout=0.1, retries=0)


# --- what will not ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_names_the_variable_and_not_the_key(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    server = serve((status, {}, b"no"))
    with pytest.raises(ServerError, match=rf"refuses the key in \$MY_KEY: {status} no\. sampler\.api_key_env") as error:
        ask(server, api_key_env="MY_KEY")
    assert "secret" not in str(error.value)
    with pytest.raises(ServerError, match=r"refuses requests without a key \(sampler\.api_key_env=null\)"):
        ask(server)
    assert len(server.requests) == 2  # and none is repeated


def test_a_model_that_is_not_served_is_named_with_those_that_are(serve: Callable[..., Server]) -> None:
    with pytest.raises(
        ServerError, match=r"does not serve sampler\.model=tiny \(it has: small, large\), or sampler\.ba"
    ):
        ask(serve((404, {}, b"no such model")), model="tiny")


def test_a_request_that_the_server_cannot_take_is_told_in_its_words(serve: Callable[..., Server]) -> None:
    with pytest.raises(ServerError, match=r"refused the request: 400 maximum context length is 4096"):
        ask(serve((400, {}, b"maximum context\nlength is 4096")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"did not answer in JSON: \(nothing\)\. Does sampler\.base_url"),
        (b"<html>hello\x1b[2J</html>", r"did not answer in JSON: <html>hello\?\[2J</html>"),
        (b"{}", r"answered without a message: \{\}"),
        (b'{"choices": []}', "answered without a message"),
        (b'[{"choices": 3}]', "answered without a message"),
        (b'{"choices": [{"message": {"content": 7}}]}', r"something that is no text: 7"),
        (b"x" * 5000, r"x{300}\.\.\.\."),
    ],
)
def test_garbage(serve: Callable[..., Server], content: bytes, message: str) -> None:
    with pytest.raises(ServerError, match=message):
        ask(serve((200, {}, content)))


def test_a_redirect_is_not_followed_with_the_key(serve: Callable[..., Server]) -> None:
    other = serve(saying("x"))
    with pytest.raises(ServerError, match=rf"redirects to {other.url}/chat/completions\. Set sampler\.base_url"):
        ask(serve((307, {"Location": f"{other.url}/chat/completions"}, b"")))
    assert not other.requests


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1", "http://127.0.0.1:port/v1"])
def test_nobody_there(url: str) -> None:
    with pytest.raises(ServerError, match=r"sampler\.base_url=http.*nobody can be asked there"):
        ask(url)


def test_settings_that_are_missing() -> None:
    with pytest.raises(ServerError, match=r"sampler\.base_url is not set"):
        ChatServer(settings(None))
    with pytest.raises(ServerError, match=r"sampler\.model is not set"):
        ChatServer(settings("http://x/v1", model=None))


def test_an_empty_variable_for_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ServerError, match=r"sampler\.api_key_env=MY_KEY, but that environment variable is empty"):
        ChatServer(settings("http://x/v1", api_key_env="MY_KEY"))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost:8000/v1"])
def test_other_kinds_of_address_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"sampler\.base_url must start with http:// or https://"):
        settings(url)
