"""``python -m agentgrpo check-env ID``: does an environment keep the contract, and what would it gain?

Every check gives one finding: ``ok``; ``advice``, for something that works but could bring more; or ``problem``, for
something that would break a run or spoil its results. What the environment raises becomes a finding, too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from rich.console import Console

from agentgrpo.env_check import checks, offers, speed
from agentgrpo.env_check.checks import Check
from agentgrpo.env_check.layout import print_findings
from agentgrpo.env_check.subject import BrokenEnv, Finding, Subject, explain

CHECKS: dict[str, Check] = {
    "gymnasium check_env": checks.check_gymnasium,
    "seeds": checks.check_seeds,
    "turn limit": checks.check_end,
    "info": offers.check_info,
    "anchors": checks.check_anchors,
    "oracle": offers.check_oracle,
    "snapshot": offers.check_snapshot,
    "max_return": offers.check_max_return,
    "observations": checks.check_observations,  # before texts are tried that might be echoed
    "hostile text": checks.check_hostile,
    "speed": speed.check_speed,
}
"""After the first check, of whether it takes and gives text at all."""

NUM_TASKS = 20
_SECONDS = 60.0
"""How long the checks may take together, roughly, where the number of tasks is not given."""
_EPISODES_PER_TASK = 8


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one environment."""

    env_id: str
    kwargs: dict[str, Any]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that must be dealt with before training."""
        return tuple(finding for finding in self.findings if finding.level == "problem")

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))


def check_env(env_id: str, *, num_tasks: int | None = None, **kwargs: Any) -> Report:
    """Check an environment against the contract.

    Args:
        env_id: gymnasium id; ``my_module:Maze-v0`` imports ``my_module`` first.
        num_tasks: seeds to try, at least 1; None: 20, or as many as a slow environment plays in about a minute.
        **kwargs: arguments of the environment's constructor.

    Returns:
        The findings. What the environment raises is among them.

    Raises:
        ValueError: there is no such id, or ``num_tasks`` is too small.
    """
    if num_tasks is not None and num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1, got {num_tasks}.")
    importlib.import_module("agentgrpo.envs")  # registers the built-in tasks; none is named here
    try:
        subject = Subject(env_id, kwargs, num_tasks or NUM_TASKS)
    except BrokenEnv as error:
        return Report(env_id, kwargs, (Finding("problem", "construction", str(error), error.next_step),))
    try:
        findings = _run(subject, {"text": checks.check_text})
        if all(finding.level != "problem" for finding in findings):  # else every other check would say the same again
            findings += _run(subject, {"tasks": _affordable} if num_tasks is None else {})
            findings += _run(subject, CHECKS)
    finally:
        with contextlib.suppress(Exception):  # gymnasium's check has looked at close() already
            subject.env.close()
    return Report(env_id, kwargs, tuple(findings))


def _affordable(subject: Subject) -> Iterator[Finding]:
    """Look at fewer tasks where an episode takes long; say so."""
    episode = speed.measure(subject, seconds=0.1).episode
    fit = max(int(_SECONDS / (_EPISODES_PER_TASK * episode)), 2)
    if fit < subject.num_tasks:
        subject.num_tasks = fit
        found = f"{fit} instead of {NUM_TASKS}, as an episode takes {episode:.2g} s; --num-tasks={NUM_TASKS} tries all"
        yield Finding("ok", "tasks", found)


def _run(subject: Subject, wanted: dict[str, Check]) -> list[Finding]:
    findings: list[Finding] = []
    for name, check in wanted.items():
        try:
            findings.extend(check(subject))
        except BrokenEnv as error:
            findings.append(Finding("problem", name, str(error), error.next_step))
        except Exception as error:  # something returned that no check foresaw: still a finding, not a traceback of ours
            advice = "look at what the environment returns here"
            findings.append(Finding("problem", name, f"the check could not be finished: {explain(error)}", advice))
    return findings


def main(argv: Sequence[str]) -> int:
    """Run ``check-env ID [key=value ...]`` and print the report; ``argv`` is without the command's name.

    Returns:
        1 if there are problems or the id is unknown, else 0.
    """
    parser = argparse.ArgumentParser(prog="agentgrpo check-env", description="Check an environment's contract.")
    parser.add_argument("env_id", metavar="ID", help="gymnasium id, such as agentgrpo/KeyMaze-v0 or my_module:Maze-v0")
    parser.add_argument("kwargs", metavar="key=value", nargs="*", help="arguments of the environment's constructor")
    parser.add_argument("--num-tasks", type=int, help=f"seeds to try (default: {NUM_TASKS}; fewer if they take long)")
    args = parser.parse_args(list(argv))
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # where a user's own module lies; `python -m` does the same
    try:
        kwargs = dict(_parse_pair(pair) for pair in args.kwargs)
        report = check_env(args.env_id, num_tasks=args.num_tasks, **kwargs)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print_report(report)
    return 1 if report.problems else 0


def _parse_pair(pair: str) -> tuple[str, Any]:
    key, separator, value = pair.partition("=")
    if not (separator and key.isidentifier()):
        raise ValueError(f"expected key=value, got {pair!r}; for example rooms=4.")
    if key in ("env_id", "num_tasks"):
        raise ValueError(f"{key} is no argument of an environment; the number of seeds is --num-tasks.")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{pair!r}: {value!r} is not a YAML value.") from error


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the findings: in paragraphs on a terminal, one a line elsewhere."""
    arguments = "".join(f" {key}={value}" for key, value in report.kwargs.items())
    closing = _closing(report)
    print_findings(f"{report.env_id}{arguments}", report.findings, closing, console or Console(highlight=False))


def _closing(report: Report) -> list[str]:
    num_problems = len(report.problems)
    num_advice = sum(f.level == "advice" and not f.optional for f in report.findings)
    problems = "1 problem" if num_problems == 1 else f"{num_problems or 'No'} problems"
    advice = "1 piece of advice" if num_advice == 1 else f"{num_advice} pieces of advice" if num_advice else "no advice"
    lines = [f"{problems}, {advice}."]
    if report.problems:
        lines.append("Problems break a run or spoil its results: solve them before training.")
    elif ":" in report.env_id:
        arguments = "".join(f" +env.kwargs.{key}={value}" for key, value in report.kwargs.items())
        lines.append(f"Train: python -m agentgrpo train env.id={report.env_id}{arguments}")
    return lines
