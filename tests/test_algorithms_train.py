"""Every algorithm learns: 30 updates of the nano model on KeyMaze raise its held-out success."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from agentgrpo.cli import main
from agentgrpo.registry import algorithm_names

# A clip of thousandths lets go of a sequence at once when the rate is high.
RATES = {"gspo": "3e-4"}


@pytest.mark.slow
@pytest.mark.parametrize("name", algorithm_names())
def test_success_rises(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = [f"algorithm={name}", "num_updates=30", "eval.every=30", f"run_dir={run}", "checkpoint.every=30"]
    overrides += [f"optim.lr={RATES[name]}"] if name in RATES else []
    assert main(["train", *overrides]) == 0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert all(math.isfinite(v) for v in json.loads(line).values())
    summary = json.loads((run / "summary.json").read_text())
    assert summary["after"]["success"] > summary["before"]["success"]
