"""How fast this is, beside others on the same machine, in one run: python scripts/bench.py [--quick] [--only ROW ...]

Every side is a process of its own, one after the other, on the same random prompts; the first iteration of each, which
touches memory for the first time, is left out. Ratios are between medians, with the range that the repetitions allow
in brackets. `--quick` leaves the slow peers and long runs out and fits in three minutes.

TRL needs the extra `bench` (pip install -e '.[bench]'). vLLM has an environment of its own, which
`make test-vllm` makes: python scripts/bench.py --vllm-python .venv-vllm/bin/python
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from agentgrpo import precision
from agentgrpo.allocator import keep_freed_memory
from benchmarks import runs

SCRIPTS = Path(__file__).resolve().parent
MARK = "benchmark result: "


@dataclass(frozen=True)
class Row:
    """One bar."""

    bar: str
    ours: str
    theirs: str
    figure: str
    reach: str
    reached: bool


@dataclass(frozen=True)
class Options:
    model: str
    precision: str
    repeat: int
    quick: bool
    vllm_python: str | None


def child(function: str, python: str = sys.executable, **arguments: Any) -> dict[str, Any]:
    """Runs ``module.function(**arguments)`` of the benchmarks in a process of its own."""
    paths = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [python, __file__, "--child", function, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return found
    raise SystemExit(f"{function} {arguments} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")


def ratio(theirs: list[float], ours: list[float]) -> tuple[float, str]:
    """Median over median, and as text with its range."""
    middle = statistics.median(theirs) / statistics.median(ours)
    return middle, f"{middle:.1f}x [{min(theirs) / max(ours):.1f}, {max(theirs) / min(ours):.1f}]"


def seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} s"


# --- rows -------------------------------------------------------------------------------------------------------------


def against_trl(options: Options, name: str) -> list[Row]:
    """A GRPO iteration of SmolLM2, in the precision that the processor is faster in: TRL's better one, too."""
    ours = child("ours.iteration", path=options.model, name=name, precision=options.precision, repeat=options.repeat)
    theirs = child(
        "peers.trl", path=options.model, name=name, precision=options.precision, repeat=max(options.repeat - 2, 1)
    )
    times = [a + b for a, b in zip(ours["rollout"], ours["training"], strict=True)]
    faster, text = ratio(theirs["seconds"], times)
    less = theirs["peak_gb"] / ours["peak_gb"]
    return [
        Row(f"{name}: iteration against TRL", seconds(times), seconds(theirs["seconds"]), text, ">= 10x", faster >= 10),
        Row(
            f"{name}: peak memory against TRL", f"{ours['peak_gb']:.1f} GB", f"{theirs['peak_gb']:.1f} GB",
            f"{less:.1f}x", ">= 4x", less >= 4,
        ),
    ]  # fmt: skip


def gradient(options: Options) -> list[Row]:
    found = child("ours.gradient_difference", path=options.model, name="W0")
    reached = found["gradient"] < 1e-4 and found["loss"] < 1e-5
    text = f"{found['gradient']:.1e}"
    return [Row("W0: fp32 gradient against padded rows", "", "", text, "< 1e-4", reached)]


def multi_turn(options: Options) -> list[Row]:
    ours = child("ours.iteration", path=options.model, name="W2", precision=options.precision, repeat=options.repeat)
    theirs = child("peers.plain", path=options.model, name="W2", precision=options.precision, repeat=1)
    both = [[a + b for a, b in zip(side["rollout"], side["training"], strict=True)] for side in (ours, theirs)]
    rollout, rollout_text = ratio(theirs["rollout"], ours["rollout"])
    whole, whole_text = ratio(both[1], both[0])
    return [
        Row("W2: rollout against a plain loop", seconds(ours["rollout"]), seconds(theirs["rollout"]), rollout_text,
            ">= 5x", rollout >= 5),
        Row("W2: iteration against a plain loop", seconds(both[0]), seconds(both[1]), whole_text, ">= 8x", whole >= 8),
    ]  # fmt: skip


def training_pass(options: Options) -> list[Row]:
    rows = []
    for name in ("W1",) if options.quick else ("W1", "W2"):
        found = child(
            "ours.training_pass", path=options.model, name=name, precision=options.precision, repeat=options.repeat
        )
        shares = [floor / taken for floor, taken in zip(found["floor"], found["seconds"], strict=True)]
        share = statistics.median(shares)
        rate = f"{statistics.median(found['gflops']):.0f} GFLOP/s"
        text = f"{share:.0%} [{min(shares):.0%}, {max(shares):.0%}]"
        rows.append(
            Row(
                f"{name}: training pass, share of matrix rate",
                seconds(found["seconds"]),
                rate,
                text,
                ">= 50%",
                share >= 0.5,
            )
        )
    return rows


def sampling_work(options: Options) -> dict[str, Any]:
    """64 answers to 16 prompts."""
    return {
        "path": options.model,
        "precision": options.precision,
        "sequences": 64,
        "prompt_tokens": 103,
        "new_tokens": 64,
        "group": 4,
    }


def sampling(options: Options) -> list[Row]:
    work = sampling_work(options)
    ours = child("ours.sampling", **work, repeat=options.repeat)["rates"]
    theirs = child("peers.generate", **work, repeat=1)["rates"]
    faster, text = ratio(ours, theirs)
    rows = [Row("sampling 64 sequences against generate", rate(ours), rate(theirs), text, ">= 3.5x", faster >= 3.5)]
    if options.vllm_python:
        rows += [*sampling_with_vllm(options.vllm_python, work, options.repeat)]
    return rows


def sampling_with_vllm(python: str, work: dict[str, Any], repeat: int) -> list[Row]:
    """vLLM as another sampler; every side runs in its environment."""
    ours = child("ours.sampling", python, **work, repeat=repeat)["rates"]
    theirs = child("peers.vllm", python, **work, repeat=repeat)["rates"]
    faster, text = ratio(ours, theirs)
    return [Row("sampling 64 sequences against vLLM", rate(ours), rate(theirs), text, ">= 1.0x", faster >= 1)]


def with_vllm(options: Options) -> list[Row]:
    """sampler=vllm against transformers' ``generate`` on the same prompts."""
    if options.vllm_python is None:
        return []
    python, work = options.vllm_python, sampling_work(options)
    ours = child("ours.vllm_turns", python, path=options.model, name="W2", precision=options.precision, repeat=2)
    theirs = child("peers.turns", python, path=options.model, name="W2", precision=options.precision, repeat=1)
    turns, turns_text = ratio(theirs["rollout"], ours["rollout"])
    engine = child("ours.vllm_sampling", python, **work, repeat=options.repeat)["rates"]
    plain = child("peers.generate", python, **work, repeat=1)["rates"]
    once, once_text = ratio(engine, plain)
    return [
        Row("sampler=vllm: W2 rollout against generate", seconds(ours["rollout"]), seconds(theirs["rollout"]),
            turns_text, ">= 3.0x", turns >= 3),
        Row("sampler=vllm: 64 sequences against generate", rate(engine), rate(plain), once_text, ">= 3.0x", once >= 3),
    ]  # fmt: skip


def rate(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} tokens/s"


def around_the_model(options: Options) -> list[Row]:
    """Share of an update that is no model arithmetic, in real runs."""
    rows = []
    smollm2 = ["experiment=smollm2_babyai", f"model.path={options.model}", "warm_start.episodes=0"]
    cases = [("nano", [], 8, 0.25)]
    if not options.quick:
        cases.append(("SmolLM2", smollm2, 4, 0.05))
    for name, overrides, updates, limit in cases:
        records, _ = runs.train([*overrides, f"num_updates={updates}", "eval.num_tasks=1", "eval.every=1000"])
        shares = [r["time/other_share"] for r in records[1:]]
        share = statistics.median(shares)
        text = f"{share:.1%} [{min(shares):.1%}, {max(shares):.1%}]"
        rows.append(Row(f"{name}: everything but model arithmetic", "", "", text, f"<= {limit:.0%}", share <= limit))
    return rows


def advantages(options: Options) -> list[Row]:
    found = child("ours.advantages", steps=[100_000, 1_000_000])
    name, (few, many) = max(found["seconds"].items(), key=lambda item: item[1][1])
    text = f"{many:.2f} s ({many / few:.1f} x 100,000 steps)"
    return [Row(f"a million steps, slowest algorithm ({name})", "", "", text, "<= 2 s", many <= 2)]


def vocabulary(options: Options) -> list[Row]:
    small, large = (child("ours.vocabulary", size=size, tokens=4096) for size in (512, 131072))
    more = child("ours.vocabulary", size=131072, tokens=16384)
    chunk = 3 * large["chunk_gb"]
    grown = large["grown_gb"] - small["grown_gb"]
    text = f"+{grown:.2f} GB; +{more['grown_gb'] - large['grown_gb']:.2f} GB for 4 x the tokens"
    reached = grown <= large["head_gb"] + chunk and more["grown_gb"] <= 1.2 * large["grown_gb"]
    limit = f"<= head {large['head_gb']:.2f} + chunk {chunk:.2f} GB"
    return [Row("memory from 512 to 131,072 words", "", "", text, limit, reached)]


def default_run(options: Options) -> list[Row]:
    _, evaluations = runs.train([])
    first = evaluations[0]["success"]
    passed = [e["time/training_seconds"] for e in evaluations if e["success"] >= 0.9]
    text = f"{first:.2f} -> 0.90 in {passed[0]:.0f} s" if passed else f"{first:.2f} -> {evaluations[-1]['success']:.2f}"
    return [
        Row(
            "train with defaults",
            "",
            "",
            text,
            "<= 0.35 to 0.9 in 120 s",
            first <= 0.35 and passed[:1] <= [120.0] and bool(passed),
        )
    ]


def slow_environments(options: Options) -> list[Row]:
    """Rollouts ahead of the trainer, where a step of the environment takes 200 ms; with vLLM too where there is one."""
    rows = _ahead("async", [], sys.executable)
    if options.vllm_python:
        engine = ["sampler=vllm", "model.num_heads=2", "sampler.kv_cache_gb=0.2"]
        rows += _ahead("async, sampler=vllm", engine, options.vllm_python)[1:]
    return rows


def _ahead(name: str, more: list[str], python: str) -> list[Row]:
    slow = [*runs.SLOW, "env.execution=thread", "env.workers=256", "num_updates=16"]
    taken = {}
    for mode in ("sync", "async"):
        records, _ = runs.train([*slow, *more, f"rollout.mode={mode}", "rollout.max_staleness=2"], python)
        # All updates together: async waits long for one and finds the next one ready.
        taken[mode] = sum(r["time/rollout"] + r["time/update"] for r in records[4:])
        if mode == "sync":
            playing = sum(r["time/rollout"] for r in records[4:])
            waits = sum(0.2 * 64 * r["rollout/turns_mean"] for r in records[4:])  # of 64 episodes, one after the other
    faster = taken["sync"] / taken["async"]
    return [
        Row("64 episodes, steps of 200 ms, against their waits", f"{playing:.1f} s", f"{waits:.1f} s",
            f"{waits / playing:.1f}x", ">= 5x", waits / playing >= 5),
        Row(f"{name} against sync, steps of 200 ms", f"{taken['async']:.1f} s", f"{taken['sync']:.1f} s",
            f"{faster:.1f}x", ">= 1.5x", faster >= 1.5),
    ]  # fmt: skip


def environments(options: Options) -> list[Row]:
    """What environments of this process take of an iteration of the nano model."""
    rows = []
    for run in ("env=key_maze", *(f"experiment=nano_{name}" for name in ("minishop", "calculator", "sql_tools"))):
        records, _ = runs.train(
            [run, "num_updates=12", "warm_start.episodes=64", "eval.num_tasks=1", "eval.every=1000"]
        )
        whole = sum(r["time/rollout"] + r["time/update"] for r in records[2:])
        share = sum(r["time/environments"] for r in records[2:]) / whole
        name = run.partition("=")[2].removeprefix("nano_")
        rows.append(Row(f"{name}: environments, share of an iteration", "", "", f"{share:.1%}", "<= 5%", share <= 0.05))
    return rows


def samplers(options: Options) -> list[Row]:
    """What samplers of `cluster=ray` gain where a step of the environment takes 200 ms."""
    one, four = (runs.seconds(runs.slow_samplers(n)) for n in (1, 4))
    return [
        Row("cluster=ray, 4 samplers against 1, steps of 200 ms", f"{four:.1f} s", f"{one:.1f} s", f"{one / four:.1f}x",
            ">= 3x", one / four >= 3),
    ]  # fmt: skip


def overhead(options: Options) -> list[Row]:
    """What `cluster=ray` costs where there is one sampler and one rank."""
    whole, parts = runs.one_and_one(options.model, 1 if options.quick else 2)
    middle, text = ratio(parts, whole)
    return [
        Row("SmolLM2: cluster=ray, 1 sampler and 1 rank, against cluster=local", f"{statistics.median(parts):.1f} s",
            f"{statistics.median(whole):.1f} s", text, "<= 1.15x", middle <= 1.15),
    ]  # fmt: skip


ROWS: dict[str, Callable[[Options], list[Row]]] = {
    "W1": lambda options: against_trl(options, "W1"),
    "W0": lambda options: against_trl(options, "W0"),
    "gradient": gradient,
    "W2": multi_turn,
    "training": training_pass,
    "sampling": sampling,
    "vllm": with_vllm,
    "around": around_the_model,
    "advantages": advantages,
    "vocabulary": vocabulary,
    "environments": environments,
    "async": slow_environments,
    "default": default_run,
    "samplers": samplers,
    "overhead": overhead,
}
QUICK = ("gradient", "training", "around", "advantages", "vocabulary")


def main() -> None:
    """Measures and prints."""
    if sys.argv[1:2] == ["--child"]:
        module, _, function = sys.argv[2].partition(".")
        if module == "ours":
            keep_freed_memory()  # as `agentgrpo train` does
        result = getattr(importlib.import_module(f"benchmarks.{module}"), function)(**json.loads(sys.argv[3]))
        print(MARK + json.dumps(result))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three minutes: no peers, no long runs")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), help="which rows")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions of our side (default 5)")
    parser.add_argument("--model", default="models/smollm2-135m-instruct", help="SmolLM2's folder")
    parser.add_argument("--vllm-python", help="Python of an environment with vLLM")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    given = parser.parse_args()
    if not Path(given.model).is_dir():
        sys.exit(f"--model {given.model}: no such folder. Make it with: python scripts/fetch_smollm2.py")
    options = Options(
        str(Path(given.model).resolve()),
        precision.settled("auto"),
        2 if given.quick else given.repeat,
        given.quick,
        given.vllm_python,
    )
    rows: list[Row] = []
    console = Console()
    console.print(f"{processor()}, {os.cpu_count()} cores, {options.precision}", highlight=False)
    for name in given.only or (QUICK if given.quick else ROWS):
        found = ROWS[name](options)
        rows += found
        for row in found:
            console.print(f"{row.bar}: {row.figure}", highlight=False)
    console.print(table(rows))
    if given.json:
        machine = {"machine": processor(), "cores": os.cpu_count(), "precision": options.precision}
        given.json.write_text(json.dumps({**machine, "rows": [asdict(row) for row in rows]}, indent=1))


def processor() -> str:
    """What it calls itself, and the widest instructions that PyTorch uses on it."""
    name = str(getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", "")) or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def table(rows: list[Row]) -> Table:
    out = Table("bar", "ours", "theirs or ceiling", "figure", "reach", "reached")
    for row in rows:
        out.add_row(row.bar, row.ours, row.theirs, row.figure, row.reach, "yes" if row.reached else "[bold]no[/]")
    return out


if __name__ == "__main__":
    main()
