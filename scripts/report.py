"""Runs as a picture and a table: python scripts/report.py OUT.png RUN_DIR ...

Draws held-out success against training time, one line per run, and prints a Markdown table. Needs the extra `plot`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TARGET = 0.9

Run = tuple[dict[str, Any], list[dict[str, Any]]]


def read(run_dir: Path) -> Run:
    """A run's summary and its evaluations in order."""
    lines = (run_dir / "evaluations.jsonl").read_text().splitlines()
    return json.loads((run_dir / "summary.json").read_text()), [json.loads(line) for line in lines]


def draw(out: Path, runs: list[Run]) -> None:
    """Writes the picture; the bands are 95% intervals over the panel's tasks."""
    figure, axes = plt.subplots(figsize=(7.2, 3.6), dpi=150)
    longest = max(records[-1]["time/training_seconds"] for _, records in runs)
    unit, seconds = ("minutes", 60) if longest > 300 else ("seconds", 1)
    for summary, records in runs:
        x = [r["time/training_seconds"] / seconds for r in records]
        (line,) = axes.plot(x, [r["success"] for r in records], marker="o", ms=3, label=f"seed {summary['seed']}")
        low, high = [r["success_low"] for r in records], [r["success_high"] for r in records]
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.08, lw=0)
    axes.axhline(TARGET, color="0.5", lw=0.8, ls="--")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{unit} of training (rollouts and updates)")
    axes.set_ylabel("held-out success")
    first = runs[0][0]
    axes.set_title(f"{first['model'].split('/')[-1]}, {first['algorithm']}, {first['env']}", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def row(run: Run) -> str:
    """One line of the table."""
    summary, records = run
    reached = next((r for r in records if r["success"] >= TARGET), None)
    cells = [
        str(summary["seed"]),
        _rate(summary["before"]),
        f"{reached['time/training_seconds']:.0f} s, update {reached['update']}" if reached else "not reached",
        _rate(summary["after"]),
        f"{summary['training_seconds']:.0f} s, {summary['updates']} updates",
        f"{summary['warm_start_seconds']:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


def _rate(evaluation: dict[str, Any]) -> str:
    return f"{evaluation['success']:.3f} [{evaluation['success_low']:.2f}, {evaluation['success_high']:.2f}]"


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    runs = [read(Path(arg)) for arg in sys.argv[2:]]
    draw(Path(sys.argv[1]), runs)
    print(f"| seed | after the warm start | first evaluation at {TARGET} | at the end | training | warm start |")
    print("|---|---|---|---|---|---|")
    for run in runs:
        print(row(run))


if __name__ == "__main__":
    main()
