"""What a reader must know before believing a table: what was not tried, not finished, or not equal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from agentgrpo.compare.comparison import Comparison, Environment, Variant

_SHOWN = 4


def notes(comparison: Comparison) -> list[str]:
    """Sentences, the gravest first."""
    found = [*_progress(comparison), *_seeds(comparison), *_rates(comparison), *_versions(comparison)]
    alone = [env.name for env in comparison.environments if env.variant(env.baseline) is None]
    if alone:
        found.append(f"There are no runs of {comparison.settings.baseline} to hold others against: {', '.join(alone)}.")
    pairs = sum(len(env.against_baseline) for env in comparison.environments)
    if pairs >= 10:
        found.append(
            f"{pairs} differences are tested; of so many, about {pairs * 0.05:.0f} intervals would leave out 0 even if "
            "all variants were equal."
        )
    return found


def _progress(comparison: Comparison) -> list[str]:
    out = []
    going = [run for run in comparison.runs if not run.finished]
    if going:
        out.append(
            f"Not finished, still going or stopped: {_some([str(run.path) for run in going])}. They are compared as "
            "far as they are; unfinished=leave_out leaves them out."
        )
    short: dict[tuple[int, int], list[str]] = defaultdict(list)
    few: dict[int, list[str]] = defaultdict(list)
    for env in comparison.environments:
        planned = max(run.planned for v in env.variants for rate in v.rates for run in rate.runs)
        if env.updates[-1] < planned:
            short[env.updates[-1], planned].append(env.name)
        if env.num_last < comparison.settings.last:
            few[env.num_last].append(env.name)
    out += [
        f"Compared up to update {update} of {planned}, as far as all runs are: {', '.join(names)}."
        for (update, planned), names in short.items()
    ]
    last = comparison.settings.last
    out += [
        f"Only {_count(n, 'evaluation')} after the start, fewer than last={last}: {', '.join(names)}."
        for n, names in few.items()
    ]
    return out


def _seeds(comparison: Comparison) -> list[str]:
    single = _where(comparison, lambda v, env: len(v.best.runs) == 1)
    few = _where(comparison, lambda v, env: len(v.best.runs) == 2)
    out = []
    if single:
        out.append(
            f"One seed: {single}. There is no interval over seeds; the one given is over tasks, and says nothing about "
            "another seed."
        )
    if few:
        out.append(f"Fewer than 3 seeds: {few}. Run seed=0,1,2 at the least.")
    out += [
        f"{env.name}: {_some([v.name for v in env.variants if v.best.seeds != model])} and {env.variants[0].name} have "
        "different seeds; differences use those that both have."
        for env in comparison.environments
        if any(v.best.seeds != (model := env.variants[0].best.seeds) for v in env.variants)
    ]
    return out


def _rates(comparison: Comparison) -> list[str]:
    out = []
    if unswept := _where(comparison, lambda v, env: len(v.rates) == 1):
        out.append(
            f"Learning rate not swept: {unswept}. Variants take steps of different sizes at an equal rate, so a "
            "difference may be one of rates. Try a third and three times of it, too (optim.lr)."
        )
    unequal = [env.name for env in comparison.environments if len({len(v.rates) for v in env.variants}) > 1]
    if unequal:
        out.append(f"Some variants had more learning rates to pick from than others in {_some(unequal)}.")
    uneven = _where(comparison, lambda v, env: len({rate.seeds for rate in v.rates}) > 1)
    if uneven:
        out.append(
            f"Learning rates were tried on different seeds: {uneven}. The pick uses the seeds that all rates have."
        )
    edge = _where(comparison, lambda v, env: len(v.rates) > 1 and v.best in (v.rates[0], v.rates[-1]))
    if edge:
        out.append(f"Best at the lowest or highest rate that was tried: {edge}. A better one may lie beyond.")
    return out


def _versions(comparison: Comparison) -> list[str]:
    unknown = [str(run.path) for run in comparison.runs if not run.versions]
    out = [f"Which versions wrote them is unknown, versions.json is missing: {_some(unknown)}."] if unknown else []
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for run in comparison.runs:
        for package, version in run.versions.items():
            seen[package][version] += 1
    mixed = [
        " ".join([package, ", ".join(f"{version} ({_count(n, 'run')})" for version, n in versions.most_common())])
        for package, versions in seen.items()
        if len(versions) > 1
    ]
    if mixed:
        out.append(f"Runs come from different versions: {'; '.join(mixed)}.")
    return out


def _where(comparison: Comparison, holds: Callable[[Variant, Environment], bool]) -> str:
    """Which variants of which environments; empty if none."""
    hit = {env.name: [v.name for v in env.variants if holds(v, env)] for env in comparison.environments}
    whole = [env.name for env in comparison.environments if len(hit[env.name]) == len(env.variants)]
    if len(whole) == len(comparison.environments) and sum(len(env.variants) for env in comparison.environments) > 1:
        return "all variants"
    parts = [f"all variants in {_some(whole)}"] if whole else []
    return "; ".join(parts + [f"{_some(names)} in {env}" for env, names in hit.items() if names and env not in whole])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    between = "; " if any(", " in name for name in names) else ", "  # names of variants may hold commas
    return between.join(names[:_SHOWN]) + more


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
