"""The results as tables: which rows and columns there are, whatever they are written to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.compare.comparison import Comparison, Environment
from agentgrpo.compare.statistics import Estimate, iqm, median

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Table:
    """Texts, the first column of which names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Data:
    """Numbers for other programs; None is an empty cell."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def summary(comparison: Comparison) -> Table | None:
    """Success of every variant in every environment, a row per variant; None for a single environment."""
    environments = comparison.environments
    if len(environments) < 2:
        return None
    overall = {o.name: o for o in comparison.overall}
    names = list(dict.fromkeys([*overall, *(v.name for env in environments for v in env.variants)]))
    rows = []
    for name in names:
        cells = [_success_in(env, name) for env in environments]
        rest = [with_interval(overall[name].success)] if name in overall else ["-"]
        difference, better = (overall[name].difference, overall[name].better) if name in overall else (None, None)
        rest += [with_interval(difference, sign=True) if difference else "-", with_interval(better) if better else "-"]
        rows.append((name, *cells, *rest))
    baselines = {env.baseline for env in environments}
    against = baselines.pop() if len(baselines) == 1 else "baseline"
    columns = ("variant", *(env.name for env in environments), "all", f"less {against}", "better")
    explanation = (
        f"all: interquartile mean over all runs, drawn anew within each environment; less {against}, better: mean over "
        "environments. A variant has these where it has runs in every environment."
    )
    return Table("All environments: success", columns, tuple(rows), explanation)


def _success_in(env: Environment, name: str) -> str:
    variant = env.variant(name)
    return figure(variant.success.value) if variant else "-"


def environment(env: Environment, comparison: Comparison) -> Table:
    """Every variant at its best learning rate."""
    target = comparison.settings.target
    bare = all(v.held_out is None for v in env.variants)
    rows = []
    for v in env.variants:
        rows.append(
            (
                v.name,
                rate(v.best.lr),
                str(len(v.rates)),
                str(len(v.best.runs)),
                with_interval(v.success) + (" tasks" if len(v.best.runs) == 1 else ""),
                with_interval(v.returns),
                figure(float(v.best.best.mean())),
                *([] if bare else ["-" if v.held_out is None else figure(v.held_out)]),
                episodes(median(v.best.episodes_to), v.best.episodes[-1]),
                f"{sum(map(math.isfinite, v.best.episodes_to))} of {len(v.best.runs)}",
            )
        )
    columns = (
        "variant",
        "rate",
        "tried",
        "seeds",
        "success",
        "return",
        "best",
        *([] if bare else ["held-out pick"]),
        f"episodes to {target:g}",
        "reached",
    )
    last = f"update {env.updates[-1]}"
    if env.num_last > 1:
        last = f"updates {', '.join(map(str, env.updates[-env.num_last :]))}"
    return Table(env.name, columns, tuple(rows), f"{env.num_tasks} tasks (panel {env.panel[:8]}), mean of {last}.")


def pairs(env: Environment) -> Table | None:
    """Differences from the baseline; None if nothing shares a seed with it."""
    rows = tuple(
        (p.ours, str(len(p.seeds)), with_interval(p.difference, sign=True), with_interval(p.better))
        for p in env.against_baseline
    )
    columns = ("variant", "seeds", "success less", "better")
    return Table(f"{env.name}: against {env.baseline}", columns, rows) if rows else None


def rates(env: Environment) -> Table | None:
    """Success at every learning rate, a column per rate; None if there is one rate only."""
    tried = sorted({r.lr for v in env.variants for r in v.rates})
    if len(tried) < 2:
        return None
    rows = []
    for v in env.variants:
        by_rate = {r.lr: r for r in v.rates}
        cells = []
        for lr in tried:
            if lr not in by_rate:
                cells.append("-")
                continue
            r = by_rate[lr]
            cells.append(f"{figure(float(iqm(r.success)))} ({len(r.runs)}){' best' if r is v.best else ''}")
        rows.append((v.name, *cells))
    return Table(f"{env.name}: success by learning rate (seeds)", ("variant", *map(rate, tried)), tuple(rows))


def explain(comparison: Comparison) -> list[str]:
    """How to read the figures."""
    last, target, resamples = comparison.settings.last, comparison.settings.target, comparison.settings.resamples
    what = "the last evaluation" if last == 1 else f"mean of the last {last} evaluations"
    return [
        f"success, return: {what}, of that the interquartile mean over "
        f"seeds, with the 95% interval of a bootstrap over seeds ({resamples:,} resamples). From few "
        "seeds the interval comes out too narrow: more often than 1 time in 20 it misses what it is about.",
        "rate: the learning rate with the highest success of those tried. It was picked by these same runs, which "
        "flatters it; held-out pick is what is left if each seed's rate is picked on other seeds and other tasks.",
        "best: mean over seeds of each run's best evaluation; picked afterwards, so it flatters too.",
        f"episodes to {target:g}: training episodes at the first evaluation with that success, median over seeds; one "
        "that never reached it counts as later than all it played. reached: how many did.",
        "success less: difference at the rates shown, on the same tasks and seeds; mean over both, interval of a "
        "bootstrap over both.",
        "better: probability that a run ends above one of the other variant, ties counted half; interval of a "
        "bootstrap over runs.",
    ]


# --- figures as text -------------------------------------------------------------------------------------------------


def figure(value: float, *, sign: bool = False) -> str:
    """Two or three digits that matter, short."""
    digits = 3 if abs(value) < 10 else 1
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text


def with_interval(estimate: Estimate, *, sign: bool = False) -> str:
    """``0.931 [0.89, 0.95]``."""
    value = figure(estimate.value, sign=sign)
    if estimate.low is None or estimate.high is None:
        return value
    if sign:  # whether 0 lies within must be seen
        return f"{value} [{figure(estimate.low, sign=True)}, {figure(estimate.high, sign=True)}]"
    ends = [f"{x:.2f}" if abs(x) < 10 else f"{x:.1f}" for x in (estimate.low, estimate.high)]
    return f"{value} [{', '.join('0.00' if float(e) == 0 else e for e in ends)}]"


def rate(lr: float) -> str:
    """A learning rate."""
    return f"{lr:g}"


def episodes(count: float, played: float) -> str:
    """A number of episodes; infinite is more than were played."""
    return f"{count:,.0f}" if math.isfinite(count) else f"over {played:,.0f}"


# --- numbers for other programs --------------------------------------------------------------------------------------


def data(comparison: Comparison) -> list[Data]:
    """Every run, every variant at every rate, every pair, every curve, and every folder that was left out."""
    return [_runs(comparison), _variants(comparison), _pairs(comparison), _curves(comparison), _left_out(comparison)]


def _runs(comparison: Comparison) -> Data:
    rows: list[tuple[Cell, ...]] = []
    for env in comparison.environments:
        for v in env.variants:
            for r in v.rates:
                for i, run in enumerate(r.runs):
                    figures = (float(r.success[i]), float(r.returns[i]), float(r.best[i]), _finite(r.episodes_to[i]))
                    state = "finished" if run.finished else "not finished"
                    rows.append((env.name, v.name, r.lr, run.seed, *figures, run.updates[-1], state, str(run.path)))
    columns = ("environment", "variant", "lr", "seed", "success", "return", "best", "episodes_to_target", "update")
    return Data("runs", (*columns, "state", "run_dir"), tuple(rows))


def _variants(comparison: Comparison) -> Data:
    rows: list[tuple[Cell, ...]] = []
    for env in comparison.environments:
        for v in env.variants:
            for r in v.rates:
                shown = r is v.best
                success = v.success if shown else Estimate(float(iqm(r.success)))
                returns = v.returns if shown else Estimate(float(iqm(r.returns)))
                over = "tasks" if len(r.runs) == 1 else "seeds"
                rows.append(
                    (
                        *(env.name, v.name, r.lr, int(shown), len(r.runs)),
                        *(success.value, success.low, success.high),
                        over if shown else None,
                        *(returns.value, returns.low, returns.high),
                        *(float(r.best.mean()), v.held_out if shown else None),
                        *(_finite(median(r.episodes_to)), sum(map(math.isfinite, r.episodes_to))),
                    )
                )
    judged = ("success", "success_low", "success_high", "interval_over")
    rest = ("return", "return_low", "return_high", "best", "held_out_pick", "episodes_to_target", "reached")
    columns = ("environment", "variant", "lr", "is_best_lr", "seeds", *judged, *rest)
    return Data("variants", columns, tuple(rows))


def _pairs(comparison: Comparison) -> Data:
    rows = tuple(
        (
            *(env.name, p.ours, p.theirs, len(p.seeds)),
            *(p.difference.value, p.difference.low, p.difference.high),
            *(p.better.value, p.better.low, p.better.high),
        )
        for env in comparison.environments
        for p in env.pairs
    )
    columns = ("environment", "variant", "other", "seeds", "success_difference", "difference_low", "difference_high")
    return Data("pairs", (*columns, "better", "better_low", "better_high"), rows)


def _curves(comparison: Comparison) -> Data:
    rows: list[tuple[Cell, ...]] = []
    for env in comparison.environments:
        for v in env.variants:
            c = v.curve
            columns = (env.updates, v.best.episodes, c.success, c.low, c.high, c.returns)
            rows += [(env.name, v.name, v.best.lr, *map(float, point)) for point in zip(*columns, strict=True)]
    names = ("environment", "variant", "lr", "update", "episodes", "success", "success_low", "success_high", "return")
    return Data("curves", names, tuple(rows))


def _left_out(comparison: Comparison) -> Data:
    return Data("left_out", ("folder", "reason"), tuple((str(x.path), x.reason) for x in comparison.left_out))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def all_tables(comparison: Comparison) -> Sequence[Table]:
    """In the order to read them."""
    found = [summary(comparison)]
    for env in comparison.environments:
        found += [environment(env, comparison), pairs(env), rates(env)]
    return [table for table in found if table is not None]
