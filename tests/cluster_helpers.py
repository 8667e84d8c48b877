"""Starting several processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "env=number_guess", "env.kwargs.high=4", "env.kwargs.max_turns=3", "env.instructions=Guess.",
    "model.hidden_size=32", "model.num_layers=2", "model.num_heads=2", "warm_start.episodes=64",
    "warm_start.batch_episodes=8", "warm_start.lr=1e-2", "warm_start.epochs=3", "groups_per_update=4", "group_size=4",
    "num_updates=3", "eval.every=3", "eval.num_tasks=8", "rollout.max_new_tokens=3", "checkpoint.every=1",
    "checkpoint.keep=9",
]  # fmt: skip
"""A run of seconds."""


def environment(**more: str) -> Mapping[str, str]:
    """Of a process that finds the package, and the tests' own modules."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def torchrun(size: int, *arguments: str) -> list[str]:
    return command("torch.distributed.run", "--standalone", f"--nproc-per-node={size}", *arguments)


def run(arguments: list[str], folder: Path, timeout: float = 240, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs to the end, in a folder."""
    return subprocess.run(
        arguments, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=timeout, check=False
    )


@contextlib.contextmanager
def head(folder: Path, *options: str, **more: str) -> Iterator[str]:
    """A Ray cluster of this machine that runs on its own; its address."""
    port = "24601"
    started = run(
        command("ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=8", "--include-dashboard=false",
                "--disable-usage-stats", f"--temp-dir=/tmp/ray{os.getpid()}", *options), folder, **more
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    try:
        yield f"127.0.0.1:{port}"
    finally:
        stop(folder)


def stop(folder: Path) -> None:
    """Ends every Ray of this machine."""
    run(command("ray.scripts.scripts", "stop", "--force"), folder)
