"""The head of a run folder, whole or not: what the run is and how far it came."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from agentgrpo.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class RunHead:
    """What a run is, in a few words and figures."""

    name: str
    env: str
    algorithm: str
    gamma: float
    """Discount per turn of the returns to go; 1 where the algorithm has none."""
    similarity: float | None
    """How alike states must be for GiGPO to count them as one; None: equal."""
    updates: int
    """Updates that were done so far."""
    finished: bool
    notes: list[str] = field(default_factory=list)


def describe(folder: RunFolder) -> RunHead:
    """What the run was, and whether it is over.

    Raises:
        ValueError: the folder holds no run, or its configuration cannot be read.
    """
    if not folder.path.is_dir():
        raise ValueError(f"run_dir={folder.path} is no folder. A run's folder is what train wrote, e.g. runs/demo.")
    try:
        config = folder.load_config()
    except (yaml.YAMLError, AssertionError, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()) or "it is no mapping"
        raise ValueError(f"run_dir={folder.path}: config.yaml cannot be read: {reason}") from error
    done = max((r["update"] for r in folder.records("metrics") if isinstance(r.get("update"), int)), default=0)
    finished, notes = _progress(folder, done)
    gamma, similarity = _setting(config, "algorithm.gamma"), _setting(config, "algorithm.similarity")
    return RunHead(
        name=folder.path.resolve().name,
        env=str(_setting(config, "env.name") or ""),
        algorithm=str(_setting(config, "algorithm.name") or ""),
        gamma=float(gamma) if isinstance(gamma, int | float) else 1.0,
        similarity=float(similarity) if isinstance(similarity, int | float) else None,
        updates=done,
        finished=finished,
        notes=notes,
    )


def _setting(config: DictConfig, key: str) -> Any:
    return OmegaConf.select(config, key, default=None)


def _progress(folder: RunFolder, done: int) -> tuple[bool, list[str]]:
    try:
        summary = json.loads((folder.path / "summary.json").read_text())
        # A finished run that was resumed has the old summary until it ends again.
        finished = bool(summary["status"] == "finished" and summary["updates"] >= done)
    except (OSError, ValueError, KeyError, TypeError):
        finished = False
    if finished:
        return True, []
    return False, [
        f"The run is not finished: it is still going, or was stopped. This is what it had written after {done} updates."
    ]
