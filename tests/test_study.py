"""A study's runs, what is refused before any of them starts, and a sweep of two of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from agentgrpo import study
from agentgrpo.cli import main
from agentgrpo.composing import compose_config
from agentgrpo.config import build_algorithm, parse
from agentgrpo.study import Job, Start, Study, composed, parse_study, run_jobs, start_jobs

TINY = """
name: tiny
common: [groups_per_update=2, group_size=2, num_updates=2, eval.every=1, eval.num_tasks=4, checkpoint.every=1]
start:
  make: [warm_start.episodes=8]
  use: [model=hf, model.precision=fp32]
environments:
  key_maze: [env=key_maze]
variants:
  grpo: [algorithm=grpo]
  gigpo: [algorithm=gigpo]
learning_rates: [1.0e-3]
seeds: [0]
"""


def small(**changed: object) -> Study:
    values = {
        "name": "small",
        "common": ["num_updates=5"],
        "environments": {"a": ["env=key_maze"], "b": ["env=hanoi"]},
        "variants": {"x": ["algorithm=grpo"], "y": ["algorithm=gigpo", "algorithm.gamma=0.9"]},
        "learning_rates": [1e-3, 3e-4],
        "seeds": [7, 8],
    }
    return Study(**(values | changed))  # type: ignore[arg-type]


def test_runs_are_all_combinations_seed_after_seed() -> None:
    jobs = run_jobs(small(), "runs/small")
    assert len(jobs) == len({job.run_dir for job in jobs}) == 16
    assert [job.seed for job in jobs] == [7] * 8 + [8] * 8
    assert jobs[2] == Job(
        "a", "y", 1e-3, 7, "runs/small/a/y/lr0.001/seed7",
        ("num_updates=5", "env=key_maze", "algorithm=gigpo", "algorithm.gamma=0.9", "optim.lr=0.001", "seed=7",
         "run_dir=runs/small/a/y/lr0.001/seed7"),
    )  # fmt: skip
    assert jobs[2].name == "a y lr 0.001 seed 7"


def test_one_start_for_all_runs_of_an_environment_and_a_seed() -> None:
    one = small(start=Start(["warm_start.episodes=64"], ["model=hf"]))
    starts, jobs = start_jobs(one, "runs/small"), run_jobs(one, "runs/small")
    assert [job.run_dir for job in starts] == [f"runs/small-starts/{env}/seed{seed}" for seed in (7, 8) for env in "ab"]
    assert {"warm_start.episodes=64", "num_updates=0"} <= set(starts[0].overrides)
    for job in jobs:
        path = f"model.path=runs/small-starts/{job.environment}/seed{job.seed}/checkpoints/update_000000"
        assert {"model=hf", path, "warm_start.episodes=0"} <= set(job.overrides)
    assert start_jobs(small(), "runs/small") == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": []}, r"study\.seeds is empty"),
        ({"seeds": [1, 1]}, r"study\.seeds=\[1, 1\] names one of them twice"),
        ({"learning_rates": [0.0]}, r"study\.learning_rates must be above 0"),
        ({"variants": {"a/b": []}}, r"'a/b' becomes the name of a folder"),
    ],
)
def test_what_cannot_be_a_study(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changed)


def test_settings_that_the_study_decides_are_refused() -> None:
    config = OmegaConf.create({"study": OmegaConf.structured(small(common=["seed=3"]))})
    assert isinstance(config, DictConfig)
    with pytest.raises(ValueError, match=r"study: seed=3 in common: .*decided for each run by the study"):
        parse_study(config)


def test_a_typing_error_shows_before_anything_runs() -> None:
    wrong = small(variants={"x": ["algorithm=grpo"], "y": ["algorithm=grpo", "algorithm.kl_coeff=0.1"]})
    with pytest.raises(ValueError, match=r"study small, a with y: .*kl_coeff.*Did you mean"):
        study.check(wrong, "runs/small")


@pytest.mark.parametrize(("name", "sizes"), [("variants", (8, 5, 5, 3)), ("smollm2", (4, 1, 3, 1))])
def test_the_built_in_studies_compose(name: str, sizes: tuple[int, ...]) -> None:
    found = parse_study(compose_config("sweep", [f"study={name}"]))
    assert (len(found.variants), len(found.environments), len(found.seeds), len(found.learning_rates)) == sizes
    jobs = run_jobs(found, f"runs/{name}")
    assert len(jobs) == math.prod(sizes)
    for job in jobs[:: max(1, len(jobs) // 6)]:
        parsed = parse(compose_config("train", list(job.overrides)))
        build_algorithm(parsed)
        assert (parsed.seed, parsed.optim.lr, parsed.warm_start.episodes) == (job.seed, job.learning_rate, 0)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study of two runs of a second each."""
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


BASIC = ["sweep", "study=tiny", "launcher=basic", "jobs=1"]


def test_a_sweep_runs_what_is_not_done_and_leaves_the_rest_alone(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BASIC, "dry_run=true"]) == 0
    assert capsys.readouterr().out.count("to do") == 3  # a start and two runs
    assert main(BASIC) == 0
    out = capsys.readouterr().out
    assert "2 of 2 runs are done" in out
    assert "[2/2] key_maze gigpo lr 0.001 seed 0: success" in out
    runs = [tiny / f"runs/tiny/key_maze/{name}/lr0.001/seed0" for name in ("grpo", "gigpo")]
    firsts = [json.loads((run / "evaluations.jsonl").read_text().splitlines()[0]) for run in runs]
    assert firsts[0]["outcomes"] == firsts[1]["outcomes"]  # one start
    before = [(run / "summary.json").stat().st_mtime_ns for run in runs]
    (runs[1] / "summary.json").unlink()  # as if it had been killed at the end
    assert main(BASIC) == 0
    assert "1 of 2 runs to do" in capsys.readouterr().out
    assert (runs[0] / "summary.json").stat().st_mtime_ns == before[0]
    assert json.loads((runs[1] / "summary.json").read_text())["updates"] == 2


def test_a_run_that_fails_does_not_stop_the_others(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny / "runs/tiny/key_maze/grpo/lr0.001/seed0"
    run.mkdir(parents=True)
    (run / "notes.txt").write_text("mine")
    assert main(BASIC) == 1
    out = capsys.readouterr().out
    assert "failed: key_maze grpo lr 0.001 seed 0: ValueError" in out
    assert "1 of 2 runs are done" in out
    (record,) = [json.loads(line) for line in (tiny / "runs/tiny/failures.jsonl").read_text().splitlines()]
    assert "Traceback" in record["traceback"]


def test_a_run_with_other_settings_is_not_overwritten(tiny: Path) -> None:
    assert main(BASIC) == 0
    job = run_jobs(parse_study(compose_config("sweep", ["study=tiny"])), "runs/tiny")[0]
    assert composed(job).resume
    changed = replace(job, overrides=(*job.overrides, "optim.epochs=1"))
    with pytest.raises(ValueError, match=r"other settings than the study now has: optim\.epochs: 2 -> 1"):
        composed(changed)


def test_an_environment_has_learning_rates_of_its_own() -> None:
    found = parse_study(compose_config("sweep", ["study=variants"]))
    rates = {(job.environment, job.learning_rate) for job in run_jobs(found, "runs/variants")}
    assert {rate for env, rate in rates if env == "key_maze"} == {1e-4, 3e-4, 1e-3}
    assert {rate for env, rate in rates if env == "sokoban"} == {3e-4, 1e-3, 3e-3}
    lines = "study.learning_rates_of"
    for wrong, message in (
        ("{maze: [1.0e-3]}", r"learning_rates_of names maze; study\.environments are key_maze, "),
        ("{key_maze: []}", r"learning_rates_of\.key_maze must be one or several different rates, got \[\]"),
        ("{key_maze: [0.0]}", r"learning_rates_of\.key_maze must be above 0, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_study(compose_config("sweep", ["study=variants", f"~{lines}", f"+{lines}={wrong}"]))


def test_remains_without_a_configuration_are_cleared_and_other_files_are_not(tmp_path: Path) -> None:
    job = Job("a", "b", 1.0, 0, str(tmp_path / "run"), ())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "versions.json").write_text("{}")
    study.clear_remains(job)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    study.clear_remains(job)
    assert (tmp_path / "run" / "notes.txt").exists()


def test_a_second_sweep_of_the_same_folder_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    (tiny / "runs/tiny").mkdir(parents=True)
    with FileLock("runs/tiny/.sweep.lock"):
        assert main(BASIC) == 2
    assert "Another sweep is at work in runs/tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep"], "study"),
        (["sweep", "study=tinny"], "there is no such study. Did you mean 'tiny'"),
        (["sweep", "study=tiny", "jobs=0"], "jobs must be at least 1"),
        (["sweep", "study=tiny", "job_count=3"], "'job_count' is not a setting"),
    ],
)
def test_bad_input(tiny: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err
