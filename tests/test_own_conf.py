"""A folder ``conf`` in the current folder: its choices are ours as well, and never silently passed over."""

from pathlib import Path

import pytest
from omegaconf import DictConfig

from agentgrpo import launch
from agentgrpo.cli import main
from agentgrpo.composing import choices, compose_config, own_folder
from agentgrpo.config import TrainConfig, parse

BIG_MAZE = "defaults: [key_maze, _self_]\nname: big_maze\nkwargs:\n  rooms: 6\n"
RUN = "# @package _global_\ndefaults:\n  - override /env: big_maze\n  - override /algorithm: grpo\nnum_updates: 7\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an environment and an experiment of one's own, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "env/big_maze", BIG_MAZE)
    write(tmp_path, "experiment/mine", RUN)
    return tmp_path


def write(folder: Path, name: str, content: str) -> None:
    path = folder / "conf" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def composed(*overrides: str, name: str = "train") -> TrainConfig:
    return parse(compose_config(name, list(overrides)))


def test_environments_and_experiments_are_found() -> None:
    config = composed("env=big_maze", "env.kwargs.max_turns=20")
    assert (config.env.name, config.env.id) == ("big_maze", "agentgrpo/KeyMaze-v0")
    assert (config.env.kwargs["rooms"], config.env.kwargs["max_turns"]) == (6, 20)
    config = composed("experiment=mine")
    assert (config.env.name, config.algorithm["name"], config.num_updates) == ("big_maze", "grpo", 7)
    assert config.run_dir == "runs/big_maze/grpo/seed0"
    mixed = composed("env=[big_maze,sokoban]", "envs.big_maze.weight=2")
    assert list(mixed.environments) == ["big_maze", "sokoban"]
    assert compose_config("eval", ["env=big_maze"]).env.name == "big_maze"


def test_without_the_folder_all_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert own_folder() is None
    assert "big_maze" not in choices("env")
    with pytest.raises(ValueError, match="env=big_maze: there is no such env"):
        compose_config("train", ["env=big_maze"])


def test_the_built_in_folder_is_not_somebodys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    assert own_folder() is None


def test_unknown_names_are_answered_with_ones_own_too() -> None:
    with pytest.raises(
        ValueError, match=r"env=big_mase.*Did you mean 'big_maze'\?.*big_maze, .*sokoban.*conf/env/NAME"
    ):
        compose_config("train", ["env=big_mase"])
    with pytest.raises(ValueError, match=r"experiment=mime.*Did you mean 'mine'\?"):
        compose_config("train", ["experiment=mime"])


def test_sweeps_help_and_cfg_know_them(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []

    def record(config: DictConfig) -> dict[str, object]:
        jobs.append(config.run_dir)
        return {"status": "finished", "after": {"success": 1.0}}

    monkeypatch.setattr(launch, "launch", record)
    assert main(["train", "-m", "env=big_maze,sokoban", "seed=0,1"]) == 0
    assert jobs == [f"runs/{env}/gigpo/seed{seed}" for env in ("big_maze", "sokoban") for seed in (0, 1)]
    capsys.readouterr()
    assert main(["train", "experiment=mine", "--cfg", "job"]) == 0
    assert "num_updates: 7" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "big_maze" in capsys.readouterr().out


def test_a_built_in_name_is_refused_where_it_is_chosen(project: Path) -> None:
    write(project, "env/sokoban", "name: sokoban\nid: mine:Sokoban-v0\n")
    assert composed("env=big_maze").env.name == "big_maze"  # it is in nobody's way
    expected = (
        r"env=sokoban: there are two of them, .* conf/env/sokoban\.yaml .*Rename yours.*defaults: \[sokoban, _self_\]"
    )
    for overrides in (["env=sokoban"], ["env=big_maze,sokoban"], ["env=[big_maze,sokoban]"]):
        with pytest.raises(ValueError, match=expected):
            compose_config("train", overrides)
    # Also as a default that nobody has named.
    write(project, "algorithm/gigpo", "name: mine:GiGPO\n")
    with pytest.raises(ValueError, match="algorithm=gigpo: there are two of them"):
        compose_config("train", ["env=big_maze"])


def test_an_equal_copy_of_a_built_in_file_is_fine(project: Path) -> None:
    ours = Path(__file__).resolve().parents[1] / "conf" / "env" / "sokoban.yaml"
    write(project, "env/sokoban", ours.read_text())
    assert composed("env=sokoban").env.name == "sokoban"


def test_another_projects_primary_configuration_is_left_alone(project: Path) -> None:
    write(project, "train", "defaults: [nonsense]\n")
    assert composed("env=big_maze").num_updates == 60


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name: [broken", "This is not YAML: .*broken.yaml"),
        ("defaults: [nothing]\n", "nothing"),
        ("defaults: [custom, _self_]\nnaem: x\nid: x:Y-v0\n", "naem"),
        ("defaults: [custom, _self_]\n", r"env\.id|Missing mandatory value"),
    ],
)
def test_faults_in_ones_own_file_are_named(
    project: Path, content: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(project, "env/broken", content)
    with pytest.raises(ValueError, match=expected):
        composed("env=broken")
    assert main(["train", "env=broken"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
