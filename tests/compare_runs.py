"""Run folders written by hand, for the tests of ``compare``: the files that a run writes, without a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from agentgrpo.run_folder import RunFolder

VERSIONS = {"agentgrpo": "0.1.0", "torch": "2.13.0"}
UPDATES = (0, 10, 20)


def config(
    *, env: str = "maze", algorithm: str = "grpo", seed: int = 0, lr: float = 1e-3, num_updates: int = 20
) -> dict[str, Any]:
    """What of a run's configuration a comparison depends on."""
    return {
        "seed": seed,
        "num_updates": num_updates,
        "groups_per_update": 2,
        "group_size": 4,
        "optim": {"lr": lr, "epochs": 2},
        "eval": {"every": 10, "num_tasks": 4},
        "env": {"name": env, "kwargs": {"rooms": 3}},
        "algorithm": {"name": algorithm, "kl_coef": 0.0},
    }


def write_run(
    path: Path,
    outcomes: Sequence[Sequence[int]],
    *,
    updates: Sequence[int] = UPDATES,
    panel: str | None = None,
    finished: bool = True,
    versions: Mapping[str, str] = VERSIONS,
    changes: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A run with these outcomes per task at these updates; its return is twice its success.

    Args:
        changes: dotted keys of the configuration and their values.
        settings: of :func:`config`.
    """
    made = OmegaConf.create(config(**settings))
    for key, value in (changes or {}).items():
        OmegaConf.update(made, key, value, force_add=True)
    made.run_dir = str(path)
    folder = RunFolder(path)
    folder.create(made)
    (path / "versions.json").write_text(json.dumps(dict(versions)))
    for update, solved in zip(updates, outcomes, strict=True):
        success = float(np.mean(solved))
        folder.append(
            "evaluations",
            {
                "update": update,
                "success": success,
                "return_mean": 2 * success,
                "num_tasks": len(solved),
                "episodes": update * 8,
                "panel": panel or f"panel-of-{made.env.name}",
                "outcomes": list(solved),
            },
        )
        if update:
            folder.append("metrics", {"update": update})
    if finished:
        folder.write_summary({"status": "finished", "updates": updates[-1]})
    return path


def rising(seed: int, *, tasks: int = 32, level: float = 0.8, updates: Sequence[int] = UPDATES) -> list[list[int]]:
    """Outcomes that rise to about a level; which tasks are solved depends on the seed."""
    draws = np.random.default_rng(seed).random((len(updates), tasks))
    shares = level * np.array(updates) / max(updates[-1], 1)
    return [[int(x) for x in row] for row in draws < shares[:, None]]


def study(root: Path, envs: Sequence[str], algorithms: Sequence[str], rates: Sequence[float], seeds: int) -> Path:
    """``ENV/ALGORITHM/lrX/seedN``; later algorithms are better, the middle rate is best."""
    for env in envs:
        for a, algorithm in enumerate(algorithms):
            for i, lr in enumerate(rates):
                for seed in range(seeds):
                    level = 0.5 + 0.4 * a / len(algorithms) - 0.1 * abs(i - len(rates) // 2)
                    outcomes = rising(seed + 100 * i + 1000 * a, level=level)
                    path = root / env / algorithm / f"lr{lr:g}" / f"seed{seed}"
                    write_run(path, outcomes, env=env, algorithm=algorithm, seed=seed, lr=lr)
    return root
