"""What `explain` says of a run before it starts, and what has no effect or contradicts itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentgrpo import explain
from agentgrpo.cli import main
from agentgrpo.composing import compose_config
from agentgrpo.config import TrainConfig, build_algorithm, parse
from agentgrpo.effects import contradictions, ignored


def config(*overrides: str) -> TrainConfig:
    return parse(compose_config("train", list(overrides)))


def keys(*overrides: str) -> dict[str, str]:
    c = config(*overrides)
    algorithm = build_algorithm(c)[0].settled(exact_sampler=c.exact_sampler)
    return {key: entry.reason for entry in ignored(c, algorithm) for key in entry.keys}


def test_settings_without_effect_in_the_default_run() -> None:
    found = keys()
    assert found["curriculum.low"] == "curriculum.kind=static"
    assert found["context.window_turns"] == "context.kind=transcript"
    assert found["rollout.max_staleness"] == "rollout.mode=sync"
    assert found["algorithm.kl_estimator"] == "algorithm.kl_coef=0"
    assert found["algorithm.correction_high"] == "algorithm.correction=none"
    assert found["env.workers"] == "env.execution=inline"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["curriculum.kind=success_band"], "curriculum.low"),
        (["context.kind=window"], "context.window_turns"),
        (["rollout.mode=async"], "rollout.max_staleness"),
        (["rollout.mode=async"], "algorithm.correction_high"),
        (["algorithm.kl_coef=0.1"], "algorithm.kl_estimator"),
        (["algorithm.kl_coef=0.1", "algorithm.reference_every=2"], "algorithm.reference_mix"),
        (["algorithm.group_filter=zero_variance"], "algorithm.resample_rounds"),
        (["algorithm.group_filter=spread_top_k"], "algorithm.filter_share"),
        (["env.execution=thread"], "env.workers"),
        (["env=[key_maze,hanoi]"], "env.weight"),
    ],
)
def test_a_setting_that_has_an_effect_is_not_named(overrides: list[str], key: str) -> None:
    assert key in keys()
    assert key not in keys(*overrides)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["warm_start.episodes=0"], "warm_start.lr"),
        (["log.trajectories=0"], "log.every"),
        (["algorithm=rloo", "algorithm.ratio_level=none"], "algorithm.clip_ratio_low"),
        (["algorithm.old_logprobs=recompute", "optim.epochs=1"], "algorithm.clip_ratio_high"),
        (["sampler=vllm"], "sampler.gpu_memory_share"),
        (["model=smollm2"], "model.lora.alpha"),
        (["env=[key_maze,hanoi]"], "envs.hanoi.workers"),
    ],
)
def test_a_setting_that_another_one_takes_the_effect_from(overrides: list[str], key: str) -> None:
    assert key not in keys()
    assert key in keys(*overrides)


def test_nothing_that_is_named_is_unknown() -> None:
    from omegaconf import OmegaConf

    from agentgrpo.composing import leaves

    for overrides in ([], ["env=[key_maze,hanoi]"], ["model=smollm2", "algorithm=ppo", "sampler=vllm"]):
        known = {key for key, _ in leaves(OmegaConf.to_container(compose_config("train", overrides)))}
        assert {k for k in keys(*overrides) if k not in known} == set()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.minibatches=65"], r"optim\.minibatches=65 is more than the 64 episodes"),
        (["optim.lr_warmup=120"], r"optim\.lr_warmup=120 with 120 optimiser steps in all"),
        (["rollout.mode=async", "rollout.max_staleness=60"], r"rollout\.max_staleness=60 with num_updates=60"),
    ],
)
def test_contradictions(overrides: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (found,) = contradictions(config(*overrides))
    assert re.match(message, found)
    assert contradictions(config()) == []
    assert main(["explain", *overrides, f"run_dir={tmp_path}/run"]) == 1
    assert f"contradiction: {found}" in capsys.readouterr().out


@pytest.mark.parametrize(("updates", "every", "count"), [(60, 10, 7), (65, 10, 8), (5, 10, 2), (0, 10, 1)])
def test_evaluations_are_counted(updates: int, every: int, count: int) -> None:
    assert explain.num_evaluations(config(f"num_updates={updates}", f"eval.every={every}")) == count


def test_the_whole_run_is_as_long_as_its_parts() -> None:
    trial = explain.Trial(
        warm_start=10.0, update=2.0, evaluation=3.0, trained_tokens=1, micro_batch_tokens=1, sampled_tokens=1
    )
    assert trial.seconds(config("num_updates=20", "eval.every=10")) == 10 + 20 * 2 + 3 * 3


TINY = ["warm_start.episodes=64", "groups_per_update=2", "group_size=2", "num_updates=6", "eval.num_tasks=32"]


def test_it_says_what_a_run_would_do_and_leaves_nothing_behind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert main(["explain", *TINY, "curriculum.low=0.3", f"run_dir={run}"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "2 groups of 2: 4 episodes, 2 optimiser steps" in out
    assert "6 updates, 24 episodes, 2 evaluations of 32 tasks" in out
    assert re.search(r"tokens [\d,]+ per update", out)
    assert re.search(r"time about [\d.]+ (s|min)", out)
    assert "curriculum.low (curriculum.kind=static) <- you set it" in out
    assert not run.exists()


def test_without_a_trial_memory_is_the_most_that_it_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "probe=false"]) == 0
    out = capsys.readouterr().out
    assert "expected" not in out
    assert re.search(r"prefix cache\W+sampling\W+2\.00", out)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["memory_gb=1", "probe=false"], "memory_gb=1 is less than"),
        (["optim.lr=-1"], "optim.lr must be above 0"),
        (["env.id=nowhere:Maze-v0"], "nowhere"),
        (["algorithm=guided", "group_size=1"], "group_size"),
        ([*TINY, "optim.micro_batch_tokens=16"], "optim.micro_batch_tokens=16 is smaller than one episode"),
    ],
)
def test_what_train_would_refuse(overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *overrides]) == 2
    assert message in capsys.readouterr().err
