"""Checkpoints: an ordinary model folder, the optimiser as safetensors, the rest as JSON. Written whole or not.

The model folder of a run with adapters holds these alone, as peft writes them: the base is the one that ``model.path``
names, and a run never changes it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentgrpo import models
from agentgrpo.checks import did_you_mean
from agentgrpo.cluster import sharding
from agentgrpo.cluster.ranks import Ranks

_STATE, _OPTIMIZER = "state.json", "optimizer"


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be used; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    state: dict[str, Any]

    @property
    def update(self) -> int:
        """Updates that were done when it was written."""
        return int(self.state["update"])


class CheckpointStore:
    """The ``checkpoints/`` folder of a run: the newest ``keep`` ones, and the best.

    Each is written beside its final name and renamed, so that a kill at any time leaves a complete one behind. Where a
    run has several ranks, all of them make the same calls; the folder is one that all of them see.
    """

    def __init__(self, folder: Path, keep: int, ranks: Ranks | None = None) -> None:
        self.folder = folder
        self._keep = keep
        self._ranks = Ranks() if ranks is None else ranks

    def save(self, update: int, state: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
        """Writes ``update_NNNNNN`` and removes the oldest beyond ``keep``.

        Args:
            state: plain values.
            write: puts all other files into the folder that it is given.
        """
        final = self.folder / f"update_{update:06d}"
        self._write(final, {**state, "update": update}, write)
        if self._ranks.first:
            for old in self._numbered()[: -self._keep]:
                shutil.rmtree(old)
        return final

    def save_best(self, update: int, state: Mapping[str, Any], write: Callable[[Path], None]) -> None:
        """Writes ``best``: the model alone, since nobody resumes from it."""
        self._write(self.folder / "best", {**state, "update": update}, write)

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest complete checkpoint, and a sentence for each newer one that is damaged."""
        complaints: list[str] = []
        for folder in reversed(self._numbered()):
            try:
                return read(folder), complaints
            except DamagedCheckpoint as error:
                complaints.append(str(error))
        return None, complaints

    def _numbered(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("update_*") if p.is_dir())

    def _write(self, final: Path, state: Mapping[str, Any], write: Callable[[Path], None]) -> None:
        part = final.with_name(f".{final.name}.part")
        self._ranks.from_first(lambda: _emptied(part))
        write(part)
        # Not before every rank has written its part.
        self._ranks.gather(lambda: None)
        self._ranks.from_first(lambda: _completed(part, final, state))


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _completed(part: Path, final: Path, state: Mapping[str, Any]) -> None:
    sizes = {str(p.relative_to(part)): p.stat().st_size for p in sorted(part.rglob("*")) if p.is_file()}
    (part / _STATE).write_text(json.dumps({**state, "files": sizes}, indent=1))
    if final.exists():  # never without a whole one for longer than two renames take
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        part.rename(final)
        shutil.rmtree(old)
    else:
        part.rename(final)


def find(folder: Path, name: str) -> Checkpoint:
    """A run's checkpoint by name.

    Args:
        folder: the run's ``checkpoints/``.
        name: ``best``, ``last``, or a folder's name.
    Raises:
        ValueError: there is none of this name, or it is damaged.
    """
    names = sorted(p.name for p in folder.glob("[!.]*") if p.is_dir())
    wanted = next((n for n in reversed(names) if n.startswith("update_")), "") if name == "last" else name
    if wanted not in names:
        raise ValueError(
            f"checkpoint_name={name}: {folder} has no such checkpoint.{did_you_mean(name, names)} "
            f"There are: {', '.join(names) or 'none'}; best and last always mean those."
        )
    return read(folder / wanted)


def read(folder: Path) -> Checkpoint:
    """Checks that a checkpoint is complete.

    Raises:
        DamagedCheckpoint: a file is missing, cut short, or unreadable.
    """
    try:
        state = json.loads((folder / _STATE).read_text())
        sizes = dict(state["files"])
        int(state["update"])
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{folder} has no {_STATE}, so it is no complete checkpoint.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{folder / _STATE} cannot be read: {error}") from error
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if found != size:
            raise DamagedCheckpoint(f"{folder / name} has {found} of {size} bytes: it was cut short.")
    return Checkpoint(folder, state)


def save_policy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, ranks: Ranks | None = None
) -> None:
    """Writes the model folder, each rank what it holds alone."""
    first = ranks is None or ranks.first
    if sharding.is_sharded(model):
        if first:
            tokenizer.save_pretrained(folder)
        sharding.save_model(model, folder, first=first)
    elif first:
        models.save(model, tokenizer, folder)


def save_optimizer(
    optimizer: torch.optim.Optimizer, folder: Path, name: str = _OPTIMIZER, ranks: Ranks | None = None
) -> None:
    """Writes moments and step counts, each rank what it holds alone."""
    first, tensors = ranks is None or ranks.first, _flatten(optimizer)
    if any(isinstance(value, DTensor) for value in tensors.values()):
        sharding.save_tensors(tensors, folder, name, first=first)
    elif first:
        save_file(tensors, folder / f"{name}.safetensors")


def load_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, name: str = _OPTIMIZER) -> None:
    """Puts the saved moments and step counts into an optimiser over the same parameters."""
    current = optimizer.state_dict()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(checkpoint.folder / f"{name}.safetensors", framework="pt") as file:
        for entry in file.keys():  # noqa: SIM118 - it is no mapping
            index, _, key = entry.partition(".")
            value, weight = file.get_tensor(entry), weights[int(index)]
            # A step count has not the weight's shape, and every rank has it whole.
            part = sharding.part_of(value, weight) if value.shape == weight.shape else value.reshape(())
            state.setdefault(int(index), {})[key] = part
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{key}": value.contiguous()
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }
