"""What an algorithm is: a frozen dataclass that is its own configuration, with a few hooks.

One update asks it, in this order: which members of a group an expert leads in (``guidance``), which groups are worth
training on (``keep``), which trajectories (``trains_on``), what each policy token was worth (``credit``), and for the
loss. The options here go with every algorithm; a combination that makes no sense is refused when it is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from agentgrpo import corrections, filters, losses
from agentgrpo.checks import above, at_least, one_of, within
from agentgrpo.columns import by_member, credit_of_tokens, run_sums, step_counts, token_counts
from agentgrpo.corrections import CORRECTION_LEVELS, CORRECTION_MODES, CorrectionLevel, CorrectionMode
from agentgrpo.filters import GROUP_FILTERS, GroupFilter
from agentgrpo.losses import AGGREGATIONS, KL_ESTIMATORS, Aggregation, KlEstimator
from agentgrpo.types import Batch, Credit, Denominators, Group, Trajectory

State = Mapping[str, Any]
"""What an algorithm carries from update to update; plain numbers, strings and lists, kept in the checkpoint."""


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A micro-batch's share of the loss of one optimiser step, and sums to report."""

    loss: Tensor
    """Scalar; shares of all micro-batches add up to the loss of the step."""
    sums: dict[str, Tensor]
    """Sums over policy tokens, by metric name; the learner divides by the step's token count."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What an algorithm may ask about a run before it starts."""

    group_size: int
    max_return: float | None
    """Highest return that the environment declares possible."""
    has_expert: bool
    """The environment offers ``oracle_actions()`` or a reference trace in ``info["reference"]``."""
    steps_per_round: int = 1
    """Optimiser steps that are taken on one round of rollouts."""


@dataclass(frozen=True)
class Algorithm:
    """Base of every algorithm. Subclasses are frozen dataclasses whose fields are the keys of ``algorithm.*``."""

    formula: ClassVar[str] = ""
    """The advantage or the loss in one line, for the table that ``agentgrpo algorithms`` prints."""
    source: ClassVar[str] = ""
    min_group_size: ClassVar[int] = 2
    """Fewest trajectories per group that give any signal."""

    clip_ratio_low: float = 0.2
    """The probability ratio is clipped below 1 - this; in [0, 1]."""
    clip_ratio_high: float = 0.2
    """The probability ratio is clipped above 1 + this; >= 0."""
    dual_clip: float | None = None
    """Bound of the loss where the advantage is negative, in multiples of its size; > 1. None: no bound."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How token losses are averaged."""
    kl_coef: float = 0.0
    """Weight of the distance from the reference policy; 0 saves the reference model and its forward pass."""
    kl_estimator: KlEstimator = "k3"
    """How that distance is estimated from sampled tokens."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where it counts."""
    reference_every: int = 0
    """Updates after which the reference follows the policy; 0: it stays the starting policy."""
    reference_mix: float = 1.0
    """Share of the current policy in the new reference, in (0, 1]; TR-DPO's 0.6 moves it gently."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus. A tiny one can drive a policy without reward signal to the uniform distribution."""
    old_logprobs: Literal["auto", "sampler", "recompute"] = "auto"
    """The ratio's denominator: what the sampler reported, or the trainer's own before the update."""
    correction: Literal["auto"] | CorrectionLevel = "auto"
    """Weight for the gap between sampler and recomputed log-probabilities, per token or per sequence."""
    correction_mode: CorrectionMode = "truncate"
    """``truncate`` keeps the weight within its bounds; ``mask`` drops what lies outside."""
    correction_low: float = 0.0
    correction_high: float = 2.0
    off_policy_kl: float | None = None
    """Sequences that the policy has left by more than this many nats per token are not pushed down further."""
    group_filter: GroupFilter = "none"
    """Which groups are left out of an update."""
    filter_share: float = 0.25
    """Share of groups (``spread_top_k``) or of their total spread (``spread_top_p``) that is kept, in (0, 1]."""
    resample_rounds: int = 0
    """How many times at most groups that the filter dropped are replaced by newly collected ones."""
    train_truncated: bool = True
    """False: episodes that were cut off give statistics, but no gradient."""
    train_void_turns: bool = True
    """False: episodes with a turn that held no valid action give statistics, but no gradient."""

    def __post_init__(self) -> None:
        within("algorithm.clip_ratio_low", self.clip_ratio_low, "[0, 1]")
        at_least("algorithm.clip_ratio_high", self.clip_ratio_high, 0)
        if self.dual_clip is not None:
            above("algorithm.dual_clip", self.dual_clip, 1)
        one_of("algorithm.aggregation", self.aggregation, AGGREGATIONS)
        at_least("algorithm.kl_coef", self.kl_coef, 0)
        one_of("algorithm.kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        one_of("algorithm.kl_in", self.kl_in, ("loss", "reward"))
        at_least("algorithm.reference_every", self.reference_every, 0)
        within("algorithm.reference_mix", self.reference_mix, "(0, 1]")
        at_least("algorithm.entropy_coef", self.entropy_coef, 0)
        one_of("algorithm.old_logprobs", self.old_logprobs, ("auto", "sampler", "recompute"))
        one_of("algorithm.correction", self.correction, ("auto", *CORRECTION_LEVELS))
        one_of("algorithm.correction_mode", self.correction_mode, CORRECTION_MODES)
        at_least("algorithm.correction_low", self.correction_low, 0)
        above("algorithm.correction_high", self.correction_high, self.correction_low)
        if self.off_policy_kl is not None:
            above("algorithm.off_policy_kl", self.off_policy_kl, 0)
        one_of("algorithm.group_filter", self.group_filter, GROUP_FILTERS)
        within("algorithm.filter_share", self.filter_share, "(0, 1]")
        at_least("algorithm.resample_rounds", self.resample_rounds, 0)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self._level != "none" and self.old_logprobs == "sampler":
            raise ValueError(
                f"algorithm.correction={self.correction} with algorithm.old_logprobs=sampler would count the gap "
                "between sampler and trainer twice: the ratio holds it already. "
                "Set algorithm.old_logprobs=recompute, or algorithm.correction=none."
            )
        if self.kl_in == "loss" and self.kl_estimator == "k1" and self.kl_coef > 0:
            raise ValueError(
                "algorithm.kl_estimator=k1 in the loss has a gradient of zero mean: it adds noise and holds nothing. "
                "Set algorithm.kl_in=reward, or algorithm.kl_estimator=k2 or k3."
            )
        if self.kl_coef > 0 and self.kl_in == "reward" and self.divides_by_spread:
            raise ValueError(
                "algorithm.kl_in=reward with advantages that are divided by a group's standard deviation would scale "
                "the distance from the reference up to full size wherever the rewards themselves are equal. "
                "Set algorithm.kl_in=loss; or algorithm.scale=none, where the algorithm has it."
            )
        if self.reference_every and not self.kl_coef:
            raise ValueError(
                "algorithm.reference_every is set, but algorithm.kl_coef=0 asks for no reference policy. "
                "Set algorithm.kl_coef above 0, or algorithm.reference_every=0."
            )
        if self.resample_rounds and self.group_filter == "none":
            raise ValueError(
                "algorithm.resample_rounds is set, but algorithm.group_filter=none drops nothing that could be "
                "replaced. Set algorithm.group_filter=zero_variance, or algorithm.resample_rounds=0."
            )

    def check(self, facts: RunFacts) -> None:
        """Refuses a run that the algorithm cannot work in; called before a model loads.

        Raises:
            ValueError: what is missing, and what to set.
        """
        if facts.group_size < self.min_group_size:
            raise ValueError(
                f"group_size={facts.group_size} gives no signal with {type(self).__name__}: it compares the members "
                f"of a group with each other. Set group_size to {self.min_group_size} or more; 8 is usual."
            )

    def settled(self, *, exact_sampler: bool) -> Self:
        """The same with ``auto`` decided.

        Args:
            exact_sampler: the sampler's log-probabilities are the trainer's, up to rounding in fp32. Where they are
                not, as in half precision, the trainer computes its own and weighs each token by their truncated ratio.
        """
        settled = self
        if self.old_logprobs == "auto":
            exact = exact_sampler and self._level == "none"
            settled = replace(self, old_logprobs="sampler" if exact else "recompute")
        if self.correction == "auto":
            exact = exact_sampler or settled.old_logprobs == "sampler"
            settled = replace(settled, correction="none" if exact else "token")
        return settled

    @property
    def _level(self) -> CorrectionLevel:
        return "none" if self.correction == "auto" else self.correction

    # --- expert guidance ------------------------------------------------------------------------------------------

    def initial_state(self) -> State:
        """What the first update starts from."""
        return {}

    def guidance(self, state: State, group_size: int) -> tuple[int, ...]:
        """Per member of a group, how many turns (tokens in single-turn tasks) an expert leads in with."""
        return (0,) * group_size

    def next_state(self, state: State, groups: Sequence[Group]) -> State:
        """The state after an update on the given groups."""
        return state

    # --- what is trained on -----------------------------------------------------------------------------------------

    def keep(self, groups: Sequence[Group]) -> list[bool]:
        """Which groups stay in the update."""
        return filters.keep(groups, self.group_filter, self.filter_share)

    def trains_on(self, trajectory: Trajectory) -> bool:
        """Whether an episode gives a gradient. One of unknown return never does."""
        if not trajectory.has_return:
            return False
        void = not self.train_void_turns and not all(step.valid_action for step in trajectory.steps)
        cut = not self.train_truncated and trajectory.status.truncated
        return not (void or cut)

    # --- credit -----------------------------------------------------------------------------------------------------

    def advantages(self, group: Group) -> list[Tensor]:
        """One (S_i,) tensor per trajectory: an advantage for each of its steps. Where tokens differ: ``credit``."""
        return by_member(self.step_advantages([group]), [group])[0]

    def step_advantages(self, groups: Sequence[Group]) -> Tensor:
        """(all steps,) what ``advantages`` gives, for many groups in one pass: the faster of the two to override."""
        raise NotImplementedError(
            f"{type(self).__name__} defines none of advantages(), step_advantages() and credit()."
        )

    def batch_advantages(self, groups: Sequence[Group]) -> list[list[Tensor]]:
        """Advantages of all groups of an update; override where statistics cross groups."""
        if type(self).advantages is Algorithm.advantages:
            return by_member(self.step_advantages(groups), groups)
        return [self.advantages(group) for group in groups]

    def credit(self, groups: Sequence[Group]) -> list[list[Credit]]:
        """What each policy token was worth; override where tokens of one step differ."""
        per_step = [values for group in self.batch_advantages(groups) for values in group]
        num_steps = step_counts(groups)
        if [values.numel() for values in per_step] != num_steps.tolist():
            raise ValueError(
                f"{type(self).__name__}.advantages() gives one tensor per trajectory with a value for each of its "
                "steps, in the order of the group; lengths differ from the steps here."
            )
        if not per_step:
            return [[] for _ in groups]
        # One pass over all tokens: a tensor operation per trajectory would take longer than the statistics.
        num_tokens = token_counts(groups)
        tokens = torch.cat(per_step).repeat_interleave(num_tokens)
        return credit_of_tokens(groups, run_sums(num_tokens, num_steps), tokens)

    # --- loss -------------------------------------------------------------------------------------------------------

    @property
    def divides_by_spread(self) -> bool:
        """True when advantages are divided by the standard deviation of what is compared."""
        return False

    @property
    def compares_states(self) -> bool:
        """True when credit comes from comparing a group's visits to one and the same state (``Step.state``)."""
        return False

    @property
    def needs_reference(self) -> bool:
        """True when a reference policy is asked for log-probabilities."""
        return self.kl_coef > 0

    @property
    def needs_every_sequence(self) -> bool:
        """True when the loss has terms that do not vanish where advantages are 0."""
        return self.entropy_coef > 0 or (self.kl_coef > 0 and self.kl_in == "loss")

    @property
    def unused(self) -> tuple[str, ...]:
        """Shared options that have no effect with this algorithm: they are reported when they are set."""
        return ()

    @property
    def critic_rate(self) -> float | None:
        """Learning rate of the critic; None: the algorithm needs none."""
        return None

    def value_loss(self, values: Tensor, batch: Batch) -> Tensor:
        """(B, T) loss of the critic per token."""
        raise NotImplementedError(f"{type(self).__name__} has no critic")

    def ratio(self, logprobs: Tensor, batch: Batch) -> Tensor:
        """(B, T) probability ratio current / old policy."""
        return losses.masked_ratio(logprobs, batch.old_logprobs, batch.action_mask)

    def surrogate(self, logprobs: Tensor, ratio: Tensor, batch: Batch) -> Tensor:
        """(B, T) policy loss per token."""
        return losses.clipped_surrogate(
            ratio, batch.advantages, batch.action_mask, dual_clip=self.dual_clip, **self._bounds
        )

    def clipped(self, ratio: Tensor, batch: Batch) -> Tensor | None:
        """(B, T) 1.0 on tokens that the clip acts on, for the log; None where the loss has no clip."""
        return losses.clip_fraction(ratio, batch.advantages, batch.action_mask, **self._bounds)

    @property
    def _bounds(self) -> dict[str, float]:
        return {"clip_ratio_low": self.clip_ratio_low, "clip_ratio_high": self.clip_ratio_high}

    def loss(
        self, logprobs: Tensor, batch: Batch, denominators: Denominators, entropy: Tensor | None = None
    ) -> LossOutput:
        """The loss to minimise.

        Args:
            logprobs: (B, T) log-probabilities of the sampled tokens under the current policy.
            batch: what the policy tokens were sampled with; its ``action_mask`` marks padding.
            denominators: counts over the whole optimiser step.
            entropy: (B, T) of the current policy in nats, where ``entropy_coef`` asks for it.
        """
        mask = batch.action_mask
        ratio = self.ratio(logprobs, batch)
        token_loss = self.surrogate(logprobs, ratio, batch)
        with torch.no_grad():
            # k3 between old and current policy: how far this update has moved.
            sums = {"loss/old_kl": losses.kl(batch.old_logprobs, logprobs, mask).sum()}
            clipped = self.clipped(ratio, batch)
            if clipped is not None:
                sums["loss/clip_fraction"] = clipped.sum()
        if self._level != "none":
            gap = corrections.mismatch(batch.old_logprobs, batch.sampler_logprobs, mask, self._level)
            weights = corrections.importance_weights(
                gap, self.correction_mode, self.correction_low, self.correction_high
            )
            token_loss = token_loss * weights
            sums["loss/correction_weight"] = torch.where(mask, weights, 0.0).sum()
        if self.off_policy_kl is not None:
            token_loss = token_loss * corrections.off_policy_weights(
                logprobs, batch.sampler_logprobs, batch.advantages, mask, self.off_policy_kl
            )
        if self.kl_coef > 0:
            assert batch.ref_logprobs is not None, "annotate() fills ref_logprobs when needs_reference is True"
            kl = losses.kl(logprobs, batch.ref_logprobs, mask, self.kl_estimator)
            if self.kl_in == "loss":
                token_loss = token_loss + self.kl_coef * kl
            sums["loss/ref_kl"] = kl.detach().sum()
        if self.entropy_coef > 0:
            assert entropy is not None, "the learner computes the entropy when entropy_coef is above 0"
            token_loss = token_loss - self.entropy_coef * entropy
        return LossOutput(losses.aggregate(token_loss, mask, self.aggregation, denominators), sums)
