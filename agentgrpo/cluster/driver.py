"""``cluster=ray``: places a run's processes, shows what its first rank says, and stops all of them when one is lost."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from agentgrpo.cluster import ranks, versions
from agentgrpo.cluster.errors import ClusterError, cannot_start
from agentgrpo.cluster.settings import RaySettings
from agentgrpo.config import parse
from agentgrpo.interrupts import on_ctrl_c
from agentgrpo.preflight import checked

_LOOK = 0.2
"""Seconds between two looks at what the run has printed."""
_CONNECT = 10.0
"""Seconds that a cluster's head may take to answer."""
_PLACE = 60.0
"""Seconds that Ray may take to find room for the processes."""
_MISSED = 10.0
"""Seconds after which Ray knows of a process that is gone."""
_NAMESPACE = "agentgrpo"


def run_on_ray(config: DictConfig, settings: RaySettings, console: Console | None = None) -> dict[str, Any]:
    """Trains; returns what ``summary.json`` holds.

    Raises:
        ValueError: a setting, or a cluster that does not have what the settings ask for.
        ClusterError: a learner rank is gone, or too many samplers.
    """
    if settings.address and (Path.home() / ".ray" / "auth_token").is_file():
        # `ray start` takes the file for this, `ray.init` does not; read when Ray is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise ValueError("cluster=ray needs Ray: pip install 'agentgrpo[ray]'. One process: cluster=local.") from error
    if not settings.address:
        checked(parse(config))  # before anything is started; on other machines each process looks for itself
    console = console or Console()
    _connect(ray, settings)
    try:
        return _Run(ray, config, settings, console).result()
    finally:
        ray.shutdown()


def _connect(ray: Any, settings: RaySettings) -> None:
    quiet = {"namespace": _NAMESPACE, "logging_level": "ERROR", "log_to_driver": False}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if settings.address is None:
        # On one machine processes share its cores, whatever their number.
        cpus = settings.samplers * settings.cpus_per_sampler + settings.learners * settings.cpus_per_learner
        ray.init(num_cpus=max(os.cpu_count() or 1, -(-cpus // 1)), include_dashboard=False, **quiet)
        return
    try:
        if settings.address != "auto":  # Ray would try for minutes
            host, _, port = settings.address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_CONNECT).close()
        ray.init(address=settings.address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:  # each for another way of being unreachable
        raise ValueError(
            f"cluster.address={settings.address}: no Ray cluster can be reached there ({_first_line(error)}). "
            "Start one with `ray start --head`, and `ray start --address=HOST:6379` on the other machines; "
            "or leave the address out to start Ray on this machine alone."
        ) from error


class _Run:
    """The processes of a run."""

    def __init__(self, ray: Any, config: DictConfig, settings: RaySettings, console: Console) -> None:
        from agentgrpo.cluster.actors import LearnerActor, Origin
        from agentgrpo.cluster.fleet import Fleet

        self._ray = ray
        self._settings = settings
        self._console = console
        self._run_dir = str(config.run_dir)
        plain: Any = OmegaConf.to_container(config, resolve=True)
        origin = Origin(os.getcwd(), versions.here(), plain)
        self._place()
        learner = ray.remote(LearnerActor)
        self._ranks = []
        for rank in range(settings.learners):
            options = self._options(rank, settings.cpus_per_learner, settings.gpus_per_learner)
            if rank == 0:
                options["name"] = f"run {os.path.abspath(self._run_dir)}"
            try:
                self._ranks.append(learner.options(**options).remote(origin, rank, settings.learners))
            except ray.exceptions.ActorAlreadyExistsError as error:
                raise ValueError(
                    f"A run with run_dir={self._run_dir} is at work on this cluster. Wait for it, or choose another "
                    "run_dir=..."
                ) from error
        bundles = tuple(range(settings.learners, settings.learners + settings.samplers))
        self._fleet = Fleet(bundles, self._group, settings.cpus_per_sampler, settings.gpus_per_sampler)

    def _place(self) -> None:
        s = self._settings
        there = self._ray.cluster_resources()
        for kind, asked in (
            ("CPU", s.samplers * s.cpus_per_sampler + s.learners * s.cpus_per_learner),
            ("GPU", s.samplers * s.gpus_per_sampler + s.learners * s.gpus_per_learner),
        ):
            if asked > there.get(kind, 0):
                name = kind.lower()
                raise ValueError(
                    f"cluster.samplers={s.samplers} and cluster.learners={s.learners} ask for {asked:g} {kind}s "
                    f"(cluster.{name}s_per_sampler, cluster.{name}s_per_learner), and the cluster has "
                    f"{there.get(kind, 0):g}. Ask for less, or add machines."
                )
        bundles = [{"CPU": s.cpus_per_learner, "GPU": s.gpus_per_learner}] * s.learners
        bundles += [{"CPU": s.cpus_per_sampler, "GPU": s.gpus_per_sampler}] * s.samplers
        self._group = self._ray.util.placement_group([{k: v for k, v in b.items() if v} for b in bundles])
        if not self._group.wait(_PLACE):
            free = {k: v for k, v in self._ray.available_resources().items() if k in ("CPU", "GPU")}
            raise ValueError(
                f"The cluster has no room within {_PLACE:g} s for {bundles}: free are {free}. Wait for other runs to "
                "end, or ask for less."
            )

    def _options(self, bundle: int, cpus: float, gpus: float) -> dict[str, Any]:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(
            placement_group=self._group, placement_group_bundle_index=bundle, placement_group_capture_child_tasks=False
        )
        return {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "scheduling_strategy": strategy,
            "max_concurrency": 3,  # the run, what it has printed, and being stopped
            "max_restarts": 0,
        }

    def result(self) -> dict[str, Any]:
        """Waits for the ranks, and says what the first of them says."""
        first = self._ranks[0]
        runs: list[Any] = []
        try:
            meeting = self._ray.get(first.address.remote())
            width, terminal = self._console.width, self._console.is_terminal
            runs = [rank.run.remote(meeting, self._fleet, width, terminal) for rank in self._ranks]
            with on_ctrl_c(lambda text: print(text, file=sys.stderr), self._stop):
                left = runs
                while left:
                    ended, left = self._ray.wait(left, timeout=_LOOK)
                    self._show(first)
                    self._ray.get(ended)
            summary: dict[str, Any] = self._ray.get(runs[0])
            return summary
        except self._ray.exceptions.RayError as error:
            self._show(first)
            raise self._cause(error, runs) from error

    def _cause(self, error: Exception, runs: Sequence[Any]) -> Exception:
        """What is behind the first error: a rank that is lost makes others fail, maybe before it is missed itself."""
        found = [error]
        self._ray.wait(runs, num_returns=len(runs), timeout=_MISSED)
        for run in runs:
            try:
                self._ray.get(run, timeout=0)
            except self._ray.exceptions.RayError as other:
                found.append(other)
        actors = [one for one in found if isinstance(one, self._ray.exceptions.RayActorError)]
        for one in actors:
            if one.actor_init_failed:
                return cannot_start("A learner rank", one)
        if actors:
            return ClusterError(self._lost(actors[0]))
        causes = [e.cause for e in found if isinstance(e, self._ray.exceptions.RayTaskError)]
        # That others are missed, or have failed, is what the other ranks say of the one whose own error it is.
        own = [c for c in causes if not ranks.says_lost(c) and not isinstance(c, ranks.RankError)]
        for kind in (ValueError, ClusterError, OSError):
            for cause in own:
                if isinstance(cause, kind):
                    return ClusterError(f"{cause}\n{self._again}") if kind is OSError else cause
        if not own and any(ranks.says_lost(c) for c in causes):
            return ClusterError(self._lost(error))
        return next((c for c in causes if not own and isinstance(c, ranks.RankError)), error)

    def _stop(self) -> None:
        self._ranks[0].stop.remote()

    def _show(self, first: Any) -> None:
        try:
            text = self._ray.get(first.output.remote())
        except self._ray.exceptions.RayError:
            return  # it is gone, which its run says better
        self._console.file.write(text)
        self._console.file.flush()

    def _lost(self, error: Exception) -> str:
        return f"A learner rank is gone ({_first_line(error)}). {self._again}"

    @property
    def _again(self) -> str:
        return (
            "What was learned since the last checkpoint is learned again: "
            f"python -m agentgrpo train run_dir={self._run_dir} resume=true"
        )


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
