"""Weights for an engine: adapters merged without touching the model, compared with peft's own merge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import tiny_llama
from peft import LoraConfig, PeftModel, get_peft_model

from agentgrpo.weights import causal_model, merged_weights


def adapted(**options: Any) -> PeftModel:
    """A tiny Llama with adapters that are far from their start, where they add nothing."""
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(), LoraConfig(r=4, lora_alpha=3, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_a_plain_model_gives_its_own_parameters() -> None:
    model = tiny_llama()
    found = dict(merged_weights(model))
    assert list(found) == [name for name, _ in model.named_parameters()]
    assert all(found[name].data_ptr() == p.data_ptr() for name, p in model.named_parameters())
    assert "lm_head.weight" not in found  # tied: once is enough
    assert causal_model(model) is model


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
    ],
)
def test_merged_weights_are_those_of_a_merge(options: dict[str, Any]) -> None:
    model = adapted(**options)
    before = {name: p.clone() for name, p in model.named_parameters()}
    plain = dict(tiny_llama().named_parameters())
    found = {name: p.clone() for name, p in merged_weights(model)}
    assert dict(merged_weights(model.get_base_model())).keys() == found.keys()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    merged = dict(model.merge_and_unload().named_parameters())
    assert found.keys() == merged.keys()
    for name, value in merged.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=0, atol=1e-6)
    assert any(name in plain and not torch.equal(found[name], plain[name]) for name in found)


def test_without_its_adapters_a_model_is_its_base() -> None:
    model = adapted(target_modules=["q_proj"])
    plain = dict(tiny_llama().named_parameters())
    with model.disable_adapter():
        assert all(torch.equal(value, plain[name]) for name, value in merged_weights(model))


def test_an_adapter_that_is_no_low_rank_product_is_refused() -> None:
    with pytest.raises(ValueError, match=r"more than a low-rank product.*sampler=transformers"):
        list(merged_weights(adapted(target_modules=["q_proj"], use_dora=True)))
