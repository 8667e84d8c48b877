"""PPO with a critic: the baseline that GRPO does without (arXiv:1707.06347, GAE arXiv:1506.02438).

``token``: GAE over all policy tokens of an episode; what the environment wrote carries value and accumulator through.
``turn``: GAE over turns with the value at a turn's first token; one advantage per turn.
``bilevel``: GAE over turn ends, whose results are the rewards of a token GAE inside each turn, as in RAGEN
(arXiv:2504.20073). There turns end where a reward is not 0; here every turn ends where it ends.
Advantages are whitened over the tokens of the batch after the critic's targets A + V have been taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from agentgrpo.advantages import bilevel_gae, gae, whiten_known
from agentgrpo.algorithm import Algorithm
from agentgrpo.checks import above, one_of, within
from agentgrpo.columns import (
    all_steps,
    credit_of_tokens,
    float64,
    run_sums,
    step_counts,
    step_rewards,
    token_counts,
    token_rewards,
)
from agentgrpo.losses import Aggregation, value_loss
from agentgrpo.registry import register_algorithm
from agentgrpo.types import Batch, Credit, Group


@register_algorithm("ppo")
@dataclass(frozen=True)
class PPO(Algorithm):
    """Proximal policy optimisation with a learned value function."""

    formula: ClassVar[str] = "A = GAE(r, V), critic fits A + V"
    source: ClassVar[str] = "arXiv:1707.06347"
    min_group_size: ClassVar[int] = 1

    aggregation: Aggregation = "token-mean"
    level: Literal["token", "turn", "bilevel"] = "token"
    """What advantages are estimated over."""
    gamma: float = 1.0
    """Discount per token, in (0, 1]."""
    lam: float = 0.95
    """GAE's lambda per token, in [0, 1]."""
    turn_gamma: float = 0.95
    """Discount per turn (``turn``, ``bilevel``), in (0, 1]."""
    turn_lam: float = 1.0
    """GAE's lambda per turn (``turn``, ``bilevel``), in [0, 1]."""
    whiten_advantages: bool = True
    critic_lr: float | None = None
    """Learning rate of the critic, a copy of the policy with a head of one number; > 0. Without it ppo is refused."""
    value_clip: float = 0.5
    """Values count as moved by at most this from those that the advantages were computed with, > 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("algorithm.level", self.level, ("token", "turn", "bilevel"))
        within("algorithm.gamma", self.gamma, "(0, 1]")
        within("algorithm.lam", self.lam, "[0, 1]")
        within("algorithm.turn_gamma", self.turn_gamma, "(0, 1]")
        within("algorithm.turn_lam", self.turn_lam, "[0, 1]")
        if self.critic_lr is None:
            raise ValueError(
                "ppo trains a critic, and algorithm.critic_lr is not set. Set it: algorithm.critic_lr=1e-3 suits "
                "model=nano, 1e-5 a language model of 0.1 billion parameters."
            )
        above("algorithm.critic_lr", self.critic_lr, 0)
        above("algorithm.value_clip", self.value_clip, 0)

    @property
    def critic_rate(self) -> float | None:
        return self.critic_lr

    def value_loss(self, values: Tensor, batch: Batch) -> Tensor:
        assert batch.values is not None
        assert batch.returns is not None
        return value_loss(values, batch.values, batch.returns, batch.action_mask, value_clip=self.value_clip)

    def credit(self, groups: Sequence[Group]) -> list[list[Credit]]:
        counts = token_counts(groups)
        wrote = counts > 0  # the rest are an expert's turns
        members = step_counts(groups)
        turns, tokens = run_sums(wrote.long(), members), run_sums(counts, members)  # (all members,)
        values = float64([value for step in all_steps(groups) for value in step.values or ()])
        assert len(values) == int(counts.sum()), "the critic fills values when there is one"
        if self.level == "turn":
            first = values[(counts.cumsum(0) - counts)[wrote]]  # value at each turn's first token
            found = gae(
                step_rewards(groups)[wrote].tolist(), first.tolist(), self.turn_gamma, self.turn_lam, turns.tolist()
            )
            advantages, values = (x.repeat_interleave(counts[wrote]) for x in (float64(found), first))
        else:
            earned = token_rewards(groups)
            advantages = float64(self._per_token(earned, values, counts[wrote], turns, tokens))
        targets = advantages + values
        if self.whiten_advantages:
            advantages = whiten_known(advantages, tokens, groups)
        return credit_of_tokens(groups, tokens, advantages, targets)

    def _per_token(self, earned: Tensor, values: Tensor, counts: Tensor, turns: Tensor, tokens: Tensor) -> list[float]:
        if self.level == "bilevel":
            return bilevel_gae(earned, values, counts, turns, (self.gamma, self.lam), (self.turn_gamma, self.turn_lam))
        return gae(earned.tolist(), values.tolist(), self.gamma, self.lam, tokens.tolist())
