"""The attention that every loaded model uses, registered with transformers under a name of its own.

Two things that transformers' own does not do. In sampling, a few new tokens over a cache: PyTorch's CPU attention wants
one key head per query head and copies the cache to get it, at every step; a batched product over the grouped heads
reads the cache once. In training, nodes of a prefix tree (:mod:`agentgrpo.tree_attention`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "agentgrpo"
MAX_QUERIES = 32
"""New tokens per row up to which the scores are small enough to be held whole."""


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: short queries by grouped products, everything else by PyTorch's SDPA.

    Args:
        query: (B, H, Q, D).
        key: (B, K, S, D) with H a multiple of K.
        value: (B, K, S, D).
        attention_mask: (B, 1, Q, S) bool or None.
    Returns:
        (B, Q, H, D) and None for the weights.
    """
    if (tree := kwargs.get("tree")) is not None:
        found: Tensor = tree.attend(query[0], key[0], value[0], query.shape[3] ** -0.5 if scaling is None else scaling)
        return found.transpose(0, 1)[None], None
    batch, heads, queries, width = query.shape
    # Without a mask several queries mean causal attention, which SDPA knows about and the products below do not.
    causal = attention_mask is None and queries > 1
    if causal or queries > MAX_QUERIES or torch.is_grad_enabled() or kwargs.get("position_bias") is not None:
        return _sdpa(module, query, key, value, attention_mask, scaling=scaling, **kwargs), None
    kv_heads, keys = key.shape[1], key.shape[2]
    grouped = query.reshape(batch, kv_heads, -1, width) * (width**-0.5 if scaling is None else scaling)
    scores = (grouped @ key.transpose(2, 3)).view(batch, kv_heads, -1, queries, keys)  # (B, K, H / K, Q, S)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask[:, :, None], float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    out = weights.view(batch, kv_heads, -1, keys) @ value
    return out.view(batch, heads, queries, -1).transpose(1, 2), None


def _sdpa(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Tensor:
    """PyTorch's attention; on a CPU in fp32, where its kernel takes half the time that it takes in bf16."""
    dtype = query.dtype
    if query.device.type != "cpu" or dtype == torch.float64:
        whole: Tensor = sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]
        return whole
    with torch.autocast("cpu", enabled=False):
        out: Tensor = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **kwargs)[0]
    return out.to(dtype)


def register() -> None:
    """Makes ``attn_implementation="agentgrpo"`` known to transformers; may be called again."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
