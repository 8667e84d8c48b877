"""What one process needs for its work, what links carry, and how many processes there are: the planner's input."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """What playing and learning take in one process that has its cores to itself.

    A round is one turn of every episode that is under way at a sampler. The policy writes a round of n turns in
    ``batch_seconds + n * turn_seconds``.
    """

    batch_seconds: float
    """Of the policy, for each round, however many turns it has."""
    turn_seconds: float
    """Of the policy, more for each turn in the round."""
    step_seconds: float
    """Of an environment's answer."""
    execution: str
    """``inline``: answers come one after the other | ``thread``, ``process``: ``workers`` of them side by side."""
    workers: int
    """Answers at one time, at each sampler; no limit on ``inline``, where it is not used."""
    continuous: bool
    """The sampler writes turns as they come, so that environments answer meanwhile; False: round by round."""
    turns: float
    """Mean turns of an episode."""
    longest_turns: float
    """Mean over groups of the turns of their longest episode."""
    turns_spread: float
    """Standard deviation of the same over groups, as a share of its mean."""
    group_size: int
    groups_per_update: int
    group_seconds: float
    """Of the driver for each group, one after the other: scores, advantages, packing, metrics."""
    token_seconds: float
    """Of a learner for each distinct token, forward and backward."""
    tokens_per_group: float
    """Distinct tokens that are learnt from in an update for each group, all passes over them together."""
    optimizer_seconds: float
    """Of each optimiser step, however many tokens it learns from."""
    optimizer_steps: int
    """Per update."""
    micro_batch_tokens: int
    """Distinct tokens of one forward and backward pass."""
    weight_bytes: float
    """What samplers are handed."""
    gradient_bytes: float
    """What learners exchange."""
    sampler_cores: float = 1.0
    """Processor cores that are busy, on average, while a sampler plays: far below 1 where environments wait."""
    learner_cores: float = 1.0
    """The same while a learner learns."""

    def __post_init__(self) -> None:
        for name in ("longest_turns", "group_size", "groups_per_update", "workers", "micro_batch_tokens"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        if not 0 < self.turns <= self.longest_turns:
            raise ValueError(f"turns must be in (0, longest_turns={self.longest_turns:g}], got {self.turns:g}.")

    @property
    def turns_per_round(self) -> float:
        """Turns that a group adds to a round, on average: fewer than it has members, where some end early."""
        return self.group_size * self.turns / self.longest_turns


@dataclass(frozen=True, slots=True)
class Links:
    """What it takes to hand weights to samplers, and gradients to other learners."""

    pack_speed: float = 2e9
    """Bytes per second at which the learner writes the weights out, once per update."""
    copy_speed: float = 2e9
    """Bytes per second at which a sampler takes them over."""
    copies_at_once: int | None = None
    """Samplers that are served at one time, each at that speed; None: all of them."""
    exchange_speed: float = 1e9
    """Bytes per second between two learners, in each direction."""
    message_seconds: float = 2e-3
    """Of the driver for each group that it deals and takes back, one after the other."""

    def pack_seconds(self, costs: Costs) -> float:
        """Of the learner, per update."""
        return costs.weight_bytes / self.pack_speed

    def copy_seconds(self, costs: Costs) -> float:
        """Of one sampler, per update; it does not play meanwhile."""
        return costs.weight_bytes / self.copy_speed

    def at_once(self, samplers: int) -> int:
        """Samplers that are served at one time."""
        return min(self.copies_at_once or samplers, samplers)

    def hand_over_seconds(self, costs: Costs, samplers: int) -> float:
        """From the end of an update until the last sampler has its weights."""
        waves = math.ceil(samplers / self.at_once(samplers))
        return self.pack_seconds(costs) + waves * self.copy_seconds(costs)


@dataclass(frozen=True, slots=True)
class Setup:
    """How many processes there are, and who waits for whom."""

    samplers: int
    learners: int
    groups_per_sampler: int = 4
    """Groups under way at a sampler at one time."""
    mode: str = "sync"
    """``sync``: sample, then learn | ``async``: later updates are played while learners learn."""
    max_staleness: int = 1
    """async: updates that may be under way besides the one that is learnt from."""
    sharding: str = "replicated"
    """``replicated``: gradients are summed once a step | ``fsdp``: weights are gathered in every pass, too."""
    cores: float | None = None
    """Processor cores that all processes share; None: each has its own, as on machines with a GPU for each."""
    cpus_per_sampler: float | None = None
    """Cores that a sampler may use; None: as many as it did when its costs were measured."""
    cpus_per_learner: float | None = None

    def __post_init__(self) -> None:
        for name in ("samplers", "learners", "groups_per_sampler"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name, allowed in (("mode", ("sync", "async")), ("sharding", ("replicated", "fsdp"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        if self.max_staleness < 0:
            raise ValueError(f"max_staleness must be at least 0, got {self.max_staleness}.")
        if self.cores is not None and self.cores <= 0:
            raise ValueError(f"cores must be above 0, got {self.cores:g}.")

    @property
    def staleness(self) -> int:
        """Updates under way besides the one that is learnt from."""
        return self.max_staleness if self.mode == "async" else 0

    def sampler_demand(self, costs: Costs) -> float:
        """Cores that a playing sampler keeps busy."""
        return min(costs.sampler_cores, self.cpus_per_sampler or math.inf)

    def learner_demand(self, costs: Costs) -> float:
        """Cores that a learning rank keeps busy."""
        return min(costs.learner_cores, self.cpus_per_learner or math.inf)

    def sampler_stretch(self, costs: Costs) -> float:
        """How many times as long a sampler takes, as it has fewer cores than its costs were measured with."""
        return costs.sampler_cores / self.sampler_demand(costs)

    def learner_stretch(self, costs: Costs) -> float:
        """The same of a learner."""
        return costs.learner_cores / self.learner_demand(costs)
