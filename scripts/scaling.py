"""How time and memory grow: python scripts/scaling.py OUT.png [--factors 1 3 10 30 100]

One iteration (rollout and training) of a model as small as the default one, in a process of its own per point: first at
the size of the default run, then with one quantity at a time multiplied. Prints a Markdown table and draws the curves.
Needs the extra `plot`.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from bench import child

DEFAULT = {"prompts": 8, "samples": 8, "prompt_tokens": 12, "new_tokens": 3, "turns": 8}
QUANTITIES = {
    "tasks": "prompts",
    "group size": "samples",
    "turns": "turns",
    "observation length": "prompt_tokens",
}
LONGEST = 30
"""Turns and observations are multiplied by at most this: attention over an episode grows with its square."""


@dataclass(frozen=True)
class Point:
    """One iteration."""

    factor: int
    rollout: float
    training: float
    grown_gb: float


def measure(key: str, factors: list[int]) -> list[Point]:
    """Points along one quantity."""
    if key in ("turns", "prompt_tokens"):
        factors = [factor for factor in factors if factor <= LONGEST]
    return [
        Point(factor, **child("ours.nano_iteration", **{**DEFAULT, key: DEFAULT[key] * factor})) for factor in factors
    ]


def exponent(points: list[Point], field: str) -> float:
    """Slope between the last two points on logarithmic axes: 1 is linear, 2 quadratic."""
    last, before = points[-1], points[-2]
    low, high = max(getattr(before, field), 1e-9), max(getattr(last, field), 1e-9)
    return math.log(high / low) / math.log(last.factor / before.factor)


def draw(curves: dict[str, list[Point]], out: Path) -> None:
    """Three panels: rollout, training, memory."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), sharex=True)
    titles = {"rollout": "rollout, seconds", "training": "training, seconds", "grown_gb": "memory, GB"}
    for axis, (field, title) in zip(axes, titles.items(), strict=True):
        for name, points in curves.items():
            axis.loglog([p.factor for p in points], [getattr(p, field) for p in points], marker="o", label=name)
        factors = sorted({p.factor for points in curves.values() for p in points})
        start = getattr(next(iter(curves.values()))[0], field)
        axis.loglog(factors, [start * f for f in factors], color="0.7", linestyle="--", label="linear", zorder=0)
        axis.set(title=title, xlabel="times the default run")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    """Measures, draws, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 3, 10, 30, 100])
    given = parser.parse_args()
    if len(given.factors) < 2:
        parser.error("--factors needs two or more")
    curves: dict[str, list[Point]] = {}
    print("| quantity | x | rollout s | training s | memory GB |\n|---|---|---|---|---|")
    for name, key in QUANTITIES.items():
        curves[name] = measure(key, given.factors)
        for p in curves[name]:
            print(f"| {name} | {p.factor} | {p.rollout:.2f} | {p.training:.2f} | {p.grown_gb:.2f} |", flush=True)
    print("\n| quantity | rollout | training | memory |\n|---|---|---|---|")
    for name, points in curves.items():
        slopes = (exponent(points, field) for field in ("rollout", "training", "grown_gb"))
        print(f"| {name}, last step: exponent | {' | '.join(f'{slope:.2f}' for slope in slopes)} |")
    draw(curves, given.out)


if __name__ == "__main__":
    main()
