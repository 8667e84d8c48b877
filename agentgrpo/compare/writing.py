"""Tables as Markdown, CSV and on a terminal of any width. Names in them are only ever text."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from agentgrpo.compare.comparison import Comparison
from agentgrpo.compare.reading import printable
from agentgrpo.compare.tables import Data, Table, all_tables, explain

_LEFT_OUT_SHOWN = 10
_GAP = 2


def write_csv(data: Data, folder: Path) -> None:
    """``<name>.csv``."""
    with (folder / f"{data.name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(data.columns)
        writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in data.rows)


# --- Markdown ----------------------------------------------------------------------------------------------------


def markdown(comparison: Comparison, notes: Sequence[str], command: str, picture: str | None) -> str:
    """A page that can stand in documents as it is."""
    lines = ["# Comparison", "", *_code(command), "", heading(comparison), ""]
    if picture:
        lines += [f"![Held-out success against episodes, with 95% intervals]({picture})", ""]
    for table in all_tables(comparison):
        lines += [f"## {escaped(table.title)}", "", *_rows(table), ""]
        if table.explanation:
            lines += [escaped(table.explanation), ""]
    lines += ["## How to read it", "", *(f"- {escaped(line)}" for line in explain(comparison)), ""]
    if notes:
        lines += ["## Before you believe it", "", *(f"- {escaped(note)}" for note in notes), ""]
    if comparison.left_out:
        lines += ["## Left out", ""]
        lines += [f"- {escaped(str(item.path))}: {escaped(item.reason)}" for item in comparison.left_out]
        lines += [""]
    return "\n".join(lines)


def _code(text: str) -> list[str]:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [fence, text, fence]


def heading(comparison: Comparison) -> str:
    """What was compared, in a line."""
    counts = (len(comparison.runs), "run"), (len(comparison.environments), "environment")
    variants = {v.name for env in comparison.environments for v in env.variants}
    parts = [f"{n} {what}{'s' * (n != 1)}" for n, what in (*counts, (len(variants), "variant"))]
    return f"{', '.join(parts)}; held-out success."


def _rows(table: Table) -> list[str]:
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    cells = [[escaped(c) if c != "---" else c for c in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in cells]


def escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is. An underscore within a word, or an interval, needs no help."""
    text = re.sub(
        r"[\\`*|~#$]|\[(?![-+0-9., ]+\])|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", lambda m: f"\\{m[0]}", printable(text)
    )
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


# --- terminal --------------------------------------------------------------------------------------------------------


def show(comparison: Comparison, notes: Sequence[str], console: Console) -> None:
    """Everything, as wide as the terminal is."""
    _line(console, heading(comparison))
    for table in all_tables(comparison):
        console.print()
        console.print(Text(table.title, style="bold"))
        for i, part in enumerate(fitting(table, console.width)):
            if i:
                console.print()
            console.print(_rich(part))
        if table.explanation:
            _line(console, table.explanation, style="dim")
    console.print()
    for line in explain(comparison):
        _item(console, line, style="dim")
    if notes or comparison.left_out:
        console.print()
    for note in notes:
        _item(console, f"warning: {note}", style="yellow")
    for item in comparison.left_out[:_LEFT_OUT_SHOWN]:
        _item(console, f"left out: {item.path}: {item.reason}", style="yellow")
    more = len(comparison.left_out) - _LEFT_OUT_SHOWN
    if more > 0:
        _line(console, f"and {more} more; left_out.csv has all.", style="yellow")


def fitting(table: Table, width: int) -> list[Table]:
    """The table, cut into some that have all rows and as many columns as the width allows, the first in each."""
    widths = [max(len(c) for c in column) for column in zip(table.columns, *table.rows, strict=True)]
    first = min(widths[0], max(12, width // 3))
    parts: list[list[int]] = [[]]
    used = first
    for i in range(1, len(widths)):
        if parts[-1] and used + _GAP + widths[i] > width:
            parts.append([])
            used = first
        parts[-1].append(i)
        used += _GAP + widths[i]

    def cut(cells: tuple[str, ...], part: list[int]) -> tuple[str, ...]:
        return (cells[0], *(cells[i] for i in part))

    return [Table(table.title, cut(table.columns, p), tuple(cut(row, p) for row in table.rows)) for p in parts]


def _rich(table: Table) -> RichTable:
    made = RichTable(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for i, column in enumerate(table.columns):
        made.add_column(Text(column), overflow="fold", no_wrap=i > 0, justify="left")
    for row in table.rows:
        made.add_row(*map(Text, row))
    return made


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style))


def _item(console: Console, text: str, style: str = "") -> None:
    """A paragraph that stands in where it goes on."""
    wrapped = Text(printable(text)).wrap(console, max(console.width - 2, 10))
    for i, line in enumerate(wrapped):
        line.stylize(style)
        line.rstrip()
        console.print(line if i == 0 else Text("  ").append_text(line))
