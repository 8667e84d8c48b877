"""Tools as agents call them: both formats, what is no call, and what the environments with tools say and accept."""

import json
from typing import Any

import gymnasium as gym
import pytest

import agentgrpo.envs  # noqa: F401  (registers)
from agentgrpo.env_check import check_env
from agentgrpo.envs.tools import MAX_CALL, Tool, ToolEnv, printable, read_call, same_answer

TOOLS = (Tool("calculate", "expression"), Tool("buy"))
TOOL_ENVS = ("agentgrpo/MiniShop-v0", "agentgrpo/Calculator-v0", "agentgrpo/SqlTools-v0")
OBJECT = '{"name": "calculate", "arguments": {"expression": "12*7"}}'


def make(env_id: str, **kwargs: Any) -> ToolEnv[Any, Any]:
    env = gym.make(env_id, **kwargs).unwrapped
    assert isinstance(env, ToolEnv)
    return env


@pytest.mark.parametrize(
    "text",
    [
        "calculate[12*7]",
        " Calculate [ 12*7 ]\n",
        OBJECT,
        f"<tool_call>\n{OBJECT}\n</tool_call>",
        f"<think>\nTwelve times seven.\n</think>\n\n<tool_call>{OBJECT}</tool_call>\n",
        "<tool_call>calculate[12*7]</tool_call>",
        '{"name": "calculate", "arguments": "{\\"expression\\": \\"12*7\\"}"}',
        '{"arguments": {"expression": " 12*7 "}, "name": "CALCULATE", "id": 3}',
    ],
)
def test_one_call_in_the_ways_that_models_write_it(text: str) -> None:
    assert read_call(text, TOOLS) == ("calculate", "12*7")


@pytest.mark.parametrize("text", ["buy", "BUY[]", '{"name": "buy"}', '{"name": "buy", "arguments": {}}'])
def test_a_tool_without_an_argument(text: str) -> None:
    assert read_call(text, TOOLS) == ("buy", "")


def test_an_argument_may_hold_brackets_lines_and_numbers() -> None:
    assert read_call("calculate[a[1]\n]b]", TOOLS) == ("calculate", "a[1]\n]b")
    assert read_call('{"name": "calculate", "arguments": {"expression": 12}}', TOOLS) == ("calculate", "12")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "calculate",
        "calculate[]",
        "calculate[12*7",
        "calculate 12*7",
        "I choose calculate[12*7]",
        "calculate[12*7] and more",
        "erase[12*7]",
        "buy[shirt]",
        OBJECT[:-1],
        f"<tool_call>{OBJECT}",
        f"{OBJECT}</tool_call>",
        f"<tool_call>{OBJECT}</tool_call> I hope that this is right.",
        f"<tool_call>{OBJECT}</tool_call><tool_call>{OBJECT}</tool_call>",
        f"<tool_call><tool_call>{OBJECT}</tool_call>",
        f"[{OBJECT}]",
        '{"name": "calculate"}',
        '{"name": "calculate", "arguments": null}',
        '{"name": "calculate", "arguments": "12*7"}',
        '{"name": "calculate", "arguments": {"expr": "12*7"}}',
        '{"name": "calculate", "arguments": {"expression": "12*7", "digits": 3}}',
        '{"name": "calculate", "arguments": {"expression": true}}',
        '{"name": "calculate", "arguments": {"expression": ["12*7"]}}',
        '{"name": ["calculate"], "arguments": {"expression": "12*7"}}',
        '{"name": "buy", "arguments": {"item": "a"}}',
        '{"name": "erase", "arguments": {"expression": "12*7"}}',
        '{"name":' * 220,
        '{"a":' + "[" * 1900,
        '{"name": "calculate", "arguments": {"expression": ' + "9" * MAX_CALL + "}}",
        "calculate[" + "1" * MAX_CALL + "]",
        "<tool_call>" * 10_000,
    ],
)
def test_what_is_no_call(text: str) -> None:
    assert read_call(text, TOOLS) is None


def test_reading_what_is_written() -> None:
    for tool_format in ("text", "json"):
        for tool, value in [(TOOLS[0], 'say "é" [1]'), (TOOLS[1], "")]:
            assert read_call(tool.call(value, tool_format), TOOLS) == (tool.name, value)
    assert json.loads(TOOLS[0].call("12*7", "json")) == json.loads(OBJECT)
    assert [tool.sketch("text") for tool in TOOLS] == ["calculate[expression]", "buy"]


def test_answers_are_compared_as_numbers_or_as_words() -> None:
    assert same_answer(" 84.0 ", "84")
    assert same_answer("84.", "84")
    assert same_answer("'Ann'", "ann")
    assert same_answer("New  York.", "new york")
    assert not same_answer("8.4", "84")
    assert not same_answer("1e3", "1000")
    assert not same_answer("", "84")


def test_printable_keeps_a_line_and_cuts_it() -> None:
    assert printable("a\x1b[2J\n b\ud800", 20) == "a [2J b"
    assert printable("x" * 100, 10) == "xxxxxxx..."


@pytest.mark.parametrize("env_id", TOOL_ENVS)
def test_a_format_decides_how_an_environment_writes_calls(env_id: str) -> None:
    for tool_format, start in [("text", ""), ("json", '{"name": "')]:
        env = make(env_id, tool_format=tool_format)
        text, info = env.reset(seed=0)
        assert text.startswith(f"Answer with {env.tools[0].sketch(tool_format)}")
        calls = [*info["admissible_actions"], *env.oracle_actions()]
        assert calls
        assert all(call.startswith(start) for call in calls)
        assert all(("{" in call) == (tool_format == "json") for call in calls)
        refused = env.step("calculate{12*7}")
        assert refused[0].startswith(f"Not possible. Answer with {env.tools[0].sketch(tool_format)}")
        assert refused[4]["valid_action"] is False


@pytest.mark.parametrize("env_id", TOOL_ENVS)
def test_either_format_is_understood_whatever_the_environment_writes(env_id: str) -> None:
    writes_text, writes_json = make(env_id), make(env_id, tool_format="json")
    for seed in range(5):
        heard = []
        for plays, asked in [(writes_text, writes_json), (writes_json, writes_text)]:
            asked.reset(seed=seed)
            plays.reset(seed=seed)
            results = [plays.step(action) for action in asked.oracle_actions()]
            assert results[-1][1:3] == (1.0, True)
            heard.append([(text, info["anchor"]) for text, *_, info in results])
        assert heard[0] == heard[1]


@pytest.mark.parametrize("env_id", TOOL_ENVS)
def test_the_contract_holds_in_the_other_format(env_id: str) -> None:
    report = check_env(env_id, num_tasks=5, tool_format="json")
    assert {finding.level for finding in report.findings if finding.check != "speed"} == {"ok"}, str(report)


@pytest.mark.parametrize("env_id", TOOL_ENVS)
def test_an_unknown_format_is_refused(env_id: str) -> None:
    with pytest.raises(ValueError, match=r"tool_format must be one of text, json; got 'xml'\."):
        make(env_id, tool_format="xml")
