"""docs/custom_algorithm.md, followed as it is written: files, tests, and a short run of each algorithm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import doc_blocks
import pytest

from agentgrpo.cli import main

PAGE = doc_blocks.ROOT / "docs" / "custom_algorithm.md"
SMALL = ["num_updates=2", "groups_per_update=2", "group_size=4", "warm_start.episodes=32", "eval.num_tasks=4"]
SMALL += ["model.hidden_size=32", "model.num_layers=1", "optim.epochs=1", "warm_start.oracle_share=0.5"]
"""Makes each run a second; everything else is as it stands on the page."""


@pytest.mark.slow
def test_the_page_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    blocks = doc_blocks.blocks(PAGE.read_text(), PAGE.name)
    for block in blocks:
        if block.file is not None:
            (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.file).write_text(block.text)
    fenced = [block for block in blocks if block.language == "bash"]
    commands = [command.words for block in fenced for command in doc_blocks.commands(block, tmp_path)]
    names = []
    for number, (_, _, module, *arguments) in enumerate(commands):
        if module == "pytest":
            environment = {**os.environ, "PYTHONPATH": str(doc_blocks.ROOT)}
            command = [sys.executable, "-m", "pytest", *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert "3 passed" in done.stdout, done.stdout
        elif arguments[0] == "train":
            assert main([*arguments, *SMALL, f"run_dir=runs/{number}"]) == 0, capsys.readouterr()
            summary = json.loads((tmp_path / f"runs/{number}/summary.json").read_text())
            assert (summary["status"], summary["updates"]) == ("finished", 2)
            names.append(summary["algorithm"])
    doc_blocks.forget(tmp_path)
    assert names == [
        "median:Median",
        "turnwise:Turnwise",
        "turnwise:Turnwise",
        "hooks:FirstToken",
        "hooks:Gentle",
        "hooks:Led",
        "hooks:Critic",
    ]
    metrics = [json.loads(line) for line in next(tmp_path.glob("runs/*/metrics.jsonl")).read_text().splitlines()]
    assert len(metrics) == 2


def test_led_shortens_its_lead_and_first_token_weighs_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a short run does not show of the page's algorithms."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    code = next(b.text for b in doc_blocks.blocks(PAGE.read_text(), PAGE.name) if b.file == "hooks.py")
    (tmp_path / "hooks.py").write_text(code)
    import hooks  # type: ignore[import-not-found]
    from helpers import trajectory

    from agentgrpo.types import Group

    won, lost = (trajectory(("a", 0.0), ("b", r), success=r == 1.0, tokens=2) for r in (1.0, 0.0))
    led = hooks.Led(turns=3)
    assert led.guidance(led.initial_state(), 5) == (3, 3, 0, 0, 0)
    assert led.next_state({"turns": 3}, [Group((won, lost))]) == {"turns": 2}
    assert led.next_state({"turns": 3}, [Group((lost, lost))]) == {"turns": 3}
    (credits,) = hooks.FirstToken(rest=0.5).credit([Group((won, lost))])
    assert credits[0].advantages.tolist() == pytest.approx([0.707, 0.354, 0.707, 0.354], abs=1e-3)
    (credits,) = hooks.Critic().credit([Group((trajectory(("a", 0.0), ("b", 1.0), tokens=2, value=0.25),))])
    assert credits[0].advantages.tolist() == [0.75] * 4
    doc_blocks.forget(tmp_path)
