"""``sweep``: runs all runs of a study on all cores through one of Hydra's launchers, and shows how far they are."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig
from rich.console import Console
from rich.live import Live
from rich.table import Table

from agentgrpo import composing
from agentgrpo.checks import at_least
from agentgrpo.startup import prepare
from agentgrpo.study import Job, Study, check, clear_remains, composed, parse_study, run_jobs, start_jobs

_PAUSE = 1.0
"""Seconds between two looks at the runs."""
_FAILURES = "failures.jsonl"


def sweep_command(config: DictConfig, overrides: Sequence[str]) -> int:
    """Runs what is not done yet; returns 1 where a run failed."""
    study = parse_study(config)
    folder = str(config.folder)
    jobs = os.cpu_count() or 1 if config.jobs is None else int(config.jobs)
    at_least("jobs", jobs, 1)
    _check_launcher(str(config.launcher))
    check(study, folder)
    console = Console()
    stages = {"starts": start_jobs(study, folder), "runs": run_jobs(study, folder)}
    if config.dry_run:
        for job in (*stages["starts"], *stages["runs"]):
            console.print(f"{'done   ' if job.finished else 'to do  '} {job.run_dir}", markup=False, soft_wrap=True)
        return 0
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{folder}/.sweep.lock", timeout=0):
            return _run(study, stages, folder, jobs, str(config.launcher), overrides, console)
    except Timeout:
        raise ValueError(f"Another sweep is at work in {folder}. Wait for it, or choose another: folder=...") from None


def _check_launcher(launcher: str) -> None:
    if launcher == "joblib" and find_spec("hydra_plugins.hydra_joblib_launcher") is None:
        raise ValueError(
            "launcher=joblib needs a plugin of Hydra's: pip install 'agentgrpo[sweep]'. Without it: launcher=basic, "
            "which runs one after the other."
        )


def _run(
    study: Study,
    stages: dict[str, list[Job]],
    folder: str,
    jobs: int,
    launcher: str,
    overrides: Sequence[str],
    console: Console,
) -> int:
    failures = Path(folder) / _FAILURES
    failures.unlink(missing_ok=True)
    # A run of its own share of the cores computes as fast as several threads that wait for each other.
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // jobs, 1))
    for stage, members in stages.items():
        left = [index for index, job in enumerate(members) if not job.finished]
        if not left:
            continue
        what = "starting policies" if stage == "starts" else "runs"
        console.print(f"{len(left)} of {len(members)} {what} to do, {jobs} at a time", highlight=False)
        for index in left:
            clear_remains(members[index])
        with _Watch(study, members, jobs, console):
            _launch([*overrides, f"stage={stage}"], left, jobs, launcher, folder)
    failed = _read(failures)
    for line in failed:
        console.print(f"failed: {line['run']}: {line['error']}", markup=False, soft_wrap=True)
    done = sum(job.finished for job in stages["runs"])
    console.print(f"{done} of {len(stages['runs'])} runs are done. Compare them: python -m agentgrpo compare {folder}")
    return 1 if failed else 0


def _launch(overrides: Sequence[str], indices: Sequence[int], jobs: int, launcher: str, folder: str) -> None:
    """Has Hydra call :func:`run_one` for each index, in processes of its launcher's."""
    import hydra

    argv = sys.argv
    sys.argv = [
        "agentgrpo sweep", "--multirun", *overrides, f"job={','.join(map(str, indices))}", f"hydra/launcher={launcher}",
        *([f"hydra.launcher.n_jobs={jobs}", "hydra.launcher.batch_size=1"] if launcher == "joblib" else []),
        "hydra/hydra_logging=none", "hydra/job_logging=none", "hydra.output_subdir=null", f"hydra.sweep.dir={folder}",
        "hydra.sweep.subdir=.",
    ]  # fmt: skip
    try:
        hydra.main(version_base="1.3", config_path="pkg://" + composing.CONFIG_MODULE, config_name="sweep")(run_one)()
    finally:
        sys.argv = argv


def run_one(config: DictConfig) -> None:
    """One run of a study, in whatever process it was put. What goes wrong is written down: the others go on."""
    prepare()
    study, folder = parse_study(config), str(config.folder)
    job = (start_jobs if config.stage == "starts" else run_jobs)(study, folder)[int(config.job)]
    if job.finished:  # another process was faster
        return
    from agentgrpo.launch import launch

    try:
        summary = launch(composed(job), Console(quiet=True))
        if summary["status"] == "interrupted":
            raise KeyboardInterrupt
    except Exception as error:
        last = f"{type(error).__name__}: {error}"
        record = {"run": job.name, "error": last, "traceback": traceback.format_exc()}
        with (Path(folder) / _FAILURES).open("a") as file:
            file.write(json.dumps(record) + "\n")


def _read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


class _Watch:
    """Looks at the runs while they go on: a table that is kept up to date, or without a terminal a line per run."""

    def __init__(self, study: Study, jobs: Sequence[Job], at_once: int, console: Console) -> None:
        self._study = study
        self._jobs = jobs
        self._at_once = at_once
        self._console = console
        self._done: dict[str, float] = {}  # folder -> last held-out success
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> None:
        self._look()
        self._before = len(self._done)
        self._started = time.monotonic()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        if not self._console.is_terminal:
            while not self._over.wait(_PAUSE):
                self._tell()
            self._tell()
            return
        with Live(self._table(), console=self._console, auto_refresh=False) as live:
            while not self._over.wait(_PAUSE):
                self._look()
                live.update(self._table(), refresh=True)
            self._look()
            live.update(self._table(), refresh=True)

    def _look(self) -> list[Job]:
        """Jobs that have come to their end since the last look."""
        new = []
        for job in self._jobs:
            if job.run_dir not in self._done and (summary := job.summary) is not None:
                after = summary["after"]
                assert isinstance(after, dict)
                self._done[job.run_dir] = float(after["success"])
                new.append(job)
        return new

    def _tell(self) -> None:
        for job in self._look():
            text = f"[{len(self._done)}/{len(self._jobs)}] {job.name}: success {self._done[job.run_dir]:.2f}"
            self._console.print(f"{text}{self._left()}", markup=False, highlight=False, soft_wrap=True)

    def _left(self) -> str:
        done = len(self._done) - self._before
        if not done or len(self._done) == len(self._jobs):
            return ""
        minutes = (time.monotonic() - self._started) / done * (len(self._jobs) - len(self._done)) / 60
        return f", about {minutes:.0f} min left" if minutes < 90 else f", about {minutes / 60:.1f} h left"

    def _table(self) -> Table:
        wide = self._console.width >= 80
        table = Table(title=f"study {self._study.name}: {len(self._done)} of {len(self._jobs)} done{self._left()}")
        table.add_column("variant", overflow="fold")
        for name in self._study.environments:
            table.add_column(name, justify="right", overflow="fold")
        for variant in dict.fromkeys(job.variant for job in self._jobs):
            table.add_row(variant, *(self._cell(env, variant, wide) for env in self._study.environments))
        running = [f"{j.name}, update {_updates(j)}" for j in self._jobs if j.started and j.run_dir not in self._done]
        legend = ["runs done (highest held-out success at the end of one)"] if wide and self._done else []
        table.caption = "\n".join([*legend, *running[: self._at_once]])
        return table

    def _cell(self, environment: str, variant: str, wide: bool) -> str:
        members = [j for j in self._jobs if (j.environment, j.variant) == (environment, variant)]
        found = [self._done[j.run_dir] for j in members if j.run_dir in self._done]
        text = f"{len(found)}/{len(members)}"
        return f"{text} ({max(found):.2f})" if wide and found and variant != "start" else text


def _updates(job: Job) -> int:
    """Updates that a run has done."""
    path = Path(job.run_dir) / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0
