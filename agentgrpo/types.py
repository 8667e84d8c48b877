"""What the stages hand to each other: frozen dataclasses, one line and a shape per field.

Letters: B sequences, T tokens, G trajectories of a group, S steps of a trajectory.

A two-turn episode in the transcript context, with made-up token ids, is one growing sequence::

    Trajectory(
        steps=(
            Step(observation="Guess 1-9.", prompt_ids=(1, 40, 41), starts_sequence=True,
                 action_ids=(15, 2), logprobs=(-1.2, -0.1), action="5", reward=0.0),
            Step(observation="higher", prompt_ids=(3, 42), starts_sequence=False,
                 action_ids=(17, 2), logprobs=(-0.7, -0.1), action="7", reward=1.0),
        ),
        status=RolloutStatus.TERMINATED, success=True,
    )

The policy read ``1 40 41`` and wrote ``15 2``; the environment's answer was appended as ``3 42``. In the window
context both steps have ``starts_sequence=True`` and ``prompt_ids`` hold the whole prompt of the turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor


class StopReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    """The policy wrote an end-of-turn token (it is the last of the completion's ids)."""
    LENGTH = "length"
    """The token limit of the turn was reached first."""


class RolloutStatus(StrEnum):
    """Why an episode ended; ``terminated`` and ``truncated`` stay apart all the way to the loss."""

    TERMINATED = "terminated"
    """The environment says that the task is over."""
    TURN_LIMIT = "turn_limit"
    """The environment, or the runner for one that never ends, ran out of turns."""
    CONTEXT_LIMIT = "context_limit"
    """The next turn would not fit into the model's context."""
    ENV_ERROR = "env_error"
    """The environment raised or broke its contract; ``Trajectory.error`` holds its traceback."""
    ENV_TIMEOUT = "env_timeout"
    """A step or reset outlasted its deadline."""

    @property
    def truncated(self) -> bool:
        """True when the episode was cut off before the task was over."""
        return self is not RolloutStatus.TERMINATED

    @property
    def crashed(self) -> bool:
        """True when the environment failed, so that the episode's return is unknown."""
        return self in (RolloutStatus.ENV_ERROR, RolloutStatus.ENV_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Step:
    """One observation and the action that answers it."""

    observation: str
    """The environment's text that this action answers, without history."""
    reward: float = 0.0
    """Reward for this action, unitless: the weighted sum of the reward terms."""
    reward_terms: Mapping[str, float] = field(default_factory=dict)
    """The terms by name, before weighting."""
    text: str = ""
    """What the policy wrote, decoded."""
    action: str = ""
    """The part of it that was given to the environment."""
    prompt_ids: tuple[int, ...] = ()
    """Token ids put before the action: the whole prompt where a sequence starts, else only what was appended."""
    starts_sequence: bool = True
    """True when ``prompt_ids`` is a fresh prompt, False when it goes on from the step before."""
    action_ids: tuple[int, ...] = ()
    """Token ids that the policy sampled, exactly as it sampled them."""
    num_guided: int = 0
    """How many of ``action_ids``, from the first on, an expert gave: the policy did not sample them."""
    logprobs: tuple[float, ...] = ()
    """(A,) log-probabilities (nats) of the sampled ones of ``action_ids`` under the distribution that gave them."""
    old_logprobs: tuple[float, ...] | None = None
    """(A,) the same, recomputed by the trainer before the update; None: the sampler's count."""
    ref_logprobs: tuple[float, ...] | None = None
    """(A,) under the reference policy."""
    values: tuple[float, ...] | None = None
    """(A,) the critic's value before each sampled token."""
    token_penalties: tuple[float, ...] | None = None
    """(A,) taken off the reward, token by token: the distance from the reference policy, where it counts there."""
    anchor: str | None = None
    """The environment's name for the state (``info["anchor"]``), without history or counters."""
    valid_action: bool = True
    """False when the environment could not read the action."""
    stop_reason: StopReason = StopReason.STOP
    """Why the action's text ended."""
    policy_version: int = 0
    """Updates that the weights had seen which the action was sampled from."""

    @property
    def num_policy_tokens(self) -> int:
        """A: tokens that the policy sampled."""
        return len(self.action_ids) - self.num_guided

    @property
    def net_reward(self) -> float:
        """The reward less its penalties."""
        return self.reward - sum(self.token_penalties) if self.token_penalties else self.reward

    @property
    def state(self) -> str:
        """What tells one state of a task from another: the anchor, or the observation where there is none."""
        return self.observation if self.anchor is None else self.anchor


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode."""

    steps: tuple[Step, ...]
    status: RolloutStatus = RolloutStatus.TERMINATED
    success: bool = False
    final_observation: str = ""
    """The text after the last action."""
    task_info: Mapping[str, Any] = field(default_factory=dict)
    """Plain entries of the environment's ``info`` at reset: the right answer, tests, a reference solution."""
    error: str = ""
    """The environment's traceback or what it did wrong, empty when it behaved."""

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of rewards; NaN when the environment crashed or a reward is, because the rest is unknown."""
        # Rounded once: otherwise 0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ, and the two seem to have spread.
        return float("nan") if self.status.crashed else math.fsum([step.reward for step in self.steps])

    @property
    def has_return(self) -> bool:
        """False where the environment crashed or a reward is missing: such an episode is in no statistic."""
        return not math.isnan(self.episode_return)

    @property
    def num_policy_tokens(self) -> int:
        return sum(step.num_policy_tokens for step in self.steps)

    @property
    def guided(self) -> bool:
        """True when an expert led in."""
        return any(step.num_guided for step in self.steps)


@dataclass(frozen=True, slots=True)
class Group:
    """Trajectories from one initial state: what a baseline is computed over."""

    trajectories: tuple[Trajectory, ...]
    task_seed: int = 0
    """Seed that all members were reset with."""
    max_return: float | None = None
    """Highest return that the environment declares possible; None when it declares none."""
    env: str = ""
    """Name of the environment."""

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.trajectories)

    def __len__(self) -> int:
        return len(self.trajectories)


@dataclass(frozen=True, slots=True)
class Credit:
    """What the policy tokens of a trajectory were worth. A: all of them, in the order in which they were sampled."""

    advantages: Tensor
    """(A,) float64, unitless."""
    returns: Tensor | None = None
    """(A,) float64: what a critic should have predicted before each token."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """Token ids of one training sequence, with what each policy token needs for its loss. Made by ``packing``."""

    token_ids: tuple[int, ...]
    """(T,) everything that the model reads, environment and policy text alike."""
    action_index: tuple[int, ...]
    """(A,) positions in ``token_ids`` that the policy sampled, ascending."""
    sampler_logprobs: tuple[float, ...]
    """(A,) log-probabilities under the distribution that sampled them."""
    old_logprobs: tuple[float, ...]
    """(A,) the ratio's denominator: the sampler's, or recomputed by the trainer."""
    advantages: tuple[float, ...]
    """(A,) advantage of each policy token."""
    ref_logprobs: tuple[float, ...] | None = None
    """(A,) under the reference policy."""
    values: tuple[float, ...] | None = None
    """(A,) the critic's values when the advantages were computed."""
    returns: tuple[float, ...] | None = None
    """(A,) what the critic should have predicted."""


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """What the model computes in one forward pass, apart from what the loss reads: a prefix tree.

    Every distinct prefix of the micro-batch's sequences is one of N nodes, in the order of the sequences; a node is
    computed once however many sequences go through it. Sequences ``1 40 15`` and ``1 40 17 2`` make 5 nodes::

        token_ids  1  40  15  17  2        paths  0  1  2  0
        positions  0   1   2   2  3               0  1  3  4
        ends       5   5   3   5  5
        homes      0   1   2   6  7
    """

    token_ids: Tensor
    """(N,) int64."""
    positions: Tensor
    """(N,) int64: distance from the start of the sequence."""
    ends: Tensor
    """(N,) int64: one past the last node of the subtree; node q sees node k exactly when k <= q < ends[k]."""
    paths: Tensor
    """(B, W) int64: the nodes that each sequence goes through, right-padded with node 0."""
    homes: Tensor
    """(N,) int64: index into the flattened (B * W) ``paths`` of each node's first visit."""

    def to(self, device: torch.device) -> TokenLayout:
        """The same on another device."""
        return TokenLayout(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch. B sequences, T policy tokens of the longest: environment tokens are not here at all."""

    layout: TokenLayout
    predictor: Tensor
    """(B, T) int64: the node of the layout whose output predicts the token."""
    targets: Tensor
    """(B, T) int64: the token ids that the policy sampled."""
    action_mask: Tensor
    """(B, T) bool: True on policy tokens, False on padding."""
    sampler_logprobs: Tensor
    """(B, T) float32: log-probabilities (nats) under the distribution that sampled them."""
    old_logprobs: Tensor
    """(B, T) float32: the ratio's denominator; the sampler's unless the trainer recomputed them."""
    advantages: Tensor
    """(B, T) float32, unitless."""
    ref_logprobs: Tensor | None = None
    """(B, T) float32: under the reference policy, where the loss has a KL term."""
    values: Tensor | None = None
    """(B, T) float32: the critic's when the advantages were computed."""
    returns: Tensor | None = None
    """(B, T) float32: what the critic should have predicted."""
    rows: tuple[int, ...] = ()
    """(B,) which of the packed sequences each row is."""


@dataclass(frozen=True, slots=True)
class Denominators:
    """Counts over one whole optimiser step, never over a micro-batch: what loss averages are divided by."""

    sequences: int
    """Sequences that hold at least one policy token."""
    tokens: int
    """Policy tokens."""
    max_length: int
    """Constant L of ``seq-mean-token-sum-norm``: policy tokens that a sequence could have."""
