"""Starting several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "env.kwargs.rooms=2", "groups_per_update=4", "group_size=4", "num_updates=3", "eval.num_tasks=8", "eval.every=3",
    "warm_start.episodes=32", "warm_start.epochs=2", "checkpoint.every=1", "checkpoint.keep=9",
]  # fmt: skip
"""A run of seconds."""


def environment(**more: str) -> Mapping[str, str]:
    """Of a process that finds the package, and the tests' own modules."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def torchrun(size: int, *arguments: str) -> list[str]:
    return command("torch.distributed.run", f"--nproc-per-node={size}", "--master-port=0", *arguments)


def run(arguments: list[str], folder: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs to the end, in a folder."""
    return subprocess.run(
        arguments, cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )
