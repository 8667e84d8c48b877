"""``compare``: runs side by side, with intervals over seeds, differences on the same tasks, and what to be wary of."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from agentgrpo import composing
from agentgrpo.compare import tables
from agentgrpo.compare.comparison import Comparison, Settings, build
from agentgrpo.compare.notes import notes
from agentgrpo.compare.reading import Run, printable, read_all
from agentgrpo.compare.writing import markdown, show, write_csv
from agentgrpo.run_folder import RunFolder

PAGE = "comparison.md"


def compare_command(args: Sequence[str]) -> int:
    """Compares the runs in the given folders; settings are among the arguments, as ``key=value``.

    Raises:
        ValueError: no folder, a setting that there is not, a folder for results that is taken, nothing to compare.
    """
    folders, overrides = split(args)
    if not folders:
        raise ValueError("compare needs folders of runs: python -m agentgrpo compare runs")
    settings = _settings(overrides)
    if settings.out is not None:
        check_free(Path(settings.out))
    runs, left_out = read_all(map(Path, folders))
    comparison = build(runs, settings, left_out)
    if not comparison.environments:
        reasons = [f"  {printable(item.path)}: {item.reason}" for item in comparison.left_out]
        raise ValueError("\n".join(["There is nothing to compare:", *reasons]))
    out = Path(settings.out) if settings.out is not None else default_out(comparison.runs)
    check_free(out)
    remarks = notes(comparison)
    command = shlex.join(["python", "-m", "agentgrpo", "compare", *args])
    try:
        lines = write(comparison, remarks, command, out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror}. Name another folder: out=FOLDER") from error
    console = Console()
    show(comparison, remarks, console)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Folders and settings. A setting is a name, ``=``, and a value; a folder may have ``=`` after its first ``/``."""
    folders: list[str] = []
    overrides: list[str] = []
    for arg in args:
        if arg.startswith("-"):
            raise ValueError(f"compare has no option {arg}. Settings are written key=value, e.g. last=1 out=results.")
        (overrides if re.match(r"[+~]*[\w.@]+=", arg) else folders).append(arg)
    return folders, overrides


def _settings(overrides: Sequence[str]) -> Settings:
    config = composing.compose_config("compare", overrides)
    try:
        values = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Settings), config))
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(values, Settings)
    return values


def default_out(runs: Sequence[Run]) -> Path:
    """``comparison`` in the innermost folder that holds all runs and is none itself."""
    shared = Path(os.path.commonpath([run.path.absolute() for run in runs]))
    while RunFolder(shared).holds_run():
        shared = shared.parent
    shown = Path(os.path.relpath(shared))
    return (shared if shown.parts[:1] == ("..",) else shown) / "comparison"


def check_free(out: Path) -> None:
    """Refuses a folder that holds something else than an earlier comparison."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file. Name a folder: out=FOLDER")
    if RunFolder(out).holds_run():
        raise ValueError(f"out={out} holds a run. Name another folder: out=FOLDER")
    if out.is_dir() and any(out.iterdir()) and not (out / PAGE).is_file():
        raise ValueError(f"out={out} is not empty and holds no earlier comparison. Name another folder: out=FOLDER")


def write(comparison: Comparison, remarks: Sequence[str], command: str, out: Path) -> list[str]:
    """Writes everything into the folder; returns a line for each thing that was written, or could not be."""
    from agentgrpo.compare.board import write_board

    out.mkdir(parents=True, exist_ok=True)
    picture = out / "curves.png"
    drawn = find_spec("matplotlib") is not None
    # First of all, so that a comparison that was stopped half way is known for one.
    (out / PAGE).write_text(markdown(comparison, remarks, command, picture.name if drawn else None))
    written = tables.data(comparison)
    for data in written:
        write_csv(data, out)
    lines = ["", f"{out / PAGE}", f"{out}/{{{','.join(d.name for d in written)}}}.csv"]
    if drawn:
        from agentgrpo.compare.plots import draw

        draw(comparison, picture)
        lines.append(str(picture))
    else:
        picture.unlink(missing_ok=True)
        lines.append("no picture, since matplotlib is not installed: python -m pip install 'agentgrpo[plot]'")
    write_board(comparison, out / "tensorboard")
    return [*lines, f"tensorboard --logdir {shlex.quote(str(out / 'tensorboard'))}"]
