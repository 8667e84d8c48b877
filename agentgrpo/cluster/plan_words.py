"""A plan in words and tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from agentgrpo.cluster.costs import Costs, Links, Setup
from agentgrpo.cluster.planning import Forecast, forecast
from agentgrpo.cluster.splits import Devices, Split, best, splits

_ADVICE = {
    "samplers": "samplers: more of them, more cluster.episodes_per_sampler, or faster environments",
    "learners": "learners: more of them, or fewer epochs",
    "hand-over": "the weights' way to the samplers: fewer samplers, adapters (model.lora.rank), or a faster link",
    "driver": "the driver: fewer, longer groups",
}
_ROWS = 8
"""Splits that are shown at most."""


def print_plan(console: Console, costs: Costs, links: Links, setup: Setup) -> None:
    """Prints what a set-up is expected to do, and other splits of as many processes."""
    expected = forecast(costs, links, setup)
    console.print(f"\n{_setup_line(setup)}", markup=False, soft_wrap=True)
    console.print(
        f"  expected: {expected.update_seconds:.2f} s an update, {expected.groups_per_second:.2f} groups per second; "
        f"idle: samplers {expected.sampler_idle:.0%}, learners {expected.learner_idle:.0%}",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"  busy for longest: {_ADVICE[expected.bottleneck]}", markup=False, soft_wrap=True)
    count = setup.samplers + setup.learners
    console.print(_table(splits(costs, links, setup, Devices(count)), setup, count))
    console.print(
        f"  assumed: {links.pack_speed / 1e9:g} GB/s to write weights out, {links.copy_speed / 1e9:g} GB/s to take "
        f"them over, {links.exchange_speed / 1e9:g} GB/s between learners; what the model leaves out: docs/scale.md",
        markup=False,
        soft_wrap=True,
    )


def _setup_line(setup: Setup) -> str:
    ahead = f", up to {setup.max_staleness} updates ahead" if setup.mode == "async" else ""
    shared = "" if setup.cores is None else f", on {setup.cores:g} shared cores"
    return f"{setup.samplers} samplers and {setup.learners} learners, {setup.mode}{ahead}{shared}"


def _table(tried: list[Split], asked: Setup, count: int) -> Table:
    table = Table(title=f"{count} processes", title_justify="left")
    for name in ("samplers", "learners", "s an update", "samplers idle", "learners idle"):
        table.add_column(name, justify="right")
    table.add_column("")
    fastest = best(tried)
    for split in _shown(tried, asked, fastest):
        f = split.forecast
        notes = ["fastest"] if split is fastest else []
        notes += ["this one"] if split.setup.learners == asked.learners else []
        table.add_row(str(split.setup.samplers), str(split.setup.learners), *_figures(f), ", ".join(notes))
    return table


def _shown(tried: list[Split], asked: Setup, fastest: Split) -> list[Split]:
    """Those around the fastest, and the one that is asked for."""
    at = tried.index(fastest)
    first = max(0, min(at - _ROWS // 2, len(tried) - _ROWS))
    near = tried[first : first + _ROWS]
    return [split for split in tried if split in near or split.setup.learners == asked.learners]


def _figures(f: Forecast) -> tuple[str, str, str]:
    return f"{f.update_seconds:.2f}", f"{f.sampler_idle:.0%}", f"{f.learner_idle:.0%}"
