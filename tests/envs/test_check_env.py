"""check-env: faults of a user's environment become findings, with advice, and no traceback of ours."""

import io
import itertools
import random
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import pytest
from rich.console import Console

from agentgrpo.env_check import Finding, Report, check_env, main, print_report
from agentgrpo.envs.base import AnyText

Result = tuple[Any, float, bool, bool, dict[str, Any]]
NUMBERS = itertools.count()


class Good(gym.Env[str, str]):
    """A coin to be named; it offers nothing optional."""

    def __init__(self) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        self.coin = "heads" if self.np_random.random() < 0.5 else "tails"
        return "Heads or tails?", {}

    def step(self, action: str) -> Result:
        self.turn += 1
        return f"It was {self.coin}.", float(action == self.coin), self.turn >= 3, False, {}


class Numeric(Good):
    def step(self, action: str) -> Result:
        return (self.turn, *super().step(action)[1:])


class Raises(Good):
    def step(self, action: str) -> Result:
        return str(int(action)), 0.0, True, False, {}


class RaisesInReset(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        raise KeyError("level file\x1b[2J missing")


class NeverEnds(Good):
    def step(self, action: str) -> Result:
        return "Go on.", 0.0, False, False, {}


class Unseeded(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return f"Coin number {random.random()}", {}


class UnseededDynamics(Good):
    def step(self, action: str) -> Result:
        return f"Roll {random.random()}", *super().step(action)[1:]


class SeedsGlobally(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        random.seed(seed)
        return super().reset(seed=seed)


class FourTuple(Good):
    def step(self, action: str) -> Result:
        return super().step(action)[:4]  # type: ignore[return-value]


class NanReward(Good):
    def step(self, action: str) -> Result:
        return "?", float("nan"), True, False, {}


class BadInfo(Good):
    def step(self, action: str) -> Result:
        info = {"anchor": [1], "admissible_actions": ["b", "a"], "valid_action": action == "b", "success": 1}
        return *super().step(action)[:4], info


class CountingAnchor(Good):
    def step(self, action: str) -> Result:
        return *super().step(action)[:4], {"anchor": f"move {next(NUMBERS)}"}


class NoPlanObject(Good):
    def oracle_actions(self) -> None:
        return None


class LyingOracle(Good):
    def oracle_actions(self) -> list[str]:
        return ["edge", "edge", "edge"]


class ForgetfulSnapshot(Good):
    def snapshot(self) -> str:
        return self.coin

    def restore(self, state: str) -> None:
        self.coin = state  # the turn is forgotten


class SmallMaxReturn(Good):
    max_return: ClassVar[float] = -1.0


class NarrowSpace(Good):
    def __init__(self) -> None:
        self.observation_space = gym.spaces.Text(10)
        self.action_space = gym.spaces.Text(10)


def check(cls: type[Good]) -> Report:
    env_id = f"check_env_test/{cls.__name__}-v0"
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=cls)  # type: ignore[arg-type]
    return check_env(env_id, num_tasks=4)


def problem(report: Report, name: str) -> Finding:
    found = [finding for finding in report.problems if finding.check == name]
    assert len(found) == 1, str(report)
    return found[0]


def test_missing_options_are_advice_and_say_what_they_would_bring() -> None:
    report = check(Good)
    assert report.problems == ()
    advice = {finding.check: str(finding) for finding in report.findings if finding.level == "advice"}
    assert set(advice) == {
        "info['anchor']",
        "info['admissible_actions']",
        "info['valid_action']",
        "info['success']",
        "info['task_id']",
        "oracle",
        "snapshot",
        "max_return",
    }
    assert "no oracle_actions(): warm start by imitation and guided rollouts are not available" in advice["oracle"]


@pytest.mark.parametrize(
    ("cls", "name", "words"),
    [
        (Numeric, "text", "returned an observation of type int, expected str"),
        (Raises, "text", "raised ValueError: invalid literal for int()"),
        (RaisesInReset, "text", "reset(seed=0) raised KeyError: 'level file"),
        (FourTuple, "text", "did not return (text, reward, terminated, truncated, info dict)"),
        (NanReward, "text", "gave the reward nan"),
        (NeverEnds, "turn limit", "did not end within 1000 steps"),
        (Unseeded, "same seed, same task", "two first observations for seed 0"),
        (UnseededDynamics, "exact replay", "the same actions after reset(seed=0) gave something else at step 1"),
        (BadInfo, "info['anchor']", "expected a str without history or counters, got [1]"),
        (BadInfo, "info['admissible_actions']", "expected a sorted list of str, got ['b', 'a']"),
        (BadInfo, "info['success']", "expected a bool, got 1"),
        (BadInfo, "admissible actions", "'a' was listed as admissible, but then called invalid"),
        (LyingOracle, "oracle", "solved 0 of 4 tasks"),
        (NoPlanObject, "oracle", "the check could not be finished: TypeError"),
        (ForgetfulSnapshot, "snapshot", "after the first restore the same actions gave something else"),
        (SmallMaxReturn, "max_return", "it is -1.0, but a random episode returned 0"),
        (NarrowSpace, "gymnasium check_env", "AssertionError"),
    ],
)
def test_a_fault_becomes_a_finding_with_a_next_step(cls: type[Good], name: str, words: str) -> None:
    finding = problem(check(cls), name)
    assert words in finding.found
    assert finding.next_step
    assert "\x1b" not in str(finding)


def test_where_it_was_raised_is_named() -> None:
    assert "(test_check_env.py:" in problem(check(Raises), "text").found


def test_global_seeding_and_counting_anchors_are_advised_against() -> None:
    assert any(f.check == "global random" and f.level == "advice" for f in check(SeedsGlobally).findings)
    assert any(f.check == "anchors repeat" and f.level == "advice" for f in check(CountingAnchor).findings)
    assert not any(f.check in ("global random", "anchors repeat") for f in check(Good).findings)


def test_arguments_that_do_not_fit_are_a_finding() -> None:
    report = check_env("agentgrpo/KeyMaze-v0", rooms=99)
    assert "rooms must be an integer from 3 to 12, got 99." in problem(report, "construction").found


def test_unknown_id_suggests_the_nearest_and_lists_ours() -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'agentgrpo/KeyMaze-v0'\? Built in: .*agentgrpo/Sokoban-v0"):
        check_env("agentgrpo/KeyMaz-v0")
    with pytest.raises(ValueError, match="num_tasks must be at least 1, got 0"):
        check_env("agentgrpo/KeyMaze-v0", num_tasks=0)


def test_command_reads_yaml_values_and_prints_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agentgrpo/FrozenLake-v0", "slip=0.2", "size=3", "--num-tasks", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "agentgrpo/FrozenLake-v0 slip=0.2 size=3"
    assert lines[1].split() == ["ok", "text", "reset", "and", "step", "take", "and", "return", "str"]
    assert lines[-1].startswith("0 problems")
    assert any("the dynamics are noisy" in line for line in lines)


def test_command_fails_on_problems_and_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agentgrpo/KeyMaze-v0", "rooms=99"]) == 1
    assert main(["agentgrpo/KeyMaze-v0", "rooms"]) == 1
    assert "expected key=value, got 'rooms'" in capsys.readouterr().err
    assert main(["agentgrpo/Nothing-v0"]) == 1
    assert "is not registered" in capsys.readouterr().err


def test_a_users_module_is_imported_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_check_env_task.py").write_text(
        "import gymnasium as gym\nfrom agentgrpo.envs.key_maze import KeyMazeEnv\n"
        "class Mine(KeyMazeEnv):\n    pass\n"
        "gym.register('Mine-v0', entry_point=Mine, disable_env_checker=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["my_check_env_task:Mine-v0", "rooms=4", "--num-tasks=3"]) == 0
    assert "0 problems" in capsys.readouterr().out


def test_markup_in_findings_is_shown_and_not_obeyed() -> None:
    out = io.StringIO()
    report = Report("x", {}, (Finding("problem", "text", "[red]odd[/red]", "look"),))
    print_report(report, Console(file=out))
    assert "[red]odd[/red] -> look" in out.getvalue()
