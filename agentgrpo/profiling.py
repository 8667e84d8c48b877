"""``profile=true``: a table that says where the time of an update went, and a trace of the next one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from agentgrpo.timing import MODEL_PHASES

TIMED, TRACED = 2, 3
"""Which update of a session is told about: the first one touches memory for the first time, and tracing takes time."""
_EXPLAINED = {
    "sampling": "the model, drawing actions and reading prompts",
    "sampler": "prefix cache, draws, bookkeeping of the sampler",
    "environments": "reset and step",
    "episodes": "prompts, decoding of answers, records",
    "advantages": "statistics of groups",
    "packing": "prefix trees, masks, batches",
    "forward": "the model, log-probabilities of policy tokens",
    "backward": "gradients",
    "optimizer": "clipping, AdamW, half-precision copy",
    "metrics": "numbers about the round",
    "logging": "files, TensorBoard, terminal (of the update before)",
}


class Profile:
    """Tells about two updates, on the terminal and in ``profile/`` of the run folder.

    Args:
        folder: of the run.
        console: where the table goes.
        num_updates: of the run.
    Raises:
        ValueError: the run is too short.
    """

    def __init__(self, folder: Path, console: Console, num_updates: int) -> None:
        if num_updates < TRACED:
            raise ValueError(
                f"profile=true traces update {TRACED}, and num_updates={num_updates}. Set it to {TRACED} or more."
            )
        self._folder = folder / "profile"
        self._console = console
        self._updates = 0

    @contextmanager
    def update(self) -> Iterator[None]:
        """Runs an update; one of them is traced."""
        self._updates += 1
        if self._updates != TRACED:
            yield
            return
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        with profile(activities=activities, acc_events=True) as recorded:
            yield
        recorded.export_chrome_trace(str(self._folder / "trace.json.gz"))
        operations = recorded.key_averages().table(
            sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=48
        )
        (self._folder / "operations.txt").write_text(operations)
        self._console.print(
            f"Operations: {self._folder / 'operations.txt'}; trace for chrome://tracing or ui.perfetto.dev: "
            f"{self._folder / 'trace.json.gz'}",
            soft_wrap=True,
            highlight=False,
        )

    def report(self, seconds: Mapping[str, float], total: float) -> None:
        """Prints the table for the update that has just ended, if it is the timed one.

        Args:
            seconds: by phase, from :mod:`agentgrpo.timing`.
            total: of the whole update.
        """
        if self._updates != TIMED:
            return
        table = Table("phase", "seconds", "share", "what", title="Where the time of update 2 went")
        for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
            style = "bold" if name in MODEL_PHASES else ""
            table.add_row(name, f"{value:.3f}", f"{value / total:.1%}", _EXPLAINED.get(name, ""), style=style)
        rest = total - sum(seconds.values())
        table.add_row("rest", f"{rest:.3f}", f"{rest / total:.1%}", "everything between")
        table.add_section()
        table.add_row("update", f"{total:.3f}", "100%", "bold: model arithmetic")
        self._console.print(table)
        self._folder.mkdir(exist_ok=True)
        (self._folder / "phases.txt").write_text(_plain(table))


def _plain(table: Table) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
