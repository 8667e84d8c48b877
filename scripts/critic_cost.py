"""What a critic costs: PPO against GRPO on the same task and model, in one run, taking turns.

    python scripts/critic_cost.py model=nano
    python scripts/critic_cost.py experiment=smollm2_babyai --critic-lr 1e-5 --updates 3

Each run is a process of its own; its peak memory is what the system says of it when it has ended. Both train on the
same tasks with the same optimiser settings and start from the same warm start; the first update, in which memory is
touched for the first time, is left out of the times. GRPO computes nothing for groups without spread, PPO learns from
all: that is part of what they cost, so the share of such groups is printed too. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ALGORITHMS = ("grpo", "ppo")


@dataclass(frozen=True)
class Measured:
    """One run."""

    rollout: float
    """Seconds per update, median over updates."""
    update: float
    peak_gb: float
    no_spread: float
    """Share of groups without spread."""


def run(algorithm: str, overrides: list[str], updates: int) -> Measured:
    """Trains for a few updates in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "agentgrpo", "train", *overrides, f"algorithm={algorithm}"]
        command += [f"num_updates={updates}", f"eval.every={updates}", f"checkpoint.every={updates}"]
        command += ["eval.num_tasks=1", f"run_dir={folder}/run"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            sys.exit(f"{' '.join(command)} failed")
        records = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()][1:]
    return Measured(
        statistics.median(r["time/rollout"] for r in records),
        statistics.median(r["time/update"] for r in records),
        usage.ru_maxrss / 1e6,
        statistics.mean(r["rollout/zero_variance_share"] for r in records),
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="settings of both runs, key=value")
    parser.add_argument("--updates", type=int, default=6, help="per run, at least 2")
    parser.add_argument("--critic-lr", type=float, help="learning rate of the critic; ppo's default where not given")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each algorithm")
    args = parser.parse_args()
    if args.updates < 2:
        parser.error("--updates must be at least 2: the first one is left out.")
    runs: dict[str, list[Measured]] = {name: [] for name in ALGORITHMS}
    for _ in range(args.repeat):
        for name in ALGORITHMS:
            critic = [f"algorithm.critic_lr={args.critic_lr}"] if name == "ppo" and args.critic_lr else []
            runs[name].append(run(name, [*args.overrides, *critic], args.updates))
            print(name, runs[name][-1], file=sys.stderr, flush=True)
    print("| | rollout | update | whole iteration | peak memory | groups without spread |\n|---|---|---|---|---|---|")
    for name, found in runs.items():
        print(
            f"| {name} | {_spread([m.rollout for m in found], 's')} | {_spread([m.update for m in found], 's')} "
            f"| {_spread([m.rollout + m.update for m in found], 's')} | {_spread([m.peak_gb for m in found], 'GB')} "
            f"| {_spread([m.no_spread for m in found], '')} |"
        )
    pairs = list(zip(runs["grpo"], runs["ppo"], strict=True))
    ratios = (
        [b.rollout / a.rollout for a, b in pairs],
        [b.update / a.update for a, b in pairs],
        [(b.rollout + b.update) / (a.rollout + a.update) for a, b in pairs],
        [b.peak_gb / a.peak_gb for a, b in pairs],
    )
    print("| ppo / grpo | " + " | ".join(_spread(values, "") for values in ratios) + " | |")


def _spread(values: list[float], unit: str) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} {unit} ({min(values):.2f} - {max(values):.2f})".replace("  ", " ")


if __name__ == "__main__":
    main()
