"""Attention over a prefix tree: every node looks at itself and its ancestors, and at nothing else.

Nodes stand in depth-first order, so a subtree is one range of nodes and the tree is one number per node: where its
subtree ends. Node q sees node k exactly when k <= q < end[k]. On a CPU the tree is cut into blocks of neighbours:
what the first node of a block sees before the block is all that any of them sees there, so a block is a few dense
products over few keys. On a GPU the same rule is a mask of PyTorch's flex attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

BLOCK = 256
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
    return BlockMask.of(ends) if ends.device.type == "cpu" else FlexMask.of(ends)


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring nodes, and what they look at."""

    start: int
    end: int
    keys: Tensor
    """(U,) int64 nodes: the ancestors of the first node, then the block itself."""
    hidden: Tensor
    """(end - start, U) bool: True where a node must not look."""


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
            parts.append(Block(start, end, keys, (keys > query) | (ends[keys] <= query)))
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
    """Keeps log-normalisers instead of weights; the backward pass computes the weights again, block by block."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: tuple[Block, ...], scaling: float
    ) -> Tensor:
        wide = _wide(query.dtype)
        heads, nodes, width = query.shape
        kv_heads = key.shape[0]
        grouped = query.view(kv_heads, -1, nodes, width)  # (K, H / K, N, D)
        out = torch.empty_like(grouped)
        norms = torch.empty(grouped.shape[:3], dtype=wide, device=query.device)
        for part in parts:
            rows, keys, values = _block(grouped, key, value, part, wide)
            weights = _scores(rows, keys, part, scaling)
            norm = weights.logsumexp(dim=-1, keepdim=True)
            weights = weights.sub_(norm).exp_()
            shape = (kv_heads, -1, part.end - part.start)
            out[:, :, part.start : part.end] = (weights @ values).view(*shape, width).to(out.dtype)
            norms[:, :, part.start : part.end] = norm.view(shape)
        ctx.save_for_backward(query, key, value, out, norms)
        ctx.parts, ctx.scaling = parts, scaling
        return out.view(heads, nodes, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, norms = ctx.saved_tensors
        wide = norms.dtype
        heads, nodes, width = query.shape
        kv_heads = key.shape[0]
        grouped = query.view(kv_heads, -1, nodes, width)
        grad_rows = grad_out.reshape(grouped.shape)
        inner = (grad_rows.to(wide) * out.to(wide)).sum(dim=-1)  # (K, H / K, N)
        grad_query = torch.empty_like(grouped)
        grad_key = torch.zeros(key.shape, dtype=wide, device=key.device)
        grad_value = torch.zeros_like(grad_key)
        for part in ctx.parts:
            span = slice(part.start, part.end)
            rows, keys, values = _block(grouped, key, value, part, wide)
            weights = _scores(rows, keys, part, ctx.scaling).sub_(_column(norms, part)).exp_()
            upper = grad_rows[:, :, span].to(wide).reshape(rows.shape)
            grad_value.index_add_(1, part.keys, weights.transpose(1, 2) @ upper)
            grad_scores = (upper @ values.transpose(1, 2)).sub_(_column(inner, part)).mul_(weights).mul_(ctx.scaling)
            grad_query[:, :, span] = (grad_scores @ keys).view(kv_heads, -1, part.end - part.start, width)
            grad_key.index_add_(1, part.keys, grad_scores.transpose(1, 2) @ rows)
        return grad_query.view(heads, nodes, width), grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype


def _block(
    grouped: Tensor, key: Tensor, value: Tensor, part: Block, wide: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """(K, H / K * Q, D) queries, (K, U, D) keys and (K, U, D) values of a block."""
    rows = grouped[:, :, part.start : part.end].to(wide).flatten(1, 2)
    return rows, key.index_select(1, part.keys).to(wide), value.index_select(1, part.keys).to(wide)


def _scores(rows: Tensor, keys: Tensor, part: Block, scaling: float) -> Tensor:
    """(K, H / K * Q, U) scaled products, -inf where a node must not look."""
    scores = (rows @ keys.transpose(1, 2)).mul_(scaling)
    queries, seen = part.hidden.shape
    scores.view(len(scores), -1, queries, seen).masked_fill_(part.hidden, float("-inf"))
    return scores


def _column(values: Tensor, part: Block) -> Tensor:
    """(K, H / K, N) -> (K, H / K * Q, 1) of a block."""
    return values[:, :, part.start : part.end].flatten(1)[:, :, None]
