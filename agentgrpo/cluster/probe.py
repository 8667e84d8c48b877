"""From the metrics of a trial in one process to the planner's costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentgrpo.cluster.costs import Costs, Setup
from agentgrpo.cluster.settings import RaySettings
from agentgrpo.config import TrainConfig
from agentgrpo.samplers.settings import VllmSettings

Record = Mapping[str, Any]
"""A line of ``metrics.jsonl``."""

_NEEDED = (
    "time/rollout",
    "time/update",
    "time/rollout_cpu",
    "time/update_cpu",
    "time/environment_call",
    "rollout/turns_mean",
    "rollout/turns_max",
    "rollout/longest_turns_mean",
    "rollout/longest_turns_std",
)


def setup_of(config: TrainConfig, settings: RaySettings, cores: float | None) -> Setup:
    """The processes that a run on Ray asks for.

    Args:
        cores: that all of them share; None: each has its own.
    """
    return Setup(
        samplers=settings.samplers,
        learners=settings.learners,
        groups_per_sampler=max(1, settings.episodes_per_sampler // config.group_size),
        mode=config.rollout.mode,
        max_staleness=config.rollout.max_staleness,
        sharding=settings.sharding,
        cores=cores,
        cpus_per_sampler=settings.cpus_per_sampler,
        cpus_per_learner=settings.cpus_per_learner,
    )


def costs_of_probe(
    trials: Mapping[int, Sequence[Record]], config: TrainConfig, *, weight_bytes: float, gradient_bytes: float
) -> Costs:
    """Costs from trials with different numbers of groups, each of which says what a round of that many turns takes.

    The first update of a trial touches memory for the first time: where there are more, it does not count.

    Args:
        trials: records of trials by their ``groups_per_update``; ``rollout.mode=sync``, in one process. One number of
            groups cannot tell what every round takes from what every turn takes: two or more are needed. How long
            episodes are, and how much is learnt from them, is that of the run's own number, or else of the largest.
        config: of the run that is planned.
        weight_bytes: that samplers are handed.
        gradient_bytes: that learners exchange.
    Raises:
        ValueError: too few trials, records of an older version, or no update that learnt anything.
    """
    used = [(groups, r) for groups, records in trials.items() for r in (records[1:] or records)]
    _check(trials, used)
    learning = [(g, r) for g, r in used if not r["loss/skipped"]]
    if not learning:
        raise ValueError(
            "No update of the trial learnt anything, so nobody knows what learning takes: no group's returns differed. "
            "Raise warm_start.episodes or groups_per_update."
        )
    batch, turn = _affine([_round(g, r, config) for g, r in used])
    tokens = sum(r["loss/distinct_tokens"] for _, r in learning)
    main = config.groups_per_update if config.groups_per_update in trials else max(trials)
    own = [r for g, r in used if g == main]
    steps = config.optim.epochs * min(config.optim.minibatches, config.groups_per_update * config.group_size)
    longest = _mean([r["rollout/longest_turns_mean"] for r in own])
    return Costs(
        batch_seconds=batch,
        turn_seconds=turn,
        step_seconds=_mean([_answer(g, r, config) for g, r in used]),
        execution=_execution(config),
        workers=_workers(config),
        continuous=_continuous(config),
        turns=_mean([r["rollout/turns_mean"] for r in own]),
        longest_turns=longest,
        turns_spread=_mean([r["rollout/longest_turns_std"] for r in own]) / longest,
        group_size=config.group_size,
        groups_per_update=config.groups_per_update,
        group_seconds=sum(_around(r) for _, r in used) / sum(g for g, _ in used),
        token_seconds=sum(r.get("time/forward", 0.0) + r.get("time/backward", 0.0) for _, r in learning) / tokens,
        tokens_per_group=_mean([r.get("loss/distinct_tokens", 0.0) / main for r in own]),
        optimizer_seconds=_mean([r["time/optimizer"] for _, r in learning]) / steps,
        optimizer_steps=steps,
        micro_batch_tokens=config.optim.micro_batch_tokens,
        weight_bytes=weight_bytes,
        gradient_bytes=gradient_bytes,
        sampler_cores=_cores(used, "rollout"),
        learner_cores=_cores(learning, "update"),
    )


def _check(trials: Mapping[int, Sequence[Record]], used: Sequence[tuple[int, Record]]) -> None:
    if len(trials) < 2:
        raise ValueError(
            f"A plan needs trials with two numbers of groups, got {', '.join(map(str, trials)) or 'none'} "
            "(groups_per_update)."
        )
    if not all(trials.values()):
        raise ValueError("A trial has no finished update. Let it make two.")
    missing = sorted({name for _, r in used for name in _NEEDED if name not in r})
    if missing:
        raise ValueError(f"The trial's metrics lack {', '.join(missing)}: run it again with this version.")


def _round(groups: int, r: Record, config: TrainConfig) -> tuple[float, float]:
    """Turns of a mean batch, and the policy's seconds for it, with all that there is to do around the model."""
    rounds = r["rollout/turns_max"]
    turns = groups * config.group_size * r["rollout/turns_mean"] / rounds
    playing = r["time/rollout"] - r.get("time/sync", 0.0)
    execution, answer = _execution(config), _answer(groups, r, config)
    if execution != "inline" and _continuous(config):
        written = max(playing / rounds - answer, 0.01 * playing / rounds)  # while others wait for their answers
        return turns * written / (written + answer), written
    if execution != "inline" and turns > _workers(config):  # batches are as large as what is answered at one time
        rounds, turns = rounds * turns / _workers(config), float(_workers(config))
    return turns, (playing - r.get("time/environments", 0.0)) / rounds


def _answer(groups: int, r: Record, config: TrainConfig) -> float:
    """Seconds of an environment for a turn, its resets spread over the turns where they come one after the other."""
    if _execution(config) == "inline":
        return float(r.get("time/environments", 0.0) / (groups * config.group_size * r["rollout/turns_mean"]))
    return float(r["time/environment_call"])


def _execution(config: TrainConfig) -> str:
    """That of all environments, or the one that is slowest to plan for."""
    found = {env.execution for env in config.environments.values()}
    return next(kind for kind in ("inline", "process", "thread") if kind in found)


def _workers(config: TrainConfig) -> int:
    return sum(env.workers for env in config.environments.values())


def _continuous(config: TrainConfig) -> bool:
    return isinstance(config.sampler_settings, VllmSettings)


def _around(r: Record) -> float:
    """Seconds of an update that are no model arithmetic."""
    arithmetic = sum(float(r.get(f"time/{name}", 0.0)) for name in ("forward", "backward", "optimizer"))
    return max(0.0, float(r["time/update"]) - arithmetic)


def _cores(records: Sequence[tuple[int, Record]], name: str) -> float:
    """Cores that are busy on average; on a machine that others use, too, less than there would be."""
    seconds = sum(float(r[f"time/{name}"]) for _, r in records)
    return max(0.01, sum(float(r[f"time/{name}_cpu"]) for _, r in records) / seconds)


def _affine(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares of seconds = fixed + n * slope over (n, seconds), neither of them below 0."""
    n, t = _mean([x for x, _ in points]), _mean([y for _, y in points])
    spread = sum((x - n) ** 2 for x, _ in points)
    slope = max(0.0, sum((x - n) * (y - t) for x, y in points) / spread) if spread else 0.0
    fixed = t - n * slope
    if fixed >= 0:
        return fixed, slope
    return 0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
