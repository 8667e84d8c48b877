"""Attention for one new token over a cache, without repeating the cache for grouped heads.

PyTorch's CPU attention wants one key head per query head and copies the cache to get it, at every step. For a single
query a batched matrix product over the grouped heads reads the cache once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "agentgrpo"


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
    """transformers' attention interface: one-token queries by grouped products, everything else by PyTorch's SDPA.

    Args:
        query: (B, H, Q, D).
        key: (B, K, S, D) with H a multiple of K.
        value: (B, K, S, D).
        attention_mask: (B, 1, Q, S) bool or None.
    Returns:
        (B, Q, H, D) and None for the weights.
    """
    batch, heads, queries, width = query.shape
    if queries > 1 or torch.is_grad_enabled() or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    grouped = query.view(batch, key.shape[1], -1, width) * (width**-0.5 if scaling is None else scaling)
    scores = grouped @ key.transpose(2, 3)  # (B, K, H / K, S)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return (weights @ value).reshape(batch, 1, heads, value.shape[-1]), None


def register() -> None:
    """Makes ``attn_implementation="agentgrpo"`` known to transformers; may be called again."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
