"""docs/scale.md: its tables are what the script computes; and predicted against measured, from run folders."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf
from test_planning import record

from agentgrpo.composing import compose_config

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "scale.md").read_text()


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("scale_plots")
    sys.path.remove(str(ROOT / "scripts"))
    for name in ("scale_plots", "scale_model"):
        del sys.modules[name]


@pytest.mark.parametrize("name", ["figures", "models", "workloads"])
def test_assumptions_are_those_of_the_script(script: ModuleType, name: str) -> None:
    assert "\n".join(script.TABLES[name]()) in PAGE


def test_plans_of_few_gpus_are_those_of_the_script(script: ModuleType) -> None:
    for model in script.MODELS:
        for work in script.WORKLOADS:
            for ahead in (0, 1):
                assert script.plan_row(model, work, 8, ahead) in PAGE
    assert script.plan_row(script.MODELS[1], script.WORKLOADS[1], 64, 1) in PAGE


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_table_is_that_of_the_script(script: ModuleType) -> None:
    assert script.with_tables(PAGE) == PAGE


def test_what_fits_by_hand(script: ModuleType) -> None:
    # 72 GB of an H100 less 15.22 GB of weights; 57,344 bytes a token, 10,500 tokens an agent's episode, 16 a group.
    model = importlib.import_module("scale_model")
    qwen, agent = script.MODELS[0], script.WORKLOADS[1]
    assert model.room(qwen, agent) == int((72e9 - 15.22e9) / 57344 / 10500 / 16) == 5
    assert model.hand_over(qwen, 64, "one port") == pytest.approx(15.22 / (64 * 0.8 * 4) + 8 * 15.22 / 40)


def test_each_table_has_one_place(script: ModuleType) -> None:
    with pytest.raises(ValueError, match="0 places for the table 'figures'"):
        script.with_tables("no tables")


# --- scripts/plan_error.py ------------------------------------------------------------------------------------------


def folder(path: Path, records: list[dict[str, float]], *overrides: str) -> Path:
    (path / "checkpoints" / "best").mkdir(parents=True)
    (path / "checkpoints" / "best" / "model.safetensors").write_bytes(b"x" * 1000)
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    settings = ["group_size=4", "optim.micro_batch_tokens=1000", f"run_dir={path}", *overrides]
    config = OmegaConf.to_container(compose_config("train", settings), resolve=True)
    assert isinstance(config, dict)
    OmegaConf.save(OmegaConf.create(config), path / "config.yaml")
    return path


RAY = ("cluster=ray", "cluster.samplers=2", "cluster.episodes_per_sampler=16")


@pytest.fixture
def probes(tmp_path: Path) -> list[str]:
    return [str(folder(tmp_path / f"probe{n}", [record(n)], f"groups_per_update={n}")) for n in (8, 2)]


def error_script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr("sys.argv", ["plan_error.py", *arguments])
    module = importlib.import_module("plan_error")
    monkeypatch.delitem(sys.modules, "plan_error")
    status: int = module.main()
    return status


def test_predicted_against_measured(
    tmp_path: Path, probes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = [{"time/rollout": x, "time/update": 2.0} for x in (99.0, 5.5, 6.5)]
    run = folder(tmp_path / "two", measured, *RAY)
    again = folder(tmp_path / "ahead", measured, *RAY, "rollout.mode=async")
    assert error_script(monkeypatch, str(run), str(again), "--probe", *probes, "--message-ms", "2.5") == 0
    out = capsys.readouterr().out
    # 10 rounds of 0.1 + 16 * 0.03 at 2 samplers, 8 * 0.0125 of the driver, 2.6 of the learner; weights are nothing.
    assert "| two | 2 : 1 | sync | 8.50 | 8.00 | +6% |" in out
    assert re.search(r"\| ahead \| 2 : 1 \| async 1 \| 5.80 \| 8.00 \| -2[78]% \|", out)


@pytest.mark.parametrize(
    ("cluster", "overrides", "message"),
    [
        ((), (), "it has no samplers and learners"),
        (RAY, ("optim.epochs=1",), "has another optim than the first probe"),
        (RAY, (), "has no updates after the first 3"),
    ],
)
def test_runs_that_cannot_be_compared(
    tmp_path: Path,
    probes: list[str],
    cluster: tuple[str, ...],
    overrides: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = folder(tmp_path / "run", [record(8)] * 3, *cluster, *overrides)
    assert error_script(monkeypatch, str(run), "--probe", *probes, "--skip", "3") == 2
    assert message in capsys.readouterr().err
