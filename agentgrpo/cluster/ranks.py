"""Learner ranks: processes that hold the same run and share its work. All of them must make the same calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from agentgrpo.cluster.errors import ClusterError

T = TypeVar("T")

_BUCKET = 25_000_000
"""Numbers that are added up over ranks in one call: a call each would cost more than the sums."""


class RankError(ClusterError):
    """Another rank failed; the message says which and how."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks of this run, as one of them sees it. One alone needs no torch.distributed.

    Objects are exchanged by pickle: ranks are one program and trust each other.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """True at the rank that writes and prints."""
        return self.rank == 0

    def gather(self, make: Callable[[], T]) -> list[T]:
        """What each rank makes, by rank, at every rank.

        Raises:
            RankError: another rank's ``make`` failed; at the one where it did, its own error.
        """
        if self.size == 1:
            return [make()]
        error: Exception | None = None
        mine: tuple[bool, Any]
        try:
            mine = (True, make())
        except Exception as caught:
            error, mine = caught, (False, f"{type(caught).__name__}: {caught}")
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine)
        if error is not None:
            raise error
        for rank, (fine, value) in enumerate(found):
            if not fine:
                raise RankError(f"Rank {rank} of {self.size} failed: {value}")
        return [value for _, value in found]

    def at_each(self, make: Callable[[], T]) -> T:
        """What this rank makes, if all of them succeed.

        Raises:
            RankError: as :meth:`gather`.
        """
        made: list[T] = []
        self.gather(lambda: made.append(make()))
        return made[0]

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first rank makes, at every rank. The others do not call ``make``.

        Raises:
            RankError: the first rank failed; there, its own error.
        """
        if self.size == 1:
            return make()
        error: Exception | None = None
        box: list[Any] = [None]
        if self.first:
            try:
                box = [(True, make())]
            except Exception as caught:
                error, box = caught, [(False, f"{type(caught).__name__}: {caught}")]
        dist.broadcast_object_list(box, src=0)
        if error is not None:
            raise error
        fine, value = box[0]
        if not fine:
            raise RankError(f"Rank 0 of {self.size} failed: {value}")
        made: T = value
        return made

    def any(self, flag: bool) -> bool:
        """Whether it is true at any rank."""
        return any(self.gather(lambda: flag))

    def add_gradients(self, weights: Iterable[Tensor]) -> None:
        """Sums the gradients over ranks, in place; a weight that has none at a rank counts as 0 there."""
        if self.size == 1:
            return
        learning = [w for w in weights if w.requires_grad]
        # One without a gradient anywhere keeps none: to an optimiser that is not the same as 0.
        known = torch.tensor([w.grad is not None for w in learning], dtype=torch.int32, device=learning[0].device)
        dist.all_reduce(known)
        bucket: list[Tensor] = []
        for weight in (w for w, count in zip(learning, known.tolist(), strict=True) if count):
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            bucket.append(weight.grad)
            if sum(g.numel() for g in bucket) >= _BUCKET:
                _add_up(bucket)
                bucket = []
        if bucket:
            _add_up(bucket)

    def check_equal(self, what: str, value: Callable[[], object]) -> None:
        """Stops a run whose ranks have come apart: what must be the same everywhere is not.

        Raises:
            RankError: names what differs, and each rank's value.
        """
        if self.size == 1:
            return
        found = self.gather(value)
        if any(other != found[0] for other in found):
            raise RankError(
                f"The ranks' {what} have come apart: {found}. Resume from the last checkpoint; if it happens again, "
                "look for something that differs between the machines, such as versions or kinds of processor."
            )


def _add_up(gradients: list[Tensor]) -> None:
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()


def says_lost(error: Exception) -> bool:
    """Whether an error is torch.distributed's way of saying that another rank is not there any more."""
    return isinstance(error, (dist.DistBackendError, dist.DistNetworkError)) or "gloo" in str(error)


def backend_of(name: str) -> str:
    """``auto`` decided: nccl where there are GPUs."""
    if name != "auto":
        return name
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def join(backend: str, timeout: float, **address: Any) -> Ranks:
    """Meets the other ranks, and makes this process one of them.

    Args:
        backend: ``auto``, ``gloo`` or ``nccl``.
        timeout: seconds that a rank waits for the others.
        address: ``init_method``, ``rank`` and ``world_size``; without them those of the environment, as torchrun sets.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    dist.init_process_group(backend_of(backend), timeout=timedelta(seconds=timeout), **address)
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Ends this process' part in it."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def from_environment(backend: str, timeout: float) -> Ranks:
    """The ranks that torchrun has started.

    Raises:
        ValueError: it has not.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "cluster=torchrun takes ranks that torchrun starts: "
            "torchrun --nproc-per-node=2 -m agentgrpo train cluster=torchrun ... "
            "For one process leave cluster out."
        )
    return join(backend, timeout)
