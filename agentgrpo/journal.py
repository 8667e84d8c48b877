"""What a run tells and leaves behind: at its first rank all of it, at the others nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from agentgrpo import wording
from agentgrpo.config import TrainConfig
from agentgrpo.doctor.findings import Facts, Record
from agentgrpo.doctor.history import Doctor, closing_words
from agentgrpo.evaluation import Evaluation
from agentgrpo.profiling import Profile
from agentgrpo.run_folder import RunFolder
from agentgrpo.tracking import Display, TensorBoard, log, log_to
from agentgrpo.types import Credit, Group


class Journal:
    """Says and writes nothing."""

    def say(self, text: str) -> None:
        """A line for whoever looks on."""

    def begin(self, config: DictConfig) -> None:
        """Makes the folder of a new run."""

    def open(self, update: int, *, resumed: bool) -> None:
        """Goes on behind ``update``; what was written past it is dropped."""

    def start(self, update: int) -> None:
        """Updates come from here on."""

    def stop(self) -> None:
        """No more updates come."""

    def profiled(self) -> AbstractContextManager[None]:
        """What an update runs in."""
        return nullcontext()

    def phases(self, seconds: Mapping[str, float], total: float) -> None:
        """Seconds of an update, by phase and in all."""

    def update(
        self,
        update: int,
        groups: Sequence[Group],
        credit: Sequence[Sequence[Credit]],
        metrics: Mapping[str, float],
        training_seconds: float,
    ) -> None:
        """An update is done.

        Args:
            groups: that were trained on.
            credit: what their tokens were worth.
            metrics: of the update, times among them.
            training_seconds: of all updates.
        """

    def crashes(self, update: int, groups: Sequence[Group]) -> None:
        """Tells of environments that failed in an update."""

    def evaluation(self, record: Mapping[str, Any], result: Evaluation) -> None:
        """An evaluation is done.

        Args:
            record: its line in ``evaluations.jsonl``, but for the outcomes.
        """

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is over; fills in what the doctor found."""


class FolderJournal(Journal):
    """Terminal, ``train.log``, the run's folder and TensorBoard, with a doctor who reads along.

    Args:
        config: of the run.
        facts: that the doctor may know; None: there is no doctor.
        console: where progress goes.
    """

    def __init__(self, config: TrainConfig, facts: Facts | None, console: Console) -> None:
        self._config = config
        self.folder = RunFolder(config.run_dir)
        self._display = Display(console, config.num_updates)
        self._doctor = None if facts is None else Doctor(facts)
        self._profile = Profile(self.folder.path, console, config.num_updates) if config.profile else None

    def say(self, text: str) -> None:
        self._display.say(text)

    def begin(self, config: DictConfig) -> None:
        self.folder.create(config)

    def open(self, update: int, *, resumed: bool) -> None:
        log_to(self.folder.path)
        self.folder.forget_after(update if resumed else -1)
        if self._doctor is not None:
            for record in self.folder.records("metrics"):
                self._doctor.look(record)
        self._board = TensorBoard(self.folder.path, update)

    def start(self, update: int) -> None:
        self._display.start(update)

    def stop(self) -> None:
        self._display.stop()

    def profiled(self) -> AbstractContextManager[None]:
        return self._profile.update() if self._profile else nullcontext()

    def phases(self, seconds: Mapping[str, float], total: float) -> None:
        if self._profile is not None:
            self._profile.report(seconds, total)

    def update(
        self,
        update: int,
        groups: Sequence[Group],
        credit: Sequence[Sequence[Credit]],
        metrics: Mapping[str, float],
        training_seconds: float,
    ) -> None:
        c = self._config
        record = {"update": update, **metrics}
        self.folder.append("metrics", record)
        self._board.scalars(update, {**metrics, **self._examine(record)})
        if (update - 1) % c.log.every == 0 and c.log.trajectories:
            shown = groups[: c.log.trajectories]
            self.folder.write_trajectories(update, shown, credit[: len(shown)])
            self._board.trajectories(update, shown)
        left = (c.num_updates - update) * training_seconds / update
        self._display.update(update, metrics, left)

    def _examine(self, record: Record) -> dict[str, float]:
        """Says once what looks wrong; returns the doctor's scalars."""
        if self._doctor is None:
            return {}
        for finding in self._doctor.look(record):
            log.warning("doctor, update %d: %s", record["update"], finding.text)
            self.say(f"doctor, update {record['update']:g}: {finding.text}")
        return self._doctor.scalars()

    def crashes(self, update: int, groups: Sequence[Group]) -> None:
        for group in groups:
            for slot, trajectory in enumerate(group):
                if trajectory.status.crashed:
                    where = f"update {update}, task seed {group.task_seed}, member {slot}: {trajectory.status}"
                    log.warning("%s\n%s", where, trajectory.error)
                    self.say(f"warning: {where}: {wording.last_line(trajectory.error)} (more in train.log)")

    def evaluation(self, record: Mapping[str, Any], result: Evaluation) -> None:
        self.folder.append("evaluations", {**record, "outcomes": [int(x) for x in result.outcomes]})
        low, high = result.interval
        self._board.scalars(
            record["update"],
            {
                "eval/success": result.success,
                "eval/success_low": low,
                "eval/success_high": high,
                "eval/return_mean": result.return_mean,
                "eval/turns_mean": result.turns_mean,
                **{f"eval/{name}/success": value for name, value in result.by_env.items()},
            },
        )
        self.say(
            f"update {record['update']}: held-out success {result.success:.3f} "
            f"(95% {low:.2f}-{high:.2f}, {len(result.outcomes)} tasks) after "
            f"{record['time/training_seconds']:.0f} s of training"
        )

    def finish(self, summary: dict[str, Any]) -> None:
        c = self._config
        if self._doctor is not None:
            summary["doctor"] = self._doctor.summary()
        self.folder.write_summary(summary)
        self._board.hyperparameters(
            wording.hyperparameters(c),
            {"final/success": summary["after"]["success"], "final/best_success": summary["best"]["success"]},
        )
        self._board.close()
        self.say(wording.result(summary, c))
        if self._doctor is not None and self._doctor.standing:
            self.say(closing_words(self._doctor, c.run_dir))
