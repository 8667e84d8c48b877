"""The memory plan: parts by hand, and what is refused."""

import pytest
import torch
from helpers import default_algorithm, tiny_llama

from agentgrpo import policy
from agentgrpo.composing import compose_config
from agentgrpo.config import parse
from agentgrpo.memory import MemoryPlan, activation_bytes, plan


def made(*overrides: str) -> MemoryPlan:
    return plan(parse(compose_config("train", list(overrides))), tiny_llama(), default_algorithm("grpo"))


def test_parts_of_an_fp32_run() -> None:
    weights = sum(p.numel() for p in tiny_llama().parameters())
    parts = made("sampler.cache_gb=0.25").parts
    assert parts["weights"] == parts["gradients"] == 4 * weights / 1e9
    assert parts["optimizer"] == 8 * weights / 1e9
    assert parts["prefix cache"] == 0.25
    assert parts["logits"] == 3 * 4 * policy.CHUNK * 50 / 1e9
    assert parts["activations"] == 16384 * activation_bytes(tiny_llama(), torch.float32) / 1e9
    assert not {"reference", "critic", "half-precision weights", "sampler's copy"} & set(parts)


def test_parts_of_other_precisions() -> None:
    weights = sum(p.numel() for p in tiny_llama().parameters())
    half = made("model.precision=bf16").parts
    assert half["half-precision weights"] == 2 * weights / 1e9
    assert "sampler's copy" not in half  # it samples from the trainer's
    assert half["activations"] == made().parts["activations"] / 2
    assert made("sampler.precision=bf16").parts["sampler's copy"] == 2 * weights / 1e9


def test_a_reference_and_a_critic_count() -> None:
    weights = sum(p.numel() for p in tiny_llama().parameters())
    config = parse(compose_config("train", []))
    assert plan(config, tiny_llama(), default_algorithm("grpo", kl_coef=0.1)).parts["reference"] == 4 * weights / 1e9
    assert plan(config, tiny_llama(), default_algorithm("ppo")).parts["critic"] == 16 * weights / 1e9


def test_activations_of_a_token_are_what_layers_keep() -> None:
    one, two = (activation_bytes(tiny_llama(layers=layers), torch.float32) for layers in (1, 2))
    # A layer of width 32 keeps its input and what norms, projections and gates read: 10 to 60 times its width.
    assert 10 * 32 * 4 < two - one < 60 * 32 * 4


def test_a_plan_that_does_not_fit_says_what_to_lower() -> None:
    parts = MemoryPlan({"process": 0.5, "prefix cache": 2.0, "activations": 4.0}, 4096, "sampler.cache_gb")
    parts.check(6.5)
    with pytest.raises(
        ValueError, match=r"memory_gb=5 is less than the 6\.50 GB .*activations 4\.00, prefix cache 2\.00"
    ):
        parts.check(5)
    # 1.5 GB too much: 4096 * (1 - 1.5 / 4) = 2560 tokens, or a cache of 0.5 GB.
    with pytest.raises(ValueError, match=r"Lower optim\.micro_batch_tokens to 2560 or sampler\.cache_gb to 0\.5, or"):
        parts.check(5)
    with pytest.raises(ValueError, match=r"Choose a smaller model, model\.lora\.rank=16 or model\.precision=bf16, or"):
        MemoryPlan({"weights": 9.0, "prefix cache": 0.1, "activations": 0.1}, 4096, "sampler.cache_gb").check(5)


def test_an_engine_holds_weights_and_a_cache_of_its_own() -> None:
    weights = sum(p.numel() for p in tiny_llama().parameters())
    found = made("sampler=vllm", "sampler.kv_cache_gb=0.5")
    assert found.parts["sampler's copy"] == 4 * weights / 1e9
    assert (found.parts["prefix cache"], found.cache_setting) == (0.5, "sampler.kv_cache_gb")
