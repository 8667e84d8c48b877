"""What the README tells a newcomer to do, done as it is written."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from agentgrpo.cli import main

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
TINY = ["model.hidden_size=32", "model.num_layers=1", "warm_start.episodes=64", "eval.num_tasks=16"]


def section(title: str) -> tuple[str, str, list[list[str]]]:
    """File name, Python code, and the agentgrpo commands of a section."""
    text = README.split(f"## {title}\n")[1].split("\n## ")[0]
    name = re.search(r"Save this as `(\w+\.py)`", text)
    assert name
    code, *blocks = re.findall(r"```(?:python)?\n(.*?)```", text, re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert all(c[:3] == ["python", "-m", "agentgrpo"] for c in commands)
    return name[1], code, [c[3:] for c in commands]


@pytest.mark.parametrize(("title", "runs"), [("Add an environment", 1), ("Add an algorithm", 1)])
def test_sections_run_as_written(
    title: str, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, code, commands = section(title)
    (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        # The commands as they stand; what follows makes the model smaller, so that the test takes seconds.
        small = [*TINY, "num_updates=3", "groups_per_update=2"] if command[0] == "train" else []
        assert main([*command, *small]) == 0, capsys.readouterr()
    summaries = [json.loads(p.read_text()) for p in tmp_path.rglob("summary.json")]
    assert len(summaries) == runs
    assert all(s["status"] == "finished" for s in summaries)


def test_each_example_is_ten_lines_besides_imports() -> None:
    for title in ("Add an environment", "Add an algorithm"):
        code = section(title)[1]
        lines = [line for line in code.splitlines() if line.strip() and not line.startswith(("import ", "from "))]
        assert len(lines) <= 10
