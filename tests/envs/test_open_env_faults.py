"""The client of environments behind a server, when the server fails: alone, and through the runner."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from helpers import tiny_tokenizer
from websockets.protocol import State
from websockets.sync.server import ServerConnection
from written_open_env import CLOSE, TIMEOUT, Answer, Message, Served, client, error, running, seen

from agentgrpo.config import EnvConfig, RolloutConfig
from agentgrpo.context import ChatFormat, make_conversation
from agentgrpo.environments import probe
from agentgrpo.envs.open_env import OpenEnv
from agentgrpo.envs.open_env_session import ConnectionLost, ServerError, Session
from agentgrpo.episode import Task
from agentgrpo.players import PolicyPlayer
from agentgrpo.rollout import RolloutRunner
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.scripted import ScriptedSampler
from agentgrpo.types import Group, RolloutStatus


@pytest.fixture
def served() -> Iterator[Served]:
    with running(Served()) as server:
        yield server


# --- servers that fail ------------------------------------------------------------------------------------------------

REWARDS: dict[str, tuple[Answer, str]] = {
    "NaN": (seen(reward=float("nan")), "it gave the reward nan. Check the environment behind it: a reward is a finite"),
    "infinite": (seen(reward=float("-inf")), "it gave the reward -inf. Check the environment behind it"),
    "too large": (seen(reward=10**400), "it gave the reward 1000.*. Check the environment behind it"),
    "a text as reward": (seen(reward="much"), "it gave the reward 'much'"),
}
FAULTS: dict[str, tuple[Answer, str]] = {
    "no JSON": ("<html>", "it answered '<html>', which is no JSON object with type and data. Check that base_url"),
    "a list": ("[1]", r"it answered '\[1\]', which is no JSON object"),
    "no data": ('{"type": "observation"}', "no JSON object with type and data"),
    "deep": ("[" * 100_000, "no JSON object with type and data"),
    "another type": ({"type": "state", "data": {}}, "it answered with 'state' and not with an observation. Check"),
    "no fields": ({"type": "observation", "data": {}}, "without done, observation, reward but with nothing. Check"),
    "no done": (
        {"type": "observation", "data": {"observation": {}, "reward": 1}},
        "it gave an answer without done but with observation, reward. Check",
    ),
    "a text as observation": (
        {"type": "observation", "data": {"observation": "x", "reward": 1, "done": False}},
        "it gave 'x' as observation and False as done. Check",
    ),
    "a number as done": (seen(done=1), "as observation and 1 as done"),
    "no such field": (
        {"type": "observation", "data": {"observation": {"words": "x"}, "reward": 1, "done": False}},
        "an observation without text: at text it has the fields words. Check observation_field",
    ),
    "1 MB": (seen("x" * 1_000_000), "an observation of 1000000 characters, more than max_observation=20000. Name"),
    "17 MB": (json.dumps(seen("x" * 17_000_000)), r"it closed the connection \(sent 1009"),
    "an exception there": (error("EXECUTION_ERROR", "no such room"), "reported EXECUTION_ERROR: 'no such room'. Check"),
    "no more sessions": (error("CAPACITY_REACHED"), r"reported CAPACITY_REACHED.*max_concurrent_envs=N.*env.workers=N"),
    "closed": (CLOSE, r"it closed the connection \(.*\). Check the server's log"),
    "late": (None, r"it did not answer within 0.3 s. Check the server's log. If it is only slow, raise timeout"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("when", "answer", "message"),
    [
        pytest.param(when, *fault, id=f"{when}-{name}")
        for when, faults in (("reset", FAULTS), ("step", FAULTS | REWARDS))
        for name, fault in faults.items()
    ],
)
def test_a_fault_says_what_was_asked_what_came_and_what_to_check(
    served: Served, when: str, answer: Answer, message: str
) -> None:
    env = client(served, timeout=0.3 if answer is None else 10.0)
    if when == "step":
        env.reset(seed=0)
        served.step = lambda data: answer
    else:
        served.reset = lambda data: answer
    with pytest.raises(ServerError, match=rf"The server at ws://127.0.0.1:\d+ was asked to {when}; .*{message}"):
        env.step("go") if when == "step" else env.reset(seed=0)
    assert served.kinds().count(when) == 1  # never asked again: a step could have been made
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("go")
    served.reset, served.step = Served().reset, Served().step
    env.reset(seed=1)  # over a new session
    assert env.step("on")[0] == "heard on"
    assert len(served.connections) == 2


def test_an_answer_that_comes_late_is_not_taken_for_the_next_one(served: Served) -> None:
    slow = threading.Event()

    def late(data: Message) -> Message:
        slow.wait(5.0)
        return seen("too late", 1.0, True)

    env = client(served, timeout=0.3)
    env.reset(seed=0)
    served.step = late
    with pytest.raises(ServerError, match=r"did not answer within 0\.3 s"):
        env.step("go")
    text, _ = env.reset(seed=1)
    slow.set()
    assert text.startswith("start ")
    served.step = Served().step
    assert env.step("on")[:3] == ("heard on", 0.0, False)


def test_a_first_observation_that_is_the_last_is_refused(served: Served) -> None:
    served.reset = lambda data: seen(done=True)
    with pytest.raises(ServerError, match="was asked to reset; it gave an episode that is over already"):
        client(served).reset(seed=0)


def test_a_server_that_was_restarted_is_found_again_at_the_next_reset() -> None:
    with running(Served()) as first:
        env = client(first)
        text, _ = env.reset(seed=0)
        port = int(first.url.rpartition(":")[2])
    with running(Served(), port) as second:
        assert env.reset(seed=0)[0] == text
        assert second.kinds() == ["reset"]
        env.step("go")
    with pytest.raises(ConnectionLost, match="was asked to step; it closed the connection"):
        env.step("go")
    with pytest.raises(
        ServerError, match=r"asked to open a session; there is no connection: .*Check that the server runs"
    ):
        env.reset(seed=0)
    with running(Served(), port):
        assert env.reset(seed=0)[0] == text


def test_what_the_server_says_before_it_hangs_up_is_told() -> None:
    def full(connection: ServerConnection) -> None:
        connection.send(json.dumps(error("CAPACITY_REACHED", "1/1 sessions")))

    server = Served()
    server.talk = full  # type: ignore[method-assign]
    with running(server):
        session = Session(server.url.replace("http", "ws"), None, TIMEOUT)
        deadline = time.monotonic() + TIMEOUT
        while session._socket.state is not State.CLOSED and time.monotonic() < deadline:
            time.sleep(0.01)
        assert session._socket.state is State.CLOSED
        with pytest.raises(ServerError, match="CAPACITY_REACHED: '1/1 sessions'"):
            session.ask("reset", {})


@contextmanager
def http_server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A web server that knows nothing of sessions."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)
            self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
    thread.join(5.0)


def status(code: int, body: bytes = b"") -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            status(500, b"out of memory"),
            "it answered with HTTP status 500: 'out of memory'. Check that the server runs",
        ),
        (status(200, b"<html>"), "it answered with HTTP status 200: '<html>'"),
        (
            status(404),
            r"it answered with HTTP status 404: ''. Check base_url, the token .*do not tell the episodes of a group",
        ),
        (status(401), "it answered with HTTP status 401"),
        (lambda handler: None, "there is no connection: "),
        (lambda handler: handler.wfile.write(b"220 mail ready\r\n"), "there is no connection: "),
        (lambda handler: time.sleep(1.0), "there is no connection: "),
    ],
    ids=["500", "200", "404", "401", "hangs up", "no HTTP", "late"],
)
def test_a_server_without_sessions_is_named(answer: Callable[[BaseHTTPRequestHandler], None], message: str) -> None:
    with http_server(answer) as url, pytest.raises(ServerError, match=f"was asked to open a session; {message}"):
        OpenEnv(url, timeout=0.3).reset(seed=0)


def test_sessions_end_with_close_and_with_their_object(served: Served) -> None:
    env = client(served)
    env.reset(seed=0)
    env.close()
    assert served.ended.acquire(timeout=10.0)
    assert served.kinds() == ["reset", "close"]
    env.close()  # again: nothing
    env.reset(seed=0)
    del env
    gc.collect()
    assert served.ended.acquire(timeout=10.0)


# --- through the runner -----------------------------------------------------------------------------------------------

CHAT = ChatFormat(tiny_tokenizer())


def config(served: Served, execution: str = "thread", **kwargs: Any) -> EnvConfig:
    arguments = {"base_url": served.url, "observation_field": "text", "timeout": 5.0, "max_turns": 2, **kwargs}
    return EnvConfig("open_env", "agentgrpo/OpenEnv-v0", arguments, execution=execution, workers=8)


@contextmanager
def runner(env: EnvConfig) -> Iterator[RolloutRunner]:
    made = RolloutRunner(
        {"open_env": env},
        RolloutConfig(temperature=1.0, top_p=1.0, max_new_tokens=20, max_turns=10, step_timeout=10.0),
        lambda name: make_conversation(CHAT, "transcript", 2),
        CHAT,
        1000,
    )
    try:
        yield made
    finally:
        made.close()


def play(runner: RolloutRunner, size: int = 4, seed: int = 0) -> Group:
    answers = ScriptedSampler(lambda prompt: (*CHAT.encode("go"), CHAT.end_id))
    (group,) = runner.collect(PolicyPlayer(answers, SamplingParams(20)), [Task(seed, ("test", seed))], size)
    return group


def test_a_failure_ends_its_own_episode_and_the_next_one_works(served: Served) -> None:
    lock, count = threading.Lock(), [0]

    def now_and_then(data: Message) -> Answer:
        with lock:
            count[0] += 1
            return CLOSE if count[0] == 1 else seen()

    served.step = now_and_then
    with runner(config(served)) as made:
        found = play(made)
        statuses = sorted(t.status.name for t in found)
        assert statuses == ["ENV_ERROR", "TURN_LIMIT", "TURN_LIMIT", "TURN_LIMIT"]
        (failed,) = [t for t in found if t.status is RolloutStatus.ENV_ERROR]
        assert "was asked to step; it closed the connection" in failed.error
        assert {t.status for t in play(made, seed=1)} == {RolloutStatus.TURN_LIMIT}


def test_a_server_that_is_down_ends_episodes_until_it_is_back() -> None:
    with running(Served()) as first:
        env = config(first)
        port = int(first.url.rpartition(":")[2])
    with runner(env) as made:
        down = play(made)
        assert {t.status for t in down} == {RolloutStatus.ENV_ERROR}
        assert all("there is no connection" in t.error for t in down)
        with running(Served(), port):
            assert {t.status for t in play(made)} == {RolloutStatus.TURN_LIMIT}


@pytest.mark.parametrize("execution", ["thread", "process"])
def test_a_server_that_ignores_the_seed_is_found_out(served: Served, execution: str) -> None:
    numbers = iter(range(1000))
    served.reset = lambda data: seen(f"start {next(numbers)}")
    with (
        runner(config(served, execution)) as made,
        pytest.raises(ValueError, match=r"members of one group different.*") as e,
    ):
        play(made)
    assert f"The server at {served.url.replace('http', 'ws')} ignores the seed" in str(e.value)
    with pytest.raises(ValueError, match=r"two resets with the same seed gave different.*ignores the seed: its env"):
        probe(config(served, execution), 10, 10.0)
