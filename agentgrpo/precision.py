"""Half precision in training: a bf16 twin computes, the fp32 weights learn.

The twin runs forward and backward; every gradient is added up in fp32 beside the fp32 weight that it belongs to, and
the half-precision copy of it goes at once. After an optimiser step the twin takes the new weights over. A sampler in
the same precision samples from the very same twin, so that both sides hold one copy and round alike.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHOICES = ("auto", *PRECISIONS)
_BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")
Module = TypeVar("Module", bound=nn.Module)


def settled(precision: str) -> str:
    """``auto`` decided: bf16 where the GPU, or without one the processor, multiplies it in hardware, else fp32.

    Without such instructions a product in bf16 takes about seven times as long as in fp32.
    """
    return ("bf16" if has_bf16() else "fp32") if precision == "auto" else precision


def has_bf16() -> bool:
    """True where there are instructions for products in bf16 (NVIDIA's from Ampere on; Intel's AMX, AVX-512 BF16, Arm's
    BF16)."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # missing before torch 2.11
    return any(known.get(name, False) for name in _BF16_INSTRUCTIONS)


def converted(module: Module, dtype: torch.dtype | None) -> Module:
    """A copy in another precision, or (None) with every weight in its own.

    Buffers stay as they are: rounded rotary frequencies would be wrong far out. Parts that are frozen and need no
    conversion are shared: nothing will ever change them.
    """
    memo: dict[int, Any] = {id(part): part for part in module.modules() if _can_share(part, dtype)}
    shared = {id(p) for part in memo.values() for p in part.parameters()}
    # Converted one by one while they are copied, so that no second fp32 copy exists on the way.
    for p in module.parameters():
        if id(p) not in shared:
            memo[id(p)] = nn.Parameter(p.detach().to(_kind(p, dtype), copy=True), requires_grad=p.requires_grad)
    return copy.deepcopy(module, memo)


def _can_share(part: nn.Module, dtype: torch.dtype | None) -> bool:
    return all(not p.requires_grad and p.dtype == _kind(p, dtype) for p in part.parameters())


def _kind(weight: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    # Whole numbers hold several weights each (4-bit layers), in a precision of their own.
    return weight.dtype if dtype is None or not weight.is_floating_point() else dtype


class HalfTwin:
    """The computing side of a module that learns in fp32.

    Args:
        module: fp32 weights; its gradients are filled in, its forward pass is never used.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = converted(module, torch.bfloat16)
        """Same structure in bf16; frozen parts that are in bf16 already are the very same."""
        pairs = zip(module.parameters(), self.module.parameters(), strict=True)
        self._trained = [(weight, half) for weight, half in pairs if weight.requires_grad]
        for weight, half in self._trained:
            half.register_post_accumulate_grad_hook(_Collect(weight))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def follow(self) -> None:
        """Takes over the fp32 weights."""
        for weight, half in self._trained:
            half.copy_(weight)


class _Collect:
    """Moves a gradient to the fp32 weight as soon as it is complete."""

    def __init__(self, weight: nn.Parameter) -> None:
        self._weight = weight

    def __call__(self, half: Tensor) -> None:
        assert half.grad is not None
        if self._weight.grad is None:
            self._weight.grad = half.grad.float()
        else:
            self._weight.grad.add_(half.grad)
        half.grad = None
