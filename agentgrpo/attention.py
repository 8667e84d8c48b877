"""The attention that every loaded model uses, registered with transformers under a name of its own.

Two things that transformers' own does not do. In sampling, several query heads look at one key head without a copy of
the cache per query head: transformers copies it at every step wherever there is a mask. In training, nodes of a prefix
tree (:mod:`agentgrpo.tree_attention`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
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
    """transformers' attention interface.

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
    if kwargs.get("dropout") or kwargs.get("position_bias") is not None:
        whole: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)[0]
        return whole, None
    # Without a mask several queries mean causal attention.
    causal = attention_mask is None and query.shape[2] > 1 and getattr(module, "is_causal", True)
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, is_causal=causal, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2), None


def register() -> None:
    """Makes ``attn_implementation="agentgrpo"`` known to transformers; may be called again."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
