"""The bf16 twin: what it computes with, and where its gradients go."""

import copy

import pytest
import torch
from helpers import optim_config, tiny_llama
from torch import nn

from agentgrpo import precision
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.config import ModelConfig
from agentgrpo.learner import Learner
from agentgrpo.packing import pack
from agentgrpo.precision import HalfTwin, converted
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.transformers import TransformersSampler
from agentgrpo.types import Sequence


def test_a_copy_keeps_buffers_ties_and_what_is_trained() -> None:
    model = tiny_llama()
    model.base_model.norm.weight.requires_grad_(False)
    half = converted(model, torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.base_model.rotary_emb.inv_freq.dtype == torch.float32
    assert half.get_output_embeddings().weight is half.get_input_embeddings().weight
    assert [p.requires_grad for p in half.parameters()] == [p.requires_grad for p in model.parameters()]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_copy_in_the_same_precision_shares_nothing() -> None:
    model = tiny_llama()
    same = converted(model, torch.float32)
    assert all(
        a is not b and a.data_ptr() != b.data_ptr() for a, b in zip(model.parameters(), same.parameters(), strict=True)
    )


def test_gradients_are_added_up_in_fp32_beside_the_fp32_weights() -> None:
    layer = nn.Linear(1, 1, bias=False)
    twin = HalfTwin(layer)
    for x in (256.0, 1.0, 1.0):  # in bf16, 256 + 1 is 256
        twin.module(torch.tensor([[x]], dtype=torch.bfloat16)).sum().backward()
        assert next(twin.module.parameters()).grad is None
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.item() == 258.0


def test_frozen_weights_get_no_gradient() -> None:
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    twin = HalfTwin(layer)
    twin.module(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is None


def test_small_steps_are_not_lost() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    twin = HalfTwin(layer)
    for step in range(1, 9):  # each is far below the 0.0078 that bf16 can tell apart near 1
        layer.weight.data.add_(0.001)
        twin.follow()
        expected = torch.tensor(1.0 + 0.001 * step).bfloat16().item()
        assert next(twin.module.parameters()).item() == expected
    assert next(twin.module.parameters()).item() > 1.0


def items() -> list[Sequence]:
    return [Sequence((1, 40, 41, 15, token), (3, 4), (-3.0, -3.0), (-3.0, -3.0), (1.0, -0.5)) for token in (2, 3, 4)]


def test_gradients_in_half_precision_are_near_those_of_fp32() -> None:
    found = []
    for name in ("fp32", "bf16"):
        learner = Learner(tiny_llama(), optim_config(), precision=name, temperature=1.0, max_length=8)
        for batch in pack(items(), 100):
            (learner.logprobs(batch) * batch.advantages).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None]))
    assert found[1].dtype == torch.float32
    assert (
        float((found[1] - found[0]).norm() / found[0].norm()) < 0.15
    )  # weights this large make half precision look its worst


def test_trainer_and_sampler_hold_one_copy_and_agree() -> None:
    learner = Learner(tiny_llama(), optim_config(lr=1e-2), precision="bf16", temperature=1.0, max_length=8)
    sampler = TransformersSampler(learner.computing, [1], precision="bf16", cache_gb=0.1)
    assert sampler._model is learner.computing
    before = copy.deepcopy(learner.computing)
    learner.update(items(), GRPO(), (0,))
    sampler.sync(learner.computing)
    assert not torch.equal(before.get_input_embeddings().weight, sampler._model.get_input_embeddings().weight)
    prompt = (1, 40, 41)
    (answer,) = sampler.generate([prompt], [SamplingParams(4, 1.0, noise_key=0)])
    ids = (*prompt, *answer.token_ids)
    sampled = answer.logprobs
    (batch,) = pack([Sequence(ids, tuple(range(3, len(ids))), sampled, sampled, (1.0,) * len(sampled))], 100)
    with torch.no_grad():
        gap = (learner.logprobs(batch)[0] - torch.tensor(sampled)).abs()
    assert float(gap.mean()) < 0.1


@pytest.mark.parametrize(
    ("instructions", "expected"), [({}, "fp32"), ({"avx2": True}, "fp32"), ({"amx_bf16": True}, "bf16")]
)
def test_auto_is_half_precision_where_the_processor_has_it(
    instructions: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert precision.settled("auto") == expected
    assert ModelConfig("hf", "some/model", "auto").precision == expected
    assert ModelConfig("hf", "some/model", "bf16").precision == "bf16"
