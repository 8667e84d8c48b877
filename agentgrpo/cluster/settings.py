"""What each kind of cluster can be set to: one dataclass per kind, chosen by ``cluster.kind``. Defaults: ``conf/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentgrpo.checks import above, at_least, of_kind, one_of

SHARDINGS = ("replicated", "fsdp")
BACKENDS = ("auto", "gloo", "nccl")


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """One process."""

    kind: str
    sharding = "replicated"


@dataclass(frozen=True, slots=True)
class TorchrunSettings:
    """Learner ranks that torchrun has started, each with environments and a sampler of its own."""

    kind: str
    sharding: str
    backend: str
    timeout: float

    def __post_init__(self) -> None:
        _check_ranks(self.sharding, self.backend, self.timeout)


@dataclass(frozen=True, slots=True)
class RaySettings:
    """Sampler actors and learner ranks that Ray places."""

    kind: str
    address: str | None
    samplers: int
    learners: int
    sharding: str
    backend: str
    timeout: float
    cpus_per_sampler: float
    gpus_per_sampler: float
    cpus_per_learner: float
    gpus_per_learner: float
    episodes_per_sampler: int
    deadline: float
    max_replacements: int

    def __post_init__(self) -> None:
        _check_ranks(self.sharding, self.backend, self.timeout)
        at_least("cluster.samplers", self.samplers, 1)
        at_least("cluster.learners", self.learners, 1)
        above("cluster.cpus_per_sampler", self.cpus_per_sampler, 0)
        at_least("cluster.gpus_per_sampler", self.gpus_per_sampler, 0)
        above("cluster.cpus_per_learner", self.cpus_per_learner, 0)
        at_least("cluster.gpus_per_learner", self.gpus_per_learner, 0)
        at_least("cluster.episodes_per_sampler", self.episodes_per_sampler, 1)
        above("cluster.deadline", self.deadline, 0)
        at_least("cluster.max_replacements", self.max_replacements, 0)
        if self.learners > 1 and self.timeout <= self.deadline:
            raise ValueError(
                f"cluster.timeout={self.timeout:g} must be longer than cluster.deadline={self.deadline:g}: while the "
                "first of several learner ranks waits for a sampler, the others wait for it."
            )


def _check_ranks(sharding: str, backend: str, timeout: float) -> None:
    one_of("cluster.sharding", sharding, SHARDINGS)
    one_of("cluster.backend", backend, BACKENDS)
    above("cluster.timeout", timeout, 0)


ClusterSettings = LocalSettings | TorchrunSettings | RaySettings

_KINDS: dict[str, type[Any]] = {"local": LocalSettings, "torchrun": TorchrunSettings, "ray": RaySettings}


def check(settings: ClusterSettings, *, has_critic: bool, has_adapters: bool, sampler: str) -> None:
    """Refuses what a kind of cluster cannot do.

    Args:
        has_critic: whether the algorithm learns values.
        has_adapters: whether the model learns low-rank adapters.
        sampler: its kind.
    Raises:
        ValueError: what to set instead.
    """
    if settings.sharding != "fsdp":
        return
    instead = "Set cluster.sharding=replicated."
    if has_critic:
        raise ValueError(f"cluster.sharding=fsdp does not go with an algorithm that has a critic. {instead}")
    if has_adapters:
        raise ValueError(
            "cluster.sharding=fsdp with model.lora.rank: adapters and the optimiser's state of them are small, and the "
            f"frozen base is not spread over ranks. {instead}"
        )
    if settings.kind == "torchrun" and sampler != "transformers":
        raise ValueError(
            f"cluster=torchrun cluster.sharding=fsdp goes with sampler=transformers, got sampler={sampler}: an engine "
            "compares itself with whole weights, which no rank has. Set cluster=ray, whose samplers have them."
        )


def cluster_settings(values: Mapping[str, Any]) -> ClusterSettings:
    """Checks the keys below ``cluster`` and builds the settings of the kind that they name.

    Raises:
        ValueError: names the key, what it was given and what is allowed.
    """
    settings: ClusterSettings = of_kind("cluster", _KINDS, values)
    return settings
