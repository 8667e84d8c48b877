"""The client of environments behind a server: what it says, what it hears, and its arguments."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import pytest
from written_open_env import CLOSE, Message, Served, client, error, running, seen

from agentgrpo.config import EnvConfig
from agentgrpo.environments import make_env
from agentgrpo.envs.open_env import OpenEnv
from agentgrpo.envs.open_env_session import ActionRefused, ServerError


@pytest.fixture
def served() -> Iterator[Served]:
    with running(Served()) as server:
        yield server


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
    served.reset = lambda data: {
        "type": "observation",
        "data": {"observation": observation, "reward": None, "done": False},
    }
    whole = 'messages: [{"content": "a"}, {"content": "b"}]\nscore: 2'
    for names, text in [(None, whole), ("messages.-1.content", "b"), (["score", "messages.0.content"], "2\na")]:
        assert client(served, observation_field=names).reset(seed=0)[0] == text


def test_anchor_and_actions_come_from_their_fields(served: Served) -> None:
    observation = {"text": "step 3 in the hall", "room": "hall", "moves": ["west", "east", 7]}
    served.reset = lambda data: {
        "type": "observation",
        "data": {"observation": observation, "reward": None, "done": False},
    }
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
    served.step = lambda data: json.dumps(seen("a\ud800b"))
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
    client(served).reset(seed=0)  # there is no proxy at that port: asked, it would have failed
    assert served.kinds() == ["reset"]


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
     refusing([], "int_parsing"), error("VALIDATION_ERROR", errors=[1, {"loc": 7}]),
     error("VALIDATION_ERROR")],
)  # fmt: skip
def test_an_action_of_the_wrong_form_is_no_fault_of_the_text(served: Served, answer: Message) -> None:
    env = client(served)
    env.reset(seed=0)
    served.step = lambda data: answer
    with pytest.raises(ActionRefused, match=r"reported VALIDATION_ERROR.*Check action_field and action_constants"):
        env.step("two")


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
    monkeypatch.setitem(sys.modules, "websockets", None)
    with pytest.raises(ValueError, match=r"'agentgrpo/OpenEnv-v0'.*pip install 'agentgrpo\[openenv\]'"):
        make_env(EnvConfig("open_env", "agentgrpo/OpenEnv-v0"))
