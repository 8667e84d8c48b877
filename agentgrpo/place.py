"""Where the processes of a run are. The trainer's loop is the same everywhere; this is what differs."""

from __future__ import annotations

from agentgrpo.cluster.ranks import Ranks
from agentgrpo.config import TrainConfig
from agentgrpo.rewards import RewardScorer
from agentgrpo.samplers.versioned import versioned
from agentgrpo.setup import Policy, build_runner, build_sampler
from agentgrpo.stages import InlineStage, RankStage, ScoredStage, Stage, ThreadStage


class Place:
    """One process: episodes are played where the weights learn."""

    def __init__(self) -> None:
        self.ranks = Ranks()
        self.sharding = "replicated"

    @property
    def stopped(self) -> bool:
        """Whether somebody outside this process wants the run to end after the update that is under way."""
        return False

    def stage(self, config: TrainConfig, policy: Policy, scorer: RewardScorer) -> Stage:
        """Where episodes are played and scored.

        Args:
            policy: with the weights that passes are computed with.
        """
        return local_stage(config, policy, scorer)


class RanksPlace(Place):
    """Learner ranks that torchrun has started; each plays its share of the episodes.

    Args:
        ranks: of which this process is one.
        sharding: what of the weights each of them holds.
    """

    def __init__(self, ranks: Ranks, sharding: str) -> None:
        self.ranks = ranks
        self.sharding = sharding

    def stage(self, config: TrainConfig, policy: Policy, scorer: RewardScorer) -> Stage:
        own = local_stage(config, policy, scorer, own_weights=self.sharding == "fsdp")
        return RankStage(own, self.ranks, lambda key: key[-1] % self.ranks.size)


def local_stage(config: TrainConfig, policy: Policy, scorer: RewardScorer, *, own_weights: bool = False) -> Stage:
    """Plays in this process; ahead of the trainer, in a thread, with ``rollout.mode=async``.

    Args:
        own_weights: whether the sampler copies the weights, whatever it computes in.
    """
    ahead = config.rollout.mode == "async"
    sampler = versioned(build_sampler(config, policy, own_weights=own_weights or ahead))
    cls = ThreadStage if ahead else InlineStage
    return ScoredStage(cls(build_runner(config, policy), sampler, policy.chat, config.rollout.params()), scorer)
