"""Runs as a picture and a table: python scripts/report.py OUT.png RUN_DIR ...

Draws held-out success and prints a Markdown table. Runs of one algorithm: a line per run against training time. Runs of
several algorithms: seeds and their mean against updates, each algorithm at the learning rate that ended best; in the
table all rates. Runs of several environments: a panel each, seeds against updates. Needs the extra `plot`.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import yaml

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TARGET = 0.9
SUITE_TARGET = 0.8
"""What a small model should reach in an environment at an easy setting."""


@dataclass(frozen=True)
class Run:
    """What a run left behind."""

    summary: dict[str, Any]
    evaluations: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    lr: float

    @property
    def algorithm(self) -> str:
        return str(self.summary["algorithm"])

    @property
    def env(self) -> str:
        return str(self.summary["env"])


def read(run_dir: Path) -> Run:
    """A run from its folder."""
    evaluations, metrics = (
        [json.loads(line) for line in (run_dir / f"{name}.jsonl").read_text().splitlines()]
        for name in ("evaluations", "metrics")
    )
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    return Run(json.loads((run_dir / "summary.json").read_text()), evaluations, metrics, float(config["optim"]["lr"]))


def by_rate(runs: list[Run]) -> dict[str, dict[float, list[Run]]]:
    """Runs of each algorithm by learning rate, lowest first."""
    out: dict[str, dict[float, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: run.lr):
        out.setdefault(run.algorithm, {}).setdefault(run.lr, []).append(run)
    return out


def final(runs: list[Run]) -> float:
    """Mean over runs of the last held-out success."""
    return sum(run.summary["after"]["success"] for run in runs) / len(runs)


def draw(out: Path, runs: list[Run]) -> None:
    """Writes the picture; the bands are 95% intervals over the panel's tasks."""
    if len({run.env for run in runs}) > 1:
        _panels(out, runs)
        return
    figure, axes = plt.subplots(figsize=(7.2, 3.6), dpi=150)
    if len({run.algorithm for run in runs}) > 1:
        _compare(axes, runs)
        axes.set_ylim(bottom=0)
    else:
        _seeds(axes, runs)
        axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.set_ylabel("held-out success")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def _panels(out: Path, runs: list[Run]) -> None:
    """A small picture per environment, a line per seed."""
    names = list(dict.fromkeys(run.env for run in runs))
    columns = min(5, len(names))
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(2.4 * columns, 2.0 * rows), dpi=150, squeeze=False, sharey=True)
    for axes, name in itertools.zip_longest(grid.flat, names):
        if name is None:
            axes.set_visible(False)
            continue
        for run in (r for r in runs if r.env == name):
            x, y, low, high = (
                [r[key] for r in run.evaluations] for key in ("update", "success", "success_low", "success_high")
            )
            (line,) = axes.plot(x, y, lw=1.2)
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.1, lw=0)
        axes.axhline(SUITE_TARGET, color="0.5", lw=0.8, ls="--")
        axes.set_title(name, fontsize=9)
        axes.set_ylim(0, 1.02)
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("updates", fontsize=9)
    figure.supylabel("held-out success", fontsize=9)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def _seeds(axes: Any, runs: list[Run]) -> None:
    """Runs of one algorithm against the clock, a line each."""
    longest = max(run.evaluations[-1]["time/training_seconds"] for run in runs)
    unit, seconds = ("minutes", 60) if longest > 300 else ("seconds", 1)
    for run in runs:
        x = [r["time/training_seconds"] / seconds for r in run.evaluations]
        y, low, high = ([r[f"success{end}"] for r in run.evaluations] for end in ("", "_low", "_high"))
        (line,) = axes.plot(x, y, marker="o", ms=3, label=f"seed {run.summary['seed']}")
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.08, lw=0)
    axes.axhline(TARGET, color="0.5", lw=0.8, ls="--")
    axes.set_xlabel(f"{unit} of training (rollouts and updates)")
    model = runs[0].summary["model"].split("/")[-1]
    axes.set_title(f"{model}, {runs[0].summary['env']}, {runs[0].algorithm}", fontsize=10)


def _compare(axes: Any, runs: list[Run]) -> None:
    """Several algorithms against updates: every seed thin, their mean thick."""
    styles = itertools.cycle(zip(plt.get_cmap("tab10").colors, ["-", "--", ":", "-."] * 3, strict=False))
    for (color, dash), (name, rates) in zip(styles, by_rate(runs).items(), strict=False):  # dashes: lines may coincide
        lr, members = max(rates.items(), key=lambda item: (final(item[1]), len(item[1])))
        curves = [{r["update"]: r["success"] for r in run.evaluations} for run in members]
        for curve in curves:
            axes.plot(list(curve), list(curve.values()), color=color, lw=0.8, alpha=0.45)
        shared = sorted(set.intersection(*(set(curve) for curve in curves)))
        mean = [sum(curve[u] for curve in curves) / len(curves) for u in shared]
        axes.plot(shared, mean, color=color, lw=2, ls=dash, label=f"{name}, learning rate {lr:g} ({len(curves)} seeds)")
    axes.set_xlabel("updates")
    axes.set_title(runs[0].summary["env"], fontsize=10)


def row(run: Run) -> str:
    """One line of the table of one algorithm."""
    summary = run.summary
    reached = next((r for r in run.evaluations if r["success"] >= TARGET), None)
    cells = [
        str(summary["seed"]),
        _rate(summary["before"]),
        f"{reached['time/training_seconds']:.0f} s, update {reached['update']}" if reached else "not reached",
        _rate(summary["after"]),
        f"{summary['training_seconds']:.0f} s, {summary['updates']} updates",
        f"{summary['warm_start_seconds']:.0f} s",
    ]
    return _cells(cells)


def rate_row(name: str, lr: float, runs: list[Run]) -> str:
    """One line of the table of several algorithms: one learning rate of one of them."""
    records = [r for run in runs for r in run.metrics]
    before = sum(run.summary["before"]["success"] for run in runs) / len(runs)
    seeds = ", ".join(f"{run.summary['after']['success']:.3f}" for run in runs)
    moved = 1 - sum(r["loss/skipped"] for r in records) / len(records)
    spread = 1 - sum(r["rollout/zero_variance_share"] for r in records) / len(records)
    seconds = sum(run.summary["training_seconds"] for run in runs) / len(runs)
    cells = [name, f"{lr:g}", f"{before:.3f}", f"**{final(runs):.3f}** ({seeds})"]
    return _cells([*cells, f"{moved:.2f}", f"{spread:.2f}", f"{seconds:.0f} s"])


def env_row(name: str, runs: list[Run]) -> str:
    """One line of the table of several environments."""
    ends = [run.summary["after"] for run in runs]
    starts = ", ".join(f"{run.summary['before']['success']:.2f}" for run in runs)
    reached = sum(end["success"] >= SUITE_TARGET for end in ends)
    seconds = sum(run.summary["training_seconds"] for run in runs) / len(runs)
    low, high = min(end["success_low"] for end in ends), max(end["success_high"] for end in ends)
    seeds = ", ".join(f"{end['success']:.2f}" for end in ends)
    end = f"**{final(runs):.2f}** ({seeds}) [{low:.2f}, {high:.2f}]"
    updates = max(run.summary["updates"] for run in runs)
    return _cells([name, starts, end, f"{reached} of {len(runs)}", str(updates), f"{seconds:.0f} s"])


def _cells(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rate(evaluation: dict[str, Any]) -> str:
    return f"{evaluation['success']:.3f} [{evaluation['success_low']:.2f}, {evaluation['success_high']:.2f}]"


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    runs = [read(Path(arg)) for arg in sys.argv[2:]]
    draw(Path(sys.argv[1]), runs)
    names = list(dict.fromkeys(run.env for run in runs))
    if len(names) > 1:
        print(f"| environment | after the warm start | at the end: mean (seeds) [range] | at {SUITE_TARGET} |", end="")
        print(" updates | training per run |\n|---|---|---|---|---|---|")
        for name in names:
            print(env_row(name, [run for run in runs if run.env == name]))
        return
    if len({run.algorithm for run in runs}) == 1:
        print(f"| seed | after the warm start | first evaluation at {TARGET} | at the end | training | warm start |")
        print("|---|---|---|---|---|---|")
        for run in runs:
            print(row(run))
        return
    print(
        "| algorithm | learning rate | after the warm start | at the end: mean (seeds) | updates with a step |", end=""
    )
    print(" groups with spread | training per run |\n|---|---|---|---|---|---|---|")
    for name, rates in by_rate(runs).items():
        for lr, members in rates.items():
            print(rate_row(name, lr, members))


if __name__ == "__main__":
    main()
