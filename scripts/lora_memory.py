"""What LoRA saves: peak memory of a run with adapters against the same run of all weights, each in its own process.

    python scripts/lora_memory.py
    python scripts/lora_memory.py optim.recompute=true optim.micro_batch_tokens=4096

Both runs are ``experiment=smollm2_babyai`` with the given settings and one update, after a short warm start; its
micro-batches are as full as those of the whole experiment. Peak memory is what the system says of a process when it has
ended. Prints a Markdown table and the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = {"all weights": "model.lora.rank=0", "LoRA": "model.lora.rank={rank}"}
SHORT = [
    "experiment=smollm2_babyai",
    "warm_start.episodes=16",
    "warm_start.batch_episodes=16",
    "num_updates=1",
    "groups_per_update=2",
    "optim.minibatches=1",
    "eval.num_tasks=1",
]


def run(overrides: list[str]) -> tuple[float, int]:
    """Peak memory in GB, and the tokens that the update trained on."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "agentgrpo", "train", *SHORT, *overrides, f"run_dir={folder}/run"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            sys.exit(f"{' '.join(command)} failed")
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    return usage.ru_maxrss / 1e6, int(summary["trained_tokens"])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="settings of both runs, key=value")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters")
    args = parser.parse_args()
    peaks: dict[str, float] = {}
    print("| trained | peak memory | tokens of the update |\n|---|---|---|")
    for name, setting in SETTINGS.items():
        peaks[name], tokens = run([setting.format(rank=args.rank), *args.overrides])
        print(f"| {name} | {peaks[name]:.2f} GB | {tokens:,} |", flush=True)
    print(f"\nLoRA takes {peaks['LoRA'] / peaks['all weights']:.0%} of the memory of all weights.")


if __name__ == "__main__":
    main()
