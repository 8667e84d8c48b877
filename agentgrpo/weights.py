"""A model's weights under the names of its plain Hugging Face checkpoint, adapters merged: what an engine loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


@dataclass(frozen=True, slots=True)
class Bits:
    """A weight as it lies in memory: numpy, which travels without being copied, has no bf16."""

    dtype: str
    """PyTorch's name of its numbers: ``bfloat16``."""
    integers: np.ndarray
    """Of the same shape and width."""

    @classmethod
    def of(cls, weight: Tensor) -> Bits:
        """Shares its memory where that is the processor's."""
        kind = str(weight.dtype).removeprefix("torch.")
        return cls(kind, weight.cpu().view(_INTEGERS[weight.element_size()]).numpy())

    def tensor(self) -> Tensor:
        """The weight."""
        integers = np.array(self.integers, copy=not self.integers.flags.writeable)
        return torch.from_numpy(integers).view(getattr(torch, self.dtype))


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The causal language model itself, without the wrapper that peft puts around it; its adapters stay in place."""
    unwrap = getattr(model, "get_base_model", None)
    inner = model if unwrap is None else unwrap()
    assert isinstance(inner, PreTrainedModel)
    return inner


def whole(weight: Tensor) -> Tensor:
    """The whole of a weight; of one that is spread over ranks a copy, which all of them must ask for."""
    full: Tensor = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return full


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
        yield name, whole(parameter.detach())
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


def learned(model: nn.Module) -> dict[str, Bits]:
    """What a model has learned, by name: every weight, or of one with adapters these.

    Weights that are spread over ranks are gathered, so all of them must ask.
    """
    return {name: Bits.of(whole(w.detach())) for name, w in model.named_parameters() if w.requires_grad}


@torch.no_grad()
def learn(model: nn.Module, found: Mapping[str, Bits]) -> None:
    """Takes over what :func:`learned` gave of a model of the same make, rounded where this one is less precise.

    Raises:
        ValueError: it is of another make.
    """
    mine = {name: weight for name, weight in model.named_parameters() if name in found}
    if len(mine) < len(found):
        raise ValueError(f"Weights for {sorted(set(found) - set(mine))[:3]} came, and the model here has none of them.")
    for name, weight in mine.items():
        weight.copy_(found[name].tensor())


@torch.no_grad()
def checksum(model: nn.Module) -> int:
    """A number over the bits of all weights that learn: where it differs, so do they."""
    total = 0
    for index, weight in enumerate(p for p in model.parameters() if p.requires_grad):
        bits = weight.detach().reshape(-1).view(_INTEGERS[weight.element_size()])
        total += (index + 1) * int(bits.sum(dtype=torch.int64))
    return total


def _saved_copy(wrapper: Any) -> nn.Module:
    """The module that peft trains as a whole, or the original where no adapter has one."""
    for adapter in wrapper.active_adapters:
        if adapter in wrapper.modules_to_save:
            module: nn.Module = wrapper.modules_to_save[adapter]
            return module
    original: nn.Module = wrapper.original_module
    return original
