"""From runs to results: every environment's variants at their best learning rate, against each other."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentgrpo.checks import above, at_least, did_you_mean, one_of, within
from agentgrpo.compare import statistics
from agentgrpo.compare.reading import LeftOut, Run
from agentgrpo.compare.statistics import Estimate
from agentgrpo.compare.variants import distinct, name_variants

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """conf/compare.yaml."""

    out: str | None = None
    last: int = 3
    target: float = 0.8
    baseline: str | None = None
    unfinished: str = "compare"
    ignore: tuple[str, ...] = ()
    resamples: int = 10_000

    def __post_init__(self) -> None:
        at_least("last", self.last, 1)
        above("target", self.target, 0)
        within("target", self.target, "[0, 1]")
        one_of("unfinished", self.unfinished, ("compare", "leave_out"))
        at_least("resamples", self.resamples, 100)


@dataclass(frozen=True)
class Rate:
    """A variant's runs at one learning rate, a row per seed; S seeds, E evaluations, T tasks."""

    lr: float
    runs: tuple[Run, ...]
    """By seed."""
    tasks: Array
    """(S, T) success per task, mean of the last evaluations."""
    returns: Array
    """(S,) mean of the last evaluations."""
    episodes_to: tuple[float, ...]
    """(S,) episodes to the target; infinite where it was not reached."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def success(self) -> Array:
        """(S,)"""
        return np.asarray(self.tasks.mean(axis=1), dtype=np.float64)

    @property
    def best(self) -> Array:
        """(S,) highest success at any evaluation."""
        return np.asarray(self.curves.max(axis=1), dtype=np.float64)

    @property
    def curves(self) -> Array:
        """(S, E) success."""
        return np.stack([run.outcomes.mean(axis=1) for run in self.runs])

    @property
    def return_curves(self) -> Array:
        """(S, E) mean return."""
        return np.stack([run.returns for run in self.runs])

    @property
    def episodes(self) -> Array:
        """(E,) episodes played, mean over seeds."""
        return np.asarray(np.mean([run.episodes for run in self.runs], axis=0), dtype=np.float64)


@dataclass(frozen=True)
class Curve:
    """Interquartile means over seeds at E evaluations."""

    success: Array
    low: Array
    """(E,) ends of the 95% interval over seeds; over tasks with one seed."""
    high: Array
    returns: Array


@dataclass(frozen=True)
class Variant:
    """A variant in one environment."""

    name: str
    rates: tuple[Rate, ...]
    """By learning rate, lowest first."""
    best: Rate
    """The rate that the tables show."""
    success: Estimate
    """Of the best rate, interquartile mean over seeds. With one seed, the interval is over tasks."""
    returns: Estimate
    curve: Curve
    held_out: float | None
    """Success, same mean, where each seed's rate is picked on other seeds and other tasks."""


@dataclass(frozen=True)
class Pair:
    """A variant against another, on the tasks and seeds that both have."""

    ours: str
    theirs: str
    seeds: tuple[int, ...]
    difference: Estimate
    """Of success, ours less theirs; mean over seeds and tasks."""
    better: Estimate
    """Probability that a run of ours ends above a run of theirs; ties count half. No interval with one seed."""
    difference_replicates: Array
    better_replicates: Array

    def flipped(self) -> Pair:
        """The same seen from the other side."""
        d, b = self.difference, self.better
        return Pair(
            self.theirs,
            self.ours,
            self.seeds,
            Estimate(-d.value, *(None if x is None else -x for x in (d.high, d.low))),
            Estimate(1 - b.value, *(None if x is None else 1 - x for x in (b.high, b.low))),
            -self.difference_replicates,
            1 - self.better_replicates,
        )


@dataclass(frozen=True)
class Environment:
    """The variants in one environment."""

    name: str
    updates: tuple[int, ...]
    """(E,) updates at which all runs were evaluated."""
    num_last: int
    """How many of them the means are taken over."""
    num_tasks: int
    panel: str
    baseline: str
    variants: tuple[Variant, ...]
    pairs: tuple[Pair, ...]
    """Every two variants that share a seed, once."""

    def variant(self, name: str) -> Variant | None:
        return next((v for v in self.variants if v.name == name), None)

    @property
    def against_baseline(self) -> tuple[Pair, ...]:
        """The baseline's pairs, seen from the others."""
        flipped = (p.flipped() if p.ours == self.baseline else p for p in self.pairs)
        return tuple(p for p in flipped if p.theirs == self.baseline)


@dataclass(frozen=True)
class Overall:
    """A variant over all environments."""

    name: str
    success: Estimate
    """Interquartile mean over the runs of all environments."""
    difference: Estimate | None
    """From the baseline; mean over environments. None for the baseline, and without shared seeds somewhere."""
    better: Estimate | None


@dataclass(frozen=True)
class Comparison:
    """Everything that is reported."""

    settings: Settings
    environments: tuple[Environment, ...]
    overall: tuple[Overall, ...]
    """Variants that all environments have; empty for a single environment."""
    left_out: tuple[LeftOut, ...]

    @property
    def runs(self) -> list[Run]:
        return [run for env in self.environments for v in env.variants for rate in v.rates for run in rate.runs]


def build(runs: Sequence[Run], settings: Settings, left_out: Sequence[LeftOut] = ()) -> Comparison:
    """Compares runs.

    Args:
        left_out: folders that are not compared, to be reported with those that turn out here.
    Raises:
        ValueError: a baseline that is no variant.
    """
    left_out = list(left_out)
    if settings.unfinished == "leave_out":
        left_out += [LeftOut(r.path, "it is not finished, and unfinished=leave_out") for r in runs if not r.finished]
        runs = [run for run in runs if run.finished]
    by_env: dict[str, list[tuple[str, Run]]] = defaultdict(list)
    names = name_variants(runs, settings.ignore)
    for name, run in sorted(zip(names, runs, strict=True), key=lambda item: item[1].env):
        by_env[run.env].append((name, run))
    if settings.baseline is not None and runs and settings.baseline not in names:
        known = distinct(names)
        raise ValueError(
            f"baseline={settings.baseline} is none of the variants.{did_you_mean(settings.baseline, known)} They are: "
            f"{'; '.join(known)}."
        )
    environments: list[Environment] = []
    for env, members in by_env.items():
        updates, dropped = shared_updates([run for _, run in members])
        left_out += dropped
        gone = {d.path for d in dropped}
        stay = [(name, run.at(updates)) for name, run in members if run.path not in gone]
        if stay:
            environments.append(_environment(env, stay, settings, len(environments)))
    return Comparison(settings, tuple(environments), _overall(environments, settings), tuple(left_out))


def shared_updates(runs: Sequence[Run]) -> tuple[tuple[int, ...], list[LeftOut]]:
    """Updates at which all runs were evaluated, and the runs that would leave nothing but the start.

    Those that have just begun go first, then all that are not finished.
    """
    begun = [run for run in runs if run.updates[-1] > 0]
    left_out = [
        LeftOut(run.path, "it has no evaluation after its first update yet") for run in runs if run.updates[-1] == 0
    ]
    shared = _intersection(begun)
    if begun and max(shared, default=0) == 0:
        left_out += [
            LeftOut(run.path, "it is not finished and has no evaluation at an update that the others have")
            for run in begun
            if not run.finished
        ]
        begun = [run for run in begun if run.finished]
        shared = _intersection(begun)
    if begun and max(shared, default=0) == 0:
        reason = "the runs of this environment were evaluated at different updates (eval.every, num_updates)"
        return (), left_out + [LeftOut(run.path, reason) for run in begun]
    return shared, left_out


def _intersection(runs: Sequence[Run]) -> tuple[int, ...]:
    return tuple(sorted(set.intersection(*(set(run.updates) for run in runs)))) if runs else ()


def _environment(env: str, members: Sequence[tuple[str, Run]], settings: Settings, stream: int) -> Environment:
    updates = members[0][1].updates
    num_last = min(settings.last, sum(u > 0 for u in updates))
    variants = []
    for name in distinct(name for name, _ in members):
        by_rate: dict[float, list[Run]] = defaultdict(list)
        for other, run in members:
            if other == name:
                by_rate[run.lr].append(run)
        rates = tuple(_rate(lr, by_rate[lr], num_last, settings.target) for lr in sorted(by_rate))
        variants.append(_variant(name, rates, settings.resamples))
    names = [v.name for v in variants]
    baseline = settings.baseline or ("grpo" if "grpo" in names else names[0])
    pairs = [
        pair
        for theirs, ours in itertools.combinations(variants, 2)
        if (pair := _pair(ours, theirs, settings.resamples, stream)) is not None
    ]
    run = members[0][1]
    return Environment(
        env, updates, num_last, run.outcomes.shape[1], run.panel, baseline, tuple(variants), tuple(pairs)
    )


def _rate(lr: float, runs: Sequence[Run], num_last: int, target: float) -> Rate:
    ordered = tuple(sorted(runs, key=lambda run: run.seed))
    return Rate(
        lr,
        ordered,
        tasks=np.stack([run.outcomes[-num_last:].mean(axis=0) for run in ordered]),
        returns=np.array([run.returns[-num_last:].mean() for run in ordered]),
        episodes_to=tuple(statistics.first_at(r.outcomes.mean(axis=1), r.episodes, target) for r in ordered),
    )


def _variant(name: str, rates: tuple[Rate, ...], resamples: int) -> Variant:
    best = pick(rates)
    success = statistics.over_seeds([best.success], resamples)
    if len(best.runs) == 1:
        success = statistics.estimate(success.value, statistics.over_both(best.tasks, resamples))
    common = sorted(set.intersection(*(set(r.seeds) for r in rates)))
    honest = statistics.held_out_pick({r.lr: _at_seeds(r, common) for r in rates})
    held_out = None if honest is None else float(statistics.iqm(honest))
    returns = statistics.over_seeds([best.returns], resamples)
    return Variant(name, rates, best, success, returns, _curve(best, resamples), held_out)


def _curve(rate: Rate, resamples: int) -> Curve:
    returns = statistics.iqm(rate.return_curves)
    if len(rate.runs) > 1:
        return Curve(*statistics.curve(rate.curves, resamples), returns)
    outcomes = rate.runs[0].outcomes  # (E, T)
    ends = [statistics.interval(statistics.over_both(o[None, :], resamples)) for o in outcomes]
    low, high = (np.array(end) for end in zip(*ends, strict=True))
    return Curve(outcomes.mean(axis=1), low, high, returns)


def pick(rates: Sequence[Rate]) -> Rate:
    """The learning rate with the highest interquartile mean, on the seeds that all rates have.

    Where they share none, on each rate's own. Of equals, the one with more seeds, then the lower one.
    """
    common = sorted(set.intersection(*(set(r.seeds) for r in rates)))

    def order(rate: Rate) -> tuple[float, int, float]:
        scores = _at_seeds(rate, common) if common else rate.tasks
        return round(float(statistics.iqm(scores.mean(axis=1))), 12), len(rate.runs), -rate.lr

    return max(rates, key=order)


def _at_seeds(rate: Rate, seeds: Sequence[int]) -> Array:
    """(S, T) of the given seeds."""
    return rate.tasks[[rate.seeds.index(s) for s in seeds]]


def _pair(ours: Variant, theirs: Variant, resamples: int, stream: int) -> Pair | None:
    seeds = sorted(set(ours.best.seeds) & set(theirs.best.seeds))
    if not seeds:
        return None
    a, b = _at_seeds(ours.best, seeds), _at_seeds(theirs.best, seeds)
    differences = statistics.over_both(a - b, resamples, stream)
    won = statistics.wins(a.mean(axis=1), b.mean(axis=1))
    better = statistics.over_both(won, resamples, stream)
    return Pair(
        ours.name,
        theirs.name,
        tuple(seeds),
        statistics.estimate(float((a - b).mean()), differences),
        statistics.estimate(float(won.mean()), better) if len(seeds) > 1 else Estimate(float(won.mean())),
        differences,
        better,
    )


def _overall(environments: Sequence[Environment], settings: Settings) -> tuple[Overall, ...]:
    if len(environments) < 2:
        return ()
    everywhere = set.intersection(*({v.name for v in env.variants} for env in environments))
    baselines = {env.baseline for env in environments}
    out = []
    for name in distinct(everywhere):
        members = [v for env in environments for v in env.variants if v.name == name]
        success = statistics.over_seeds([v.best.success for v in members], settings.resamples)
        pairs = [p for env in environments for p in env.against_baseline if p.ours == name]
        whole = len(baselines) == 1 and len(pairs) == len(environments)
        difference = (
            _mean_of([p.difference for p in pairs], [p.difference_replicates for p in pairs]) if whole else None
        )
        better = _mean_of([p.better for p in pairs], [p.better_replicates for p in pairs]) if whole else None
        out.append(Overall(name, success, difference, better))
    return tuple(out)


def _mean_of(estimates: Sequence[Estimate], replicates: Sequence[Array]) -> Estimate:
    value = float(np.mean([e.value for e in estimates]))
    if any(e.low is None for e in estimates):
        return Estimate(value)
    return statistics.estimate(value, np.mean(replicates, axis=0))
