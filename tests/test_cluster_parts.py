"""What a cluster is made of, without starting any process: shares of work, settings, weights in transit, versions."""

from __future__ import annotations

import copy
import os
from itertools import product
from typing import Any, cast

import numpy as np
import pytest
import ray
import torch
from helpers import tiny_llama
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from agentgrpo import composing, packing
from agentgrpo.cluster import ranks, versions
from agentgrpo.cluster.actors import Origin, SamplerActor
from agentgrpo.cluster.errors import ClusterError, cannot_start
from agentgrpo.cluster.ranks import Ranks
from agentgrpo.cluster.settings import ClusterSettings, check, cluster_settings
from agentgrpo.composing import compose_config
from agentgrpo.config import parse
from agentgrpo.episode import Task
from agentgrpo.precision import HalfTwin
from agentgrpo.rollout import Order
from agentgrpo.types import Sequence
from agentgrpo.weights import Bits, checksum, learn, learned


def sequence(*ids: int) -> Sequence:
    return Sequence(ids, (len(ids) - 1,), (0.0,), (0.0,), (1.0,))


def nodes(items: list[Sequence], part: list[int]) -> int:
    """Distinct tokens that a part computes."""
    return len(packing.tree(sorted(items[i].token_ids for i in part)).token_ids) if part else 0


def test_shares_worked_by_hand() -> None:
    items = [sequence(1, 2, 3, 4), sequence(1, 9, 9), sequence(1, 2, 3, 5), sequence(1, 2, 7)]
    # Sorted: 1234 (4 tokens), 1235 (+1), 127 (+1), 199 (+2), eight in all. Cut behind the second: 5 and 3 + 2.
    assert packing.deal(items, 2) == [[0, 2], [3, 1]]
    assert packing.deal(items, 1) == [[0, 2, 3, 1]]
    assert packing.deal(items, 6) == [[0], [2], [3], [1], [], []]
    assert packing.deal([], 2) == [[], []]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), min_size=1, max_size=7), st.integers(1, 4)
)
def test_no_other_cut_has_a_smaller_largest_share(ids: list[tuple[int, ...]], parts: int) -> None:
    items = [sequence(*i) for i in ids]
    found = packing.deal(items, parts)
    assert sorted(i for part in found for i in part) == list(range(len(items)))
    order = sorted(range(len(items)), key=lambda i: items[i].token_ids)
    cuts = product(range(len(items) + 1), repeat=parts - 1)
    best = min(
        max(nodes(items, order[a:b]) for a, b in zip([0, *sorted(cut)], [*sorted(cut), len(items)], strict=True))
        for cut in cuts
    )
    assert max(nodes(items, part) for part in found) == best


def test_a_rank_alone_needs_nobody() -> None:
    alone = Ranks()
    assert alone.first
    assert alone.gather(lambda: 3) == [3]
    assert alone.from_first(lambda: 4) == 4
    assert not alone.any(False)
    alone.check_equal("weights", lambda: pytest.fail("nobody to compare with"))


def test_torchrun_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match=r"torchrun --nproc-per-node=2 -m agentgrpo train cluster=torchrun"):
        ranks.from_environment("auto", 10)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster=ray", "cluster.samplers=0"], r"cluster\.samplers must be at least 1, got 0"),
        (["cluster=ray", "cluster.deadline=0"], r"cluster\.deadline must be above 0"),
        (["cluster=ray", "cluster.gpus_per_sampler=-1"], r"cluster\.gpus_per_sampler must be at least 0"),
        (["cluster=torchrun", "cluster.sharding=zero"], r"cluster\.sharding must be one of replicated, fsdp"),
        (["cluster=torchrun", "cluster.backend=mpi"], r"cluster\.backend must be one of auto, gloo, nccl"),
        (["cluster=torchrun", "+cluster.samplers=2"], r"cluster\.samplers"),
        (["cluster=slurm"], r"cluster=slurm: there is no such cluster\. There are: local, ray, torchrun"),
    ],
)
def test_bad_settings(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(composing.compose_config("train", overrides))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"has_critic": True}, r"does not go with an algorithm that has a critic"),
        ({"has_adapters": True}, r"with model\.lora\.rank: adapters"),
        ({"sampler": "vllm"}, r"goes with sampler=transformers, got sampler=vllm.* Set cluster=ray"),
    ],
)
def test_what_cannot_be_sharded(values: dict[str, Any], message: str) -> None:
    def settings(*overrides: str) -> ClusterSettings:
        return parse(composing.compose_config("train", ["cluster=torchrun", *overrides])).cluster_settings

    asked = {"has_critic": False, "has_adapters": False, "sampler": "transformers", **values}
    check(settings(), **asked)
    with pytest.raises(ValueError, match=message):
        check(settings("cluster.sharding=fsdp"), **asked)


def test_what_a_kind_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"cluster\.kind=torchrun needs cluster\.sharding, cluster\.backend"):
        cluster_settings({"kind": "torchrun"})


def test_other_versions_are_refused_with_both() -> None:
    versions.check(versions.here(), "node7")
    with pytest.raises(ValueError, match=r"node7 has torch \S+ instead of 1\.0\.0, which"):
        versions.check({**versions.here(), "torch": "1.0.0"}, "node7")


@pytest.mark.parametrize("half", [False, True])
def test_weights_travel_bit_for_bit(half: bool) -> None:
    one, other = (tiny_llama(seed=seed) for seed in (0, 1))
    source, target = (HalfTwin(m).module if half else m for m in (one, other))
    found = learned(source)
    for bits in found.values():
        bits.integers.setflags(write=False)  # as they come out of an object store
    learn(target, found)
    for (name, a), (_, b) in zip(source.named_parameters(), target.named_parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.data_ptr() != b.data_ptr()


def test_weights_are_rounded_where_they_arrive_at_a_less_precise_model_and_kept_at_a_more_precise_one() -> None:
    full, half = tiny_llama(seed=0), HalfTwin(tiny_llama(seed=1)).module
    learn(half, learned(full))
    for a, b in zip(full.parameters(), half.parameters(), strict=True):
        assert torch.equal(a.bfloat16(), b)
    other = tiny_llama(seed=2)
    learn(other, learned(half))
    for a, b in zip(half.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.float(), b)


def test_a_sampler_takes_orders_before_weights_and_no_older_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    config = compose_config("train", ["cluster=ray", "env=number_guess", "model.hidden_size=32"])
    plain = OmegaConf.to_container(config, resolve=True)
    actor = SamplerActor(Origin(os.getcwd(), versions.here(), cast(dict[str, object], plain)))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""  # none was asked for
    given: list[Order] = []
    monkeypatch.setattr(actor._stage, "submit", given.extend)
    orders = [Order((0, i), Task(i, (i,), "number_guess"), (0, 0)) for i in range(3)]
    actor.submit(orders[:1], 2)
    actor.submit(orders[1:2], 1)
    assert given == []
    weights = {version: learned(tiny_copy(actor._model, version)) for version in (1, 2)}
    actor.sync(weights[1], 1)
    assert given == [orders[1]]
    actor.sync(weights[2], 2)
    actor.sync(weights[1], 1)  # overtaken on its way
    assert given == [orders[1], orders[0]]
    actor.submit(orders[2:], 2)
    assert given[-1] is orders[2]
    assert all(torch.equal(p, torch.full_like(p, 2)) for p in actor._model.parameters())


def tiny_copy(model: torch.nn.Module, value: float) -> torch.nn.Module:
    """The same model, every weight of the same value."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.fill_(value)
    return other


def test_ranks_wait_longer_for_each_other_than_for_a_sampler() -> None:
    values = OmegaConf.to_container(compose_config("train", ["cluster=ray"]).cluster)
    assert isinstance(values, dict)
    short = {**values, "timeout": 600.0}
    cluster_settings(short)
    with pytest.raises(ValueError, match=r"cluster\.timeout=600 must be longer than cluster\.deadline=600"):
        cluster_settings({**short, "learners": 2})


def test_what_stopped_a_process_from_starting_is_its_last_line() -> None:
    text = "The actor died ...\n  File x, line 3\n    raise ValueError\n{}"
    error = cannot_start("Sampler 3", RuntimeError(text.format("ValueError: node7 has torch 2: no.")))
    assert isinstance(error, ValueError)
    assert str(error) == "Sampler 3 cannot start: node7 has torch 2: no."
    error = cannot_start("Sampler 3", RuntimeError(text.format("ModuleNotFoundError: No module named 'mine'")))
    assert isinstance(error, ClusterError)
    assert str(error) == "Sampler 3 cannot start: No module named 'mine'"


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lm_head\.bias"):
        learn(tiny_llama(), {"lm_head.bias": Bits("float32", np.zeros(3, dtype=np.int32))})


def test_a_checksum_sees_one_bit_and_two_weights_that_change_places() -> None:
    model = tiny_llama()
    before = checksum(model)
    first, second = [p for p in model.parameters() if p.dim() == 1][:2]
    with torch.no_grad():
        first[0] += torch.finfo(torch.float32).eps
        assert checksum(model) != before
        first[0] -= torch.finfo(torch.float32).eps
        assert checksum(model) == before
        first[0], second[0] = 2.0, 3.0
        one = checksum(model)
        first[0], second[0] = 3.0, 2.0
        assert checksum(model) != one
