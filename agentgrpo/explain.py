"""``explain``: what ``train`` would do with a configuration. A short trial tells how long, a plan how much memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from agentgrpo import memory, models
from agentgrpo.cluster.costs import Links, Setup
from agentgrpo.cluster.plan_words import print_plan
from agentgrpo.cluster.probe import Record, costs_of_probe, setup_of
from agentgrpo.cluster.settings import RaySettings
from agentgrpo.config import TrainConfig, parse
from agentgrpo.effects import Ignored, contradictions, ignored
from agentgrpo.memory import MemoryPlan
from agentgrpo.preflight import Checked, checked
from agentgrpo.trainer import Trainer

_UPDATES = 2
_WARM_START = 32
"""Episodes of imitation that a trial plays at most."""
_EVALUATED = 16


@dataclass(frozen=True, slots=True)
class Trial:
    """What two updates of the run took, and what they were made of."""

    warm_start: float
    """Seconds of the whole run's warm start, by the share of its episodes that was tried."""
    update: float
    """Seconds of an update."""
    evaluation: float
    """Seconds of one evaluation."""
    trained_tokens: int
    """Tokens of an update's sequences, prefixes counted once for each."""
    micro_batch_tokens: int
    """Distinct tokens of the largest pass."""
    sampled_tokens: int
    """Tokens of an update that the policy wrote."""
    records: tuple[Record, ...] = ()
    """Its metrics."""

    def seconds(self, c: TrainConfig) -> float:
        """Of the whole run."""
        return self.warm_start + c.num_updates * self.update + num_evaluations(c) * self.evaluation


def explain_command(config: DictConfig, overrides: Sequence[str]) -> int:
    """Prints it; returns 1 where settings contradict each other."""
    plain: Any = OmegaConf.to_container(config)
    wants_probe = bool(plain.pop("probe"))
    plain["resume"] = False
    config = OmegaConf.create(plain)
    ready = checked(parse(config))
    c = ready.config
    wrong = contradictions(c)
    console = Console(highlight=False)
    model = models.skeleton(c.model, c.seed)
    most = memory.plan(c, model, ready.algorithm)
    if c.memory_gb is not None:
        most.check(c.memory_gb)
    _print_work(console, ready, model)
    if wants_probe and c.num_updates and not wrong:
        console.print(f"\ntrying {_UPDATES} updates ...", style="dim")
        trial = try_out(config, c)
        _print_time(console, c, trial)
        _print_memory(console, expected(ready, model, trial), most)
        if isinstance(c.cluster_settings, RaySettings):
            cores = None if c.cluster_settings.address else float(os.cpu_count() or 1)
            console.print()
            plan_cluster(console, config, ready, model, setup_of(c, c.cluster_settings, cores))
    else:
        _print_memory(console, None, most)
    _print_ignored(console, ignored(c, ready.algorithm), overrides)
    for sentence in wrong:
        console.print(f"contradiction: {sentence}", markup=False, soft_wrap=True)
    return 1 if wrong else 0


def num_evaluations(c: TrainConfig) -> int:
    """Before the first update, after every so many, and after the last."""
    return 1 + c.num_updates // c.eval.every + (c.num_updates % c.eval.every > 0)


def expected(ready: Checked, model: PreTrainedModel, trial: Trial) -> MemoryPlan:
    """The memory plan for episodes as long as those of the trial."""
    return memory.plan(
        ready.config,
        model,
        ready.algorithm,
        update_tokens=trial.micro_batch_tokens,
        cache_tokens=round(1.25 * trial.trained_tokens),  # columns are made a quarter longer than is needed
    )


def plan_cluster(console: Console, config: DictConfig, ready: Checked, model: PreTrainedModel, setup: Setup) -> None:
    """Prints what samplers and learners would do side by side, and other splits of as many processes.

    Tries two updates as they are, after the whole warm start, since only a policy that succeeds now and then shows what
    learning takes; and two of another size, since only two sizes tell what a batch takes from what its turns take.

    Args:
        setup: the processes that are asked for.
    Raises:
        ValueError: the trials do not say what learning takes.
    """
    c = ready.config
    tried: dict[int, Sequence[Record]] = {}
    for groups in (c.groups_per_update, c.groups_per_update // 4 if c.groups_per_update >= 4 else 4):
        as_it_is = groups == c.groups_per_update
        episodes = c.warm_start.episodes if as_it_is else min(c.warm_start.episodes, _WARM_START)
        console.print(f"trying {_UPDATES} updates of {groups} groups, {episodes} episodes of warm start", style="dim")
        other = config.copy()
        other.rollout.mode = "sync"  # what goes on at the same time cannot be told apart
        other.groups_per_update = groups
        tried[groups] = try_out(other, parse(other), warm_start=episodes).records
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    size = trained * (2.0 if c.token_sampler.precision == "bf16" else 4.0)
    costs = costs_of_probe(tried, c, weight_bytes=size, gradient_bytes=4.0 * trained)
    print_plan(console, costs, Links(), setup)


def try_out(config: DictConfig, c: TrainConfig, *, warm_start: int = _WARM_START) -> Trial:
    """Runs a shortened copy of the run in a folder of its own, which is removed afterwards.

    Args:
        warm_start: episodes of imitation at most.
    """
    episodes = min(c.warm_start.episodes, warm_start)
    evaluated = min(c.eval.num_tasks, _EVALUATED)
    with tempfile.TemporaryDirectory() as folder:
        short = config.copy()
        changes = {
            "run_dir": f"{folder}/run",
            "num_updates": min(_UPDATES, c.num_updates),
            "warm_start.episodes": episodes,
            "eval.num_tasks": evaluated,
            "eval.every": 1000,
            "checkpoint.every": 1000,
            "log.trajectories": 0,
            "memory_gb": None,
            "doctor": False,
        }
        for key, value in changes.items():
            OmegaConf.update(short, key, value)
        short.cluster = {"kind": "local"}
        trainer = Trainer(short, Console(quiet=True))
        summary = trainer.run()
        records = trainer.folder.records("metrics")
    last = records[-1]  # the first one touches memory for the first time
    done = len(records)
    return Trial(
        warm_start=summary["warm_start_seconds"] * (c.warm_start.episodes / episodes if episodes else 0),
        update=last["time/rollout"] + last["time/update"],
        evaluation=summary["evaluation_seconds"] / 2 * c.eval.num_tasks / evaluated,
        trained_tokens=summary["trained_tokens"] // done,
        micro_batch_tokens=int(max(r.get("loss/micro_batch_tokens", 0) for r in records))
        or min(summary["trained_tokens"] // done, c.optim.micro_batch_tokens),
        sampled_tokens=summary["sampled_tokens"] // done,
        records=tuple(records),
    )


# --- in words ---------------------------------------------------------------------------------------------------------


def _rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, text)
    console.print(table, markup=False)


def _print_work(console: Console, ready: Checked, model: PreTrainedModel) -> None:
    c, panel = ready.config, ready.panel
    episodes = c.groups_per_update * c.group_size
    steps = c.optim.epochs * min(c.optim.minibatches, episodes)
    weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    size = f"{weights / 1e6:,.2f} million weights"
    size += "" if trained == weights else f", of which {trained / 1e6:,.2f} million learn"
    envs = ", ".join(env.id for env in c.environments.values())
    rows = [
        ("environment", f"{envs}; panel of {len(panel.tasks)} held-out tasks, hash {panel.hash[:16]}"),
        ("algorithm", str(c.algorithm["name"])),
        ("model", f"{c.model.path or c.model.kind}, {size}, {c.model.precision}"),
        ("sampler", f"{c.sampler['kind']}, {c.token_sampler.precision}"),
        ("update", f"{c.groups_per_update} groups of {c.group_size}: {episodes} episodes, {steps} optimiser steps"),
        ("effective batch", f"{episodes / min(c.optim.minibatches, episodes):g} episodes per optimiser step"),
        ("run", f"{c.num_updates} updates, {c.num_updates * episodes:,} episodes, {num_evaluations(c)} evaluations of "
                f"{c.eval.num_tasks} tasks"),
        ("warm start", f"{c.warm_start.episodes} episodes" if c.warm_start.episodes else "none"),
        ("folder", c.run_dir),
    ]  # fmt: skip
    _rows(console, rows)


def _print_time(console: Console, c: TrainConfig, trial: Trial) -> None:
    whole = trial.seconds(c)
    rows = [
        ("tokens", f"{trial.trained_tokens:,} per update, {trial.sampled_tokens:,} of them written by the policy; "
                   f"{trial.trained_tokens * c.num_updates:,} in all"),
        ("passes", f"up to {trial.micro_batch_tokens:,} distinct tokens of at most {c.optim.micro_batch_tokens:,} "
                   "(optim.micro_batch_tokens)"),
        ("time", f"about {_duration(whole)}: warm start {_duration(trial.warm_start)}, {trial.update:.1f} s an update, "
                 f"{trial.evaluation:.1f} s an evaluation"),
        ("", "as fast as this machine is now, and with episodes as long as those of the starting policy"),
    ]  # fmt: skip
    _rows(console, rows)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _print_memory(console: Console, likely: MemoryPlan | None, most: MemoryPlan) -> None:
    table = Table(title="memory, GB", title_justify="left")
    table.add_column("part")
    table.add_column("held")
    if likely is not None:
        table.add_column("expected", justify="right")
    table.add_column("at most", justify="right")
    for when, parts in (("always", most.held), ("learning", most.learning), ("sampling", most.sampling)):
        for name, gb in parts.items():
            row = [name, when]
            if likely is not None:
                row.append(f"{likely.parts.get(name, 0.0):.2f}")
            table.add_row(*row, f"{gb:.2f}")
    table.add_section()
    ends = [f"{plan.total:.2f}" for plan in (likely, most) if plan is not None]
    table.add_row("at one time", "", *ends)
    console.print()
    console.print(table)


def _print_ignored(console: Console, entries: Sequence[Ignored], overrides: Sequence[str]) -> None:
    given = {line.lstrip("+").partition("=")[0] for line in overrides}
    console.print("\nwithout effect here:")
    for entry in entries:
        for key in entry.keys:
            mark = "  <- you set it" if key in given else ""
            console.print(f"  {key} ({entry.reason}){mark}", markup=False, soft_wrap=True)
