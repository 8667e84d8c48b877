"""What a run on Ray does where memory ends, with real processes."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from cluster_helpers import TINY, command, head, run

pytestmark = pytest.mark.cluster
TAKEN_GB = 5.0
"""By the processes of a run on Ray, at most."""
HUNGER_GB = 6.0


def test_a_sampler_that_runs_out_of_memory_is_replaced(tmp_path: Path) -> None:
    memory = psutil.virtual_memory()
    allowed = (memory.total - memory.available) / 1e9 + TAKEN_GB
    if memory.available / 1e9 < TAKEN_GB + HUNGER_GB:
        pytest.skip(f"needs {TAKEN_GB + HUNGER_GB} GB of free memory")
    hungry = [
        "env.id=hungry_env:Tests/HungryGuess-v0", f"+env.kwargs.gigabytes={HUNGER_GB}",
        f"+env.kwargs.mark={tmp_path}/mark", "eval.every=1000", "warm_start.episodes=0",
    ]  # fmt: skip
    done = run(
        command("agentgrpo", "train", "cluster=ray", "run_dir=run", *TINY, *hungry, "cluster.samplers=2"), tmp_path,
        RAY_memory_usage_threshold=f"{allowed * 1e9 / memory.total:.3f}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ran out of memory" in done.stdout
    assert "replaced" in done.stdout
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["episodes"] == 3 * 4 * 4


LARGER_THAN_THE_STORE = [
    "cluster=ray", "run_dir=run", *TINY, "model.hidden_size=1024", "model.num_heads=8", "warm_start.episodes=0",
    "num_updates=1", "eval.every=1", "eval.num_tasks=2",
]  # fmt: skip
"""Weights of 85 MB."""
STORE = "--object-store-memory=80000000"


def test_weights_that_are_larger_than_the_object_store_go_by_disk(tmp_path: Path) -> None:
    with head(tmp_path, STORE) as address:
        done = run(command("agentgrpo", "train", *LARGER_THAN_THE_STORE, f"cluster.address={address}"), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished: 1 updates" in done.stdout


def test_where_the_disk_is_full_too_the_run_stops_and_says_so(tmp_path: Path) -> None:
    # The share of the disk from which on Ray takes it for full.
    with head(tmp_path, STORE, RAY_local_fs_capacity_threshold="0.001") as address:
        done = run(command("agentgrpo", "train", *LARGER_THAN_THE_STORE, f"cluster.address={address}"), tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "--object-store-memory=BYTES" in done.stderr
    assert "Traceback" not in done.stderr
