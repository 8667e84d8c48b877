"""Where a run's numbers go while it runs: TensorBoard, the terminal, and ``train.log``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from agentgrpo.types import Group, Trajectory

log = logging.getLogger("agentgrpo")


def log_to(folder: Path) -> None:
    """Sends everything logged from here on to ``train.log`` in the folder, tracebacks included."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    handler = logging.FileHandler(folder / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


class TensorBoard:
    """Scalars, sample trajectories as text, and hyperparameters with final metrics.

    Args:
        folder: of the run.
        start: update that the run goes on from; events past it, from before a kill, are hidden.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def scalars(self, update: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, update)

    def trajectories(self, update: int, groups: Sequence[Group]) -> None:
        """The last member of each group, which no expert leads, one text per group."""
        for index, group in enumerate(groups):
            self._writer.add_text(f"trajectories/group{index}", as_text(group.trajectories[-1]), update)

    def hyperparameters(self, values: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """One row of the HPARAMS tab, in the run's own event file so that the row carries the run's name."""
        plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in values.items()}
        # SummaryWriter.add_hparams would open a second folder for this.
        writer: Any = self._writer.file_writer
        for summary in hparams(plain, dict(metrics)):
            writer.add_summary(summary)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value)

    def charts(self, layout: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
        """The CUSTOM SCALARS tab: category -> chart -> (``Multiline`` or ``Margin``, its tags)."""
        self._writer.add_custom_scalars(layout)

    def close(self) -> None:
        self._writer.close()


def as_text(trajectory: Trajectory) -> str:
    """A trajectory as a Markdown code block: indented, so that no text in it can end the block."""
    lines = []
    for step in trajectory.steps:
        lines += [*step.observation.splitlines(), f"> {step.action}   [reward {step.reward:g}]"]
    lines += [*trajectory.final_observation.splitlines(), f"= {trajectory.status}, success: {trajectory.success}"]
    return "\n".join("    " + line for line in lines)


class Display:
    """One live line on a terminal; plain lines, now and then, elsewhere."""

    def __init__(self, console: Console, num_updates: int) -> None:
        self._console = console
        self._num_updates = num_updates
        self._live: Progress | None = None
        self._task: Any = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("update"),
                MofNCompleteColumn(),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TextColumn("elapsed,"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=console,
                transient=True,
            )

    def start(self, update: int) -> None:
        if self._live is not None:
            self._task = self._live.add_task("", total=self._num_updates, completed=update)
            self._live.start()

    def say(self, text: str) -> None:
        """A line that stays. Not interpreted as markup: it may hold an environment's text."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, update: int, metrics: Mapping[str, float], remaining: float) -> None:
        text = (
            f"success {metrics['rollout/success']:.2f}  return {metrics['rollout/return_mean']:.2f}  "
            f"{metrics['sampler/tokens_per_second']:,.0f} tokens/s"
        )
        if self._live is not None:
            self._live.update(self._task, completed=update, description=text)
        elif update % max(self._num_updates // 20, 1) == 0:
            self.say(f"update {update}/{self._num_updates}  {text}  {remaining:.0f} s left")

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
