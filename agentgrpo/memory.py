"""What a run will hold in memory, known before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo import lora, policy
from agentgrpo.algorithm import Algorithm
from agentgrpo.config import TrainConfig
from agentgrpo.packing import tree
from agentgrpo.precision import PRECISIONS, converted

_PROCESS_GB = 0.5
"""Python with torch and transformers, before any model."""
_LOGITS_COPIES = 3
"""Tensors as large as a chunk of logits at one time: logits, log-probabilities, their gradient."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Gigabytes by part."""

    parts: Mapping[str, float]
    micro_batch_tokens: int
    cache_setting: str
    """The setting that limits the prefix cache."""
    recomputable: float = 0.0
    """What ``optim.recompute=true`` would save."""

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def check(self, limit: float) -> None:
        """Refuses a plan that does not fit.

        Raises:
            ValueError: what takes how much, and what to lower to which value.
        """
        if self.total <= limit:
            return
        listed = ", ".join(f"{name} {gb:.2f}" for name, gb in sorted(self.parts.items(), key=lambda item: -item[1]))
        over = self.total - limit
        ways = []
        tokens = self.micro_batch_tokens * (1 - over / self.parts["activations"])
        if tokens >= 256:
            ways.append(f"optim.micro_batch_tokens to {int(tokens) // 64 * 64}")
        if over < self.parts["prefix cache"] * 0.9:
            ways.append(f"{self.cache_setting} to {math.floor((self.parts['prefix cache'] - over) * 100) / 100:g}")
        advice = (
            f"Lower {' or '.join(ways)}"
            if ways
            else "Choose a smaller model, model.lora.rank=16 or model.precision=bf16"
        )
        if over < self.recomputable:
            advice = f"Set optim.recompute=true; or {advice[0].lower()}{advice[1:]}"
        raise ValueError(
            f"memory_gb={limit:g} is less than the {self.total:.2f} GB that this run will hold ({listed}). "
            f"{advice}, or raise memory_gb."
        )


def plan(config: TrainConfig, model: PreTrainedModel, algorithm: Algorithm) -> MemoryPlan:
    """Adds up what stays and what the largest micro-batch needs.

    Args:
        model: the policy, as loaded.
    """
    weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    dtype = PRECISIONS[config.model.precision]
    half = config.model.precision == "bf16"
    sampler = config.token_sampler
    if sampler.copies_weights(config.model.precision):
        copied = weights
    else:  # in the trainer's precision, what is frozen is shared
        copied = trained if config.rollout.mode == "async" else 0
    cache_setting, cache_gb = sampler.cache
    tokens = config.optim.micro_batch_tokens
    recompute = config.optim.recompute
    kept, least = (tokens * activation_bytes(model, dtype, recompute=r) for r in (recompute, True))
    vocabulary = model.get_output_embeddings().weight.shape[0]
    parts = {
        "process": _PROCESS_GB * 1e9,
        "weights": float(sum(p.nbytes for p in model.parameters())),
        "gradients": 4.0 * trained,
        "optimizer": 8.0 * trained,
        "half-precision weights": 2.0 * trained * half,
        "sampler's copy": float(PRECISIONS[sampler.precision].itemsize * copied),
        "reference": float(dtype.itemsize * trained * algorithm.needs_reference),
        "critic": (16.0 + 2.0 * half) * trained if algorithm.critic_rate is not None else 0.0,
        "prefix cache": cache_gb * 1e9,
        "activations": kept,
        "logits": 4.0 * _LOGITS_COPIES * policy.CHUNK * vocabulary,
    }
    saved = (kept - least) / 1e9
    return MemoryPlan({name: size / 1e9 for name, size in parts.items() if size}, tokens, cache_setting, saved)


def activation_bytes(model: PreTrainedModel, dtype: torch.dtype, *, recompute: bool = False) -> float:
    """Bytes that one more token keeps from the forward to the backward pass; counted in two short passes."""
    if lora.adapted(model):
        model = converted(model, model.dtype)  # its adapters are fp32, and computed in the precision of the base
    few, many = (_kept_bytes(model, length) for length in (16, 48))
    whole = float((many - few) / 32 * dtype.itemsize / model.dtype.itemsize)
    if not recompute:
        return whole
    text = model.config.get_text_config()
    # The input of every layer, and all of the one layer whose backward pass is under way.
    return float(text.num_hidden_layers * text.hidden_size * dtype.itemsize + whole / text.num_hidden_layers)


def _kept_bytes(model: PreTrainedModel, length: int) -> int:
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        layout = tree([tuple(range(length))])
        # What is kept stays alive until the pass is counted, so that no address comes twice.
        states = policy.layout_states(model, layout, share_prefixes=policy.can_share_prefixes(model))
    del states
    return sum(kept.values())
