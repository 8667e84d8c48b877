"""Success against episodes with bands, a picture per environment in one file. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentgrpo.compare.comparison import Comparison, Environment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
"""Okabe and Ito's, which colour-blind readers can tell apart; brown in place of their yellow, too pale on white."""
_DASHES = ("-", "--", ":", "-.")
_COLUMNS = 3


def draw(comparison: Comparison, path: Path) -> None:
    """Writes the picture; lines are interquartile means over seeds, bands their 95% intervals."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(v.name for env in comparison.environments for v in env.variants))
    columns = min(_COLUMNS, len(comparison.environments))
    rows = -(-len(comparison.environments) // columns)
    size = (7.2, 4.4) if rows * columns == 1 else (3.6 * columns, 2.7 * rows + 0.25 * -(-len(names) // columns))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    styles = {
        name: (COLORS[i % len(COLORS)], _DASHES[(i + i // len(COLORS)) % len(_DASHES)]) for i, name in enumerate(names)
    }
    handles: dict[str, Line2D] = {}
    for axes, env in zip(grid.flat, comparison.environments, strict=False):
        handles |= _panel(axes, env, styles, comparison.settings.target)
    for axes in list(grid.flat)[len(comparison.environments) :]:
        axes.set_visible(False)
    figure.supxlabel("training episodes", fontsize=9)
    figure.supylabel("held-out success", fontsize=9)
    legend = figure.legend(
        handles=list(handles.values()),
        loc="outside upper center",
        ncols=max(1, min(len(names), round(size[0] * 8 / max(map(len, names))))),
        frameon=False,
        fontsize=8,
    )
    for text, name in zip(legend.get_texts(), handles, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    figure.savefig(path)


def _panel(axes: Axes, env: Environment, styles: dict[str, tuple[str, str]], target: float) -> dict[str, Line2D]:
    """One environment; returns the line of each variant."""
    lines = {}
    for i, v in enumerate(env.variants):
        color, dash = styles[v.name]
        x = v.best.episodes
        # The name is put in later: a label that begins with an underscore would be taken for a private one.
        (lines[v.name],) = axes.plot(x, v.curve.success, color=color, ls=dash, lw=1.6, label=str(i))
        axes.fill_between(x, v.curve.low, v.curve.high, color=color, alpha=0.13, lw=0)
    axes.axhline(target, color="0.5", lw=0.8, ls=(0, (1, 2)))
    axes.set_title(env.name, fontsize=9, parse_math=False)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(left=0)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return lines
