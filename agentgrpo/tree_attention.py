"""Attention over a prefix tree: every node looks at itself and its ancestors, and at nothing else.

Nodes stand in depth-first order, so a subtree is one range of nodes and the tree is one number per node: where its
subtree ends. Node q sees node k exactly when k <= q < end[k]. The tree is cut into blocks of neighbours: what the first
node of a block sees before the block is all that any of them sees there, so a block is a few dense products over few
keys. On an NVIDIA GPU the same rule is a mask of PyTorch's flex attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

BLOCK = 128
"""Nodes of a block: small ones compute fewer pairs for nothing, large ones make larger products."""


class TreeMask(Protocol):
    """A prefix tree, ready to be looked along; made once per micro-batch, used in every layer."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """(H, N, D) of (H, N, D) queries and (K, N, D) keys and values, with H a multiple of K."""


def tree_mask(ends: Tensor) -> TreeMask:
    """The mask for the device that the tree is on.

    Args:
        ends: (N,) int64, as in :class:`agentgrpo.types.TokenLayout`.
    """
    return FlexMask.of(ends) if ends.is_cuda else BlockMask.of(ends)


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring nodes, and what they look at."""

    start: int
    end: int
    keys: Tensor
    """(U,) int64 nodes: the ancestors of the first node, then the block itself."""
    bias: Tensor
    """(end - start, U) float32: -inf where a node must not look, else 0."""


@dataclass(frozen=True, slots=True)
class BlockMask:
    """Dense products over blocks of neighbours. Scores and softmax are at least float32."""

    parts: tuple[Block, ...]

    @classmethod
    def of(cls, ends: Tensor, size: int = BLOCK) -> BlockMask:
        nodes = torch.arange(len(ends), device=ends.device)
        parts: list[Block] = []
        for start in range(0, len(ends), size):
            end = min(start + size, len(ends))
            ancestors = (ends[:start] > start).nonzero()[:, 0]
            keys = torch.cat((ancestors, nodes[start:end]))
            query = nodes[start:end, None]
            hidden = (keys > query) | (ends[keys] <= query)
            bias = torch.zeros(hidden.shape, device=ends.device).masked_fill_(hidden, float("-inf"))
            parts.append(Block(start, end, keys, bias))
        return cls(tuple(parts))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        out: Tensor = _TreeAttention.apply(query, key, value, self.parts, scaling)  # type: ignore[no-untyped-call]
        return out


@dataclass(frozen=True, slots=True)
class FlexMask:
    """PyTorch's flex attention, which skips blocks of pairs that the tree hides."""

    mask: Any

    @classmethod
    def of(cls, ends: Tensor) -> FlexMask:
        def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (k <= q) & (q < ends[k])

        return cls(create_block_mask(sees, None, None, len(ends), len(ends), device=str(ends.device)))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        attention = _compiled_flex() if query.is_cuda else flex_attention
        out = attention(query[None], key[None], value[None], block_mask=self.mask, scale=scaling, enable_gqa=True)
        found: Tensor = out[0]
        return found


@cache
def _compiled_flex() -> Any:
    # Uncompiled, flex attention holds the whole matrix of scores. A tree has another size each time.
    return torch.compile(flex_attention, dynamic=True)


class _TreeAttention(torch.autograd.Function):
    """Keeps no weights: the backward pass computes them again, block by block."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: tuple[Block, ...], scaling: float
    ) -> Tensor:
        out = torch.empty_like(query)
        for part in parts:
            rows, keys, values = query[:, part.start : part.end], key[:, part.keys], value[:, part.keys]
            out[:, part.start : part.end] = scaled_dot_product_attention(
                rows[None],
                keys[None],
                values[None],
                attn_mask=part.bias.to(query.dtype),
                scale=scaling,
                enable_gqa=True,
            )[0]
        ctx.save_for_backward(query, key, value, out)
        ctx.parts, ctx.scaling = parts, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out = ctx.saved_tensors
        grouped, grad_grouped, out = (_grouped(x, key) for x in (query, grad_out, out))  # (K, H / K, N, D)
        grad_query = torch.empty_like(grouped)
        grad_key = torch.zeros(key.shape, dtype=_wide(key.dtype), device=key.device)
        grad_value = torch.zeros_like(grad_key)
        with _products_as(query.dtype):
            for part in ctx.parts:
                rows, keys, values = _block(grouped, key, value, part, ctx.scaling)
                weights = _weights(rows, keys, part)
                upper, result = _rows(grad_grouped, part), _rows(out, part)
                grad_value.index_add_(1, part.keys, weights.transpose(1, 2) @ upper)
                inner = (upper * result).sum(dim=-1, keepdim=True)
                grad_scores = (upper @ values.transpose(1, 2)).sub_(inner).mul_(weights)
                _put(grad_query, part, (grad_scores @ keys).mul_(ctx.scaling))
                grad_key.index_add_(1, part.keys, grad_scores.transpose(1, 2) @ rows)
        return grad_query.view(query.shape), grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


@contextmanager
def _products_as(dtype: torch.dtype) -> Iterator[None]:
    """Products of float32 operands that hold half-precision values may round operands to bf16, as a bf16 kernel would:
    sums, scores and softmax stay float32."""
    setting: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    if dtype == torch.bfloat16:
        setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype


def _grouped(query: Tensor, key: Tensor) -> Tensor:
    """(H, N, D) -> (K, H / K, N, D): queries by the key head that they look at."""
    return query.reshape(len(key), -1, *query.shape[1:])


def _rows(grouped: Tensor, part: Block) -> Tensor:
    """(K, H / K, N, D) -> (K, H / K * Q, D) of a block."""
    return grouped[:, :, part.start : part.end].to(_wide(grouped.dtype)).flatten(1, 2)


def _put(grouped: Tensor, part: Block, rows: Tensor) -> None:
    """Writes what :func:`_rows` would read."""
    grouped[:, :, part.start : part.end] = rows.view(*grouped.shape[:2], -1, grouped.shape[3])


def _block(grouped: Tensor, key: Tensor, value: Tensor, part: Block, scaling: float) -> tuple[Tensor, Tensor, Tensor]:
    """(K, H / K * Q, D) scaled queries, (K, U, D) keys and (K, U, D) values of a block."""
    wide = _wide(key.dtype)
    keys, values = key.index_select(1, part.keys).to(wide), value.index_select(1, part.keys).to(wide)
    return _rows(grouped, part) * scaling, keys, values


def _weights(rows: Tensor, keys: Tensor, part: Block) -> Tensor:
    """(K, H / K * Q, U) attention weights."""
    scores = rows @ keys.transpose(1, 2)
    scores.view(len(keys), -1, *part.bias.shape).add_(part.bias)
    return scores.softmax(dim=-1)
