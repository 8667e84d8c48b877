"""check-env: faults of a user's environment become findings, with advice, and no traceback of ours."""

from typing import Any

import broken_envs as broken
import gymnasium as gym
import pytest

from agentgrpo.env_check import Finding, Report, check_env, checks, speed

OPTIONAL = {
    "info['anchor']",
    "info['admissible_actions']",
    "info['valid_action']",
    "info['success']",
    "info['task_id']",
    "oracle",
    "snapshot",
    "max_return",
}


def check(cls: type[gym.Env[str, str]], num_tasks: int | None = 4) -> Report:
    env_id = f"check_env_test/{cls.__name__}-v0"
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=cls)
    return check_env(env_id, num_tasks=num_tasks)


def the(level: str, report: Report, name: str) -> Finding:
    """The one finding of a check at a level."""
    found = [finding for finding in report.findings if (finding.check, finding.level) == (name, level)]
    assert len(found) == 1, str(report)
    return found[0]


def test_missing_options_are_no_fault_and_say_what_they_would_bring() -> None:
    report = check(broken.Good)
    assert report.problems == ()
    advice = {finding.check: finding for finding in report.findings if finding.level == "advice"}
    assert set(advice) == OPTIONAL
    assert all(finding.optional for finding in advice.values())
    assert "warm starts by imitation and guided rollouts possible" in advice["oracle"].found
    assert "ngrpo needs it" in advice["max_return"].found


@pytest.mark.parametrize(
    ("cls", "name", "words"),
    [
        (broken.Numeric, "text", "returned an observation of type int, expected str"),
        (broken.Raises, "text", "raised ValueError: invalid literal for int()"),
        (broken.RaisesInReset, "text", "reset(seed=0) raised KeyError: 'level file"),
        (broken.FourTuple, "text", "did not return (text, reward, terminated, truncated, info dict)"),
        (broken.NanReward, "text", "gave the reward nan"),
        (broken.NoReward, "text", "gave the reward None"),
        (broken.NeverEnds, "turn limit", "did not end within 1000 steps"),
        (broken.BreaksItsLimit, "turn limit", "an episode took 3 steps, although max_turns is 2"),
        (broken.Unseeded, "same seed, same task", "two first observations for seed 0"),
        (broken.GrowsOld, "same seed, same task", "two first observations for seed 0"),
        (broken.RandomTaskId, "same seed, same task", "two values of info['task_id'] for seed 0"),
        (broken.UnseededDynamics, "exact replay", "the same actions after reset(seed=0) gave something else at step 1"),
        (broken.FirstGameIsSpecial, "exact replay", "reset(seed=0) gave something else at step 2"),
        (broken.BadInfo, "info['anchor']", "expected a str without history or counters, got [1]"),
        (broken.BadInfo, "info['admissible_actions']", "expected a sorted list of str, got ['b', 'a']"),
        (broken.BadInfo, "info['success']", "expected a bool, got 1"),
        (broken.BadInfo, "admissible actions", "'a' was listed as admissible, but then called invalid"),
        (broken.LyingOracle, "oracle", "solved 0 of 4 tasks"),
        (broken.NoPlanObject, "oracle", "the check could not be finished: TypeError"),
        (broken.ForgetfulSnapshot, "snapshot", "after the first restore the same actions gave something else"),
        (broken.SmallMaxReturn, "max_return", "it is -1.0, but a random episode returned 0"),
        (broken.NarrowSpace, "gymnasium check_env", "is not within the observation space"),
        (broken.Chatty, "observations", "one is 150,015 characters long, more than a model's context holds"),
        (broken.Echoes, "hostile text", "100 kB: the observation repeats it"),
        (broken.LongNumbers, "hostile text", "a number of 5,000 digits: step('999"),
        (broken.ForgetsToReset, "hostile text", "reset(seed=0) gives another first observation than before"),
    ],
)
def test_a_fault_becomes_a_finding_with_a_next_step(cls: type[gym.Env[str, str]], name: str, words: str) -> None:
    finding = the("problem", check(cls), name)
    assert words in finding.found
    assert finding.next_step
    assert "\x1b" not in str(finding)


def test_where_it_was_raised_is_named() -> None:
    assert "(broken_envs.py:" in the("problem", check(broken.Raises), "text").found


def test_text_that_takes_long_to_parse_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PATIENCE", 0.03)  # a twentieth of what the expression takes
    finding = the("problem", check(broken.Backtracks), "hostile text")
    assert finding.found.startswith("a word of 100 kB: took ")
    assert "regular expression" in finding.next_step


def test_what_works_but_costs_something_is_advised_against() -> None:
    faults = {
        broken.SeedsGlobally: ("global random", "drew from, or seeded, the global random"),
        broken.CountingAnchor: ("anchors repeat", "no two episodes share one"),
        broken.TurnInAnchor: ("anchors stay", "after an action that it calls invalid 'turn 1' became 'turn 2'"),
        broken.Long: ("turn limit", "took 70 steps, more than the 64 that a run allows"),
    }
    for cls, (name, words) in faults.items():
        assert words in the("advice", check(cls), name).found
    assert "rollout.max_turns=70" in the("advice", check(broken.Long), "turn limit").next_step
    assert not {f.check for f in check(broken.Good).findings} & {"global random", "anchors repeat", "anchors stay"}


def test_single_turn_tasks_hear_nothing_about_what_only_others_need() -> None:
    for cls in (broken.SingleTurn, broken.CutOffAtOnce):
        report = check(cls)
        assert report.problems == (), str(report)
        assert {f.check for f in report.findings if f.level == "advice"} == {
            "info['valid_action']",
            "info['task_id']",
            "max_return",
        }
        assert "info['reference'] gives a solution" in the("ok", report, "oracle").found


def test_execution_follows_from_what_the_time_goes_into(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "env.execution=inline suits" in the("ok", check(broken.Good), "speed").found
    assert "set env.execution=thread" in the("advice", check(broken.Sleeps), "speed").next_step
    assert "set env.execution=process" in the("advice", check(broken.Computes), "speed").next_step
    pace = speed.Pace(step=0.02, computing=1.0, slowest=6.0, episode=1.0)
    monkeypatch.setattr(speed, "measure", lambda subject: pace)
    report = check(broken.Good)
    assert "20 ms a step, resets included; a turn of 64 episodes would take 1.3 s" in str(report)
    assert "train with rollout.step_timeout=30" in the("advice", report, "slow calls").next_step


def test_slow_environments_are_checked_on_fewer_tasks_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = speed.Pace(step=0.5, computing=1.0, slowest=0.5, episode=1.5)
    monkeypatch.setattr(speed, "measure", lambda subject, seconds=1.0: pace)
    report = check(broken.Good, num_tasks=None)
    assert the("ok", report, "tasks").found.startswith("5 instead of 20, as an episode takes 1.5 s")  # 60 / (8 * 1.5)
    assert "5 seeds: same first observation" in str(report)
    assert "tasks" not in {f.check for f in check(broken.Good, num_tasks=7).findings}


@pytest.mark.parametrize(
    ("cls", "found", "next_step"),
    [
        (broken.NeedsMissingPackage, "No module named 'no_such_package_anywhere'", "install what it imports"),
        (broken.NeedsJava, "it cannot be made: Dungeon needs its engine", "pip install 'dungeon[java]'"),
        (broken.NeedsData, "it cannot be made: Dungeon's levels are not here. Set DUNGEON_DATA to their folder.", ""),
    ],
)
def test_what_is_not_installed_gives_one_finding(cls: type[gym.Env[str, str]], found: str, next_step: str) -> None:
    (finding,) = check(cls).findings
    assert (finding.level, finding.check) == ("problem", "construction")
    assert found in finding.found
    assert next_step in finding.next_step


def test_arguments_that_do_not_fit_are_a_finding() -> None:
    finding = the("problem", check_env("agentgrpo/KeyMaze-v0", rooms=99), "construction")
    assert finding.found == "it cannot be made: rooms must be an integer from 3 to 12, got 99."
    assert "key=value" in finding.next_step


def test_unknown_id_suggests_the_nearest_and_lists_ours() -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'agentgrpo/KeyMaze-v0'\? Built in: .*agentgrpo/Sokoban-v0"):
        check_env("agentgrpo/KeyMaz-v0")
    with pytest.raises(ValueError, match="num_tasks must be at least 1, got 0"):
        check_env("agentgrpo/KeyMaze-v0", num_tasks=0)


def test_copies_that_are_made_are_closed_again() -> None:
    open_now: list[Any] = []

    class Counted(broken.Good):
        def __init__(self) -> None:
            super().__init__()
            open_now.append(self)

        def close(self) -> None:
            if self in open_now:
                open_now.remove(self)

    check(Counted)
    assert open_now == []
