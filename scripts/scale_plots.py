"""The tables and pictures of docs/scale.md: what the planner says of 8 to 4,096 GPUs, on paper.

    python scripts/scale_plots.py           # a few minutes; needs the extra `plot`

Tables stand in the page between comments that name them, and are written there; pictures go to docs/images.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from scale_model import (
    FIGURES,
    GROUP_SIZE,
    MODELS,
    WORKLOADS,
    Model,
    Workload,
    costs,
    groups_per_update,
    hand_over,
    plan,
    room,
)

from agentgrpo.cluster.splits import Split

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "scale.md"
IMAGES = ROOT / "docs" / "images"

GPUS = (8, 64, 512, 4096)
WAYS = {
    "broadcast": "InfiniBand, in a chain",
    "one port": "InfiniBand, one machine after the other",
    "ethernet": "Ethernet, one machine after the other",
}
_HANDED = 64
"""GPUs that the throughput with other ways of the weights is compared at."""
_COLOURS = ("tab:blue", "tab:orange")


@cache
def planned(
    model: Model, work: Workload, gpus: int, staleness: int, way: str = "broadcast", groups: int | None = None
) -> Split | None:
    """As :func:`scale_model.plan`, each once."""
    return plan(model, work, gpus, staleness, way=way, groups=groups)


def episodes_per_second(split: Split) -> float:
    """Of a plan."""
    return split.forecast.groups_per_second * GROUP_SIZE


# --- tables -----------------------------------------------------------------------------------------------------------


def figures_table() -> list[str]:
    """What is assumed of machines."""
    return ["| assumption | figure | source |", "|---|---|---|", *(figure.row for figure in FIGURES)]


def models_table() -> list[str]:
    """What is assumed of models, and what follows."""
    lines = [
        "| model | weights | keys and values of a token | GPUs of a sampler | GPUs of a learner | source |",
        "|---|---|---|---|---|---|",
    ]
    for m in MODELS:
        lines.append(
            f"| {m.name} | {m.parameters / 1e9:g} billion, {m.weight_bytes / 1e9:.0f} GB "
            f"| {m.token_bytes / 1e3:.0f} kB | {m.sampler_gpus} | {m.learner_gpus} | {m.source} |"
        )
    return lines


def workloads_table() -> list[str]:
    """What is assumed of episodes, and what each model needs for one turn and to learn from one."""
    lines = [
        "| workload | turns, mean and longest of a group | tokens: prompt, read and written in a turn | environment |",
        "|---|---|---|---|",
    ]
    for w in WORKLOADS:
        lines.append(
            f"| {w.name} | {w.turns:g}, {w.longest_turns:g}, the latter ± {w.turns_spread:.0%} | {w.prompt_tokens:,}, "
            f"{w.read_tokens:,}, {w.written_tokens:,} | {w.step_seconds:g} s a turn |"
        )
    lines += [
        "",
        "| model, workload | a batch of turns | groups at a sampler | learning, an episode |",
        "|---|---|---|---|",
    ]
    for m in MODELS:
        for w in WORKLOADS:
            c = costs(m, w, 64)
            learning = c.token_seconds * c.tokens_per_group / GROUP_SIZE
            lines.append(
                f"| {m.name}, {w.name} | {c.batch_seconds:.2f} s + {c.turn_seconds * 1e3:.0f} ms a turn "
                f"| {room(m, w)} | {learning:.3f} s |"
            )
    return lines


def plan_row(model: Model, work: Workload, gpus: int, staleness: int) -> str:
    """One plan of the main table."""
    mode = "async" if staleness else "sync"
    start = f"| {model.name}, {work.name} | {gpus:,} | {mode} "
    split = planned(model, work, gpus, staleness)
    if split is None:
        return f"{start}| too few: {model.sampler_gpus + model.learner_gpus} are needed | | | | | |"
    f = split.forecast
    return (
        f"{start}| {groups_per_update(gpus):,} | {split.setup.samplers:,} : {split.setup.learners:,} "
        f"| {f.update_seconds:,.0f} | {episodes_per_second(split):,.1f} "
        f"| {f.sampler_idle:.0%} | {f.learner_idle:.0%} |"
    )


def plans_table(models: Sequence[Model] = MODELS, gpus: Sequence[int] = GPUS) -> list[str]:
    """The fastest split of each number of GPUs."""
    names = ("", "GPUs", "mode", "groups an update", "samplers : learners", "s an update", "episodes/s")
    head = f"| {' | '.join(names)} | samplers idle | learners idle |"
    rows = [plan_row(m, w, n, ahead) for m in models for w in WORKLOADS for n in gpus for ahead in (0, 1)]
    return [head, "|---|---|---|---|---|---|---|---|---|", *rows]


def wider_table() -> list[str]:
    """What it takes to use 4,096 GPUs."""
    lines = ["| groups an update | sync | 1 update ahead | 4 updates ahead |", "|---|---|---|---|"]
    for groups in (1024, 2048):
        found = [planned(MODELS[0], WORKLOADS[1], GPUS[-1], ahead, groups=groups) for ahead in (0, 1, 4)]
        cells = [f"{episodes_per_second(s):,.0f} episodes/s, {s.forecast.sampler_idle:.0%} idle" for s in found if s]
        lines.append(f"| {groups:,} | {' | '.join(cells)} |")
    return lines


def hand_over_table() -> list[str]:
    """Seconds until the last sampler has new weights, and what that costs."""
    lines = ["| model | samplers | " + " | ".join(WAYS.values()) + " |", "|---|---|" + "---|" * len(WAYS)]
    for m in MODELS:
        for samplers in (8, 64, 512):
            cells = [f"{hand_over(m, samplers, way):,.1f} s" for way in WAYS]
            lines.append(f"| {m.name} | {samplers:,} | {' | '.join(cells)} |")
    lines += ["", f"| {_HANDED:,} GPUs | " + " | ".join(WAYS.values()) + " |", "|---|" + "---|" * len(WAYS)]
    for m in MODELS:
        for ahead, mode in ((0, "sync"), (1, "async")):
            found = [planned(m, WORKLOADS[0], _HANDED, ahead, way=way) for way in WAYS]
            cells = [f"{episodes_per_second(s):,.0f} episodes/s" for s in found if s]
            lines.append(f"| {m.name}, {WORKLOADS[0].name}, {mode} | {' | '.join(cells)} |")
    return lines


TABLES: dict[str, Callable[[], list[str]]] = {
    "figures": figures_table,
    "models": models_table,
    "workloads": workloads_table,
    "plans": plans_table,
    "wider": wider_table,
    "hand-over": hand_over_table,
}


def with_tables(page: str) -> str:
    """The page with every table as it is now."""
    for name, table in TABLES.items():
        start, end = f"<!-- table: {name} -->", "<!-- end -->"
        text = "\n".join((start, "", *table(), "", end))
        page, count = re.subn(rf"{start}(?:(?!<!--).)*{end}", lambda _, text=text: text, page, flags=re.DOTALL)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"{PAGE.name} has {count} places for the table {name!r}: <!-- table: {name} -->")
    return page


# --- pictures ---------------------------------------------------------------------------------------------------------


def _curve(model: Model, work: Workload, staleness: int) -> list[tuple[int, Split]]:
    found = [(n, planned(model, work, n, staleness)) for n in GPUS]
    return [(n, split) for n, split in found if split is not None]


def draw_throughput() -> None:
    """Episodes per second against GPUs."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharex=True)
    for axis, model in zip(axes, MODELS, strict=True):
        for work, colour in zip(WORKLOADS, _COLOURS, strict=True):
            for ahead, style in ((1, "-"), (0, "--")):
                points = _curve(model, work, ahead)
                label = f"{work.name}, {'async' if ahead else 'sync'}"
                rates = [episodes_per_second(split) for _, split in points]
                axis.loglog([n for n, _ in points], rates, style, color=colour, marker="o", markersize=4, label=label)
                if ahead:
                    first = points[0][0]
                    line = [rates[0] * n / first for n, _ in points]
                    axis.loglog([n for n, _ in points], line, ":", color="0.6", zorder=0)
        axis.set(title=model.name, xlabel="GPUs")
        axis.set_xticks(GPUS, [f"{n:,}" for n in GPUS], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_ylabel("episodes per second (dotted: in proportion)")
    _save(figure, "scale_throughput")


def draw_idle() -> None:
    """Idle shares, and how the GPUs are split."""
    figure, axes = plt.subplots(2, 4, figsize=(15, 6.6), sharex=True, sharey=True)
    pairs = [(m, w) for m in MODELS for w in WORKLOADS]
    for column, (model, work) in zip(axes.T, pairs, strict=True):
        for axis, ahead in zip(column, (0, 1), strict=True):
            points = _curve(model, work, ahead)
            at = [n for n, _ in points]
            share = [100 * s.setup.samplers * model.sampler_gpus / n for n, s in points]
            axis.semilogx(at, [100 * s.forecast.sampler_idle for _, s in points], marker="o", label="samplers idle")
            axis.semilogx(at, [100 * s.forecast.learner_idle for _, s in points], marker="s", label="learners idle")
            axis.semilogx(at, share, color="0.5", linestyle="--", label="share of GPUs that sample")
            axis.set(title=f"{model.name}, {work.name}, {'async' if ahead else 'sync'}", ylim=(0, 100))
            axis.set_xticks(GPUS, [f"{n:,}" for n in GPUS], minor=False)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        column[-1].set_xlabel("GPUs")
    for axis in axes[:, 0]:
        axis.set_ylabel("%")
    axes[0, 0].legend(fontsize=8)
    _save(figure, "scale_idle")


def draw_hand_over() -> None:
    """Seconds until the last sampler has its weights."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for axis, model in zip(axes, MODELS, strict=True):
        samplers = [n // model.sampler_gpus for n in GPUS]
        for way, name in WAYS.items():
            axis.loglog(samplers, [hand_over(model, n, way) for n in samplers], marker="o", markersize=4, label=name)
        axis.set(title=f"{model.name}, {model.weight_bytes / 1e9:.0f} GB", xlabel="samplers")
        ticks = samplers
        axis.set_xticks(ticks, [f"{n:,}" for n in ticks], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds until the last sampler has new weights")
    axes[0].legend()
    _save(figure, "scale_hand_over")


def _save(figure: plt.Figure, name: str) -> None:
    figure.tight_layout()
    figure.savefig(IMAGES / f"{name}.png", dpi=110)
    plt.close(figure)


def main() -> None:
    """Writes them."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    PAGE.write_text(with_tables(PAGE.read_text()))
    draw_throughput()
    draw_idle()
    draw_hand_over()


if __name__ == "__main__":
    main()
