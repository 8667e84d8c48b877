"""Half precision in training: a bf16 twin computes, the fp32 weights learn.

The twin runs forward and backward; every gradient is added up in fp32 beside the fp32 weight that it belongs to, and
the half-precision copy of it goes at once. After an optimiser step the twin takes the new weights over. A sampler in
the same precision samples from the very same twin, so that both sides hold one copy and round alike.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHOICES = ("auto", *PRECISIONS)
_BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")
Module = TypeVar("Module", bound=nn.Module)


def settled(precision: str) -> str:
    """``auto`` decided: bf16 where the processor multiplies it in hardware, else fp32.

    Without such instructions a product in bf16 takes about seven times as long as in fp32.
    """
    return ("bf16" if has_bf16() else "fp32") if precision == "auto" else precision


def has_bf16() -> bool:
    """True where the processor has instructions for products in bf16 (Intel's AMX, AVX-512 BF16, Arm's BF16)."""
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # missing before torch 2.11
    return any(known.get(name, False) for name in _BF16_INSTRUCTIONS)


def converted(module: Module, dtype: torch.dtype) -> Module:
    """A copy in another precision. Buffers stay as they are: rounded rotary frequencies would be wrong far out."""
    # Converted one by one while they are copied, so that no second fp32 copy exists on the way.
    memo = {
        id(p): nn.Parameter(p.detach().to(dtype, copy=True), requires_grad=p.requires_grad) for p in module.parameters()
    }
    return copy.deepcopy(module, memo)


class HalfTwin:
    """The computing side of a module that learns in fp32.

    Args:
        module: fp32 weights; its gradients are filled in, its forward pass is never used.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.module = converted(module, torch.bfloat16)
        """Same structure in bf16."""
        for weight, half in zip(module.parameters(), self.module.parameters(), strict=True):
            if half.requires_grad:
                half.register_post_accumulate_grad_hook(_Collect(weight))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def follow(self) -> None:
        """Takes over the fp32 weights."""
        for weight, half in zip(self._module.parameters(), self.module.parameters(), strict=True):
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
