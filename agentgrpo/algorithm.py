"""What an algorithm is: a frozen dataclass that is its own configuration, with a few hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from agentgrpo.types import Batch, Denominators, Group


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A micro-batch's share of the loss of one optimiser step, and sums to report."""

    loss: Tensor
    """Scalar; shares of all micro-batches add up to the loss of the step."""
    sums: dict[str, Tensor]
    """Sums over policy tokens, by metric name; the learner divides by the step's token count."""


@dataclass(frozen=True)
class Algorithm(ABC):
    """Base of every algorithm. Subclasses are frozen dataclasses whose fields are the keys of ``algorithm.*``."""

    min_group_size: ClassVar[int] = 1
    """Fewest trajectories per group that give any signal."""

    @abstractmethod
    def advantages(self, group: Group) -> list[Tensor]:
        """One (S_i,) tensor per trajectory: an advantage for each of its steps."""

    def batch_advantages(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        """Advantages of all groups of an update; override where statistics cross groups."""
        return [self.advantages(group) for group in groups]

    @abstractmethod
    def loss(self, logprobs: Tensor, batch: Batch, denominators: Denominators) -> LossOutput:
        """The loss to minimise.

        Args:
            logprobs: (B, T) log-probabilities of the sampled tokens under the current policy.
            batch: what the policy tokens were sampled with; its ``action_mask`` marks padding.
            denominators: counts over the whole optimiser step.
        """

    @property
    def needs_reference(self) -> bool:
        """True when the loss reads ``batch.ref_logprobs``."""
        return False
