"""The client against the openenv package's own server; the client itself has no need of the package.

``pip install --no-deps openenv`` and ``pip install 'agentgrpo[openenv,openenv-server]'`` bring what is imported here.
"""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from helpers import tiny_tokenizer

from agentgrpo.config import EnvConfig, RolloutConfig
from agentgrpo.context import ChatFormat, make_conversation
from agentgrpo.env_check import check_env
from agentgrpo.envs.open_env import OpenEnv
from agentgrpo.envs.open_env_session import ServerError
from agentgrpo.episode import Task
from agentgrpo.players import PolicyPlayer
from agentgrpo.rollout import RolloutRunner
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.scripted import ScriptedSampler
from agentgrpo.types import Group, RolloutStatus

pytestmark = pytest.mark.suites

FIELDS: dict[str, Any] = {
    "action_field": "number",
    "observation_field": "text",
    "actions_field": "numbers",
    "max_return": 1.0,
}


@contextmanager
def serving(sessions: int, seconds: float = 0.0, port: int = 0) -> Iterator[str]:
    from served_open_env import serving

    with serving(sessions, seconds, port) as url:
        yield url


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(sessions=8) as url:
        yield url


@pytest.fixture
def env(url: str) -> Iterator[OpenEnv]:
    env = OpenEnv(url, **FIELDS)
    yield env
    env.close()


def target(env: OpenEnv, seed: int) -> int:
    """The number, found by trying all of them."""
    for number in range(1, 5):
        env.reset(seed=seed)
        if env.step(str(number))[2]:
            return number
    raise AssertionError("none of the numbers is right")


def test_an_episode_by_hand(env: OpenEnv) -> None:
    number = target(env, seed=3)
    text, info = env.reset(seed=3)
    assert text == "Guess a number from 1 to 4."
    assert info == {
        "anchor": text, "task_id": "3", "admissible_actions": ["1", "2", "3", "4"], "valid_action": True,
        "success": False,
    }  # fmt: skip
    wrong = number % 4 + 1
    assert env.step(str(wrong))[:4] == ("lower" if wrong > number else "higher", 0.0, False, False)
    text, reward, terminated, truncated, info = env.step(str(number))
    assert (text, reward, terminated, truncated, info["success"]) == ("Correct.", 1.0, True, False, True)


def test_seeds_give_different_tasks_and_the_same_seed_the_same_one(env: OpenEnv) -> None:
    numbers = [target(env, seed) for seed in range(12)]
    assert len(set(numbers)) > 1
    assert numbers[:3] == [target(env, seed) for seed in range(3)]


def test_sessions_do_not_meet(url: str) -> None:
    one, other = OpenEnv(url, **FIELDS), OpenEnv(url, **FIELDS)
    number = target(one, seed=0)
    one.reset(seed=0)
    other.reset(seed=0)
    for _ in range(3):
        last = one.step(str(number % 4 + 1))
    assert last[2]  # three wrong guesses end an episode
    assert other.step(str(number))[4]["success"]  # the other one has had none
    one.close()
    other.close()


@pytest.mark.parametrize("text", ["", "seven", "2.5", "7 " * 50_000, "\x00\x1b[2J", "到\ud800", "9" * 5000])
def test_what_is_no_number_uses_a_turn_up_and_says_so(env: OpenEnv, text: str) -> None:
    first, before = env.reset(seed=0)
    answer, reward, terminated, truncated, info = env.step(text)
    assert answer.startswith("Not possible: ")
    assert answer.endswith(first)
    assert len(answer) < 300
    assert (reward, terminated, truncated, info) == (0.0, False, False, before | {"valid_action": False})
    env.step("1")


def test_the_contract_is_kept(url: str) -> None:
    report = check_env("agentgrpo/OpenEnv-v0", num_tasks=3, base_url=url, **FIELDS)
    levels = Counter(finding.level for finding in report.findings if finding.check != "speed")
    missing = [finding.check for finding in report.findings if finding.level == "advice" and finding.check != "speed"]
    assert levels["problem"] == 0, str(report)
    assert missing == ["oracle", "snapshot"], str(report)


def test_faults_of_the_environment_behind_it(env: OpenEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(ServerError, match=r"reported EXECUTION_ERROR: \"'no such number'\". Check the server's log"):
        env.step("99")
    env.reset(seed=0)
    with pytest.raises(ServerError, match="an observation of 1000000 characters, more than max_observation=20000"):
        env.step("97")
    env.reset(seed=0)
    # This server writes NaN as null, which is also how it writes "no reward": nobody can tell them apart from here.
    assert env.step("98")[1] == 0.0


def test_a_field_that_the_action_does_not_have_is_found_at_the_first_step(url: str) -> None:
    env = OpenEnv(url, **{**FIELDS, "action_field": "guess"})
    env.reset(seed=0)
    with pytest.raises(ServerError, match=r"number: Field required; guess: Extra inputs.*Check action_field"):
        env.step("1")


def test_plain_http_keeps_no_episode(url: str) -> None:
    """Why sessions are used: a step over plain HTTP goes to an environment that was never reset."""

    def post(path: str, data: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(url + path, json.dumps(data).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    assert post("/reset", {"seed": 0})["observation"]["text"] == "Guess a number from 1 to 4."
    with pytest.raises(urllib.error.HTTPError, match="500"):
        post("/step", {"action": {"number": 1}})


# --- through the runner -----------------------------------------------------------------------------------------------

CHAT = ChatFormat(tiny_tokenizer())


@contextmanager
def runner(url: str, execution: str = "thread", workers: int = 32) -> Iterator[RolloutRunner]:
    kwargs = {"base_url": url, **FIELDS}
    made = RolloutRunner(
        {"open_env": EnvConfig("open_env", "agentgrpo/OpenEnv-v0", kwargs, execution=execution, workers=workers)},
        RolloutConfig(temperature=1.0, top_p=1.0, max_new_tokens=20, max_turns=10, step_timeout=30.0),
        lambda name: make_conversation(CHAT, "transcript", 2),
        CHAT,
        1000,
    )
    try:
        yield made
    finally:
        made.close()


def play(runner: RolloutRunner, tasks: int, size: int, actions: Sequence[str] = ("1", "2", "3", "4")) -> list[Group]:
    choose = random.Random(0)
    sampler = ScriptedSampler(lambda prompt: (*CHAT.encode(choose.choice(actions)), CHAT.end_id))
    return runner.collect(PolicyPlayer(sampler, SamplingParams(20)), [Task(s, ("t", s)) for s in range(tasks)], size)


def test_64_episodes_at_a_time_each_in_its_own_session() -> None:
    with serving(sessions=64) as url, runner(url) as made:
        groups = play(made, tasks=8, size=8)
        again = play(made, tasks=8, size=8)
    for group in groups + again:
        assert {t.status for t in group} == {RolloutStatus.TERMINATED}
        for trajectory in group:
            actions = [step.action for step in trajectory.steps]
            assert (
                trajectory.success == (trajectory.final_observation == "Correct.") == (trajectory.episode_return == 1)
            )
            assert len(actions) == 3 or trajectory.success
        # The number is the same for all members, so that whoever guessed it said the same.
        assert len({t.steps[-1].action for t in group if t.success}) <= 1


def test_too_few_sessions_say_so_and_as_many_processes_as_sessions_are_enough() -> None:
    with serving(sessions=2) as url:
        with runner(url) as made:
            (group,) = play(made, tasks=1, size=6)
            failed = [t for t in group if t.status is RolloutStatus.ENV_ERROR]
            assert len(failed) == 4
            assert all("CAPACITY_REACHED" in t.error and "env.workers=N" in t.error for t in failed)
        with runner(url, "process", workers=2) as made:
            (group,) = play(made, tasks=1, size=6)
            assert {t.status for t in group} == {RolloutStatus.TERMINATED}


def test_slow_servers_overlap() -> None:
    with serving(sessions=16, seconds=0.2) as url, runner(url, workers=16) as made:
        start = time.perf_counter()
        groups = play(made, tasks=4, size=4)
        took = time.perf_counter() - start
    steps = sum(len(t.steps) for group in groups for t in group)
    assert took < 0.5 * steps * 0.2


def test_a_server_that_comes_back_is_used_again() -> None:
    with serving(sessions=4) as url:
        port = int(url.rpartition(":")[2])
        made = runner(url)
        running = made.__enter__()
        assert {t.status for t in play(running, 1, 4)[0]} == {RolloutStatus.TERMINATED}
    try:
        down = play(running, 1, 4)[0]
        assert {t.status for t in down} == {RolloutStatus.ENV_ERROR}
        assert all("there is no connection" in t.error for t in down)
        with serving(sessions=4, port=port):
            assert {t.status for t in play(running, 1, 4)[0]} == {RolloutStatus.TERMINATED}
    finally:
        made.__exit__(None, None, None)
