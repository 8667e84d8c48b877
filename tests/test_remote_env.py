"""An environment in a process of its own: the same answers, and failures that stay there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from agentgrpo.config import EnvConfig
from agentgrpo.environments import attribute, make, make_env, oracle_plan
from agentgrpo.remote_env import EnvDied, RemoteEnv

COUNTDOWN = "unreliable_envs:TestEnvs/Countdown-v0"


@pytest.fixture
def env() -> Iterator[RemoteEnv]:
    made = RemoteEnv(COUNTDOWN, {"turns": 3})
    yield made
    made.kill()


def test_plays_as_the_environment_here_does(env: RemoteEnv) -> None:
    here = make(COUNTDOWN, {"turns": 3})
    for seed in (1, 2):
        there, info = env.reset(seed=seed, options={"noise_seed": 0})
        assert there == here.reset(seed=seed)[0]
        assert info["pid"] != os.getpid()
        assert "strange" not in info  # what cannot be told stays behind
        assert oracle_plan(env) == ["wait"] * 3
        assert [env.step("wait") for _ in range(3)] == [here.step("wait") for _ in range(3)]


def test_tells_what_the_environment_has(env: RemoteEnv) -> None:
    assert attribute(env, "max_return") == 1.0
    assert attribute(env, "snapshot") is None
    assert attribute(RemoteEnv("agentgrpo/KeyMaze-v0", {}), "oracle_actions") is not None


def test_what_it_prints_does_not_disturb(env: RemoteEnv) -> None:
    env.reset(seed=0)
    assert env.step("print")[0] == "2 left"


def test_an_exception_there_is_one_here_with_its_traceback(env: RemoteEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="no such room"):
        env.step("raise")
    assert env.step("wait")[0] == "2 left"  # the process lives on


@pytest.mark.parametrize(("action", "how"), [("die", "SIGKILL"), ("exit", "exit status 3")])
def test_a_death_says_how(env: RemoteEnv, action: str, how: str) -> None:
    env.reset(seed=0)
    with pytest.raises(EnvDied, match=how) as caught:
        env.step(action)
    assert ("segmentation fault, say" in str(caught.value)) == (action == "die")
    with pytest.raises(EnvDied):
        env.step("wait")


def test_kill_ends_the_process() -> None:
    env = RemoteEnv(COUNTDOWN, {})
    _, info = env.reset(seed=0)
    env.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(info["pid"], signal.SIG_DFL)


def test_an_environment_that_cannot_be_made_says_why() -> None:
    env = RemoteEnv("unreliable_envs:TestEnvs/Refusing-v0", {})
    with pytest.raises(ValueError, match="this engine needs Java"):
        env.reset(seed=0)
    with pytest.raises(ValueError, match=r"not registered.*Did you mean"):
        attribute(RemoteEnv("agentgrpo/KeyMase-v0", {}), "max_return")


def test_made_where_the_configuration_says() -> None:
    config = EnvConfig("countdown", COUNTDOWN, execution="process")
    assert isinstance(make_env(config), RemoteEnv)
