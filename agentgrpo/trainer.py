"""The loop: collect -> advantages -> pack -> update -> sync -> log."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from agentgrpo import curriculum, memory, models, packing, timing, wording
from agentgrpo.algorithm import State
from agentgrpo.annotation import annotate, worth
from agentgrpo.async_collection import AsyncCollector
from agentgrpo.checkpoint import Checkpoint, CheckpointStore, load_optimizer, save_optimizer
from agentgrpo.collection import Collector
from agentgrpo.config import parse
from agentgrpo.curriculum import State as CurriculumState
from agentgrpo.doctor.findings import Record, facts_of
from agentgrpo.doctor.history import Doctor, closing_words
from agentgrpo.evaluation import Evaluation, evaluate
from agentgrpo.learner import Learner
from agentgrpo.metrics import algorithm_metrics, experience_metrics
from agentgrpo.players import PolicyPlayer
from agentgrpo.preflight import checked
from agentgrpo.profiling import Profile
from agentgrpo.run_folder import RunFolder
from agentgrpo.samplers.base import SamplerError
from agentgrpo.samplers.versioned import versioned
from agentgrpo.setup import Policy, build_runner, build_sampler, make_policy, reference_in
from agentgrpo.timing import phase
from agentgrpo.tracking import Display, TensorBoard, log, log_to
from agentgrpo.types import Credit, Group
from agentgrpo.warm_start import warm_start


@dataclass(slots=True)
class Totals:
    """Running sums, kept in the checkpoint."""

    warm_start_seconds: float = 0.0
    training_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    sampled_tokens: int = 0
    trained_tokens: int = 0
    env_steps: int = 0
    episodes: int = 0


class Trainer:
    """One run. Everything that can be wrong with a configuration is found before a model loads.

    Args:
        config: composed configuration, as saved in the run folder.
        console: where progress goes.
    Raises:
        ValueError: a sentence that names the setting, what is allowed and the next step.
    """

    def __init__(self, config: DictConfig, console: Console | None = None) -> None:
        ready = checked(parse(config))
        c = self.config = ready.config
        self.algorithm, self.ignored, self.scorer, self.panel = (
            ready.algorithm, ready.ignored, ready.scorer, ready.panel
        )  # fmt: skip
        self.doctor = Doctor(facts_of(config, self.algorithm)) if c.doctor else None
        self.folder = RunFolder(c.run_dir)
        self.store = CheckpointStore(self.folder.checkpoints, c.checkpoint.keep)
        console = console or Console()
        self.display = Display(console, c.num_updates)
        self.profile = Profile(self.folder.path, console, c.num_updates) if c.profile else None
        checkpoint = self._last_checkpoint()
        self.policy: Policy = make_policy(c, checkpoint.folder if checkpoint else None)
        if c.memory_gb is not None:
            memory.plan(c, self.policy.model, self.algorithm).check(c.memory_gb)
        if not c.resume:
            self.folder.create(config)  # from here on there is a run, so everything that can be refused was
        log_to(self.folder.path)
        self._build(checkpoint)

    def _last_checkpoint(self) -> Checkpoint | None:
        if not self.config.resume:
            self.folder.check_free()
            return None
        checkpoint, complaints = self.store.latest()
        for complaint in complaints:
            self.display.say(f"warning: {complaint}")
        if checkpoint is None:
            self.display.say(f"{self.folder.path} has no checkpoint yet: starting from the beginning.")
        else:
            self.display.say(f"Going on from {checkpoint.folder} ({checkpoint.update} updates done).")
        return checkpoint

    def _build(self, checkpoint: Checkpoint | None) -> None:
        c = self.config
        self.runner = build_runner(c, self.policy)
        turns = c.rollout.max_turns if c.context.kind == "transcript" else 1
        self.learner = Learner(
            self.policy.model,
            c.optim,
            precision=c.model.precision,
            temperature=c.rollout.temperature,
            top_p=c.rollout.top_p,
            max_length=turns * c.rollout.max_new_tokens,
        )
        if not self.learner.shares_prefixes:
            kind = type(self.policy.model).__name__
            self.display.say(f"{kind} cannot share prefixes in training: every sequence is computed whole, slower.")
        self.sampler = versioned(build_sampler(c, replace(self.policy, model=self.learner.computing)))
        parts = (self.sampler, self.policy.chat, self.scorer)
        self.collector = (
            Collector(c, self.algorithm, self.runner, *parts)
            if c.rollout.mode == "sync"
            else AsyncCollector(c, self.algorithm, build_runner(c, self.policy), *parts)
        )
        self.algorithm_state: State = self.algorithm.initial_state()
        self.curriculum_state: CurriculumState = {}
        self.totals = Totals()
        self.update = 0
        self.before: dict[str, Any] | None = None
        self.after: dict[str, Any] | None = None
        self.best: dict[str, Any] | None = None
        if checkpoint is not None:
            self._restore(checkpoint)
        self.folder.forget_after(self.update if checkpoint else -1)
        if self.doctor is not None:
            for record in self.folder.records("metrics"):
                self.doctor.look(record)
        self.board = TensorBoard(self.folder.path, self.update)

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        load_optimizer(checkpoint, self.learner.optimizer)
        self.learner.num_steps = state["optimizer_steps"]
        self.totals = Totals(**state["totals"])
        self.update, self.before, self.after, self.best = (state[k] for k in ("update", "before", "after", "best"))
        self.algorithm_state = state["algorithm"]
        self.curriculum_state = curriculum.loaded(state["curriculum"])
        if self.algorithm.needs_reference:
            moved = checkpoint.folder / "reference"
            start = moved if moved.is_dir() else self.folder.path / "reference"
            self.learner.set_reference(reference_in(start, self.policy.model))
        if self.algorithm.critic_rate is not None:
            self.learner.make_critic(self.algorithm.critic_rate)
            assert self.learner.critic is not None
            assert self.learner.critic_optimizer is not None
            self.learner.critic.load(checkpoint.folder)
            self.learner.follow()
            load_optimizer(checkpoint, self.learner.critic_optimizer, "critic_optimizer")

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Trains to the end, or to Ctrl-C; returns what ``summary.json`` holds."""
        c = self.config
        if self.ignored:
            self.display.say(f"warning: algorithm {c.algorithm['name']!r} ignores: {', '.join(self.ignored)}")
        if self.before is None:
            self._begin()
        if c.model.lora.rank:
            self.display.say(wording.trained(self.policy.model))
        self.display.say(f"{wording.precision(c)}; {wording.denominator(self.algorithm)}")
        self.display.start(self.update)
        try:
            interrupted = self._loop()
        except SamplerError as error:
            # The weights are those of the last whole update.
            self._save()
            again = f"python -m agentgrpo train run_dir={c.run_dir} resume=true"
            raise SamplerError(f"{error}\nAll {self.update} updates so far are saved. Go on with: {again}") from error
        finally:
            self.display.stop()
            self.collector.close()
            self.runner.close()
        return self._finish("interrupted" if interrupted else "finished")

    def _loop(self) -> bool:
        """Updates, evaluations and checkpoints; returns True after Ctrl-C."""
        c = self.config
        interrupted = False
        with _interrupt_flag(self.display.say) as pressed:
            self._evaluate_if_due()  # what a sampler's failure may have kept from it
            while self.update < c.num_updates and not interrupted:
                with self.profile.update() if self.profile else contextlib.nullcontext():
                    self._one_update()
                interrupted = pressed() and self.update < c.num_updates
                self._evaluate_if_due()
                if self.update % c.checkpoint.every == 0 or self.update == c.num_updates or interrupted:
                    self._save()
        return interrupted

    def _begin(self) -> None:
        """Warm start, and the evaluation that everything later is compared with."""
        c = self.config
        if c.warm_start.episodes:
            started = time.monotonic()
            report = warm_start(c, self.policy.chat, self.runner, self.learner)
            self.totals.warm_start_seconds = time.monotonic() - started
            self.display.say(
                f"warm start: {c.warm_start.episodes} episodes ({report.success:.2f} success), "
                f"{report.steps} steps, cross-entropy {report.first_loss:.2f} -> {report.last_loss:.2f}, "
                f"{self.totals.warm_start_seconds:.0f} s"
            )
        if self.algorithm.needs_reference:
            self.learner.freeze_reference()
            models.save(self.policy.model, self.policy.tokenizer, self.folder.path / "reference")
        if self.algorithm.critic_rate is not None:
            self.learner.make_critic(self.algorithm.critic_rate)
        self._evaluate()
        self.before = self.after
        self._save()

    def _one_update(self) -> None:
        c = self.config
        logging = timing.take().get("logging", 0.0)  # of the update before: this one's comes after its record
        timing.environment_calls.take_mean()  # evaluations make such calls, too
        started, started_cpu = time.monotonic(), time.process_time()
        stats = self.sampler.stats
        prompts, prefilled = stats.prompt_tokens, stats.prefilled_tokens
        self.sampler.sync(self.learner.computing, self.update)
        experience = self.collector.collect(self.update, self.algorithm_state, self.curriculum_state)
        self._rest()
        self.curriculum_state = self.collector.curriculum.measured(self.curriculum_state, experience.groups)
        collected, collected_cpu = time.monotonic(), time.process_time()
        groups = annotate(experience.kept, self.algorithm, self.learner)
        with phase("advantages"):
            credit = worth(groups, self.algorithm)
        with phase("packing"):
            items = [
                item
                for group, credits in zip(groups, credit, strict=True)
                for trajectory, worth in zip(group, credits, strict=True)
                if self.algorithm.trains_on(trajectory)
                for item in packing.sequences(trajectory, worth)
            ]
        with phase("metrics"):
            metrics = experience_metrics(experience, self.update) | algorithm_metrics(self.algorithm_state)
            metrics |= self.collector.curriculum.metrics(self.curriculum_state)
        metrics |= self.learner.update(items, self.algorithm, (c.seed, self.update))
        self.algorithm_state = self.algorithm.next_state(self.algorithm_state, experience.groups)
        if self.algorithm.reference_every and (self.update + 1) % self.algorithm.reference_every == 0:
            self.learner.move_reference(self.algorithm.reference_mix)
        ended, ended_cpu = time.monotonic(), time.process_time()

        steps = [step for group in experience.groups for trajectory in group for step in trajectory.steps]
        sampled = sum(step.num_policy_tokens for step in steps)
        sampling = collected - started if c.rollout.mode == "sync" else ended - started
        metrics["sampler/cached_prompt_share"] = 1 - (stats.prefilled_tokens - prefilled) / max(
            stats.prompt_tokens - prompts, 1
        )
        phases = timing.take() | {"logging": logging}
        seconds = {
            "time/rollout": collected - started,
            "time/update": ended - collected,
            "time/environment_call": timing.environment_calls.take_mean(),
            "time/rollout_cpu": collected_cpu - started_cpu,
            "time/update_cpu": ended_cpu - collected_cpu,
            "sampler/tokens_per_second": sampled / sampling,
            **timing.metrics(phases, ended - started + logging),
        }
        if self.profile is not None:
            self.profile.report(phases, ended - started + logging)
        self.update += 1
        self.totals.training_seconds += ended - started
        self.totals.sampled_tokens += sampled
        self.totals.trained_tokens += sum(len(s.token_ids) for s in items)
        self.totals.env_steps += len(steps)
        self.totals.episodes += sum(map(len, experience.groups))
        with phase("logging"):
            self._log(groups, credit, metrics, seconds)
        self._warn_of_crashes(experience.groups)

    def _rest(self) -> None:
        """Nobody samples before the next sync, unless rollouts go on meanwhile."""
        if self.config.rollout.mode == "sync":
            self.sampler.rest()

    def _log(
        self,
        groups: list[Group],
        credit: list[list[Credit]],
        metrics: dict[str, float],
        seconds: dict[str, float],
    ) -> None:
        c = self.config
        record = {"update": self.update, **metrics, **seconds}
        self.folder.append("metrics", record)
        self.board.scalars(self.update, metrics | seconds | self._examine(record))
        if (self.update - 1) % c.log.every == 0 and c.log.trajectories:
            shown = groups[: c.log.trajectories]
            self.folder.write_trajectories(self.update, shown, credit[: len(shown)])
            self.board.trajectories(self.update, shown)
        left = (c.num_updates - self.update) * self.totals.training_seconds / self.update
        self.display.update(self.update, metrics | seconds, left)

    def _examine(self, record: Record) -> dict[str, float]:
        """Says once what looks wrong; returns the doctor's scalars."""
        if self.doctor is None:
            return {}
        for finding in self.doctor.look(record):
            log.warning("doctor, update %d: %s", self.update, finding.text)
            self.display.say(f"doctor, update {self.update}: {finding.text}")
        return self.doctor.scalars()

    def _warn_of_crashes(self, groups: Sequence[Group]) -> None:
        for group in groups:
            for slot, trajectory in enumerate(group):
                if trajectory.status.crashed:
                    where = f"update {self.update}, task seed {group.task_seed}, member {slot}: {trajectory.status}"
                    log.warning("%s\n%s", where, trajectory.error)
                    self.display.say(f"warning: {where}: {wording.last_line(trajectory.error)} (more in train.log)")

    # --- evaluation, checkpoints, summary -------------------------------------------------------------------------

    def _evaluate_if_due(self) -> None:
        assert self.after is not None
        due = self.update % self.config.eval.every == 0 or self.update == self.config.num_updates
        if due and self.after["update"] < self.update:
            self._evaluate()

    def _evaluate(self) -> None:
        started = time.monotonic()
        c = self.config
        self.sampler.sync(self.learner.computing, self.update)
        player = PolicyPlayer(self.sampler, c.rollout.params(c.eval.temperature))
        result: Evaluation = evaluate(self.runner, player, self.panel, self.scorer)
        self._rest()
        self.totals.evaluation_seconds += time.monotonic() - started
        self.after = {"update": self.update, **result.summary()}
        outcomes = [int(x) for x in result.outcomes]
        spent = {"episodes": self.totals.episodes, "time/training_seconds": self.totals.training_seconds}
        self.folder.append("evaluations", {**self.after, **spent, "panel": self.panel.hash, "outcomes": outcomes})
        low, high = result.interval
        self.board.scalars(
            self.update,
            {
                "eval/success": result.success,
                "eval/success_low": low,
                "eval/success_high": high,
                "eval/return_mean": result.return_mean,
                "eval/turns_mean": result.turns_mean,
                **{f"eval/{name}/success": value for name, value in result.by_env.items()},
            },
        )
        self.display.say(
            f"update {self.update}: held-out success {result.success:.3f} "
            f"(95% {low:.2f}-{high:.2f}, {len(outcomes)} tasks) after {self.totals.training_seconds:.0f} s of training"
        )
        if self.best is None or result.success > self.best["success"]:
            self.best = dict(self.after)
            self.store.save_best(self.update, self.policy.model, self.policy.tokenizer, {"evaluation": self.after})

    def _save(self) -> None:
        state = {
            "optimizer_steps": self.learner.num_steps,
            "algorithm": dict(self.algorithm_state),
            "curriculum": self.curriculum_state,
            "totals": asdict(self.totals),
            "before": self.before,
            "after": self.after,
            "best": self.best,
        }
        self.store.save(
            self.update, self.policy.model, self.policy.tokenizer, self.learner.optimizer, state, self._save_extras
        )

    def _save_extras(self, folder: Path) -> None:
        """What only some algorithms have: a reference that moves, a critic."""
        learner = self.learner
        if self.algorithm.reference_every and learner.reference is not None:
            models.save(learner.reference, self.policy.tokenizer, folder / "reference")
        if learner.critic is not None and learner.critic_optimizer is not None:
            learner.critic.save(folder)
            save_optimizer(learner.critic_optimizer, folder, "critic_optimizer")

    def _finish(self, status: str) -> dict[str, Any]:
        c = self.config
        assert self.before is not None
        assert self.after is not None
        assert self.best is not None
        summary = {
            "status": status,
            "env": c.env.name,
            "algorithm": c.algorithm["name"],
            "model": c.model.path or c.model.kind,
            "seed": c.seed,
            "updates": self.update,
            "panel": {"hash": self.panel.hash, "name": self.panel.name, "num_tasks": len(self.panel.tasks)},
            "before": self.before,
            "after": self.after,
            "best": self.best,
            **asdict(self.totals),
            **({"doctor": self.doctor.summary()} if self.doctor else {}),
        }
        self.folder.write_summary(summary)
        self.board.hyperparameters(
            wording.hyperparameters(c),
            {"final/success": self.after["success"], "final/best_success": self.best["success"]},
        )
        self.board.close()
        self.display.say(wording.result(summary, c))
        if self.doctor is not None and self.doctor.standing:
            self.display.say(closing_words(self.doctor, c.run_dir))
        return summary


@contextlib.contextmanager
def _interrupt_flag(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a flag, so that an update is never left half done; the second one stops at once."""
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        say("Ctrl-C: finishing this update, then writing a checkpoint. Press again to stop at once.")

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread, where signals cannot be handled
        yield lambda: False
        return
    try:
        yield lambda: count > 0
    finally:
        signal.signal(signal.SIGINT, previous)
