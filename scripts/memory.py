"""Peak memory of runs against what `agentgrpo explain` expects of them, as a Markdown table.

    python scripts/fetch_smollm2.py
    python scripts/memory.py                # about 20 minutes
    python scripts/memory.py --only nano    # the rows whose names contain a word

Each run is two updates in a process of its own; peak memory is what the system says of the process when it has ended.
What is expected comes from `agentgrpo explain` with the same settings, in another process before it. SmolLM2's are
``experiment=smollm2_babyai`` with a short warm start, fewer groups and one optimiser step, so that micro-batches are as
full as those of the whole experiment.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile

_SMOLLM2 = [
    "experiment=smollm2_babyai",
    "warm_start.episodes=16",
    "warm_start.batch_episodes=16",
    "groups_per_update=2",
    "optim.minibatches=1",
    "optim.lr_warmup=0",
]
RUNS = {
    "nano, the default run": [],
    "nano, `algorithm=ppo`": ["algorithm=ppo"],
    "nano, `context.kind=window`": ["context.kind=window"],
    "SmolLM2, all weights": _SMOLLM2,
    "SmolLM2, all weights, `optim.recompute=true`": [*_SMOLLM2, "optim.recompute=true"],
    "SmolLM2, all weights, `algorithm.kl_coef=0.01`": [*_SMOLLM2, "optim.recompute=true", "algorithm.kl_coef=0.01"],
    "SmolLM2, LoRA of rank 16": [*_SMOLLM2, "model.lora.rank=16"],
    "SmolLM2, LoRA of rank 16, `optim.recompute=true`": [*_SMOLLM2, "model.lora.rank=16", "optim.recompute=true"],
}


def expected(overrides: list[str]) -> float:
    """Gigabytes that ``explain`` expects at one time."""
    command = [sys.executable, "-m", "agentgrpo", "explain", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"at one time\W+([\d.]+)", done.stdout)
    if done.returncode or found is None:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return float(found[1])


def measured(overrides: list[str]) -> float:
    """Gigabytes that a run of two updates held at most."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [*overrides, "num_updates=2", "eval.num_tasks=16", f"run_dir={folder}/run"]
        command = [sys.executable, "-m", "agentgrpo", "train", *settings]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            sys.exit(f"{' '.join(command)} failed")
    return usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose names contain this")
    only = parser.parse_args().only
    print("| run | expected | measured | expected / measured |\n|---|---|---|---|")
    for name, overrides in RUNS.items():
        if only in name:
            plan, peak = expected(overrides), measured(overrides)
            print(f"| {name} | {plan:.2f} GB | {peak:.2f} GB | {plan / peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
