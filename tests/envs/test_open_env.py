"""The client of environments behind a server, against servers whose every answer is written here."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import gymnasium as gym
import pytest
from helpers import tiny_tokenizer
from websockets.sync.server import ServerConnection, serve

from agentgrpo.config import EnvConfig, RolloutConfig
from agentgrpo.context import ChatFormat, make_conversation
from agentgrpo.environments import make_env, probe
from agentgrpo.envs.open_env import OpenEnv
from agentgrpo.envs.open_env_session import ActionRefused, ConnectionLost, ServerError
from agentgrpo.rollout import PolicyPlayer, RolloutRunner, Task
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.scripted import ScriptedSampler
from agentgrpo.types import Group, RolloutStatus

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


@pytest.fixture
def served() -> Iterator[Served]:
    with running(Served()) as server:
        yield server


def client(served: Served, **kwargs: Any) -> OpenEnv:
    return OpenEnv(served.url, **{"timeout": TIMEOUT, "observation_field": "text", **kwargs})


# --- a server that works ----------------------------------------------------------------------------------------------


def test_an_episode_by_hand(served: Served) -> None:
    env = client(served)
    text, info = env.reset(seed=5)
    ((_, message),) = served.heard
    seed = message["data"]["seed"]
    assert message == {"type": "reset", "data": {"seed": seed}}
    assert 0 <= seed < 2**31
    assert text == f"start {seed}"
    assert info == {"anchor": text, "task_id": "5", "valid_action": True, "success": False}
    assert env.step("go")[:4] == ("heard go", 0.0, False, False)
    assert served.heard[-1][1] == {"type": "step", "data": {"message": "go"}}
    served.step = lambda data: seen("the end", 0.5, True)
    assert env.step("go") == (
        "the end", 0.5, True, False,
        {"anchor": "the end", "task_id": "5", "valid_action": True, "success": True},
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step("go")
    assert env.reset(seed=5)[0] == text  # the same seed, over the same session
    assert len(served.connections) == 1
    env.close()


def test_every_object_has_a_session_of_its_own(served: Served) -> None:
    one, other = client(served), client(served)
    one.reset(seed=1)
    other.reset(seed=1)
    one.step("mine")
    other.step("yours")
    assert [(s, m["data"].get("message")) for s, m in served.heard] == [(0, None), (1, None), (0, "mine"), (1, "yours")]


def test_the_text_goes_into_its_field_beside_the_constants(served: Served) -> None:
    constants = {"type": "call_tool", "arguments": {"volume": 3}}
    env = client(served, action_field="arguments.text", action_constants=constants, reset_arguments={"level": "easy"})
    served.step = lambda data: seen()
    env.reset(seed=0)
    assert served.heard[-1][1]["data"]["level"] == "easy"
    env.step("hi")
    assert served.heard[-1][1]["data"] == {"type": "call_tool", "arguments": {"volume": 3, "text": "hi"}}
    assert constants == {"type": "call_tool", "arguments": {"volume": 3}}


def test_observations_become_text(served: Served) -> None:
    observation = {"messages": [{"content": "a"}, {"content": "b"}], "score": 2, "hint": None, "metadata": {"x": 1}}
    served.reset = lambda data: {"type": "observation", "data": {"observation": observation, "reward": None, "done": False}}
    whole = 'messages: [{"content": "a"}, {"content": "b"}]\nscore: 2'
    for names, text in [(None, whole), ("messages.-1.content", "b"), (["score", "messages.0.content"], "2\na")]:
        assert client(served, observation_field=names).reset(seed=0)[0] == text


def test_anchor_and_actions_come_from_their_fields(served: Served) -> None:
    observation = {"text": "step 3 in the hall", "room": "hall", "moves": ["west", "east", 7]}
    served.reset = lambda data: {"type": "observation", "data": {"observation": observation, "reward": None, "done": False}}
    _, info = client(served, anchor_field="room", actions_field="moves").reset(seed=0)
    assert (info["anchor"], info["admissible_actions"]) == ("hall", ["7", "east", "west"])


@pytest.mark.parametrize(
    ("last", "success"),
    [
        (seen(reward=1.0, done=True), True),
        (seen(reward=0.0, done=True), False),
        (seen(reward=None, done=True), False),
        (seen(reward=1.0, done=True, metadata={"success": False}), False),
        (seen(reward=-1.0, done=True, info={"success": True}), True),
        (seen(reward=1.0, done=False), False),
    ],
)
def test_success_is_what_the_server_claims_or_a_reward_at_the_end(served: Served, last: Message, success: bool) -> None:
    env = client(served)
    served.step = lambda data: last
    env.reset(seed=0)
    assert env.step("go")[4]["success"] is success


def test_an_episode_is_cut_off_after_max_turns(served: Served) -> None:
    env = client(served, max_turns=2)
    env.reset(seed=0)
    assert [env.step("go")[2:4] for _ in range(2)] == [(False, False), (False, True)]
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("go")


def test_seeds_give_tasks_and_resets_without_a_seed_go_on(served: Served) -> None:
    one, other = client(served), client(served)
    texts = [[env.reset(seed=9)[0], env.reset()[0], env.reset()[0]] for env in (one, other)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3
    assert one.reset()[1]["task_id"] == "9+3"
    assert one.reset(seed=9, options={"noise_seed": 4})[0] == texts[0][0]
    with pytest.raises(ValueError, match="got level; allowed: noise_seed"):
        one.reset(options={"level": 1})


def test_halves_of_surrogate_pairs_are_replaced_both_ways(served: Served) -> None:
    env = client(served)
    env.reset(seed=0)
    served.step = lambda data: f'{{"type": "observation", "data": {{"observation": {{"text": "a\\ud800b"}}, "reward": 1, "done": false}}}}'  # noqa: E501, F541
    assert env.step("x\ud800y")[0] == "a?b"
    assert served.heard[-1][1]["data"]["message"] == "x?y"


def test_the_servers_pings_are_answered_while_the_policy_thinks(served: Served) -> None:
    env = client(served)
    env.reset(seed=0)
    assert served.connections[0].ping().wait(10.0)


def test_a_proxy_is_not_asked_for_this_machine(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    client(served).reset(seed=0)


# --- actions that the server cannot read ------------------------------------------------------------------------------


def refusing(place: list[str], kind: str) -> Message:
    return error("VALIDATION_ERROR", errors=[{"type": kind, "loc": place, "msg": "Input should be a whole number"}])


def test_a_text_that_the_server_cannot_read_uses_a_turn_up(served: Served) -> None:
    env = client(served, max_turns=2)
    first, before = env.reset(seed=0)
    served.step = lambda data: refusing(["message"], "int_parsing")
    text, reward, terminated, truncated, info = env.step("two")
    assert text == f"Not possible: Input should be a whole number\n{first}"
    assert (reward, terminated, truncated, info) == (0.0, False, False, before | {"valid_action": False})
    assert env.step("two")[3]
    assert len(served.connections) == 1


@pytest.mark.parametrize(
    "answer",
    [refusing(["message"], "missing"), refusing(["message"], "extra_forbidden"), refusing(["tool"], "int_parsing"),
     error("VALIDATION_ERROR")],
)  # fmt: skip
def test_an_action_of_the_wrong_form_is_no_fault_of_the_text(served: Served, answer: Message) -> None:
    env = client(served)
    env.reset(seed=0)
    served.step = lambda data: answer
    with pytest.raises(ActionRefused, match=r"reported VALIDATION_ERROR.*Check action_field and action_constants"):
        env.step("two")


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
    "no fields": ({"type": "observation", "data": {}}, "it gave an answer without done, observation, reward but with nothing"),
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
    "1 MB": (seen("x" * 1_000_000), "an observation of 1000000 characters, more than max_observation=20000. Name the field"),
    "17 MB": (json.dumps(seen("x" * 17_000_000)), r"it closed the connection \(sent 1009"),
    "an exception there": (error("EXECUTION_ERROR", "no such room"), "reported EXECUTION_ERROR: 'no such room'. Check the server's log"),
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
    with pytest.raises(ServerError, match="did not answer within 0.3 s"):
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
    with pytest.raises(ServerError, match=r"asked to open a session; there is no connection: .*Check that the server runs"):
        env.reset(seed=0)
    with running(Served(), port):
        assert env.reset(seed=0)[0] == text


def test_what_the_server_says_before_it_hangs_up_is_told(served: Served) -> None:
    def full(connection: ServerConnection) -> None:
        connection.send(json.dumps(error("CAPACITY_REACHED", "1/1 sessions")))

    served.talk = full  # type: ignore[method-assign]
    with running(served), pytest.raises(ServerError, match="CAPACITY_REACHED: '1/1 sessions'"):
        client(served).reset(seed=0)


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
        (status(500, b"out of memory"), "it answered with HTTP status 500: 'out of memory'. Check that the server runs"),
        (status(200, b"<html>"), "it answered with HTTP status 200: '<html>'"),
        (status(404), r"it answered with HTTP status 404: ''. Check base_url, the token .*do not tell the episodes of a group apart"),
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
        CHAT.decode,
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
    with runner(config(served, execution)) as made, pytest.raises(ValueError, match=r"members of one group different.*") as e:
        play(made)
    assert f"The server at {served.url.replace('http', 'ws')} ignores the seed" in str(e.value)
    with pytest.raises(ValueError, match=r"two resets with the same seed gave different.*ignores the seed: its env"):
        probe(config(served, execution), 10, 10.0)


# --- arguments --------------------------------------------------------------------------------------------------------


def test_a_token_comes_from_the_environment_and_is_told_to_nobody_else(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", " sesame\n")
    env = client(served, token_variable="MY_TOKEN")
    env.reset(seed=0)
    assert served.headers[0]["Authorization"] == "Bearer sesame"
    served.step = lambda data: CLOSE
    with pytest.raises(ServerError) as caught:
        env.step("go")
    assert "sesame" not in str(caught.value)
    assert "sesame" not in json.dumps({k: v for k, v in vars(env).items() if isinstance(v, str | int | dict | list)})
    client(served).reset(seed=0)
    assert "Authorization" not in served.headers[1]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"base_url": "127.0.0.1:8000"}, "base_url must be an address such as http://127.0.0.1:8000, got '127"),
        ({"base_url": "ftp://host"}, "base_url must be an address"),
        ({"base_url": "http://"}, "base_url must be an address"),
        ({"base_url": "http://[::1"}, "base_url must be an address"),
        ({"base_url": "http://host:99999"}, "base_url must be an address"),
        ({"base_url": "http://host/?a=1"}, "base_url must be an address"),
        ({"base_url": 7}, "base_url must be an address .* got 7"),
        ({"base_url": "http://me:secret@host"}, "base_url must not hold a name or password"),
        ({"action_field": ""}, "action_field must name a field, such as message, got ''"),
        ({"action_field": "a..b"}, r"action_field must name a field, such as message, got 'a\.\.b'"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, got 0"),
        ({"timeout": float("inf")}, "timeout must be a number of seconds above 0, got inf"),
        ({"max_turns": 0}, "max_turns must be an integer from 1 to 10000, got 0"),
        ({"max_observation": 0}, "max_observation must be an integer from 1 to 1000000, got 0"),
        ({"token_variable": "NO_SUCH_TOKEN"}, "token_variable must name an environment variable that is set, got 'NO_"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        OpenEnv(**kwargs)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://host:8000", "ws://host:8000"),
        ("https://host/space/", "wss://host/space"),
        ("wss://host/space/ws", "wss://host/space"),
    ],
)
def test_addresses(given: str, address: str) -> None:
    assert f"server at {address} ignores" in OpenEnv(given).seed_advice


def test_max_return_is_what_one_says() -> None:
    assert OpenEnv().max_return is None
    assert OpenEnv(max_return=2.5).max_return == 2.5


def test_it_is_made_without_a_server_and_without_its_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(gym.make("agentgrpo/OpenEnv-v0").unwrapped, OpenEnv)
    monkeypatch.setitem(__import__("sys").modules, "websockets", None)
    with pytest.raises(ValueError, match=r"'agentgrpo/OpenEnv-v0'.*pip install 'agentgrpo\[openenv\]'"):
        make_env(EnvConfig("open_env", "agentgrpo/OpenEnv-v0"))
