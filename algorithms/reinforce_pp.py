"""REINFORCE++: returns-to-go of each token, whitened over all tokens of the batch (arXiv:2501.03262).

No group is needed; with ``baseline=group`` the group's mean return is taken off first (REINFORCE++-baseline).
Whitening is over tokens, so long episodes weigh more. The distance from the reference policy counts in the reward,
token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from agentgrpo.advantages import returns, returns_to_go, standardize_groups, whiten_known
from agentgrpo.algorithm import Algorithm, RunFacts
from agentgrpo.checks import one_of, within
from agentgrpo.columns import credit_of_tokens, float64, owners, run_sums, step_counts, token_counts, token_rewards
from agentgrpo.losses import Aggregation, KlEstimator
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Credit, Group


@register_algorithm("reinforce_pp")
@dataclass(frozen=True)
class ReinforcePP(Algorithm):
    """REINFORCE with batch-whitened returns."""

    formula: ClassVar[str] = "A_t = whiten(sum_{k>=t} gamma^(k-t) r_k); baseline=group: whiten(R - mean(R))"
    source: ClassVar[str] = "arXiv:2501.03262"
    min_group_size: ClassVar[int] = 1

    aggregation: Aggregation = "token-mean"
    kl_in: Literal["loss", "reward"] = "reward"
    kl_estimator: KlEstimator = "k1"
    gamma: float = 1.0
    """Discount per token, in (0, 1]."""
    baseline: Literal["none", "group"] = "none"
    """``none``: returns-to-go are whitened. ``group``: returns less their group's mean, the same at all tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("algorithm.gamma", self.gamma, "(0, 1]")
        one_of("algorithm.baseline", self.baseline, ("none", "group"))

    @property
    def unused(self) -> tuple[str, ...]:
        return ("gamma",) if self.baseline == "group" else ()

    def check(self, facts: RunFacts) -> None:
        super().check(facts)
        if self.baseline == "group" and facts.group_size < 2:
            raise ValueError(
                f"algorithm.baseline=group with group_size={facts.group_size} takes every return off itself. Set "
                "group_size to 2 or more, or algorithm.baseline=none."
            )

    def credit(self, groups: Sequence[Group]) -> list[list[Credit]]:
        counts = run_sums(token_counts(groups), step_counts(groups))  # (all members,) policy tokens
        if self.baseline == "group":
            values = standardize_groups(owners(groups), returns(*groups), scale=False).repeat_interleave(counts)
        else:
            values = float64(returns_to_go(token_rewards(groups).tolist(), self.gamma, counts.tolist()))
        return credit_of_tokens(groups, counts, whiten_known(values, counts, groups))
