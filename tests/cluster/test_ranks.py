"""Several learner ranks are one learner: same gradients, same runs, checkpoints that any number goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cluster_helpers import ROOT, TINY, command, run, torchrun
from safetensors.torch import load_file

pytestmark = pytest.mark.cluster


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("recompute", ["keep", "recompute"])
@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
@pytest.mark.parametrize("size", [2, 3])
def test_gradients_are_those_of_one_rank(sharding: str, recompute: str, size: int, tmp_path: Path) -> None:
    program = str(ROOT / "tests" / "cluster" / "rank_program.py")
    done = run(torchrun(size, program, str(tmp_path), sharding, recompute), tmp_path)
    assert done.returncode == 0, done.stderr
    everybody = json.loads((tmp_path / "found.json").read_text())
    assert len(everybody) == size
    for found in everybody:
        assert len(found) == 3
        for name, case in found.items():
            assert case["difference"] < 1e-6, name
            for metric, (alone, together) in case["metrics"].items():
                assert together == pytest.approx(alone, rel=1e-4, abs=1e-6), f"{name}: {metric}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    done = run(command("agentgrpo", "train", "run_dir=run", *TINY), folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def same_run(one: Path, other: Path) -> None:
    """The same episodes, and weights that differ by rounding alone."""
    first, second = (lines(p / "metrics.jsonl") for p in (one, other))
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for key in ("update", "rollout/success", "rollout/return_mean", "rollout/turns_mean"):
            assert a[key] == b[key], key
        assert b["loss/grad_norm"] == pytest.approx(a["loss/grad_norm"], rel=1e-3)
    outcomes = [[e["outcomes"] for e in lines(p / "evaluations.jsonl")] for p in (one, other)]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "options",
    [
        ["cluster=torchrun"],
        ["cluster=torchrun", "cluster.sharding=fsdp"],
    ],
    ids=["replicated", "fsdp"],
)
def test_a_run_of_two_ranks_is_the_run_of_one_and_either_goes_on_from_it(
    options: list[str], alone: Path, tmp_path: Path
) -> None:
    done = run(torchrun(2, "-m", "agentgrpo", "train", "run_dir=run", *TINY, *options), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished: 3 updates") == 1  # one rank speaks
    same_run(alone, tmp_path / "run")
    # One rank goes on from the checkpoint of two, and three from that of one.
    more = ["train", "run_dir=run", "resume=true"]
    done = run(command("agentgrpo", *more, "num_updates=4", "cluster=local"), tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(torchrun(3, "-m", "agentgrpo", *more, "num_updates=5", *options), tmp_path)
    assert done.returncode == 0, done.stderr
    assert [r["update"] for r in lines(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    whole = run(command("agentgrpo", "train", "run_dir=whole", *TINY, "num_updates=5", "eval.every=5"), tmp_path)
    assert whole.returncode == 0, whole.stderr
    for a, b in zip(*(lines(tmp_path / r / "metrics.jsonl") for r in ("whole", "run")), strict=True):
        assert a["rollout/success"] == b["rollout/success"]
        assert b["loss/grad_norm"] == pytest.approx(a["loss/grad_norm"], rel=1e-3)


def test_a_critic_learns_the_same_with_two_ranks(tmp_path: Path) -> None:
    critic = ["algorithm=ppo", "num_updates=2"]
    one = run(command("agentgrpo", "train", "run_dir=one", *TINY, *critic), tmp_path)
    assert one.returncode == 0, one.stderr
    two = run(torchrun(2, "-m", "agentgrpo", "train", "run_dir=two", *TINY, *critic, "cluster=torchrun"), tmp_path)
    assert two.returncode == 0, two.stderr
    same_run(tmp_path / "one", tmp_path / "two")
    pairs = zip(*(lines(tmp_path / r / "metrics.jsonl") for r in ("one", "two")), strict=True)
    values = [(a[key], b[key]) for a, b in pairs for key in a if key.startswith("critic/")]
    assert values
    for alone, together in values:
        assert together == pytest.approx(alone, rel=1e-3, abs=1e-5)


def test_two_ranks_ahead_of_themselves(tmp_path: Path) -> None:
    options = ["cluster=torchrun", "rollout.mode=async", "rollout.max_staleness=2", "num_updates=6", "eval.every=6"]
    done = run(torchrun(2, "-m", "agentgrpo", "train", "run_dir=run", *TINY, *options), tmp_path)
    assert done.returncode == 0, done.stderr
    records = lines(tmp_path / "run" / "metrics.jsonl")
    assert [r["update"] for r in records] == [1, 2, 3, 4, 5, 6]
    assert max(r["rollout/staleness_max"] for r in records) in (1, 2)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["episodes"] == 6 * 4 * 4


def test_a_sharded_run_with_a_reference_in_half_precision(tmp_path: Path) -> None:
    options = [
        "cluster=torchrun", "cluster.sharding=fsdp", "algorithm=grpo", "algorithm.kl_coef=0.1",
        "algorithm.reference_every=2", "model.precision=bf16", "rollout.mode=async", "checkpoint.keep=1",
    ]  # fmt: skip
    done = run(torchrun(2, "-m", "agentgrpo", "train", "run_dir=run", *TINY, *options), tmp_path)
    assert done.returncode == 0, done.stderr
    records = lines(tmp_path / "run" / "metrics.jsonl")
    assert [r["update"] for r in records] == [1, 2, 3]
    # Of both passes over the first update, one of them before any step; half precision rounds on both sides.
    assert 0 <= records[0]["loss/ref_kl"] < 0.02
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("update_*")
    weights = load_file(next(checkpoint.glob("model*.safetensors")))
    moved = load_file(next((checkpoint / "reference").glob("model*.safetensors")))
    assert weights.keys() == moved.keys()
    assert not list(checkpoint.rglob("sharded"))
    done = run(
        torchrun(2, "-m", "agentgrpo", "train", "run_dir=run", "resume=true", "num_updates=4", *options[:2]), tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_sharded_is_refused_by_every_rank_at_once(tmp_path: Path) -> None:
    options = ["algorithm=ppo", "cluster=torchrun", "cluster.sharding=fsdp"]
    done = run(torchrun(2, "-m", "agentgrpo", "train", "run_dir=run", *TINY, *options), tmp_path)
    assert done.returncode != 0
    assert "error: cluster.sharding=fsdp does not go with an algorithm that has a critic" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_rank_that_fails_is_named_at_the_others(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "import os\nimport gymnasium\nfrom agentgrpo.envs.key_maze import KeyMazeEnv\n"
        "class Odd(KeyMazeEnv):\n"
        "    def reset(self, **kwargs):\n"
        "        text, info = super().reset(**kwargs)\n"
        "        return (text + os.urandom(4).hex() if os.environ['RANK'] == '1' else text), info\n"
        "gymnasium.register('Odd-v0', entry_point=Odd)\n"
    )
    options = ["env.id=odd:Odd-v0", "warm_start.episodes=0", "eval.num_tasks=8", "num_updates=1"]
    done = run(torchrun(2, "-m", "agentgrpo", "train", "run_dir=run", "cluster=torchrun", *options), tmp_path)
    assert done.returncode != 0
    assert "error: Rank 1 of 2 failed: ValueError: Environment 'odd:Odd-v0' does not keep the contract" in done.stderr
    assert "error: Environment 'odd:Odd-v0' does not keep the contract" in done.stderr  # at the rank itself


def test_a_run_that_loses_a_rank_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text(
        "import os, signal\nimport gymnasium\nfrom agentgrpo.envs.key_maze import KeyMazeEnv\n"
        "class Gone(KeyMazeEnv):\n"
        "    def step(self, action):\n"
        "        if os.environ['RANK'] == '1' and os.path.exists('run/checkpoints/update_000001'):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().step(action)\n"
        "gymnasium.register('Gone-v0', entry_point=Gone)\n"
    )
    options = ["env.id=gone:Gone-v0", "warm_start.episodes=0", "eval.num_tasks=8", "checkpoint.every=1"]
    done = run(torchrun(2, "-m", "agentgrpo", "train", "run_dir=run", "cluster=torchrun", *options), tmp_path)
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr  # torchrun ends the other rank, maybe before it can say anything
    done = run(
        command("agentgrpo", "train", "run_dir=run", "resume=true", "num_updates=2", "cluster=local"),
        tmp_path, RANK="0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [r["update"] for r in lines(tmp_path / "run" / "metrics.jsonl")] == [1, 2]
