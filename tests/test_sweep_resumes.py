"""A study that is killed three times ends with the same tables as one that is not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_study import TINY

pytestmark = pytest.mark.slow

MORE = ["study.seeds=[0,1]", "study.learning_rates=[1.0e-3,1.0e-2]", "jobs=2"]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "agentgrpo", *words]


def results(folder: Path) -> dict[str, str]:
    """What `compare` writes about a study, by file."""
    subprocess.run(command("compare", str(folder), f"out={folder}-table"), check=True, capture_output=True)
    return {p.name: p.read_text() for p in Path(f"{folder}-table").glob("*.csv")}


def test_killed_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "tiny.yaml").write_text(TINY.replace("num_updates=2", "num_updates=8"))
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    subprocess.run(command("sweep", "study=tiny", *MORE, "folder=runs/whole"), check=True, capture_output=True)
    took = time.monotonic() - started
    rng = random.Random(0)
    for _ in range(3):
        one = subprocess.Popen(
            command("sweep", "study=tiny", *MORE, "folder=runs/killed"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(took * rng.uniform(0.25, 0.6))
        os.killpg(one.pid, signal.SIGKILL)
        one.wait()
    subprocess.run(command("sweep", "study=tiny", *MORE, "folder=runs/killed"), check=True, capture_output=True)
    whole, killed = results(tmp_path / "runs" / "whole"), results(tmp_path / "runs" / "killed")
    assert whole
    assert {k: v.replace("runs/whole", "") for k, v in whole.items()} == {
        k: v.replace("runs/killed", "") for k, v in killed.items()
    }
