"""The results for TensorBoard: a run per variant, a chart per environment that lays the variants over each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from agentgrpo.compare.comparison import Comparison
from agentgrpo.compare.variants import distinct
from agentgrpo.tracking import TensorBoard


def write_board(comparison: Comparison, folder: Path) -> None:
    """Event files below the folder: curves and summary scalars, hyperparameters, and the layout of the charts."""
    for old in folder.rglob("events.out.tfevents.*"):
        old.unlink()
    names = distinct(v.name for env in comparison.environments for v in env.variants)
    tags = _unique([env.name for env in comparison.environments])
    for name, subfolder in zip(names, _unique(names), strict=True):
        board = TensorBoard(folder / subfolder, 0)
        values: dict[str, Any] = {"variant": name}
        final: dict[str, float] = {}
        for env, tag in zip(comparison.environments, tags, strict=True):
            v = env.variant(name)
            if v is None:
                continue
            for i, update in enumerate(env.updates):
                point = {"success": v.curve.success, "success_low": v.curve.low, "success_high": v.curve.high}
                board.scalars(update, {f"{tag}/{key}": float(y[i]) for key, y in point.items()})
                board.scalars(update, {f"{tag}/return": float(v.curve.returns[i])})
            values |= {f"{tag}/lr": v.best.lr, f"{tag}/seeds": len(v.best.runs)}
            final |= {f"{tag}/final_success": v.success.value, f"{tag}/final_return": v.returns.value}
            final[f"{tag}/best_success"] = float(v.best.best.mean())
        overall = next((o for o in comparison.overall if o.name == name), None)
        if overall is not None:
            final["all/final_success"] = overall.success.value
        board.hyperparameters(values, final)
        board.close()
    layout = TensorBoard(folder, 0)
    layout.charts({env.name: _charts(tag) for env, tag in zip(comparison.environments, tags, strict=True)})
    layout.close()


def _charts(tag: str) -> dict[str, list[Any]]:
    success = f"{tag}/success"
    return {
        "success, 95% interval over seeds": ["Margin", [success, f"{success}_low", f"{success}_high"]],
        "return": ["Multiline", [f"^{re.escape(tag)}/return$"]],
    }


def _unique(names: list[str]) -> list[str]:
    """Names that can be folders and tags, no two of them the same."""
    out: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w.=,+-]+", "_", name).strip(".") or "_"
        made, n = plain, 2
        while made in out:
            made, n = f"{plain}_{n}", n + 1
        out.append(made)
    return out
