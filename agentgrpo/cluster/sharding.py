"""Weights that are spread over ranks: each holds a part, and gathers a layer's whole only while it computes (FSDP2)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from agentgrpo.precision import PRECISIONS


def shard(module: nn.Module, layers: Iterable[nn.Module], precision: str) -> None:
    """Cuts a module's weights up, in place. From here on its ranks must call it equally often.

    Args:
        module: whose ``forward`` uses the weights and nothing else does.
        layers: parts of it that are gathered one after the other; the rest is gathered for the whole pass.
        precision: that passes compute in; weights, gradients and the optimiser's state stay fp32.
    """
    half = PRECISIONS[precision] if precision != "fp32" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(module, mp_policy=policy, reshard_after_forward=True)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            # Sums, not means: what a loss is divided by counts over all ranks already.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def is_sharded(module: nn.Module) -> bool:
    """Whether this rank holds a part of the weights only."""
    return any(isinstance(weight, DTensor) for weight in module.parameters())


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """What this rank holds of a whole tensor that is laid out as another one."""
    if not isinstance(like, DTensor):
        return value
    part: Tensor = distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return part


def save_model(model: PreTrainedModel, folder: Path, *, first: bool) -> None:
    """Writes an ordinary model folder; every rank its part, which are then put together. All ranks call it.

    Args:
        first: whether this is the rank that writes what is no weight.
    """
    if first:
        model.config.save_pretrained(folder)
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    weights = {name: weight.detach() for name, weight in model.state_dict().items() if name not in tied}
    _save(weights, folder)


def save_tensors(tensors: Mapping[str, Tensor], folder: Path, name: str, *, first: bool) -> None:
    """Writes ``<name>.safetensors`` likewise."""
    parts = folder / f".{name}"
    # PyTorch puts a 0 in place of numbers without dimensions when it joins the parts.
    _save({key: value if value.dim() else value.reshape(1) for key, value in tensors.items()}, parts)
    if first:
        (written,) = parts.glob("*.safetensors")
        written.rename(folder / f"{name}.safetensors")
        shutil.rmtree(parts)


def _save(tensors: Mapping[str, Tensor], folder: Path) -> None:
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True, enable_consolidation=True)
    state: dict[str, Any] = dict(tensors)
    save(state, storage_writer=writer)
    if torch.distributed.get_rank() == 0:
        shutil.rmtree(folder / "sharded")
    torch.distributed.barrier()
