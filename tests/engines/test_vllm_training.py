"""Whole runs that sample with vLLM: learning, going on after a stop, and what a sampler that fails leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch import Tensor

from agentgrpo.cli import main
from agentgrpo.samplers.vllm_engine import VllmEngine

pytestmark = pytest.mark.vllm

TINY = [
    "sampler=vllm",
    "sampler.kv_cache_gb=0.05",
    "sampler.max_num_seqs=16",
    "model.num_heads=2",  # vLLM on a CPU has no kernel for heads of 16
    "warm_start.episodes=192",
    "warm_start.oracle_share=0.3",
    "groups_per_update=4",
    "group_size=4",
    "eval.every=100",
    "eval.num_tasks=4",
]


def train(*overrides: str) -> int:
    return main(["train", *TINY, *overrides])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_trains_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train("num_updates=2", f"run_dir={folder}") == 0
    assert train("num_updates=3", f"run_dir={folder}", "resume=true") == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["updates"], summary["episodes"]) == (3, 48)
    metrics = lines(folder / "metrics.jsonl")
    assert [r["update"] for r in metrics] == [1, 2, 3]
    # Sampler and trainer agree on every token that was trained on.
    gaps = [r["sampler/logprob_gap_max"] for r in metrics if "sampler/logprob_gap_max" in r]
    assert gaps
    assert max(gaps) < 1e-3
    # Six turns of one growing transcript: most of a prompt is in the cache, but for the first turn's and for what does
    # not fill a block.
    assert all(r["sampler/cached_prompt_share"] > 0.3 for r in metrics)
    assert all(r["time/sync"] > 0 for r in metrics)


def test_rollouts_ahead_of_the_trainer(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train("num_updates=3", "rollout.mode=async", f"run_dir={folder}") == 0
    assert json.loads((folder / "summary.json").read_text())["episodes"] == 48
    assert [r["update"] for r in lines(folder / "metrics.jsonl")] == [1, 2, 3]


def test_a_sampler_with_other_weights_stops_the_run_which_saves_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    load, calls = VllmEngine.load, 0

    def failing(self: VllmEngine, weights: Iterable[tuple[str, Tensor]]) -> None:
        nonlocal calls
        calls += 1
        # The start, the evaluation before, the first update; what the second update samples with is not what it has.
        load(self, weights if calls <= 3 else ((name, 1.2 * tensor) for name, tensor in weights))

    with monkeypatch.context() as patch:
        patch.setattr(VllmEngine, "load", failing)
        assert train("num_updates=3", f"run_dir={folder}") == 2
    said = capsys.readouterr().err
    assert "vLLM's log-probabilities differ from the trainer's by" in said
    assert f"All 1 updates so far are saved. Go on with: python -m agentgrpo train run_dir={folder} resume=true" in said
    assert (folder / "checkpoints" / "update_000001").is_dir()
    assert train("num_updates=3", f"run_dir={folder}", "resume=true") == 0
    assert [r["update"] for r in lines(folder / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.timeout(600)
def test_an_engine_whose_process_is_killed_stops_the_run_which_saves_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    load, calls = VllmEngine.load, 0

    def then_killed(self: VllmEngine, weights: Iterable[tuple[str, Tensor]]) -> None:
        nonlocal calls
        calls += 1
        load(self, weights)
        if calls == 4:  # the start, the evaluation before, the first update, the second
            children = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
            workers = [c for c in children if "spawn_main" in " ".join(c.cmdline()) or "Worker" in c.name()]
            assert workers
            workers[-1].kill()

    parallel = ["sampler.tensor_parallel=2", "num_updates=3", f"run_dir={folder}"]
    with monkeypatch.context() as patch:
        patch.setattr(VllmEngine, "load", then_killed)
        assert train(*parallel) == 2
    said = capsys.readouterr().err
    assert "error: vLLM's engine failed: " in said
    assert "All 1 updates so far are saved. Go on with: " in said
    assert train(*parallel, "resume=true") == 0
    metrics = lines(folder / "metrics.jsonl")
    assert [r["update"] for r in metrics] == [1, 2, 3]
    # Halves of the weights in two processes compute what the trainer does.
    assert max(r["sampler/logprob_gap_max"] for r in metrics if "sampler/logprob_gap_max" in r) < 1e-3


def test_a_context_that_the_engine_has_not_ends_episodes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train("num_updates=1", "sampler.max_model_len=150", f"run_dir={folder}") == 0
    (metrics,) = lines(folder / "metrics.jsonl")
    assert metrics["rollout/context_limit_share"] > 0


def test_heads_that_vllm_cannot_take_are_refused_with_what_to_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("model.num_heads=4", f"run_dir={tmp_path / 'run'}") == 2
    assert "model.num_heads=2" in capsys.readouterr().err


def test_adapters_learn_while_the_engine_samples_with_them_merged(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "run"
    transformers = [o for o in TINY if not o.startswith("sampler")]
    assert main(["train", *transformers, "num_updates=0", f"run_dir={base}"]) == 0
    model = ["model=hf", f"model.path={base / 'checkpoints' / 'best'}", "model.precision=fp32", "model.lora.rank=4"]
    sampler = [o for o in TINY if not o.startswith(("model", "warm_start"))]
    settings = [*sampler, *model, "warm_start.episodes=0", "optim.lr=1e-2", "num_updates=3", f"run_dir={folder}"]
    assert main(["train", *settings]) == 0
    metrics = lines(folder / "metrics.jsonl")
    gaps = [r["sampler/logprob_gap_max"] for r in metrics if "sampler/logprob_gap_max" in r]
    assert len(gaps) > 1  # the adapters have moved by the second
    assert max(gaps) < 1e-3
