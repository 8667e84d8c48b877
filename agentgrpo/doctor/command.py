"""``doctor`` as a command over a run folder."""

from __future__ import annotations

import textwrap
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from agentgrpo.config import build_algorithm, parse
from agentgrpo.doctor.findings import FEW, Facts, Finding, facts_of
from agentgrpo.doctor.history import CHECKS, Doctor
from agentgrpo.run_folder import RunFolder
from agentgrpo.run_head import describe


def doctor_command(config: DictConfig, console: Console | None = None) -> int:
    """Prints what it finds; returns 1 when an alarm stands after the last update, else 0.

    Raises:
        ValueError: the folder holds no run whose configuration and metrics can be read.
    """
    if not config.run_dir:
        raise ValueError("doctor needs a run: python -m agentgrpo doctor run_dir=runs/demo")
    folder = RunFolder(Path(str(config.run_dir)))
    run = describe(folder)
    doctor = examined(folder)
    out = console or Console()
    out.print(Text(f"{folder.path}: {run.env}, {run.algorithm}, {_counted(doctor.update, 'update')}"), soft_wrap=True)
    for remark in (*run.notes, *_missing(folder, doctor)):
        _paragraph(out, f"note: {remark}")
    for finding in doctor.standing:
        _print(out, finding)
    for finding in doctor.past:
        _paragraph(
            out,
            f"gone   {finding.name}, updates {finding.first_update} to {finding.last_update}: {finding.symptom.what}",
        )
    out.print(Text(_verdict(doctor)))
    return 1 if doctor.num_alarms else 0


def examined(folder: RunFolder) -> Doctor:
    """A doctor that has looked at everything that a run has logged.

    Raises:
        ValueError: the configuration is not that of a run, or nothing was logged.
    """
    doctor = Doctor(_facts(folder))
    for record in folder.records("metrics"):
        doctor.look(record)
    if not doctor.update:
        raise ValueError(
            f"run_dir={folder.path} has no metrics yet: metrics.jsonl is missing, empty or no list of records. "
            "The first line is written after the first update."
        )
    return doctor


def _facts(folder: RunFolder) -> Facts:
    config = folder.load_config()
    try:
        parsed = parse(config)
        return facts_of(config, build_algorithm(parsed)[0].settled(exact_sampler=parsed.exact_sampler))
    except ValueError as error:
        raise ValueError(f"run_dir={folder.path}: config.yaml is not that of a run of this version: {error}") from error


def _missing(folder: RunFolder, doctor: Doctor) -> list[str]:
    """What could not be looked at."""
    notes = []
    text = (folder.path / "metrics.jsonl").read_text(errors="replace")
    lines, read = len(text.splitlines()), len(folder.records("metrics"))
    if read < lines:
        notes.append(f"metrics.jsonl: line {read + 1} of {lines} is damaged or half-written; it is read up to there.")
    if doctor.update < FEW:
        notes.append(f"Most checks look at {FEW} updates: there is too little yet.")
    return notes


def _print(out: Console, finding: Finding) -> None:
    symptom = finding.symptom
    _paragraph(out, f"{symptom.severity.name.lower():5}  {finding.name}, since update {finding.first_update}")
    for line in (symptom.what, f"Likely cause: {symptom.cause}", f"Change: {symptom.change}"):
        _paragraph(out, line, " " * 7)


def _paragraph(out: Console, text: str, indent: str = "") -> None:
    """Text as wide as the terminal; never markup, because names in it are a user's."""
    for line in textwrap.wrap(text, max(out.width, 40), initial_indent=indent, subsequent_indent=" " * 7):
        out.print(Text(line), soft_wrap=True)


def _verdict(doctor: Doctor) -> str:
    alarms, notes = doctor.num_alarms, len(doctor.standing) - doctor.num_alarms
    if not alarms and not notes:
        return f"Nothing stands out in {len(CHECKS)} checks."
    return f"{_counted(alarms, 'alarm')}, {_counted(notes, 'note')} in {len(CHECKS)} checks."


def _counted(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'s' * (number != 1)}"
