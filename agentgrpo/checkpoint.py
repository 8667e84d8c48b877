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
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentgrpo import models
from agentgrpo.checks import did_you_mean

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

    Each is written beside its final name and renamed, so that a kill at any time leaves a complete one behind.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def save(
        self,
        update: int,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        extras: Callable[[Path], None] = lambda folder: None,
    ) -> Path:
        """Writes ``update_NNNNNN`` and removes the oldest beyond ``keep``.

        Args:
            extras: writes further files into the folder that it is given.
        """
        final = self.folder / f"update_{update:06d}"

        def rest(folder: Path) -> None:
            save_optimizer(optimizer, folder)
            extras(folder)

        self._write(final, model, tokenizer, {**state, "update": update}, rest)
        for old in self._numbered()[: -self._keep]:
            shutil.rmtree(old)
        return final

    def save_best(
        self, update: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, state: Mapping[str, Any]
    ) -> None:
        """Writes ``best``: the model alone, since nobody resumes from it."""
        self._write(self.folder / "best", model, tokenizer, {**state, "update": update}, lambda folder: None)

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

    def _write(
        self,
        final: Path,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        state: Mapping[str, Any],
        rest: Callable[[Path], None],
    ) -> None:
        part = final.with_name(f".{final.name}.part")
        models.save(model, tokenizer, part)
        rest(part)
        sizes = {str(p.relative_to(part)): p.stat().st_size for p in sorted(part.rglob("*")) if p.is_file()}
        (part / _STATE).write_text(json.dumps({**state, "files": sizes}, indent=1))
        shutil.rmtree(final, ignore_errors=True)
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


def save_optimizer(optimizer: torch.optim.Optimizer, folder: Path, name: str = _OPTIMIZER) -> None:
    """Writes moments and step counts."""
    save_file(_flatten(optimizer), folder / f"{name}.safetensors")


def load_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, name: str = _OPTIMIZER) -> None:
    """Puts the saved moments and step counts into an optimiser over the same parameters."""
    saved = load_file(checkpoint.folder / f"{name}.safetensors")
    current = optimizer.state_dict()
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in saved.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{key}": value.contiguous()
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }
