"""Runs a configuration where it says: in this process, as one rank of several, or on a cluster."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from agentgrpo.cluster import ranks
from agentgrpo.cluster.errors import ClusterError
from agentgrpo.cluster.settings import RaySettings, TorchrunSettings
from agentgrpo.config import parse
from agentgrpo.place import RanksPlace
from agentgrpo.trainer import Trainer


def launch(config: DictConfig, console: Console | None = None) -> dict[str, Any]:
    """Trains; returns what ``summary.json`` holds.

    Raises:
        ValueError: a sentence that names the setting, what is allowed and the next step.
    """
    settings = parse(config).cluster_settings
    if isinstance(settings, RaySettings):
        from agentgrpo.cluster.driver import run_on_ray

        return run_on_ray(config, settings, console)
    if isinstance(settings, TorchrunSettings):
        try:
            joined = ranks.from_environment(settings.backend, settings.timeout)
            return Trainer(config, console, RanksPlace(joined, settings.sharding)).run()
        except RuntimeError as error:
            if not ranks.says_lost(error):
                raise
            raise ClusterError(
                "Another rank is gone; what it printed says why. What was learned since the last checkpoint is learned "
                f"again: torchrun ... -m agentgrpo train run_dir={config.run_dir} resume=true"
            ) from error
        finally:
            ranks.leave()
    return Trainer(config, console).run()
