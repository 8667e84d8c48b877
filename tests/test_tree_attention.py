"""Attention along a prefix tree against PyTorch's attention with the whole mask, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from agentgrpo.packing import tree
from agentgrpo.tree_attention import BlockMask, FlexMask, tree_mask

TREES = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=12).map(tuple), min_size=1, max_size=12)
BRANCHING = sorted([(1, 5, 7, 9), (1, 5, 8), (1, 5, 7, 2, 3, 4), (2, 5, 7), (1, 5), (2, 6)])


def ends_of(items: list[tuple[int, ...]]) -> Tensor:
    return tree(sorted(items)).ends


def states(nodes: int, dtype: torch.dtype, heads: int = 4, kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(nodes)
    return tuple(torch.randn(h, nodes, 8, dtype=dtype, requires_grad=True) for h in (heads, kv_heads, kv_heads))  # type: ignore[return-value]


def whole_mask(ends: Tensor) -> Tensor:
    node = torch.arange(len(ends))
    return (node[None] <= node[:, None]) & (node[:, None] < ends[None])


def dense(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, scaling: float) -> Tensor:
    mask = whole_mask(ends)
    out = scaled_dot_product_attention(
        query[None], key[None], value[None], attn_mask=mask, scale=scaling, enable_gqa=True
    )
    return out[0]


@given(TREES, st.sampled_from([1, 3, 7, 256]))
@settings(max_examples=40, deadline=None)
def test_blocks_give_the_attention_and_gradients_of_the_whole_mask(items: list[tuple[int, ...]], size: int) -> None:
    ends = ends_of(items)
    inputs = states(len(ends), torch.float64)
    upper = torch.randn(4, len(ends), 8, dtype=torch.float64)
    expected = dense(*inputs, ends, 0.3)
    found = BlockMask.of(ends, size).attend(*inputs, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, upper), torch.autograd.grad(expected, inputs, upper), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_follows_the_same_rule() -> None:
    ends = ends_of(BRANCHING)
    inputs = tuple(x.detach() for x in states(len(ends), torch.float32))
    torch.testing.assert_close(FlexMask.of(ends).attend(*inputs, 0.3), dense(*inputs, ends, 0.3))


def test_a_block_looks_at_the_path_to_it_and_at_itself() -> None:
    mask = tree_mask(ends_of([(1, 5, 7), (1, 6), (2, 5)]))  # nodes: 1 5 7 6 2 5
    assert isinstance(mask, BlockMask)
    first, second = BlockMask.of(ends_of([(1, 5, 7), (1, 6), (2, 5)]), 3).parts
    assert first.keys.tolist() == [0, 1, 2]
    assert second.keys.tolist() == [0, 3, 4, 5]
    assert (second.bias == 0).tolist() == [
        [True, True, False, False],
        [False, False, True, False],
        [False, False, True, True],
    ]


def test_gradcheck() -> None:
    ends = ends_of(BRANCHING)
    mask = BlockMask.of(ends, 4)
    assert torch.autograd.gradcheck(lambda *x: mask.attend(*x, 0.3), states(len(ends), torch.float64, 2, 1))


def test_half_precision_rounds_as_a_half_precision_kernel_does() -> None:
    ends = ends_of(BRANCHING)
    half = tuple(x.detach().bfloat16() for x in states(len(ends), torch.float32))
    upper = torch.randn(4, len(ends), 8).bfloat16()
    exact = [x.float().requires_grad_() for x in half]
    expected = dense(*exact, ends, 0.3)  # type: ignore[call-arg]
    inputs = [x.requires_grad_() for x in half]
    found = BlockMask.of(ends, 4).attend(*inputs, 0.3)  # type: ignore[call-arg]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, upper), torch.autograd.grad(expected, exact, upper.float()), strict=True
    ):
        assert float((mine.float() - theirs).norm() / theirs.norm()) < 0.01
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"
