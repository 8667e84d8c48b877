"""The loop: collect -> advantages -> pack -> update -> sync -> log."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from agentgrpo import curriculum, memory, packing, timing, wording
from agentgrpo.algorithm import State
from agentgrpo.annotation import annotate, worth
from agentgrpo.checkpoint import Checkpoint, CheckpointStore, load_optimizer, save_optimizer, save_policy
from agentgrpo.collection import Collector
from agentgrpo.config import parse
from agentgrpo.curriculum import State as CurriculumState
from agentgrpo.doctor.findings import facts_of
from agentgrpo.evaluation import Evaluation, evaluate
from agentgrpo.interrupts import on_ctrl_c
from agentgrpo.journal import FolderJournal, Journal
from agentgrpo.learner import Learner
from agentgrpo.metrics import algorithm_metrics, experience_metrics
from agentgrpo.place import Place
from agentgrpo.preflight import checked
from agentgrpo.run_folder import RunFolder
from agentgrpo.samplers.base import SamplerError
from agentgrpo.setup import Policy, make_policy, reference_in
from agentgrpo.stages import Stage, play
from agentgrpo.timing import phase
from agentgrpo.warm_start import warm_start
from agentgrpo.weights import checksum


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
    """One run, as one of its ranks sees it. What can be wrong with a configuration is found before a model loads.

    Args:
        config: composed configuration, as saved in the run folder.
        console: where progress goes.
        place: where the run's processes are; None: this one is alone.
    Raises:
        ValueError: a sentence that names the setting, what is allowed and the next step.
    """

    def __init__(self, config: DictConfig, console: Console | None = None, place: Place | None = None) -> None:
        self.place = Place() if place is None else place
        self.ranks = self.place.ranks
        ready = self.ranks.at_each(lambda: checked(parse(config)))
        c = self.config = ready.config
        self.algorithm, self.ignored, self.scorer, self.panel = (
            ready.algorithm, ready.ignored, ready.scorer, ready.panel
        )  # fmt: skip
        facts = facts_of(config, self.algorithm) if c.doctor else None
        self.journal = FolderJournal(c, facts, console or Console()) if self.ranks.first else Journal()
        self.folder = RunFolder(c.run_dir)
        self.store = CheckpointStore(self.folder.checkpoints, c.checkpoint.keep, self.ranks)
        self.ranks.check_equal("settings of model.precision", lambda: c.model.precision)  # auto may differ by machine
        checkpoint = self._last_checkpoint()
        self.policy: Policy = self.ranks.at_each(lambda: make_policy(c, checkpoint.folder if checkpoint else None))
        if c.memory_gb is not None:
            memory.plan(c, self.policy.model, self.algorithm).check(c.memory_gb)
        if not c.resume:
            self.ranks.from_first(lambda: self.journal.begin(config))  # what can be refused was, so there is a run
        self._build(checkpoint)

    def _last_checkpoint(self) -> Checkpoint | None:
        if not self.config.resume:
            self.ranks.from_first(self.folder.check_free)
            return None
        checkpoint, complaints = self.store.latest()
        self.ranks.check_equal("last checkpoints", lambda: checkpoint.folder.name if checkpoint else None)
        for complaint in complaints:
            self.journal.say(f"warning: {complaint}")
        if checkpoint is None:
            self.journal.say(f"{self.folder.path} has no checkpoint yet: starting from the beginning.")
        else:
            self.journal.say(f"Going on from {checkpoint.folder} ({checkpoint.update} updates done).")
        return checkpoint

    def _build(self, checkpoint: Checkpoint | None) -> None:
        c = self.config
        sharded = self.place.sharding == "fsdp"
        if sharded:  # before the weights are cut up: whoever samples needs whole ones
            self.stage: Stage = self.place.stage(c, self.policy, self.scorer)
        turns = c.rollout.max_turns if c.context.kind == "transcript" else 1
        self.learner = Learner(
            self.policy.model,
            c.optim,
            precision=c.model.precision,
            temperature=c.rollout.temperature,
            top_p=c.rollout.top_p,
            max_length=turns * c.rollout.max_new_tokens,
            ranks=self.ranks,
            sharded=sharded,
        )
        if not self.learner.shares_prefixes:
            kind = type(self.policy.model).__name__
            self.journal.say(f"{kind} cannot share prefixes in training: every sequence is computed whole, slower.")
        if not sharded:
            self.stage = self.place.stage(c, replace(self.policy, model=self.learner.computing), self.scorer)
        self.collector = Collector(c, self.algorithm, self.stage)
        self.algorithm_state: State = self.algorithm.initial_state()
        self.curriculum_state: CurriculumState = {}
        self.totals = Totals()
        self.update = 0
        self.before: dict[str, Any] | None = None
        self.after: dict[str, Any] | None = None
        self.best: dict[str, Any] | None = None
        if checkpoint is not None:
            self._restore(checkpoint)
        self.journal.open(self.update, resumed=checkpoint is not None)

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
            self.journal.say(f"warning: algorithm {c.algorithm['name']!r} ignores: {', '.join(self.ignored)}")
        try:
            if self.before is None:
                self._begin()
            if c.model.lora.rank:
                self.journal.say(wording.trained(self.policy.model))
            self.journal.say(f"{wording.precision(c)}; {wording.denominator(self.algorithm)}")
            self.journal.start(self.update)
            interrupted = self._loop()
        except SamplerError as error:
            if self.before is None or self.ranks.size > 1:  # the others are elsewhere, and saving needs all of them
                raise
            # The weights are those of the last whole update.
            self._save()
            again = f"python -m agentgrpo train run_dir={c.run_dir} resume=true"
            raise SamplerError(f"{error}\nAll {self.update} updates so far are saved. Go on with: {again}") from error
        finally:
            self.journal.stop()
            self.stage.close()
        return self._finish("interrupted" if interrupted else "finished")

    def _loop(self) -> bool:
        """Updates, evaluations and checkpoints; returns True after Ctrl-C."""
        c = self.config
        interrupted = False
        pressed = threading.Event()
        with on_ctrl_c(self.journal.say, pressed.set):
            self._evaluate_if_due()  # what a sampler's failure may have kept from it
            while self.update < c.num_updates and not interrupted:
                with self.journal.profiled():
                    self._one_update()
                interrupted = self.ranks.any(pressed.is_set() or self.place.stopped) and self.update < c.num_updates
                self._evaluate_if_due()
                if self.update % c.checkpoint.every == 0 or self.update == c.num_updates or interrupted:
                    self._save()
        return interrupted

    def _begin(self) -> None:
        """Warm start, and the evaluation that everything later is compared with."""
        c = self.config
        if c.warm_start.episodes:
            started = time.monotonic()
            report = warm_start(c, self.policy, self.learner, self.ranks)
            self.totals.warm_start_seconds = time.monotonic() - started
            self.journal.say(
                f"warm start: {c.warm_start.episodes} episodes ({report.success:.2f} success), "
                f"{report.steps} steps, cross-entropy {report.first_loss:.2f} -> {report.last_loss:.2f}, "
                f"{self.totals.warm_start_seconds:.0f} s"
            )
        if self.algorithm.needs_reference:
            start = self.folder.path / "reference"
            save_policy(self.policy.model, self.policy.tokenizer, start, self.ranks)
            if self.place.sharding == "fsdp":
                self.learner.set_reference(reference_in(start, self.policy.model))
            else:
                self.learner.freeze_reference()
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
        stats = replace(self.stage.stats)
        self.stage.sync(self.learner.computing, self.update)
        experience = self.collector.collect(self.update, self.algorithm_state, self.curriculum_state)
        self.stage.rest()
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
        metrics["sampler/cached_prompt_share"] = self.stage.stats.cached_share_since(stats)
        phases = timing.take() | {"logging": logging}
        metrics |= {
            "time/rollout": collected - started,
            "time/update": ended - collected,
            "time/environment_call": timing.environment_calls.take_mean(),
            "time/rollout_cpu": collected_cpu - started_cpu,
            "time/update_cpu": ended_cpu - collected_cpu,
            "sampler/tokens_per_second": sampled / sampling,
            **timing.metrics(phases, ended - started + logging),
        }
        self.journal.phases(phases, ended - started + logging)
        self.update += 1
        self.totals.training_seconds += ended - started
        self.totals.sampled_tokens += sampled
        self.totals.trained_tokens += sum(len(s.token_ids) for s in items)
        self.totals.env_steps += len(steps)
        self.totals.episodes += sum(map(len, experience.groups))
        with phase("logging"):
            self.journal.update(self.update, groups, credit, metrics, self.totals.training_seconds)
        self.journal.crashes(self.update, experience.groups)

    # --- evaluation, checkpoints, summary -------------------------------------------------------------------------

    def _evaluate_if_due(self) -> None:
        assert self.after is not None
        due = self.update % self.config.eval.every == 0 or self.update == self.config.num_updates
        if due and self.after["update"] < self.update:
            self._evaluate()

    def _evaluate(self) -> None:
        started = time.monotonic()
        params = self.config.rollout.params(self.config.eval.temperature)
        self.stage.sync(self.learner.computing, self.update)
        result: Evaluation = evaluate(
            lambda orders: play(self.stage, [replace(order, params=params) for order in orders]),
            self.panel,
        )
        self.stage.rest()
        self.totals.evaluation_seconds += time.monotonic() - started
        self.after = {"update": self.update, **result.summary()}
        spent = {"episodes": self.totals.episodes, "time/training_seconds": self.totals.training_seconds}
        self.journal.evaluation({**self.after, **spent, "panel": self.panel.hash}, result)
        if self.best is None or result.success > self.best["success"]:
            self.best = dict(self.after)
            self.store.save_best(self.update, {"evaluation": self.after}, self._write_policy)

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
        if self.place.sharding == "replicated":
            self.ranks.check_equal("weights", lambda: checksum(self.policy.model))
        self.store.save(self.update, state, self._write)

    def _write_policy(self, folder: Path) -> None:
        save_policy(self.policy.model, self.policy.tokenizer, folder, self.ranks)

    def _write(self, folder: Path) -> None:
        """The policy, its optimiser, and what only some algorithms have: a reference that moves, a critic."""
        learner = self.learner
        self._write_policy(folder)
        save_optimizer(learner.optimizer, folder, ranks=self.ranks)
        if self.algorithm.reference_every and learner.reference is not None:
            save_policy(learner.reference, self.policy.tokenizer, folder / "reference", self.ranks)
        if learner.critic is not None and learner.critic_optimizer is not None and self.ranks.first:
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
        }
        self.journal.finish(summary)
        return summary
