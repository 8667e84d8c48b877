"""The doctor in training: runs made sick on purpose, and what it leaves of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import TINY, lines

from agentgrpo.cli import main
from agentgrpo.samplers.transformers import TransformersSampler

OTHER_ENV = [o for o in TINY if not o.startswith("env")]


def sick_env(name: str) -> list[str]:
    return [f"env.id=sick_envs:Sick/{name}-v0", *OTHER_ENV]


def train(folder: Path, *overrides: str) -> int:
    return main(["train", *overrides, f"run_dir={folder}"])


def findings(folder: Path) -> dict[str, dict[str, Any]]:
    summary = json.loads((folder / "summary.json").read_text())
    return {f["name"]: f for f in summary["doctor"]}


def test_a_sick_run_says_so_once_and_at_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cut"
    assert train(folder, *TINY, "num_updates=7", "rollout.max_new_tokens=1") == 0
    out = capsys.readouterr().out
    assert out.count("doctor, update 5: alarm: cut_off_actions: 99% of the actions are cut off") == 1
    assert "doctor: alarm: cut_off_actions: 9" in out.split("held-out success")[-1]
    assert (folder / "train.log").read_text().count("alarm: cut_off_actions") == 1
    finding = findings(folder)["cut_off_actions"]
    assert (finding["first_update"], finding["last_update"], finding["standing"]) == (5, 7, True)
    assert finding["severity"] == "alarm"
    assert 0.9 < finding["figure"] < 1
    assert main(["doctor", f"run_dir={folder}"]) == 1
    assert "cut_off_actions, since update 5" in capsys.readouterr().out
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("doctor/cut_off_actions")] == [(5, 2.0), (6, 2.0), (7, 2.0)]
    assert [e.step for e in events.Scalars("doctor/num_alarms")] == list(range(1, 8))
    assert not any(key.startswith("doctor/") for record in lines(folder / "metrics.jsonl") for key in record)


def test_a_resumed_run_finds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*TINY, "rollout.max_new_tokens=1", "checkpoint.every=1"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, *options, "num_updates=7") == 0
    assert train(parts, *options, "num_updates=6") == 0
    capsys.readouterr()
    assert train(parts, "num_updates=7", "resume=true") == 0
    assert findings(parts) == findings(whole)
    assert "doctor, update" not in capsys.readouterr().out  # it was said before the break


def test_it_can_be_switched_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert train(folder, *TINY, "num_updates=5", "rollout.max_new_tokens=1", "doctor=false") == 0
    assert "doctor" not in capsys.readouterr().out
    assert "doctor" not in json.loads((folder / "summary.json").read_text())


SICK: list[tuple[list[str], list[str]]] = [
    ([*sick_env("Sick")], ["all_failure"]),
    ([*sick_env("EasyOrImpossible"), "groups_per_update=6"], ["no_signal"]),
    (
        [
            "env=mix",
            "env.name=two",
            "+env@envs.number_guess=number_guess",
            "+env@envs.bad=custom",
            "envs.bad.name=bad",
            "envs.bad.id=sick_envs:Sick/Sick-v0",
            *OTHER_ENV,
        ],
        ["one_env_fails"],
    ),
    ([*sick_env("Trivial")], ["solved"]),
    ([*sick_env("NewStates"), "algorithm=gigpo"], ["step_groups"]),
    ([*sick_env("Endless"), "rollout.max_turns=2"], ["turn_limit"]),
    ([*sick_env("CutOff"), "algorithm.train_truncated=false"], ["skipped_updates"]),
    ([*TINY, "rollout.temperature=0.01"], ["repeated_episodes", "entropy_collapse"]),
    ([*TINY, "model.context_length=80"], ["context_limit"]),
    ([*TINY, "warm_start.episodes=0"], ["invalid_actions"]),
    ([*TINY, "optim.lr=1", "rollout.max_new_tokens=12"], ["all_failure", "invalid_actions", "length_explosion"]),
    ([*TINY, "optim.lr=0.02", "optim.epochs=6"], ["clip_share"]),
    (
        [*TINY, "rollout.mode=async", "rollout.max_staleness=4", "algorithm.old_logprobs=sampler"],
        ["staleness"],
    ),
    ([*sick_env("Crashing"), "warm_start.episodes=0"], ["env_failures"]),
]


@pytest.mark.parametrize(("options", "expected"), SICK, ids=lambda value: value[0] if len(value) < 3 else None)
def test_runs_made_sick(
    options: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    assert train(tmp_path / "run", *options, "num_updates=12", "eval.every=12") == 0
    assert set(expected) <= set(findings(tmp_path / "run"))


def test_a_sampler_that_reports_other_log_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = TransformersSampler.generate

    def off_by_a_little(*args: Any, **kwargs: Any) -> Any:
        return [replace(c, logprobs=tuple(p - 0.01 for p in c.logprobs)) for c in honest(*args, **kwargs)]

    monkeypatch.setattr(TransformersSampler, "generate", off_by_a_little)
    assert train(tmp_path / "run", *TINY, "num_updates=3") == 0
    finding = findings(tmp_path / "run")["logprob_gap"]
    assert finding["severity"] == "alarm"
    assert finding["figure"] == pytest.approx(0.01, rel=0.01)


def test_half_precision_in_sampling_alone_is_no_alarm(tmp_path: Path) -> None:
    assert train(tmp_path / "run", *TINY, "num_updates=12", "sampler.precision=bf16") == 0
    gaps = [r["sampler/logprob_gap_mean"] for r in lines(tmp_path / "run" / "metrics.jsonl") if not r["loss/skipped"]]
    assert max(gaps) > 1e-4
    assert "logprob_gap" not in findings(tmp_path / "run")
