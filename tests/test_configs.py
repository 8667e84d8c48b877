"""Every yaml composes and parses; the package list and the symlinks match what is on disk."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from agentgrpo.algorithms.ngrpo import NGRPO
from agentgrpo.composing import GROUPS, choices, compose_config
from agentgrpo.config import build_algorithm, parse

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("group", "choice"),
    [(group, choice) for group in GROUPS for choice in choices(group) if choice not in ("hf", "custom", "mix")],
)
def test_every_choice_composes_and_parses(group: str, choice: str) -> None:
    config = parse(compose_config("train", [f"{group}={choice}"]))
    build_algorithm(config)
    if group in ("env", "algorithm"):
        assert (config.env.name if group == "env" else config.algorithm["name"]) == choice


MINE = """
from dataclasses import dataclass
from agentgrpo.algorithms.ngrpo import NGRPO

@dataclass(frozen=True)
class Mine(NGRPO):
    strength: float = 1.0
"""


def test_an_algorithm_in_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_algorithm.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    name = "algorithm.name=own_algorithm:Mine"
    config = parse(compose_config("train", [name, "algorithm.strength=2.0", "algorithm.kl_coef=0.1", "seed=3"]))
    algorithm, _ = build_algorithm(config)
    # The class's own defaults hold, not those of the default algorithm's yaml.
    assert dataclasses.asdict(algorithm) == dataclasses.asdict(NGRPO(kl_coef=0.1)) | {"strength": 2.0}
    assert config.seed == 3
    with pytest.raises(ValueError, match=r"algorithm\.strenght is no field of .*Did you mean 'strength'"):
        build_algorithm(parse(compose_config("train", [name, "algorithm.strenght=2.0"])))


def test_hf_needs_a_path_only() -> None:
    assert parse(compose_config("train", ["model=hf", "model.path=a/b"])).model.path == "a/b"


@pytest.mark.parametrize("name", ["eval", "play"])
def test_commands_have_the_keys_of_train(name: str) -> None:
    config = compose_config(name, [])
    assert set(compose_config("train", [])) <= set(config)
    assert config.run_dir is None


def test_packages_are_the_folders_on_disk() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        "agentgrpo" if p.parent == ROOT / "agentgrpo" else f"agentgrpo.{p.parent.name}"
        for folder in ("agentgrpo", "envs", "algorithms", "conf")
        for p in (ROOT / folder).glob("**/__init__.py")
        if not p.parent.is_symlink()
    }
    assert set(settings["packages"]) == found
    assert all((ROOT / folder).is_dir() for folder in settings["package-dir"].values())


@pytest.mark.parametrize("name", ["envs", "algorithms", "conf"])
def test_symlinks_are_relative_and_point_at_the_folders(name: str) -> None:
    link = ROOT / "agentgrpo" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


def test_torch_and_transformers_are_pinned() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert pins["torch"] == "2.13.0"
    assert pins["transformers"] == "5.19.0"


def test_several_environments_stand_side_by_side() -> None:
    config = parse(
        compose_config("train", ["env=[key_maze,sokoban]", "envs.sokoban.weight=2", "envs.key_maze.kwargs.rooms=4"])
    )
    assert list(config.environments) == ["key_maze", "sokoban"]
    assert config.environments["sokoban"].weight == 2.0
    assert config.environments["key_maze"].kwargs["rooms"] == 4
    assert config.environments["sokoban"].id == "agentgrpo/Sokoban-v0"
    assert config.run_dir == "runs/key_maze-sokoban/gigpo/seed0"


def test_an_unknown_one_among_several_is_refused() -> None:
    with pytest.raises(ValueError, match=r"env=sokobann.*Did you mean 'sokoban'"):
        compose_config("train", ["env=[key_maze,sokobann]"])
