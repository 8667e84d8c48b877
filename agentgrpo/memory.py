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
from agentgrpo.samplers.slot_cache import SlotCache

_PROCESS_GB = 0.5
"""Python with torch and transformers, before any model."""
_LOGITS_COPIES = 3
"""Tensors as large as a chunk of logits at one time: logits, log-probabilities, their gradient."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Gigabytes by part, as they come together: what is always held, and what only learning or only sampling needs."""

    held: Mapping[str, float]
    learning: Mapping[str, float]
    sampling: Mapping[str, float]
    together: bool
    """Rollouts go on while the trainer learns."""
    micro_batch_tokens: int
    cache_setting: str
    """The setting that limits the prefix cache."""
    recomputable: float = 0.0
    """What ``optim.recompute=true`` would save."""

    @property
    def parts(self) -> dict[str, float]:
        """All parts, of which some are never held together."""
        return {**self.held, **self.learning, **self.sampling}

    @property
    def total(self) -> float:
        """The most that is held at one time."""
        learning, sampling = sum(self.learning.values()), sum(self.sampling.values())
        return sum(self.held.values()) + (learning + sampling if self.together else max(learning, sampling))

    def check(self, limit: float) -> None:
        """Refuses a plan that does not fit.

        Raises:
            ValueError: what takes how much, and what to lower to which value.
        """
        if self.total <= limit:
            return
        listed = ", ".join(f"{name} {gb:.2f}" for name, gb in sorted(self.parts.items(), key=lambda item: -item[1]))
        ways = self._ways(limit)
        over = self.total - limit
        advice = (
            f"Lower {' and '.join(ways)}"
            if ways
            else "Choose a smaller model, model.lora.rank=16 or model.precision=bf16"
        )
        if over < self.recomputable and self.together | (sum(self.learning.values()) > sum(self.sampling.values())):
            advice = f"Set optim.recompute=true; or {advice[0].lower()}{advice[1:]}"
        raise ValueError(
            f"memory_gb={limit:g} is less than the {self.total:.2f} GB that this run will hold at one time ({listed}). "
            f"{advice}, or raise memory_gb."
        )

    def _ways(self, limit: float) -> list[str]:
        """What to lower, and to which value, so that it fits; nothing where that alone does not do."""
        room = limit - sum(self.held.values())
        learning, sampling = sum(self.learning.values()), sum(self.sampling.values())
        rest = sampling if self.together else 0.0
        ways: list[str] = []
        if learning + rest > room:
            over = learning + rest - room
            tokens = self.micro_batch_tokens * (1 - over / self.learning["activations"])
            if tokens < 256:
                return []
            ways.append(f"optim.micro_batch_tokens to {int(tokens) // 64 * 64}")
        if sampling > room and not self.together:
            left = self.sampling["prefix cache"] - (sampling - room)
            if left < self.sampling["prefix cache"] * 0.1:
                return []
            ways.append(f"{self.cache_setting} to {math.floor(left * 100) / 100:g}")
        return ways


def plan(
    config: TrainConfig,
    model: PreTrainedModel,
    algorithm: Algorithm,
    *,
    update_tokens: int | None = None,
    cache_tokens: int | None = None,
) -> MemoryPlan:
    """Adds up what stays and what the largest micro-batch needs.

    Args:
        model: the policy as loaded, or a model without memory of its own (:func:`agentgrpo.models.skeleton`).
        update_tokens: distinct tokens that an update computes, where known; else micro-batches count as full.
        cache_tokens: tokens that the prefix cache comes to hold, where known; else it counts as full.
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
    engine = {"sampler's copy": float(PRECISIONS[sampler.precision].itemsize * copied)}
    cache_setting, cache_gb = sampler.cache
    cache = cache_gb * 1e9
    if cache_tokens is not None and not sampler.takes_cache_at_once:
        cache = min(cache, float(cache_tokens * kv_bytes(model, PRECISIONS[sampler.precision])))
    tokens = config.optim.micro_batch_tokens
    if update_tokens is not None:
        tokens = min(tokens, update_tokens)
    recompute = config.optim.recompute
    kept, least = (tokens * activation_bytes(model, dtype, recompute=r) for r in (recompute, True))
    vocabulary = model.get_output_embeddings().weight.shape[0]
    held = {
        "process": _PROCESS_GB * 1e9,
        "weights": float(sum(p.nbytes for p in model.parameters())),
        "optimizer": 8.0 * trained,
        "half-precision weights": 2.0 * trained * half,
        "reference": float(dtype.itemsize * trained * algorithm.needs_reference),
        "critic": (12.0 + 2.0 * half) * trained if algorithm.critic_rate is not None else 0.0,
    }
    learning = {
        "gradients": 4.0 * trained,
        "activations": kept,
        "logits": 4.0 * _LOGITS_COPIES * min(policy.CHUNK, tokens) * vocabulary,
    }
    sampling = {"prefix cache": cache}
    if sampler.sleeps(config.model.device):
        sampling |= engine
    elif sampler.takes_cache_at_once:
        held |= engine | sampling
        sampling = {}
    else:
        held |= engine
    return MemoryPlan(
        _gigabytes(held),
        _gigabytes(learning),
        _gigabytes(sampling),
        config.rollout.mode == "async",
        tokens,
        cache_setting,
        (kept - least) / 1e9,
    )


def _gigabytes(parts: Mapping[str, float]) -> dict[str, float]:
    return {name: size / 1e9 for name, size in parts.items() if size}


def kv_bytes(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Bytes that the keys and values of a token take, over all layers."""
    return SlotCache(model.config, dtype, torch.device("meta")).bytes_per_column


def activation_bytes(model: PreTrainedModel, dtype: torch.dtype, *, recompute: bool = False) -> float:
    """Bytes that one more token needs in a forward and backward pass; counted in short forward passes."""
    if model.device.type == "meta":
        model = converted(model, torch.float32)  # half precision is computed with detours there
    elif lora.adapted(model):
        model = converted(model, model.dtype)  # its adapters are fp32, and computed in the precision of the base
    few, some, many = (_kept_bytes(model, length) for length in (16, 32, 48))
    # What attention without a kernel of its own keeps grows with the square; the slope at 0 leaves it out.
    slope = (many - few) / 32 - (many - 2 * some + few) / 512 * 64
    whole = float(slope * dtype.itemsize / model.dtype.itemsize)
    text = model.config.get_text_config()
    layer = whole / text.num_hidden_layers  # what the layer whose backward pass is under way needs for gradients
    if not recompute:
        return float(whole + layer)
    # The input of every layer, and all of the one whose backward pass is under way.
    return float(text.num_hidden_layers * text.hidden_size * dtype.itemsize + 2 * layer)


def _kept_bytes(model: PreTrainedModel, length: int) -> int:
    # By the storage itself and not by its address: a model without memory has none.
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        layout = tree([tuple(range(length))]).to(model.device)
        # What is kept stays alive until the pass is counted, so that no storage takes the place of another.
        if model.device.type == "meta":  # where no mask can be made from what tokens are
            mask = torch.ones(1, 1, length, length, dtype=torch.bool, device="meta")
            states = policy.hidden_states(model, layout.token_ids[None], layout.positions[None], mask)
        else:
            states = policy.layout_states(model, layout, share_prefixes=policy.can_share_prefixes(model))
    del states
    return sum(kept.values())
