"""A model's weights under the names of its plain Hugging Face checkpoint, adapters merged: what an engine loads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The causal language model itself, without the wrapper that peft puts around it; its adapters stay in place."""
    unwrap = getattr(model, "get_base_model", None)
    inner = model if unwrap is None else unwrap()
    assert isinstance(inner, PreTrainedModel)
    return inner


def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight by name, each tied one once.

    Low-rank adapters of peft are merged layer by layer, base + scale * B @ A, into a new tensor: the model stays as it
    is, and no second copy of all weights exists at any time. Quantised base weights come out dequantised.

    Raises:
        ValueError: an adapter whose merged weight is not of that form.
    """
    base = causal_model(model)
    adapted = {name: module for name, module in base.named_modules() if hasattr(module, "lora_A")}
    saved = {name: module for name, module in base.named_modules() if hasattr(module, "modules_to_save")}
    inside = tuple(f"{name}." for name in (*adapted, *saved))
    plain = {name: value for name, value in base.named_parameters() if not name.startswith(inside)}
    for name, parameter in plain.items():
        yield name, parameter.detach()
    for name, module in adapted.items():
        for key, value in _merged_layer(name, module):
            yield f"{name}.{key}", value
    for name, module in saved.items():
        for key, value in _saved_copy(module).named_parameters():
            yield f"{name}.{key}", value.detach()


@torch.no_grad()
def _merged_layer(name: str, layer: Any) -> Iterator[tuple[str, Tensor]]:
    """The parameters of one adapted layer, as its base layer would have them after a merge."""
    from peft.utils.integrations import dequantize_module_weight

    base = layer.get_base_layer()
    active = [a for a in layer.active_adapters if a in layer.lora_A or a in layer.lora_embedding_A]
    for adapter in active:
        if adapter in layer.lora_variant or layer.lora_bias.get(adapter):
            raise ValueError(
                f"The adapter {adapter!r} of {name} is more than a low-rank product (DoRA, say, or a bias of its own), "
                "so its weights cannot be handed to a sampler. Use plain LoRA, or sampler=transformers."
            )
    weight = dequantize_module_weight(base).detach()
    if active and not layer.merged and not layer.disable_adapters:
        weight = weight.clone()
        for adapter in active:
            weight += layer.get_delta_weight(adapter).to(weight.dtype)
    yield "weight", weight
    for key, value in base.named_parameters():
        if key != "weight":
            yield key, value.detach()


def _saved_copy(wrapper: Any) -> nn.Module:
    """The module that peft trains as a whole, or the original where no adapter has one."""
    for adapter in wrapper.active_adapters:
        if adapter in wrapper.modules_to_save:
            module: nn.Module = wrapper.modules_to_save[adapter]
            return module
    original: nn.Module = wrapper.original_module
    return original
