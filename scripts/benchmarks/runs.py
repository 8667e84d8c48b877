"""Runs of `agentgrpo train`, as a user starts them, and what they log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent.parent
SLOW = [
    "env=number_guess",
    "env.id=benchmarks.slow_env:Benchmarks/SlowNumberGuess-v0",
    "warm_start.episodes=0",
    "eval.num_tasks=1",
    "eval.every=1000",
]
"""A task whose steps take 200 ms."""
Records = list[dict[str, Any]]


def train(overrides: list[str], python: str = sys.executable) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Runs ``agentgrpo train``; metrics and evaluations."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [python, "-m", "agentgrpo", "train", *overrides, f"run_dir={run}"]
        path = os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPTS.parent, env=env)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        metrics, evaluations = (
            [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]
            for name in ("metrics", "evaluations")
        )
    return metrics, evaluations


def seconds(overrides: list[str], skip: int = 1) -> float:
    """Of an update, mean over all but the first ones."""
    records = train(overrides)[0][skip:]
    return sum(r["time/rollout"] + r["time/update"] for r in records) / len(records)


def slow_samplers(samplers: int) -> list[str]:
    """So many samplers that play 64 episodes with steps of 200 ms, each one after the other."""
    return [
        *SLOW,
        "cluster=ray",
        f"cluster.samplers={samplers}",
        "groups_per_update=8",
        "group_size=8",
        "num_updates=3",
    ]


def one_and_one(model: str, repeat: int) -> tuple[list[float], list[float]]:
    """Seconds of SmolLM2's updates in one process, and with one sampler and one rank that each may use every core."""
    cores = os.cpu_count() or 1
    run = ["experiment=smollm2_babyai", f"model.path={model}", "warm_start.episodes=0", "num_updates=3"]
    run += ["eval.num_tasks=1", "eval.every=1000", "checkpoint.every=1000"]
    ray = ["cluster=ray", "cluster.samplers=1", "cluster.learners=1"]
    ray += [f"cluster.cpus_per_sampler={cores}", f"cluster.cpus_per_learner={cores}"]
    whole, parts = [], []
    for _ in range(repeat):
        whole.append(seconds(run))
        parts.append(seconds([*run, *ray]))
    return whole, parts
