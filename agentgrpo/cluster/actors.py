"""What runs in Ray's worker processes: actors that play episodes, and ranks that learn."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO, cast

from omegaconf import OmegaConf
from rich.console import Console

from agentgrpo.cluster import ranks, versions
from agentgrpo.cluster.fleet import Fleet, FleetStage
from agentgrpo.cluster.settings import RaySettings
from agentgrpo.config import TrainConfig, parse
from agentgrpo.place import Place
from agentgrpo.precision import PRECISIONS, converted
from agentgrpo.rewards import RewardScorer
from agentgrpo.rollout import Order
from agentgrpo.samplers.base import SamplerStats
from agentgrpo.samplers.versioned import versioned
from agentgrpo.setup import Policy, build_runner, build_sampler, make_policy
from agentgrpo.stages import Key, RankStage, ScoredStage, Stage, ThreadStage
from agentgrpo.startup import prepare
from agentgrpo.types import Group
from agentgrpo.weights import Bits, learn


@dataclass(frozen=True, slots=True)
class Origin:
    """The driver, as its actors need to know it."""

    folder: str
    """Its current folder, where a user's own modules are looked for."""
    versions: Mapping[str, str]
    config: Mapping[str, Any]
    """The composed configuration."""

    def settle(self) -> TrainConfig:
        """Makes this process one of the driver's kind, and reads the configuration.

        Raises:
            ValueError: another version of something that must be the same is installed here.
        """
        import ray

        versions.check(self.versions, socket.gethostname())
        if not ray.get_gpu_ids():  # what was not asked for is not used, whatever the machine has
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        prepare()
        return parse(OmegaConf.create(dict(self.config)))

    def check_folder(self) -> None:
        """Where the run is written must be where it was meant to be.

        Raises:
            ValueError: its folder is relative to one that is not there.
        """
        if not os.path.isdir(self.folder) and not os.path.isabs(self.config["run_dir"]):
            raise ValueError(
                f"{socket.gethostname()} has no folder {self.folder}, which run_dir={self.config['run_dir']} is "
                "relative to. Give run_dir as an absolute path on a file system that all machines share."
            )


class SamplerActor:
    """Environments and a sampler of any kind. Its methods are called side by side."""

    def __init__(self, origin: Origin) -> None:
        c = origin.settle()
        policy = make_policy(c)
        # In the precision that the passes of a learner compute in.
        dtype = PRECISIONS[c.model.precision]
        if any(p.is_floating_point() and p.dtype != dtype for p in policy.model.parameters()):
            policy = replace(policy, model=converted(policy.model, dtype))
        self._model = policy.model
        self._sampler = versioned(build_sampler(c, policy))
        self._stage = ThreadStage(build_runner(c, policy), self._sampler, policy.chat, c.rollout.params())
        self._syncing = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: list[tuple[Sequence[Order], int]] = []
        self._version = -1

    def sync(self, weights: Mapping[str, Bits], version: int) -> None:
        """Takes over weights, once what is being written is finished. Older ones than it has may come late."""
        with self._syncing:
            if version < self._version:
                return
            self._sampler.sync(self._model, version, lambda: learn(self._model, weights))
            with self._lock:
                self._version = version
                self._release()

    def submit(self, orders: Sequence[Order], version: int) -> None:
        """Takes orders, to be played with weights that have seen ``version`` updates or more.

        Does not wait for these: a thread that did would be missing when they come.
        """
        with self._lock:
            self._waiting.append((orders, version))
            self._release()

    def _release(self) -> None:
        ready = [orders for orders, version in self._waiting if version <= self._version]
        self._waiting = [(orders, version) for orders, version in self._waiting if version > self._version]
        for orders in ready:
            self._stage.submit(orders)

    def finished(self) -> tuple[list[tuple[Key, Group]], SamplerStats]:
        """Groups that are complete, as soon as there are any, and what the sampler has counted."""
        return self._stage.take_any(), self._stage.stats


class LearnerActor:
    """A learner rank: the trainer's loop."""

    def __init__(self, origin: Origin, rank: int, size: int) -> None:
        self._config = origin.settle()
        origin.check_folder()
        self._origin = origin
        self._rank = rank
        self._size = size
        self._stopped = threading.Event()
        self._output = _Buffer()

    def address(self) -> str:
        """Where ranks can meet at this one."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def output(self) -> str:
        """What was printed since the last call."""
        return self._output.take()

    def stop(self) -> None:
        """Ends the run after the update that is under way."""
        self._stopped.set()

    def run(self, meeting: str, fleet: Fleet, width: int, is_terminal: bool) -> dict[str, Any]:
        """Trains; returns what ``summary.json`` holds."""
        from agentgrpo.trainer import Trainer

        settings = self._config.cluster_settings
        assert isinstance(settings, RaySettings)
        joined = ranks.join(
            settings.backend, settings.timeout, init_method=meeting, rank=self._rank, world_size=self._size
        )
        place = RayPlace(joined, settings, fleet, self._origin, self._stopped, self._output)
        console = Console(file=cast(TextIO, self._output), width=width, force_terminal=is_terminal)
        try:
            return Trainer(OmegaConf.create(dict(self._origin.config)), console, place).run()
        finally:
            ranks.leave()


class RayPlace(Place):
    """A learner rank of a run on Ray: the first one leads the samplers."""

    def __init__(
        self,
        joined: ranks.Ranks,
        settings: RaySettings,
        fleet: Fleet,
        origin: Origin,
        stopped: threading.Event,
        output: _Buffer,
    ) -> None:
        self.ranks = joined
        self.sharding = settings.sharding
        self._settings = settings
        self._fleet = fleet
        self._origin = origin
        self._stopped = stopped
        self._output = output

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stage(self, config: TrainConfig, policy: Policy, scorer: RewardScorer) -> Stage:
        own = None
        if self.ranks.first:
            start = self._fleet.open(SamplerActor, self._origin)
            own = ScoredStage(FleetStage(start, self._fleet.size, self._settings, self._say), scorer)
        return RankStage(own, self.ranks, lambda key: 0)

    def _say(self, text: str) -> None:
        self._output.write(text + "\n")


class _Buffer(io.TextIOBase):
    """A console's file whose text somebody else fetches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: list[str] = []

    def write(self, text: str) -> int:
        with self._lock:
            self._parts.append(text)
        return len(text)

    def take(self) -> str:
        """Everything since the last call."""
        with self._lock:
            text = "".join(self._parts)
            self._parts.clear()
        return text
