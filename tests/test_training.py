"""Whole runs with a very small model: what they leave on disk, and that a killed run goes on bit for bit."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import PreTrainedModel

from agentgrpo.cli import main
from agentgrpo.composing import compose_config
from agentgrpo.samplers.base import SamplerError
from agentgrpo.samplers.transformers import TransformersSampler

TINY = [
    "env=number_guess",
    "env.kwargs.high=4",
    "env.kwargs.max_turns=3",
    "env.instructions=Guess.",
    "model.hidden_size=32",
    "model.num_layers=1",
    "model.num_heads=2",
    "warm_start.episodes=64",
    "warm_start.batch_episodes=8",
    "warm_start.lr=1e-2",
    "warm_start.epochs=3",
    "groups_per_update=2",
    "group_size=4",
    "eval.every=5",
    "eval.num_tasks=8",
    "rollout.max_new_tokens=3",
]


def train(*overrides: str) -> int:
    return main(["train", *TINY, *overrides])


def lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_clock(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics apart from those that measure seconds."""
    return [
        {k: v for k, v in r.items() if not k.startswith("time/") and k != "sampler/tokens_per_second"} for r in records
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train("num_updates=12", "checkpoint.every=4", "checkpoint.keep=2", "log.every=6", f"run_dir={folder}") == 0
    return folder


def test_summary_tells_before_and_after(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["updates"] == 12
    assert summary["episodes"] == 12 * 8
    assert summary["env_steps"] >= 12 * 8
    assert summary["sampled_tokens"] >= summary["env_steps"]
    assert summary["training_seconds"] > 0
    assert len(summary["panel"]["hash"]) == 64
    for when in ("before", "after", "best"):
        assert summary[when]["success_low"] <= summary[when]["success"] <= summary[when]["success_high"]
    assert summary["best"]["success"] >= summary["after"]["success"]


def test_checkpoints_are_the_last_two_and_the_best(run: Path) -> None:
    names = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert names == ["best", "update_000008", "update_000012"]


def test_metrics_have_one_line_per_update(run: Path) -> None:
    assert [r["update"] for r in lines(run / "metrics.jsonl")] == list(range(1, 13))
    assert [r["update"] for r in lines(run / "evaluations.jsonl")] == [0, 5, 10, 12]


def test_log_probabilities_of_trainer_and_sampler_agree(run: Path) -> None:
    gaps = [r["sampler/logprob_gap_max"] for r in lines(run / "metrics.jsonl") if "sampler/logprob_gap_max" in r]
    assert gaps
    assert max(gaps) < 1e-4


def test_trajectories_are_written_with_their_advantages(run: Path) -> None:
    files = sorted((run / "trajectories").iterdir())
    assert [p.name for p in files] == ["update_000001.jsonl.gz", "update_000007.jsonl.gz"]
    with gzip.open(files[0], "rt") as file:
        records = [json.loads(line) for line in file]
    assert len(records) == 8
    for r in records:
        assert len(r["advantages"]) == sum(len(s["action_ids"]) - s["num_guided"] for s in r["steps"])
        assert all(s["reward_terms"] == {"environment": s["reward"]} for s in r["steps"])
    assert records[0]["steps"][0]["observation"] == records[1]["steps"][0]["observation"]


def test_tensorboard_has_scalars_text_and_hyperparameters(run: Path) -> None:
    events = EventAccumulator(str(run), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert {t.split("/")[0] for t in tags["scalars"]} == {
        "rollout",
        "reward",
        "eval",
        "loss",
        "time",
        "sampler",
        "doctor",
        "final",
    }
    assert "trajectories/group0/text_summary" in tags["tensors"]
    assert [e.step for e in events.Scalars("rollout/success")] == list(range(1, 13))
    data = events.summary_metadata["_hparams_/session_start_info"].plugin_data
    assert data.plugin_name == "hparams"


def test_same_configuration_gives_the_same_run(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    train("num_updates=12", "checkpoint.every=4", f"run_dir={again}")
    assert without_clock(lines(again / "metrics.jsonl")) == without_clock(lines(run / "metrics.jsonl"))


def test_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    options = ["num_updates=20", "checkpoint.every=10"]
    assert train(*options, f"run_dir={tmp_path / 'whole'}") == 0

    part = tmp_path / "part"
    command = [sys.executable, "-m", "agentgrpo", "train", *TINY, *options, f"run_dir={part}"]
    # The suite's own setting: results are equal bit for bit at an equal number of threads.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (part / "metrics.jsonl").is_file() or len((part / "metrics.jsonl").read_text().splitlines()) < 12:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert [p.name for p in sorted((part / "checkpoints").glob("update_*"))][-1] == "update_000010"

    assert main(["train", f"run_dir={part}", "resume=true"]) == 0
    whole_weights, part_weights = (
        load_file(tmp_path / name / "checkpoints" / "update_000020" / "model.safetensors") for name in ("whole", "part")
    )
    assert whole_weights.keys() == part_weights.keys()
    assert all(bool((whole_weights[k] == part_weights[k]).all()) for k in whole_weights)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        whole, resumed = (without_clock(lines(tmp_path / run / name)) for run in ("whole", "part"))
        assert resumed == whole


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    command = [sys.executable, "-m", "agentgrpo", "train", *TINY, "num_updates=100000", f"run_dir={folder}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not lines(folder / "metrics.jsonl"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Ctrl-C" in output
    assert f"train run_dir={folder} resume=true" in output
    done = json.loads((folder / "summary.json").read_text())
    assert done["status"] == "interrupted"
    assert (folder / "checkpoints" / f"update_{done['updates']:06d}" / "state.json").is_file()
    assert main(["train", f"run_dir={folder}", "resume=true", f"num_updates={done['updates'] + 2}"]) == 0


def test_checkpoint_that_was_cut_short_is_passed_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cut"
    train("num_updates=8", "checkpoint.every=4", f"run_dir={folder}")
    weights = folder / "checkpoints" / "update_000008" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    capsys.readouterr()
    assert main(["train", f"run_dir={folder}", "resume=true"]) == 0
    out = capsys.readouterr().out
    assert "model.safetensors has 1000 of" in out
    assert "update_000004 (4 updates done)" in out
    assert without_clock(lines(folder / "metrics.jsonl")) == without_clock(lines(run / "metrics.jsonl"))[:8]


def test_environment_that_crashes_ends_its_own_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "breaking.py").write_text(
        "import gymnasium as gym\n"
        "from agentgrpo.envs.number_guess import NumberGuessEnv\n"
        "class Breaking(NumberGuessEnv):\n"
        "    def step(self, action):\n"
        "        if action == '3' and self._turn == 1:\n"
        "            raise RuntimeError('the third door jams')\n"
        "        return super().step(action)\n"
        "gym.register('Breaking-v0', entry_point=Breaking)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert train("env.id=breaking:Breaking-v0", "num_updates=6", "run_dir=jammed") == 0
    shares = [r["rollout/env_error_share"] for r in lines(tmp_path / "jammed" / "metrics.jsonl")]
    assert len(shares) == 6
    assert any(shares)
    log = (tmp_path / "jammed" / "train.log").read_text()
    assert "RuntimeError: the third door jams" in log
    assert "Traceback" in log
    assert "the third door jams" in capsys.readouterr().out


def test_window_context_trains_too(tmp_path: Path) -> None:
    assert train("num_updates=2", "context.kind=window", f"run_dir={tmp_path / 'window'}") == 0
    records = lines(tmp_path / "window" / "metrics.jsonl")
    assert max(r.get("sampler/logprob_gap_max", 0.0) for r in records) < 1e-4


def test_half_precision_says_how_it_corrects_and_keeps_fp32_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "half"
    assert train("num_updates=3", "model.precision=bf16", "optim.epochs=2", f"run_dir={folder}") == 0
    out = capsys.readouterr().out
    assert "the trainer's own (algorithm.old_logprobs=recompute)" in out
    assert "algorithm.correction=token" in out
    saved = load_file(folder / "checkpoints" / "update_000003" / "model.safetensors")
    assert {str(value.dtype) for value in saved.values()} == {"torch.float32"}
    moved = [r for r in lines(folder / "metrics.jsonl") if not r["loss/skipped"]]
    assert moved
    assert all(0.9 < r["loss/correction_weight"] < 1.1 for r in moved)
    assert all(r["sampler/logprob_gap_mean"] < 0.01 for r in moved)


def test_a_run_that_would_not_fit_is_refused_and_can_be_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "large"
    assert train("num_updates=0", "memory_gb=1.5", f"run_dir={folder}") == 2
    said = capsys.readouterr().err
    assert "memory_gb=1.5 is less than the 2." in said
    assert "Lower sampler.cache_gb to 0." in said
    assert train("num_updates=0", "memory_gb=1.5", "sampler.cache_gb=0.1", f"run_dir={folder}") == 0


def test_profile_leaves_a_table_and_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "profiled"
    assert train("num_updates=3", "profile=true", f"run_dir={folder}") == 0
    out = capsys.readouterr().out
    assert "Where the time of update 2 went" in out
    table = (folder / "profile" / "phases.txt").read_text()
    assert all(name in table for name in ("sampling", "packing", "environments", "logging", "rest"))
    assert "aten::" in (folder / "profile" / "operations.txt").read_text()
    trace = json.loads(gzip.decompress((folder / "profile" / "trace.json.gz").read_bytes()))
    assert len(trace["traceEvents"]) > 100
    for record in lines(folder / "metrics.jsonl"):
        assert 0 < record["time/other_share"] < 1


def test_kl_reference_survives_a_resume(tmp_path: Path) -> None:
    options = ["algorithm=grpo", "algorithm.kl_coef=0.1", "checkpoint.every=3"]
    train(*options, "num_updates=6", f"run_dir={tmp_path / 'whole'}")
    train(*options, "num_updates=3", f"run_dir={tmp_path / 'part'}")
    assert main(["train", f"run_dir={tmp_path / 'part'}", "resume=true", "num_updates=6"]) == 0
    whole, part = (without_clock(lines(tmp_path / name / "metrics.jsonl")) for name in ("whole", "part"))
    assert part == whole
    assert any("loss/ref_kl" in r for r in whole)


def test_rollouts_ahead_of_the_trainer_lose_and_double_nothing_over_a_resume(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ["rollout.mode=async", "rollout.max_staleness=2", "checkpoint.every=3", f"run_dir={folder}"]
    train(*options, "num_updates=3")
    assert main(["train", f"run_dir={folder}", "resume=true", "num_updates=6"]) == 0
    records = lines(folder / "metrics.jsonl")
    assert [r["update"] for r in records] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= r["rollout/staleness_max"] <= 2 for r in records)
    assert records[3]["rollout/staleness_max"] == 0  # what had been played ahead was given up, and is played again
    assert max(r["rollout/staleness_max"] for r in records) > 0
    assert all(0.5 < r["loss/correction_weight"] < 2 for r in records)
    summary = json.loads((folder / "summary.json").read_text())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert summary["episodes"] == 6 * config["groups_per_update"] * config["group_size"]


def test_sweep_fills_one_folder_per_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", *TINY, "num_updates=1", "algorithm=grpo,gigpo", "seed=0,1"]) == 0
    found = sorted(str(p.parent.relative_to(tmp_path)) for p in tmp_path.rglob("summary.json"))
    assert found == [f"runs/number_guess/{a}/seed{s}" for a in ("gigpo", "grpo") for s in (0, 1)]


def test_eval_and_play_look_at_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", f"run_dir={run}", "checkpoint_name=last"]) == 0
    out = capsys.readouterr().out
    after = json.loads((run / "summary.json").read_text())["after"]
    assert f"success   {after['success']:.3f}" in out
    assert "update 12" in out
    assert main(["play", f"run_dir={run}", "episodes=2"]) == 0
    assert capsys.readouterr().out.count("return") == 2


def test_arguments_that_only_the_environment_of_a_run_has_can_be_changed_for_an_evaluation(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "high" not in compose_config("eval", []).env.kwargs  # the default environment has no such argument
    panels = []
    for overrides in ([], ["env.kwargs.high=9"]):
        assert main(["eval", f"run_dir={run}", *overrides]) == 0
        panels.append(capsys.readouterr().out.split("hash ")[1].split()[0])
    assert panels[0] != panels[1]
    assert main(["eval", f"run_dir={run}", "env.kwargs.height=9"]) == 2
    assert "'env.kwargs.height' is not a setting." in capsys.readouterr().err


# --- what some algorithms carry from update to update -----------------------------------------------------------------

MAZE = ["env=key_maze", "env.kwargs.max_turns=5", "env.instructions=Go."]


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm=ppo"],
        ["algorithm=guided", *MAZE, "algorithm.target=0.5"],
        ["algorithm=grpo", "algorithm.kl_coef=0.1", "algorithm.reference_every=2", "algorithm.reference_mix=0.5"],
        ["algorithm=grpo", "model.precision=bf16", "algorithm.kl_coef=0.1"],
        ["algorithm=ppo", "model.precision=bf16"],
    ],
    ids=["critic", "controller", "moving reference", "half precision", "half-precision critic"],
)
def test_a_resumed_run_has_what_the_algorithm_carries(overrides: list[str], tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    small = [o for o in TINY if "env=key_maze" not in overrides or not o.startswith("env")]
    for folder, updates in ((whole, 6), (part, 3)):
        options = [f"num_updates={updates}", "checkpoint.every=3", "checkpoint.keep=5", f"run_dir={folder}"]
        assert main(["train", *small, *overrides, *options]) == 0
    assert main(["train", f"run_dir={part}", "resume=true", "num_updates=6"]) == 0
    assert without_clock(lines(part / "metrics.jsonl")) == without_clock(lines(whole / "metrics.jsonl"))
    for file in ("model.safetensors", "critic.safetensors", "reference/model.safetensors"):
        one, other = (folder / "checkpoints" / "update_000006" / file for folder in (whole, part))
        assert one.is_file() == other.is_file()
        if one.is_file():
            assert_equal_tensors(load_file(one), load_file(other))


def assert_equal_tensors(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)


def test_a_faulty_environment_trains_to_the_end_and_every_fault_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    faults = ["+env.kwargs.crash=0.05", "+env.kwargs.hang=0.05", "+env.kwargs.garbage=0.05", "+env.kwargs.seconds=0.3"]
    small = [o for o in TINY if not o.startswith(("env=", "env.kwargs."))]
    dials = ["+env.kwargs.high=4", "+env.kwargs.max_turns=3", "env.execution=thread", "rollout.step_timeout=0.1"]
    folder = tmp_path / "faulty"
    overrides = [
        "env.id=unreliable_envs:Faulty/NumberGuess-v0",
        *faults,
        *small,
        *dials,
        "num_updates=12",
        "group_size=8",
    ]
    assert main(["train", *overrides, f"run_dir={folder}"]) == 0
    records = lines(folder / "metrics.jsonl")
    assert len(records) == 12
    kinds = {
        name: sum(r[f"rollout/{name}_share"] for r in records) for name in ("env_error", "env_timeout", "terminated")
    }
    assert all(kinds.values()), kinds  # 192 episodes of two or three steps: each kind of fault is certain to be there
    for r in records:
        shares = [
            v for k, v in r.items() if k.startswith("rollout/") and k.endswith(("_limit_share", "terminated_share"))
        ]
        assert sum(shares) + r["rollout/env_error_share"] + r["rollout/env_timeout_share"] == pytest.approx(1.0)
    told = (folder / "train.log").read_text()
    assert "injected crash" in told
    assert "returned a bytes as observation" in told
    assert "No answer within 0.1 s" in told


def test_several_environments_and_a_curriculum_go_on_bit_for_bit(tmp_path: Path) -> None:
    small = [o for o in TINY if not o.startswith("env")]
    options = [
        "env=[number_guess,frozen_lake]",
        "envs.number_guess.kwargs.high=4",
        "envs.frozen_lake.kwargs.size=3",
        "envs.frozen_lake.weight=3",
        *small,
        "groups_per_update=8",
        "curriculum.kind=success_band",
        "curriculum.num_tasks=16",
        "checkpoint.every=2",
    ]
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert main(["train", *options, "num_updates=4", f"run_dir={whole}"]) == 0
    assert main(["train", *options, "num_updates=2", f"run_dir={part}"]) == 0
    assert main(["train", f"run_dir={part}", "resume=true", "num_updates=4"]) == 0
    assert without_clock(lines(part / "metrics.jsonl")) == without_clock(lines(whole / "metrics.jsonl"))
    last = lines(whole / "metrics.jsonl")[-1]
    assert last["rollout/frozen_lake/num_groups"] + last["rollout/number_guess/num_groups"] == 8
    assert 5 <= last["rollout/frozen_lake/num_groups"] <= 7
    assert last["curriculum/tasks_played"] > 8
    assert set(lines(whole / "evaluations.jsonl")[-1]["by_env"]) == {"number_guess", "frozen_lake"}
    state = json.loads((whole / "checkpoints" / "update_000004" / "state.json").read_text())
    assert set(state["curriculum"]) == {"number_guess", "frozen_lake"}


class Failing(TransformersSampler):
    """Samples for the evaluation before and for the first update, then no more."""

    def sync(self, model: PreTrainedModel) -> None:
        self.num_syncs = getattr(self, "num_syncs", 0) + 1
        if self.num_syncs == 3:
            raise SamplerError("The engine died.")
        super().sync(model)


def test_a_sampler_that_fails_leaves_a_run_that_goes_on_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    with monkeypatch.context() as patch:
        patch.setattr("agentgrpo.setup.TransformersSampler", Failing)
        assert train("num_updates=2", "eval.every=1", f"run_dir={folder}") == 2
    said = capsys.readouterr().err
    assert "error: The engine died.\nAll 1 updates so far are saved." in said
    assert f"run_dir={folder} resume=true" in said
    # The evaluation that failed is made up for.
    assert [r["update"] for r in lines(folder / "evaluations.jsonl")] == [0]
    assert train("num_updates=2", "eval.every=1", f"run_dir={folder}", "resume=true") == 0
    assert train("num_updates=2", "eval.every=1", f"run_dir={whole}") == 0
    for name in ("metrics", "evaluations"):
        assert without_clock(lines(folder / f"{name}.jsonl")) == without_clock(lines(whole / f"{name}.jsonl"))
