"""Runs that the planner's predictions are compared with, and the comparison: python scripts/plan_runs.py runs/plan

Two tasks with the nano model: KeyMaze, where the processor is what everybody waits for, and NumberGuess with steps of
200 ms, where environments are. For each, two probes in one process and then runs on a Ray of this machine, one after
the other. Runs that are there are not repeated. The machine must have nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.runs import SCRIPTS, SLOW

EVERY = ["num_updates=10", "eval.every=1000", "eval.num_tasks=1", "checkpoint.every=1000", "optim.lr=1e-5"]
"""Steps so small that the policy, and with it the work of an update, stays what it is."""
TASKS = {
    "maze": ["env=key_maze", "warm_start.episodes=256"],
    "slow": [*SLOW, "num_updates=4"],
}
PROBES = {"maze": (16, 4), "slow": (8, 2)}
"""``groups_per_update``; the first is that of the runs."""
SETUPS = {
    "1+1": [1, 1, "sync"],
    "2+1": [2, 1, "sync"],
    "4+1": [4, 1, "sync"],
    "2+2": [2, 2, "sync"],
    "1+1 ahead": [1, 1, "async"],
    "2+1 ahead": [2, 1, "async"],
}
"""Samplers, learner ranks, ``rollout.mode``."""


def train(folder: Path, overrides: list[str]) -> None:
    """A run, unless it is there."""
    if (folder / "summary.json").is_file():
        return
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "agentgrpo", "train", *overrides, f"run_dir={folder}"]
    if subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit(f"{' '.join(command)} failed.")


def main() -> int:
    """Runs and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for task, overrides in TASKS.items():
        run = [*EVERY, *overrides]
        probes = [folder / task / f"probe{groups}" for groups in PROBES[task]]
        for groups, probe in zip(PROBES[task], probes, strict=True):
            train(probe, [*run, f"groups_per_update={groups}"])
        runs = []
        for name, (samplers, learners, mode) in SETUPS.items():
            runs.append(folder / task / name.replace(" ", "_"))
            sizes = [f"cluster.samplers={samplers}", f"cluster.learners={learners}", f"rollout.mode={mode}"]
            train(runs[-1], [*run, f"groups_per_update={PROBES[task][0]}", "cluster=ray", *sizes])
        print(f"\n**{task}**\n", flush=True)
        script = [sys.executable, str(SCRIPTS / "plan_error.py"), "--cores", str(os.cpu_count())]
        subprocess.run([*script, "--probe", *map(str, probes), "--", *map(str, runs)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
