"""docs/custom_environment.md, followed as it is written: files, commands, and what it says about names."""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agentgrpo.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "custom_environment.md").read_text()
SMALL = ["num_updates=2", "groups_per_update=2", "warm_start.episodes=64", "eval.num_tasks=8", "eval.every=2"]
SMALL += ["model.hidden_size=32", "model.num_layers=1"]
"""Makes the run a matter of seconds; everything else is as it stands on the page."""

NAMES = """
import agentgrpo.envs, envs, envs.lights
from agentgrpo.environments import make
from agentgrpo.registry import algorithm_names

print(agentgrpo.envs.__file__ != envs.__file__, hasattr(envs, "ENV_IDS"), "gigpo" in algorithm_names())
for env_id in ("agentgrpo/KeyMaze-v0", "envs.lights:Lights-v0"):
    print(make(env_id, {}).unwrapped.__class__.__module__)
"""


def files() -> dict[str, str]:
    """Path and content of each file of the page."""
    return dict(re.findall(r"^`([\w/]+\.\w+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


def commands() -> list[str]:
    """The page's commands in order, but for the one that stays open."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if not line.startswith("tensorboard")]


def run(folder: Path, command: str) -> str:
    """What a command prints in a process of its own."""
    words = shlex.split(command)
    if words[0] == "python":
        words[0] = sys.executable
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's folder, with its files in it."""
    folder = tmp_path_factory.mktemp("lights")
    for command in commands():
        if command.split()[0] in ("mkdir", "touch"):
            run(folder, command)
    for name, content in files().items():
        (folder / name).write_text(content)
    return folder


def test_the_page_runs_as_written(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", [str(project), *sys.path])
    printed = {}
    for command in (c for c in commands() if c.startswith("python")):
        arguments = shlex.split(command)[3:]
        if command.startswith("python -m agentgrpo"):  # here, as it takes seconds to load PyTorch each time
            monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
            capsys.readouterr()
            assert main([*arguments, *(SMALL if arguments[0] == "train" else [])]) == 0, command
            printed[command] = capsys.readouterr().out
        else:
            printed[command] = run(project, command)
    for name in [n for n in sys.modules if n.split(".")[0] == "envs"]:
        del sys.modules[name]
    checked = [out for command, out in printed.items() if "check-env" in command]
    assert len(checked) == 2
    assert all("No problems, no advice.\nTrain: python -m agentgrpo train env.id=envs.lights" in out for out in checked)
    assert "Goal: all lamps X." in printed["python -m agentgrpo play env=lights"]
    assert "2 passed" in printed["python -m pytest -q tests"]
    assert "finished: 2 updates" in printed["python -m agentgrpo train experiment=lights"]
    assert "8 tasks" in printed["python -m agentgrpo eval run_dir=runs/lights/gigpo/seed0"]
    assert "return" in printed["python -m agentgrpo play run_dir=runs/lights/gigpo/seed0 episodes=2"]
    assert (project / "runs/lights/gigpo/seed0/summary.json").is_file()


def test_the_tree_shows_the_files_of_the_page() -> None:
    tree = re.search(r"```text\nlights/\n(.*?)```", PAGE, re.DOTALL)
    assert tree
    assert [line.split()[0] for line in tree[1].splitlines()] == list(files())


def test_a_folder_envs_hides_nothing_of_ours_even_under_the_same_names(project: Path) -> None:
    (project / "envs" / "key_maze.py").write_text("raise RuntimeError('the wrong key_maze')\n")
    (project / "algorithms").mkdir()
    (project / "algorithms" / "__init__.py").write_text("raise RuntimeError('the wrong algorithms')\n")
    (project / "names.py").write_text(NAMES)
    printed = run(project, "python -m names").splitlines()
    assert printed == ["True False True", "agentgrpo.envs.key_maze", "envs.lights"]
