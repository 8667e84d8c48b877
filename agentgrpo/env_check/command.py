"""``python -m agentgrpo check-env ID``: does an environment keep the contract, and what would it gain?

Every check gives one line: ``ok``; ``advice``, for something that works but could bring more; or ``problem``, for
something that would break a run or spoil its results. What the environment raises becomes a finding, too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from agentgrpo.env_check.checks import BASIC_CHECKS, CHECKS, Check
from agentgrpo.env_check.subject import BrokenEnv, Finding, Subject, explain


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


def check_env(env_id: str, *, num_tasks: int = 20, **kwargs: Any) -> Report:
    """Check an environment against the contract.

    Args:
        env_id: gymnasium id; ``my_module:Maze-v0`` imports ``my_module`` first.
        num_tasks: seeds to try, at least 1.
        **kwargs: arguments of the environment's constructor.

    Returns:
        The findings. What the environment raises is among them.

    Raises:
        ValueError: there is no such id, or ``num_tasks`` is too small.
    """
    if num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1, got {num_tasks}.")
    importlib.import_module("agentgrpo.envs")  # registers the built-in tasks; none is named here
    try:
        subject = Subject(env_id, kwargs, num_tasks)
    except BrokenEnv as error:
        return Report(env_id, kwargs, (Finding("problem", "construction", str(error), error.next_step),))
    try:
        findings = _run(subject, BASIC_CHECKS)
        if all(finding.level != "problem" for finding in findings):  # else every other check would say the same again
            findings += _run(subject, CHECKS)
    finally:
        with contextlib.suppress(Exception):  # gymnasium's check has looked at close() already
            subject.env.close()
    return Report(env_id, kwargs, tuple(findings))


def _run(subject: Subject, checks: dict[str, Check]) -> list[Finding]:
    findings: list[Finding] = []
    for name, check in checks.items():
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
    parser.add_argument("--num-tasks", type=int, default=20, help="seeds to try (default: 20)")
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
    """Print one line per finding, coloured on a terminal and plain elsewhere."""
    console = console or Console(highlight=False)
    arguments = "".join(f" {key}={value}" for key, value in report.kwargs.items())
    console.print(Text(f"{report.env_id}{arguments}", style="bold"), soft_wrap=True)
    styles = {"ok": "green", "advice": "yellow", "problem": "bold red"}
    for finding in report.findings:
        line = Text(f"{finding.level:8}", style=styles[finding.level])
        line.append(f"{finding.check:28}", style="default not bold").append(finding.found, style="default not bold")
        if finding.next_step:
            line.append(f" -> {finding.next_step}", style="italic not bold")
        console.print(line, soft_wrap=True)
    num_advice = sum(finding.level == "advice" for finding in report.findings)
    console.print(Text(f"{len(report.problems)} problems, {num_advice} pieces of advice"), soft_wrap=True)
