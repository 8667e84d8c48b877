"""What run folders say: every run that can be compared, and for every folder that cannot, the reason."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from agentgrpo.composing import leaves
from agentgrpo.run_folder import RunFolder

Array = npt.NDArray[np.float64]
Record = dict[str, Any]

_INSIDE_RUNS = {"checkpoints", "trajectories", "profile", "reference"}
_LEFT_BEHIND = {"versions.json", "evaluations.jsonl", "metrics.jsonl"}
# libyaml reads six hundred configurations in a second; the loader in Python takes ten times as long.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Run:
    """A run, as far as it has come; E evaluations of T tasks."""

    path: Path
    env: str
    algorithm: str
    seed: int
    lr: float
    config: dict[str, str]
    """Every leaf of the configuration: dotted key -> value as text."""
    versions: dict[str, str]
    panel: str
    updates: tuple[int, ...]
    """(E,) updates done at each evaluation, increasing."""
    episodes: Array
    """(E,) training episodes played by then."""
    outcomes: Array
    """(E, T) success per task, 0 or 1."""
    returns: Array
    """(E,) mean return over the panel."""
    finished: bool
    planned: int
    """Updates that the run is to have."""

    def at(self, updates: Sequence[int]) -> Run:
        """The same run with the evaluations at these updates alone."""
        keep = [self.updates.index(u) for u in updates]
        return replace(
            self,
            updates=tuple(updates),
            episodes=self.episodes[keep],
            outcomes=self.outcomes[keep],
            returns=self.returns[keep],
        )


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A folder that is not compared."""

    path: Path
    reason: str


def printable(text: object) -> str:
    """Text of a configuration without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def find(folders: Iterable[Path]) -> tuple[list[Path], list[LeftOut]]:
    """Folders of runs in the given ones and below, in order, and what only looks like one."""
    runs: dict[Path, Path] = {}
    left_out: list[LeftOut] = []
    for folder in folders:
        if not folder.is_dir():
            left_out.append(LeftOut(folder, "there is no such folder" if not folder.exists() else "it is no folder"))
            continue
        found, broken = _below(folder)
        runs |= {path.resolve(): path for path in found if path.resolve() not in runs}
        left_out += [LeftOut(path, "half-written: it has no config.yaml") for path in broken]
        if not found and not broken:
            left_out.append(LeftOut(folder, "there is no run in it or below: no config.yaml"))
    return list(runs.values()), list(dict.fromkeys(left_out))


def _below(folder: Path) -> tuple[list[Path], list[Path]]:
    found, broken = [], []
    for name, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in _INSIDE_RUNS and not f.startswith("."))
        if "config.yaml" in files:
            found.append(Path(name))
        elif _LEFT_BEHIND & set(files):
            broken.append(Path(name))
    return found, broken


def read(path: Path) -> Run:
    """A run from its folder.

    Raises:
        ValueError: why it cannot be compared.
    """
    config = _config(path)
    try:
        records = [r for r in RunFolder(path).records("evaluations") if isinstance(r, dict)]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"evaluations.jsonl cannot be read: {_reason(error)}") from error
    if not records:
        raise ValueError("half-written: it has no evaluation yet")
    try:
        panels = {str(r["panel"]) for r in records}
        outcomes = np.array([r["outcomes"] for r in records], dtype=np.float64)
        returns = np.array([r["return_mean"] for r in records], dtype=np.float64)
        updates = tuple(int(r["update"]) for r in records)
        batch = int(config["groups_per_update"]) * int(config["group_size"])
        # Runs of earlier versions did not say; there, groups that were played in place of dropped ones are not counted.
        episodes = np.array([r.get("episodes", r["update"] * batch) for r in records], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"evaluations.jsonl cannot be read: {_reason(error)}") from error
    if len(panels) > 1:
        raise ValueError("its own evaluations were made on different panels")
    whole = outcomes.ndim == 2 and outcomes.size and bool(np.isin(outcomes, (0, 1)).all())
    if not whole or not np.isfinite(returns).all() or not np.isfinite(episodes).all():
        raise ValueError("evaluations.jsonl holds something else than outcomes of 0 and 1 and finite numbers")
    if list(updates) != sorted(set(updates)):
        raise ValueError("evaluations.jsonl has the same update twice, or updates out of order")
    return Run(
        path=path,
        env=printable(config["env.name"]),
        algorithm=printable(config["algorithm.name"]),
        seed=_number(config, "seed", int),
        lr=_number(config, "optim.lr", float),
        config={k: printable(_as_text(v)) for k, v in config.items()},
        versions=_versions(path),
        panel=panels.pop(),
        updates=updates,
        episodes=episodes,
        outcomes=outcomes,
        returns=returns,
        finished=_finished(path, updates[-1]),
        planned=_number(config, "num_updates", int),
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.load((path / "config.yaml").read_text(), Loader=_LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"config.yaml cannot be read: {_reason(error)}") from error
    if not isinstance(loaded, dict):
        raise ValueError("it is no run: config.yaml is no mapping")
    config = {str(k): v for k, v in leaves(loaded)}
    needed = ("env.name", "algorithm.name", "seed", "optim.lr", "num_updates", "groups_per_update", "group_size")
    missing = [key for key in needed if config.get(key) is None]
    if missing:
        raise ValueError(f"it is no run: config.yaml has no {', '.join(missing)}")
    return config


def _number(config: dict[str, Any], key: str, kind: Callable[[Any], Any]) -> Any:
    try:
        value = kind(config[key])
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"it is no run: {key} in config.yaml is no number") from error
    if not math.isfinite(value):
        raise ValueError(f"it is no run: {key} in config.yaml is {value}")
    return value


def _as_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _versions(path: Path) -> dict[str, str]:
    try:
        loaded = json.loads((path / "versions.json").read_text())
    except (OSError, ValueError):
        return {}
    return {printable(k): printable(v) for k, v in loaded.items()} if isinstance(loaded, dict) else {}


def _finished(path: Path, update: int) -> bool:
    try:
        summary = json.loads((path / "summary.json").read_text())
        # A finished run that was resumed has the old summary until it ends again.
        return bool(summary["status"] == "finished" and summary["updates"] >= update)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return printable(" ".join(str(error).split()))[:200]


# --- which of them can stand side by side ----------------------------------------------------------------------------


def read_all(folders: Iterable[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Runs that can be compared: whole, of one version, each environment on one panel, no two the same."""
    paths, left_out = find(folders)
    runs = []
    for path in paths:
        try:
            runs.append(read(path))
        except ValueError as error:
            left_out.append(LeftOut(path, str(error)))
    for keep in (_one_version, _one_panel, _no_twins):
        runs, dropped = keep(runs)
        left_out += dropped
    return runs, left_out


def _one_version(runs: list[Run]) -> tuple[list[Run], list[LeftOut]]:
    """The runs of the release that wrote most of them; a run without a version goes with any."""
    majors = [_release(run.versions.get("agentgrpo", "")) for run in runs]
    known = [m for m in majors if m]
    most = Counter(known).most_common(1)[0][0] if known else ""
    kept, dropped = [], []
    for run, major in zip(runs, majors, strict=True):
        if major in ("", most):
            kept.append(run)
        else:
            version = run.versions["agentgrpo"]
            reason = f"agentgrpo {version} wrote it, and {most} most of the others; results may mean something else"
            dropped.append(LeftOut(run.path, reason))
    return kept, dropped


def _release(version: str) -> str:
    """What may change results: the first number, before 1.0 the second one too."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        return ""
    return f"0.{match[2]}" if match[1] == "0" else match[1]


def _one_panel(runs: list[Run]) -> tuple[list[Run], list[LeftOut]]:
    kept, dropped = [], []
    for run in runs:
        peers = [other for other in runs if other.env == run.env]
        panel, count = Counter((p.panel, p.outcomes.shape[1]) for p in peers).most_common(1)[0]
        if (run.panel, run.outcomes.shape[1]) == panel:
            kept.append(run)
            continue
        model = next(p for p in peers if p.panel == panel[0])
        keys = [k for k in run.config if k.startswith("env") or k == "eval.num_tasks"]
        changed = [
            f"{k} {model.config.get(k)} -> {run.config[k]}" for k in keys if model.config.get(k) != run.config[k]
        ]
        what = f" ({'; '.join(changed)})" if changed else ""
        reason = (
            f"evaluated on another panel, {run.panel[:8]}, than {count} of the {len(peers)} runs in {run.env}, "
            f"{panel[0][:8]}{what}; compare it apart"
        )
        dropped.append(LeftOut(run.path, reason))
    return kept, dropped


def _no_twins(runs: list[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Of runs that have everything in common but their folder, the one that has come furthest."""
    best: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        key = _identity(run)
        if key not in best or run.updates[-1] > best[key].updates[-1]:
            best[key] = run
    kept = list(best.values())
    dropped = [
        LeftOut(run.path, f"the same configuration and seed as {best[_identity(run)].path}")
        for run in runs
        if best[_identity(run)] is not run
    ]
    return kept, dropped


def _identity(run: Run) -> tuple[Any, ...]:
    return tuple(sorted((k, v) for k, v in run.config.items() if not passing(k)))


_PASSING = {"run_dir", "resume", "num_updates", "profile", "memory_gb", "doctor", "eval.every", "eval.num_tasks"}
_PASSING |= {"optim.micro_batch_tokens", "sampler.cache_gb", "env.workers"}


def passing(key: str) -> bool:
    """Whether a key says nothing about what a run learns: where it is written, how far it goes, how often it logs."""
    return key in _PASSING or key.startswith(("checkpoint.", "log.", "cluster."))
