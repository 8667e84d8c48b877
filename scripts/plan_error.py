"""Seconds of an update as the planner predicts them against runs on a cluster, as a Markdown table.

    python scripts/plan_error.py --probe runs/probe8 runs/probe2 --cores 2 runs/two_samplers runs/four_samplers

Probes are runs of two or more updates in one process (`cluster=local`, `rollout.mode=sync`) with two values of
`groups_per_update`, on the machine to itself; runs differ from them in how many processes there are, in `rollout.mode`,
in `groups_per_update` and in where environments are executed, and in nothing else that takes time. A run's seconds are
the median of `time/rollout + time/update` over its updates but for the first ones.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from agentgrpo.cluster.costs import Costs, Links, Setup
from agentgrpo.cluster.planning import forecast
from agentgrpo.cluster.probe import Record, costs_of_probe, setup_of
from agentgrpo.cluster.settings import RaySettings
from agentgrpo.config import parse
from agentgrpo.run_folder import RunFolder

_SAME = (
    "group_size",
    "context",
    "optim",
    "model",
    "algorithm",
    "sampler",
    "rollout.max_new_tokens",
    "rollout.max_turns",
)
"""What a run must have in common with its probes."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One line of the table."""

    name: str
    setup: Setup
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative to what was measured; above 0 where the plan was too slow."""
        return self.predicted / self.measured - 1

    @property
    def row(self) -> str:
        """As Markdown."""
        ahead = f" {self.setup.max_staleness}" if self.setup.mode == "async" else ""
        return (
            f"| {self.name} | {self.setup.samplers} : {self.setup.learners} | {self.setup.mode}{ahead} "
            f"| {self.predicted:.2f} | {self.measured:.2f} | {self.error:+.0%} |"
        )


def saved(folder: Path) -> dict[str, Any]:
    """The configuration of a run, as it was saved."""
    plain = OmegaConf.to_container(RunFolder(folder).load_config(), resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def probed(folders: Sequence[Path]) -> Costs:
    """Costs from the runs in these folders.

    Raises:
        ValueError: they differ in more than groups_per_update, were not in one process, or do not say enough.
    """
    configs = [saved(folder) for folder in folders]
    first = configs[0]
    trials: dict[int, Sequence[Record]] = {}
    for folder, config in zip(folders, configs, strict=True):
        _check_same(config, first, folder)
        if config["rollout"]["mode"] != "sync" or "samplers" in config.get("cluster", {}):
            raise ValueError(f"The probe {folder} must be one process with rollout.mode=sync.")
        trials[config["groups_per_update"]] = RunFolder(folder).records("metrics")
    size = weight_bytes(folders[0])
    parsed = parse(RunFolder(folders[0]).load_config())
    return costs_of_probe(trials, parsed, weight_bytes=size, gradient_bytes=size)


def weight_bytes(folder: Path) -> float:
    """Of what a run trained, as its best checkpoint holds it."""
    best = RunFolder(folder).checkpoints / "best"
    return float(sum(path.stat().st_size for path in best.glob("*.safetensors")))


def compared(folder: Path, probe: Path, costs: Costs, cores: float | None, links: Links, skip: int) -> Compared:
    """Predicted and measured seconds of a run.

    Raises:
        ValueError: it cannot be compared with the probe, or is too short.
    """
    config = saved(folder)
    _check_same(config, saved(probe), folder)
    parsed = parse(RunFolder(folder).load_config())
    settings = parsed.cluster_settings
    if not isinstance(settings, RaySettings):
        raise ValueError(f"{folder} was not run with cluster=ray: it has no samplers and learners.")
    setup = setup_of(parsed, settings, cores)
    env = config["env"]
    here = replace(
        costs,
        groups_per_update=config["groups_per_update"],
        execution=env["execution"],
        workers=env["workers"],
    )
    records = RunFolder(folder).records("metrics")[skip:]
    if not records:
        raise ValueError(f"{folder} has no updates after the first {skip}, which are left out (--skip).")
    seconds = statistics.median(r["time/rollout"] + r["time/update"] for r in records)
    return Compared(folder.name, setup, forecast(here, links, setup).update_seconds, seconds)


def _check_same(config: Mapping[str, Any], probe: Mapping[str, Any], folder: Path) -> None:
    for key in _SAME:
        group, _, name = key.partition(".")
        mine, theirs = (c[group][name] if name else c[group] for c in (config, probe))
        if mine != theirs:
            raise ValueError(f"{folder} has another {key} than the first probe: {mine} and {theirs}.")


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--probe", type=Path, nargs="+", required=True)
    parser.add_argument("--cores", type=float, help="that all processes share; without: each has its own")
    parser.add_argument("--skip", type=int, default=1, help="updates at the start of a run that do not count")
    parser.add_argument("--message-ms", type=float, default=2.0, help="of the driver for each group")
    given = parser.parse_args()
    try:
        costs = probed(given.probe)
        links = Links(message_seconds=given.message_ms / 1e3)
        rows = [compared(run, given.probe[0], costs, given.cores, links, given.skip) for run in given.runs]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("| run | samplers : learners | mode | predicted s | measured s | error |\n|---|---|---|---|---|---|")
    for row in rows:
        print(row.row)
    print(f"\nmean of the errors' sizes: {statistics.fmean(abs(row.error) for row in rows):.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
