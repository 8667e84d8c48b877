"""``python -m agentgrpo algorithms``: every registered algorithm with its formula, source, options and defaults."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from agentgrpo.algorithm import Algorithm
from agentgrpo.registry import algorithm_class, algorithm_names


def print_table(console: Console) -> None:
    """One row per algorithm, then the options that go with all of them."""
    table = Table("name", show_lines=True)
    for title in ("formula", "source", "options and defaults"):
        table.add_column(title, overflow="fold")  # in a narrow terminal too nothing is cut off
    for name in algorithm_names():
        cls = algorithm_class(name)
        table.add_row(name, cls.formula, cls.source, "\n".join(own_options(name)))
    console.print(table)
    shared = "  ".join(_written(f) for f in fields(Algorithm))
    console.print(f"[bold]every algorithm[/bold]  {shared}", highlight=False)
    console.print("Choose with algorithm=NAME, set with algorithm.KEY=VALUE; docs/algorithms.md explains each.")


def own_options(name: str) -> list[str]:
    """``key=default`` of what an algorithm adds to the shared options, or sets differently."""
    shared = {f.name: f.default for f in fields(Algorithm)}
    return [_written(f) for f in fields(algorithm_class(name)) if f.name not in shared or f.default != shared[f.name]]


def _written(f: Field[Any]) -> str:
    return f.name if f.default is MISSING else f"{f.name}={_text(f.default)}"


def _text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
