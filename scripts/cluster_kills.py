"""Kills a process of each of many runs on a cluster, and counts what was trained: python scripts/cluster_kills.py

Each run has three samplers and two learner ranks on a Ray of this machine, and loses one of the five by kill -9, at a
moment drawn from the time that a run takes. What stopped goes on with `resume=true`. Then the groups of each of its
updates are compared with those of a run that was left alone. Prints a Markdown table; ends with 1 if any differ.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

UPDATES = 80
GROUPS = 4
RUN = [
    "cluster=ray", "cluster.samplers=3", "cluster.learners=2", "env=number_guess", "env.kwargs.high=8",
    "env.kwargs.max_turns=4", "warm_start.episodes=64", "warm_start.epochs=2", f"groups_per_update={GROUPS}",
    "group_size=4", f"num_updates={UPDATES}", "eval.every=20", "eval.num_tasks=16", "rollout.max_new_tokens=4",
    "checkpoint.every=10", "log.every=1", f"log.trajectories={GROUPS}",
]  # fmt: skip
KINDS = {"sampler": "ray::SamplerActor", "learner rank": "ray::LearnerActor"}
Episode = tuple[int, tuple[str, ...], float | None]
"""What tells an episode from others: its task's seed, what the policy wrote, and the return."""


@dataclass(frozen=True)
class Killed:
    """A run that lost a process."""

    kind: str
    seconds: float
    """From the start of the command."""
    updates: int
    """That were done."""
    resumed: bool
    wrong: int
    """Updates whose groups are not those of the run that was left alone."""

    @property
    def row(self) -> str:
        """As Markdown."""
        end = "went on with resume=true" if self.resumed else "went on by itself"
        return f"| {self.kind} | {self.seconds:.1f} s | {self.updates} | {end} | {self.wrong} |"


def start(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """What it prints goes to a file beside its folder."""
    command = [sys.executable, "-m", "agentgrpo", "train", f"run_dir={folder}", *more]
    with folder.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def failed(folder: Path, what: str) -> SystemExit:
    return SystemExit(f"{folder.name}: {what}\n{folder.with_suffix('.log').read_text()[-3000:]}")


def processes(run: subprocess.Popen[bytes]) -> list[tuple[str, psutil.Process]]:
    """Samplers and ranks of a run, each with what it is."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:  # it has just ended
            continue
        found += [(kind, process) for kind, name in KINDS.items() if title.startswith(name)]
    return found


def kill_one(run: subprocess.Popen[bytes], after: float, dice: random.Random) -> str:
    """Waits, kills, and says what was killed: nothing where the run ended before."""
    until = time.monotonic() + after
    while run.poll() is None:
        found = processes(run)
        if time.monotonic() >= until and found:
            kind, process = dice.choice(found)
            process.kill()
            return kind
        time.sleep(0.02)
    return ""


def episodes(folder: Path) -> dict[int, list[Episode]]:
    """Of each update, all that was trained on, in order."""
    found = {}
    for path in sorted((folder / "trajectories").glob("*.jsonl.gz")):
        with gzip.open(path, "rt") as file:
            records = [json.loads(line) for line in file]
        found[int(path.name.removeprefix("update_").removesuffix(".jsonl.gz"))] = [
            (r["task_seed"], tuple(step["action"] for step in r["steps"]), r["return"]) for r in records
        ]
    return found


def updates_of(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    return [json.loads(line)["update"] for line in path.read_text().splitlines()] if path.is_file() else []


def killed(folder: Path, alone: Path, after: float, dice: random.Random) -> Killed | None:
    """A run with one kill; None where it had ended before."""
    run = start(folder, *RUN)
    kind = kill_one(run, after, dice)
    done = len(updates_of(folder))
    status = run.wait()
    resumed = kind == "learner rank"
    if status not in ((1,) if resumed else (0,)):
        raise failed(
            folder, f"exit status {status} after the kill of a {kind or 'nothing'}, {after:.1f} s, {done} updates"
        )
    if resumed:
        # Before the first checkpoint there is nothing to go on from, and it is the same command again.
        begun = (folder / "config.yaml").is_file()
        status = start(folder, *(["resume=true"] if begun else RUN)).wait()
        if status:
            raise failed(folder, f"exit status {status} of resume=true")
    if updates_of(folder) != list(range(1, UPDATES + 1)):
        raise failed(folder, f"logged updates are {updates_of(folder)}")
    mine, theirs = episodes(folder), episodes(alone)
    wrong = sum(mine.get(update) != groups for update, groups in theirs.items())
    return Killed(kind, after, done, resumed, wrong) if kind else None


def main() -> int:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    dice = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        if start(folder / "alone", *RUN).wait():
            raise failed(folder / "alone", "the run that is left alone failed")
        seconds = time.monotonic() - began
        rows: list[Killed] = []
        while len(rows) < given.kills:
            one = killed(folder / f"run{len(rows)}", folder / "alone", dice.uniform(0, seconds), dice)
            if one is not None:
                rows.append(one)
                print(f"{len(rows)}/{given.kills}", file=sys.stderr)
        trained = len(rows) * UPDATES * GROUPS
    print("| killed | after | updates done | the run | updates with other groups |\n|---|---|---|---|---|")
    for row in rows:
        print(row.row)
    wrong = sum(row.wrong for row in rows)
    print(f"\n{len(rows)} kills, {trained} groups to train on, {wrong} updates with other groups.")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
