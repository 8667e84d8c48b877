"""The trajectory files of a run folder, whole or not: damage is named in a note, and the rest is used."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

from agentgrpo.run_folder import RunFolder

Record = dict[str, Any]

_PIECE = 1 << 16
_COLUMNS = ("old_logprobs", "ref_logprobs", "values")
_TEXT, _NUMBER, _LIST = (str,), (int, float), (list,)
_STEP_FIELDS: dict[str, tuple[type, ...]] = {
    "observation": _TEXT,
    "text": _TEXT,
    "action": _TEXT,
    "reward": _NUMBER,
    "reward_terms": (dict,),
    "prompt_ids": _LIST,
    "action_ids": _LIST,
    "num_guided": (int,),
    "logprobs": _LIST,
    "starts_sequence": (bool,),
    "valid_action": (bool,),
    "stop_reason": _TEXT,
    "policy_version": (int,),
}
_FIELDS: dict[str, tuple[type, ...]] = {
    "update": (int,),
    "group": (int,),
    "slot": (int,),
    "task_seed": (int,),
    "advantages": _LIST,
    "steps": _LIST,
    "status": _TEXT,
    "success": (bool,),
    "final_observation": _TEXT,
    "task_info": (dict,),
    "error": _TEXT,
}


def trajectory_files(folder: RunFolder) -> list[Path]:
    """The run's trajectory files, in the order of the updates.

    Raises:
        ValueError: there are none.
    """
    files = sorted((folder.path / "trajectories").glob("update_*.jsonl.gz"))
    if not files:
        raise ValueError(
            f"run_dir={folder.path} has no trajectories yet: trajectories/ is empty. They are written after the first "
            "update and then every log.every updates, unless the run was started with log.trajectories=0."
        )
    return files


def read_file(path: Path) -> tuple[list[Record], list[str]]:
    """The whole records of a file, and a sentence for what could not be read of it."""
    content, damage = _unzip(path)
    *lines, rest = content.split(b"\n")
    records, bad = [], 0
    for line in lines:
        record = _parse(line)
        if record is None:
            bad += 1
        else:
            records.append(record)
    notes = []
    if damage or rest:
        notes.append(
            f"{path.name} {damage or 'ends within a line'}: {len(records)} whole trajectories of it are shown. A run "
            "that is still going may be writing it just now."
        )
    if bad:
        notes.append(f"{path.name}: {bad} of {len(lines)} lines are no trajectories and are left out.")
    return records, notes


def _unzip(path: Path) -> tuple[bytes, str]:
    """All bytes up to the damage, and what the damage is; gzip's own reader would throw the last ones away."""
    stream = zlib.decompressobj(wbits=31)
    out = []
    try:
        packed = path.read_bytes()
        for start in range(0, len(packed), _PIECE):
            out.append(stream.decompress(packed[start : start + _PIECE]))
    except zlib.error:
        return b"".join(out), "is damaged"
    except OSError as error:
        return b"", f"cannot be read ({error.strerror})"
    return b"".join(out), "" if stream.eof else "is cut short"


def _parse(line: bytes) -> Record | None:
    """The record of a line; None where it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and _is_trajectory(record) else None


def _is_trajectory(record: Record) -> bool:
    if not _has(record, _FIELDS) or not all(isinstance(s, dict) and _is_step(s) for s in record["steps"]):
        return False
    numbers = [record.get("return"), record.get("max_return"), *record["advantages"]]
    return len(record["advantages"]) == sum(len(s["logprobs"]) for s in record["steps"]) and all(
        x is None or _is_number(x) for x in numbers
    )


def _is_step(step: Record) -> bool:
    if not _has(step, _STEP_FIELDS):
        return False
    ids = {type(i) for name in ("prompt_ids", "action_ids") for i in step[name]}
    count = len(step["action_ids"]) - step["num_guided"]
    columns = [step["logprobs"], *(step[name] for name in _COLUMNS if step.get(name) is not None)]
    return (
        ids <= {int}
        and all(isinstance(c, list) and len(c) == count and all(map(_is_number, c)) for c in columns)
        and all(map(_is_number, step["reward_terms"].values()))
    )


def _has(mapping: Record, fields: dict[str, tuple[type, ...]]) -> bool:
    return all(isinstance(mapping.get(name), kinds) for name, kinds in fields.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def rounded(value: float | None, digits: int = 4) -> float | int | None:
    """A number with so many significant digits, as short as JSON can write it; None for what is no number."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
