"""scripts/bench.py: what its figures are made of."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers import tiny_llama

from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.packing import pack
from agentgrpo.samplers.transformers import TransformersSampler

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in [n for n in sys.modules if n in ("bench", "scaling") or n.startswith("benchmarks")]:
        del sys.modules[name]


def test_token_counts_of_the_workloads(script) -> None:  # type: ignore[no-untyped-def]
    works = script("benchmarks.workloads").WORKLOADS
    # W1: 4 prompts of 256, 8 answers of 32 each: 4 * (256 + 8 * 32); padded 32 rows of 288.
    assert (works["W1"].unique_tokens, works["W1"].padded_tokens) == (2048, 9216)
    # W2: 4 first prompts of 96; per episode 6 answers of 8 and 5 further observations of 96.
    assert works["W2"].unique_tokens == 4 * 96 + 32 * (6 * 8 + 5 * 96)
    assert works["W2"].padded_tokens == 32 * 6 * 104


@pytest.mark.parametrize("turns", [1, 3])
def test_our_side_computes_each_unique_token_once(script, turns: int) -> None:  # type: ignore[no-untyped-def]
    workloads, ours = script("benchmarks.workloads"), script("benchmarks.ours")
    work = workloads.Workload("tiny", prompts=2, samples=3, prompt_tokens=5, new_tokens=4, turns=turns)
    prompts = [[2, 3, 4, 5, 6], [7, 8, 9, 10, 11]]
    sampler = TransformersSampler(tiny_llama(), [], cache_gb=0.1)
    groups = ours.play(sampler, work, prompts, seed=0)
    items = ours.items_of(groups, GRPO())
    assert sum(len(s.action_index) for s in items) == 2 * 3 * 4 * turns
    assert all(len(s.token_ids) == turns * 9 for s in items)
    nodes = sum(len(b.layout.token_ids) for b in pack(items, 10_000))
    assert nodes <= work.unique_tokens  # answers that begin alike share more
    assert nodes > 0.8 * work.unique_tokens
    assert any(abs(a) > 0 for s in items for a in s.advantages)


def test_a_ratio_is_between_medians_with_its_extremes(script) -> None:  # type: ignore[no-untyped-def]
    middle, text = script("bench").ratio([10.0, 12.0, 20.0], [1.0, 2.0, 4.0])
    assert middle == 6.0
    assert text == "6.0x [2.5, 20.0]"


def test_exponents_of_growth(script) -> None:  # type: ignore[no-untyped-def]
    scaling = script("scaling")
    points = [scaling.Point(1, 1.0, 1.0, 0.1), scaling.Point(10, 10.0, 100.0, 0.1)]
    assert [round(scaling.exponent(points, f), 6) for f in ("rollout", "training", "grown_gb")] == [1.0, 2.0, 0.0]


def test_seconds_of_an_update_leave_out_the_first(script, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    runs = script("benchmarks.runs")
    logged = [{"time/rollout": 9.0, "time/update": 9.0}, {"time/rollout": 1.0, "time/update": 2.0},
              {"time/rollout": 3.0, "time/update": 4.0}]  # fmt: skip
    monkeypatch.setattr(runs, "train", lambda overrides: (logged, []))
    assert runs.seconds([]) == (3.0 + 7.0) / 2
