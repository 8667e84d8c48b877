"""The memory plan: parts by hand, and what is refused."""

from pathlib import Path

import pytest
import torch
from helpers import default_algorithm, tiny_llama
from transformers import LlamaForCausalLM

from agentgrpo import attention, lora, models, policy
from agentgrpo.composing import compose_config
from agentgrpo.config import parse
from agentgrpo.memory import MemoryPlan, activation_bytes, kv_bytes, plan
from agentgrpo.precision import PRECISIONS


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
    assert plan(config, tiny_llama(), default_algorithm("ppo")).parts["critic"] == 12 * weights / 1e9


def test_activations_of_a_token_are_what_layers_keep() -> None:
    one, two = (activation_bytes(tiny_llama(layers=layers), torch.float32) for layers in (1, 2))
    # A layer of width 32 keeps its input and what norms, projections and gates read: 10 to 60 times its width.
    assert 10 * 32 * 4 < two - one < 60 * 32 * 4


def a_plan(held: float, activations: float, cache: float, *, together: bool = False, again: float = 0.0) -> MemoryPlan:
    learning, sampling = {"activations": activations}, {"prefix cache": cache}
    return MemoryPlan({"weights": held}, learning, sampling, together, 4096, "sampler.cache_gb", again)


def test_learning_and_sampling_are_not_held_together_unless_both_go_on() -> None:
    assert a_plan(1.0, 4.0, 2.0).total == 5.0
    assert a_plan(1.0, 2.0, 4.0).total == 5.0
    assert a_plan(1.0, 4.0, 2.0, together=True).total == 7.0


def test_a_plan_that_does_not_fit_says_what_to_lower() -> None:
    one = a_plan(0.5, 4.0, 2.0)
    one.check(4.5)
    with pytest.raises(
        ValueError,
        match=r"memory_gb=3 is less than the 4\.50 GB .* at one time \(activations 4\.00, prefix cache 2\.00",
    ):
        one.check(3)
    # 1.5 GB too much for learning, and sampling fits: 4096 * (1 - 1.5 / 4) = 2560 tokens.
    with pytest.raises(ValueError, match=r"Lower optim\.micro_batch_tokens to 2560, or"):
        one.check(3)
    # 2.5 GB too much for learning, 0.5 for sampling: both have to give way.
    with pytest.raises(ValueError, match=r"micro_batch_tokens to 1536 and sampler\.cache_gb to 1\.5, or"):
        one.check(2)
    with pytest.raises(ValueError, match=r"Lower optim\.micro_batch_tokens to 2560, or"):
        a_plan(0.5, 4.0, 2.0, together=True).check(5)
    with pytest.raises(ValueError, match=r"Choose a smaller model, model\.lora\.rank=16 or model\.precision=bf16, or"):
        a_plan(9.0, 0.1, 0.1).check(5)


def test_computing_again_is_advised_where_it_is_enough() -> None:
    with pytest.raises(ValueError, match=r"Set optim\.recompute=true; or lower optim\.micro_batch_tokens"):
        a_plan(0.5, 4.0, 1.0, again=3.0).check(3)
    with pytest.raises(ValueError, match=r"one time \([^)]*\)\. Lower sampler\.cache_gb"):
        a_plan(0.5, 1.0, 4.0, again=0.9).check(4)


def test_what_is_known_of_a_run_counts_instead_of_its_limits() -> None:
    config, model = parse(compose_config("train", [])), tiny_llama()
    known = plan(config, model, default_algorithm("grpo"), update_tokens=1000, cache_tokens=5000)
    assert known.parts["activations"] == 1000 * activation_bytes(model, torch.float32) / 1e9
    assert known.parts["prefix cache"] == 5000 * kv_bytes(model, torch.float32) / 1e9
    shape = model.config  # keys and values, four bytes each
    width = shape.num_key_value_heads * shape.head_dim
    assert kv_bytes(model, torch.float32) == 2 * shape.num_hidden_layers * width * 4


@pytest.mark.parametrize(
    "overrides", [[], ["model=hf", "model.path={folder}"], ["model=hf", "model.path={folder}", "model.lora.rank=4"]]
)
def test_a_model_without_memory_counts_as_the_real_one(overrides: list[str], tmp_path: Path) -> None:
    tiny_llama(layers=2).save_pretrained(tmp_path)
    config = parse(compose_config("train", [o.format(folder=tmp_path) for o in overrides]))
    bare = models.skeleton(config.model, 0)
    assert {p.device.type for p in bare.parameters()} == {"meta"}
    if config.model.kind == "nano":
        real, _ = models.build_nano(config.model, ["go"] * 3, 0)
        bare.resize_token_embeddings(real.config.vocab_size)
    else:
        dtype = PRECISIONS[config.model.precision] if config.model.lora.rank else torch.float32
        real = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation=attention.NAME, dtype=dtype)
        if config.model.lora.rank:
            real = lora.attach(real, config.model.lora, 0)
    found, expected = (plan(config, m, default_algorithm("grpo", kl_coef=0.1)).parts for m in (bare, real))
    # Kernels of the CPU keep a little more or less than those that are taken apart.
    assert found.pop("activations") == pytest.approx(expected.pop("activations"), rel=0.2)
    assert found == expected


def test_an_engine_holds_weights_and_a_cache_of_its_own() -> None:
    weights = sum(p.numel() for p in tiny_llama().parameters())
    found = made("sampler=vllm", "sampler.kv_cache_gb=0.5")
    assert found.parts["sampler's copy"] == 4 * weights / 1e9
    assert (found.parts["prefix cache"], found.cache_setting) == (0.5, "sampler.kv_cache_gb")
