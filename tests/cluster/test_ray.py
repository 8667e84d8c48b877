"""Runs on a Ray of this machine: the same groups whoever plays them, and what happens when processes are killed."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster_helpers
import pytest
from cluster_helpers import TINY, command, environment, run

pytestmark = pytest.mark.cluster
RAY = ["cluster=ray", "run_dir=run", *TINY]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def trained(run: Path) -> tuple[int, int]:
    """Updates that were logged, and episodes that were trained on."""
    return len(lines(run / "metrics.jsonl")), json.loads((run / "summary.json").read_text())["episodes"]


def actors(kind: str) -> list[int]:
    """Process ids of Ray's actors of a class, oldest first."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if (process / "cmdline").read_bytes().startswith(f"ray::{kind}".encode()):
                found.append(int(process.name))
    return sorted(found)


def until(true: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return value


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command in the background, and ends it with all that belongs to it."""
    started = []

    def go(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command("agentgrpo", *arguments), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finished(process: subprocess.Popen[str], seconds: float = 200) -> tuple[int, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out + err


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    done = run(command("agentgrpo", "train", "run_dir=run", *TINY), folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize(
    "options",
    [
        ["cluster.samplers=1"],
        ["cluster.samplers=3", "cluster.learners=2"],
        ["cluster.samplers=2", "cluster.learners=2", "cluster.sharding=fsdp"],
    ],
    ids=["1+1", "3+2", "2+2 fsdp"],
)
def test_the_same_seed_gives_the_same_groups_however_many_play_them(
    options: list[str], alone: Path, tmp_path: Path
) -> None:
    done = run(command("agentgrpo", "train", *RAY, *options), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "finished: 3 updates" in done.stdout
    here = tmp_path / "run"
    assert trained(here) == trained(alone)
    for a, b in zip(lines(alone / "metrics.jsonl"), lines(here / "metrics.jsonl"), strict=True):
        for key in ("rollout/success", "rollout/return_mean", "rollout/turns_mean"):
            assert a[key] == b[key], key
        assert b["loss/grad_norm"] == pytest.approx(a["loss/grad_norm"], rel=1e-3)
        assert b["sampler/logprob_gap_max"] < 1e-4  # samplers have the learner's weights
    outcomes = [[e["outcomes"] for e in lines(p / "evaluations.jsonl")] for p in (alone, here)]
    assert outcomes[0] == outcomes[1]
    files = [sorted(p.name for p in (r / "trajectories").iterdir()) for r in (alone, here)]
    assert files[0] == files[1]


def test_ahead_of_the_learner_every_token_says_which_weights_drew_it(tmp_path: Path) -> None:
    options = ["rollout.mode=async", "rollout.max_staleness=2", "num_updates=6", "eval.every=6", "log.every=1"]
    done = run(command("agentgrpo", "train", *RAY, *options), tmp_path)
    assert done.returncode == 0, done.stderr
    assert trained(tmp_path / "run") == (6, 6 * 4 * 4)
    staleness = [r["rollout/staleness_max"] for r in lines(tmp_path / "run" / "metrics.jsonl")]
    assert max(staleness) <= 2
    assert max(staleness) > 0
    drawn = [  # update, and the weights of each turn
        (record["update"] - 1, step["policy_version"])
        for path in sorted((tmp_path / "run" / "trajectories").iterdir())
        for record in map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
        for step in record["steps"]
    ]
    assert {update for update, _ in drawn} == set(range(6))
    assert all(0 <= update - version <= 2 for update, version in drawn)
    assert len({update - version for update, version in drawn}) > 1


def test_a_sampler_that_is_killed_is_replaced_and_nothing_is_lost_or_doubled(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], alone: Path
) -> None:
    process = start("train", *RAY, "num_updates=3")
    until(lambda: (tmp_path / "run" / "checkpoints" / "update_000000").is_dir())
    killed = actors("SamplerActor")[0]
    os.kill(killed, signal.SIGKILL)
    status, said = finished(process)
    assert status == 0, said
    assert "died: replaced" in said
    assert trained(tmp_path / "run") == trained(alone)
    for a, b in zip(lines(alone / "metrics.jsonl"), lines(tmp_path / "run" / "metrics.jsonl"), strict=True):
        assert a["rollout/return_mean"] == b["rollout/return_mean"]


def test_a_sampler_that_hangs_is_found_by_its_deadline(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("train", *RAY, "num_updates=30", "cluster.deadline=5", "cluster.samplers=2")
    until(lambda: len(lines(tmp_path / "run" / "metrics.jsonl")) >= 1)
    os.kill(actors("SamplerActor")[0], signal.SIGSTOP)
    status, said = finished(process)
    assert status == 0, said
    assert "took more than 5 s for a group (cluster.deadline): replaced" in said
    assert trained(tmp_path / "run") == (30, 30 * 4 * 4)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_learner_rank_that_is_killed_stops_the_run_which_can_go_on(
    rank: int, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("train", *RAY, "num_updates=40", "cluster.learners=2", "cluster.samplers=1")
    until(lambda: (tmp_path / "run" / "checkpoints" / "update_000002").is_dir())
    os.kill(actors("LearnerActor")[rank], signal.SIGKILL)
    status, said = finished(process)
    assert status == 1
    assert "error: A learner rank is gone" in said
    assert "python -m agentgrpo train run_dir=run resume=true" in said
    assert "Traceback" not in said
    done = run(
        command("agentgrpo", "train", "run_dir=run", "resume=true", "num_updates=5", "cluster.samplers=2"), tmp_path
    )
    assert done.returncode == 0, done.stderr
    updates = [r["update"] for r in lines(tmp_path / "run" / "metrics.jsonl")]
    assert updates == list(range(1, len(updates) + 1))
    assert trained(tmp_path / "run")[1] == len(updates) * 16


def test_ctrl_c_finishes_the_update_and_writes_a_checkpoint(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("train", *RAY, "num_updates=1000", "checkpoint.every=1000")
    until(lambda: len(lines(tmp_path / "run" / "metrics.jsonl")) >= 2)
    process.send_signal(signal.SIGINT)
    status, said = finished(process)
    assert status == 130, said
    assert "Ctrl-C: finishing this update" in said
    (last,) = (p for p in (tmp_path / "run" / "checkpoints").glob("update_*") if p.name != "update_000000")
    assert len(lines(tmp_path / "run" / "metrics.jsonl")) == int(last.name.removeprefix("update_"))
    assert not actors("SamplerActor")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["cluster.gpus_per_sampler=0.5", "cluster.samplers=64"], r"ask for 32 GPUs"),
        (["cluster.address=127.0.0.1:1"], r"cluster.address=127.0.0.1:1: no Ray cluster can be reached there"),
        (["cluster.address=auto"], r"cluster.address=auto: no Ray cluster can be reached there"),
        (["group_size=1"], r"group_size=1 gives no signal"),
    ],
    ids=["more GPUs than there are", "unreachable head", "no head here", "a setting"],
)
def test_what_cannot_start_says_why(options: list[str], message: str, tmp_path: Path) -> None:
    done = run(command("agentgrpo", "train", *RAY, *options), tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


PROGRAM = """
import sys
from agentgrpo import composing, startup
from agentgrpo.cluster import driver, versions
startup.prepare()
here = versions.here()
versions.here = lambda: {**here, "torch": "1.0.0"}
config = composing.compose_config("train", sys.argv[1:])
from agentgrpo.config import parse
try:
    driver.run_on_ray(config, parse(config).cluster_settings)
except ValueError as error:
    print(error)
"""


def test_another_version_in_a_process_is_refused_with_both(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run(command("program", *RAY), tmp_path)
    assert re.search(r"cannot start: \S+ has torch \S+ instead of 1\.0\.0", done.stdout), done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    with cluster_helpers.head(tmp_path) as address:
        yield address


def test_two_runs_of_one_name_and_a_head_that_goes(
    head: str, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    where = f"cluster.address={head}"
    first = start("train", *RAY, where, "num_updates=1000", "cluster.samplers=1")
    until(lambda: (tmp_path / "run" / "checkpoints" / "update_000001").is_dir())
    second = run(command("agentgrpo", "train", "resume=true", "run_dir=run", where), tmp_path)
    assert second.returncode == 2
    assert "A run with run_dir=run is at work on this cluster" in second.stderr
    assert first.poll() is None
    cluster_helpers.stop(tmp_path)
    status, said = finished(first)
    assert status == 1, said
    assert "run_dir=run resume=true" in said
    done = run(
        command("agentgrpo", "train", "run_dir=run", "resume=true", "cluster.address=null",
                f"num_updates={len(lines(tmp_path / 'run' / 'metrics.jsonl')) + 1}"), tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    updates = [r["update"] for r in lines(tmp_path / "run" / "metrics.jsonl")]
    assert updates == list(range(1, len(updates) + 1))
