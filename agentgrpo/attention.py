"""The attention that every loaded model uses, registered with transformers under a name of its own.

Two things that transformers' own does not do. In sampling, a few new tokens over a cache: PyTorch's CPU attention wants
one key head per query head and copies the cache to get it, at every step; a batched product over the grouped heads
reads the cache once. In training, nodes of a prefix tree: each attends along the paths that lead to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
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
    if "paths" in kwargs:
        return _along_paths(module, query, key, value, scaling=scaling, **kwargs), None
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


def _along_paths(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *, paths: Tensor, homes: Tensor, **kwargs: Any
) -> Tensor:
    """Causal attention along the paths of a prefix tree (:class:`agentgrpo.types.TokenLayout`).

    Everything else in the model is computed per node. Here the nodes are laid out per sequence, attend as usual, and
    what a node's first visit gives is taken back: all visits see the same keys, so they give the same.

    Args:
        query: (1, H, N, D).
        key: (1, K, N, D), as ``value``.
    Returns:
        (1, N, H, D).
    """
    rows = (_nodes_to_rows(query, paths), _nodes_to_rows(key, paths), _nodes_to_rows(value, paths))  # (B, ., W, D)
    out = _sdpa(module, *rows, None, **kwargs)  # (B, W, H, D)
    return embedding(homes, out.flatten(2).flatten(0, 1)).view(1, len(homes), *out.shape[2:])


def _nodes_to_rows(states: Tensor, paths: Tensor) -> Tensor:
    """(1, H, N, D) -> (B, H, W, D)."""
    heads, width = states.shape[1], states.shape[3]
    nodes = states[0].transpose(0, 1).flatten(1)  # (N, H * D)
    if nodes.device.type == "cpu" and nodes.dtype == torch.bfloat16:
        nodes = nodes.float()  # as `_sdpa` would, after many more rows
    # `embedding` is a gather whose backward pass is parallel on a CPU; that of indexing is not.
    rows: Tensor = embedding(paths, nodes)  # (B, W, H * D)
    return rows.view(*paths.shape, heads, width).transpose(1, 2)


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
