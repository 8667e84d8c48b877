"""The page about all environments: python scripts/env_card.py [--only key_maze sokoban] [--tasks 200] [--out FILE]

Plays every environment of conf/env that can be made here, at random and by its oracle, and writes docs/environments.md:
a table, and a card for each. With --only, the page holds only those and is printed, unless --out names a file.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from env_figures import Figures, measure, percentages

from agentgrpo.checks import did_you_mean
from agentgrpo.environments import make
from agentgrpo.envs import ENV_IDS, EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "environments.md"
LONGEST_EXAMPLE = 600
"""Characters of a first observation that are shown."""

INTRODUCTION = """\
# Environments

Each is chosen with `env=NAME`, and each dial below is set as `env.kwargs.DIAL=value`. An environment of your own is
[one file](custom_environment.md). Ids under `agentgrpo/` also work with `gymnasium.make` after `import agentgrpo.envs`.

Made by `{command}` on {machine}.

- **random**: success of a player who draws uniformly from the admissible actions.
- **mixed**: share of groups of 8 such episodes of one task in which some succeed and some fail; other groups teach
  group-relative algorithms nothing. Where it is low, start from imitation (`warm_start`), or use `guided` or `ngrpo`.
- **shared**: share of steps after the first whose state another member of the group acts in as well; step advantages
  (`gigpo`) live on those.
- **oracle**: its success, and the mean number of steps of its successful episodes.
- **steps/s**: of the random player in one thread, resets included; where no actions are named, of one who says nothing.
- **characters**: of an observation, on average and at most.

A dash: the question makes no sense there (no admissible actions, no oracle, a single turn), or there are no figures.
"""


ELSEWHERE = {"agentgrpo/OpenEnv-v0": "They are those of the environment that the server holds."}
"""Why some have none of their own."""


@dataclass(frozen=True)
class Card:
    """An environment as conf/env describes it, with its figures or the reason why there are none."""

    name: str
    env_id: str
    instructions: str
    dials: str
    """The yaml's lines of constructor arguments, comments included."""
    figures: Figures | None
    reason: str = ""
    broken: bool = False
    """Whether it was made and then failed: a fault of its own, and not something that is not installed here."""


def configurations() -> dict[str, dict[str, Any]]:
    """What conf/env holds by name, in the order of ENV_IDS; templates for others' environments are left out."""
    found = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "conf" / "env").glob("*.yaml"))}
    order = list(ENV_IDS)
    ours = {name: config for name, config in found.items() if config.get("id") in ENV_IDS}
    return dict(sorted(ours.items(), key=lambda item: order.index(item[1]["id"])))


def card(name: str, config: dict[str, Any], num_tasks: int, num_rollouts: int, seconds: float) -> Card:
    """Measure one environment, if it can be made here."""
    lines = (ROOT / "conf" / "env" / f"{name}.yaml").read_text()
    block = re.search(r"^kwargs:.*\n((?:[ ]+.*\n)*)", lines, re.MULTILINE)
    dials = inspect.cleandoc(block[1]) if block else ""
    described = (name, config["id"], config["instructions"], dials)
    if config["id"] in ELSEWHERE:
        return Card(*described, None, ELSEWHERE[config["id"]])
    try:
        env = make(config["id"], config["kwargs"])
    except ValueError as error:
        return Card(*described, None, f"It could not be made where this page was. {error}")
    try:
        return Card(*described, measure(env, num_tasks=num_tasks, num_rollouts=num_rollouts, seconds=seconds))
    except Exception as error:  # the other environments are worth a card all the same
        return Card(*described, None, f"It failed with {type(error).__name__}: {error}", broken=True)
    finally:
        env.close()


def page(cards: Sequence[Card], command: str) -> str:
    """The whole page."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    columns = ["environment", "random", "mixed", "shared", "oracle (steps)", "steps/s", "characters"]
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *map(row, cards)]
    parts = [INTRODUCTION.format(command=command, machine=machine), "\n".join(table) + "\n"]
    return "\n".join([*parts, *("\n".join(text(c)) + "\n" for c in cards)])


def row(c: Card) -> str:
    """A card's line of the table."""
    f = c.figures
    if f is None:
        cells = ["-"] * 6
    else:
        success, mixed, shared, oracle = percentages([f.success, f.mixed, f.shared, f.oracle_success])
        steps = "" if f.oracle_steps is None else f" ({f.oracle_steps:.1f})"
        lengths = f"{f.length_mean:.0f}, {f.length_max}"
        cells = [success, mixed, shared, f"{oracle}{steps}", _two_digits(f.steps_per_second), lengths]
    return f"| [{c.name}](#{c.name}) | {' | '.join(cells)} |"


def _two_digits(number: float) -> str:
    return f"{float(f'{number:.2g}'):,.0f}" if number >= 10 else f"{number:.2g}"


def text(c: Card) -> Iterator[str]:
    """A card, line by line."""
    module, _, cls = ENV_IDS[c.env_id].partition(":")
    source = f"envs/{module.removeprefix('agentgrpo.envs.').replace('.', '/')}.py"
    yield f"## {c.name}\n"
    yield f"`{c.env_id}`, [{source}](../{source})\n"
    yield description(getattr(importlib.import_module(module), cls)) + "\n"
    if c.env_id in EXTRAS:
        yield f"Needs `pip install 'agentgrpo[{EXTRAS[c.env_id]}]'`.\n"
    if c.instructions:
        yield f"The agent is told: “{c.instructions}”\n"
    if c.figures is not None:
        first = c.figures.first
        yield "The first task starts with:\n"
        yield f"```text\n{first[:LONGEST_EXAMPLE]}{'…' if len(first) > LONGEST_EXAMPLE else ''}\n```\n"
    yield f"Dials, with their defaults:\n\n```yaml\n{c.dials}\n```\n"
    if c.figures is None:
        yield f"No figures. {c.reason}\n"
    else:
        yield summary(c.figures) + "\n"
    yield f"```\npython -m agentgrpo train env={c.name}\n```"


def summary(f: Figures) -> str:
    """The figures in a sentence."""
    success, mixed, shared, oracle = percentages([f.success, f.mixed, f.shared, f.oracle_success])
    known = [f"random {success}", f"mixed {mixed}", f"shared {shared}", f"oracle {oracle}"]
    steps = "" if f.oracle_steps is None else f" in {f.oracle_steps:.1f} steps"
    return f"Over {f.num_tasks} tasks, {f.num_rollouts} episodes of each: {', '.join(known)}{steps}."


def description(cls: type) -> str:
    """The class's docstring up to its arguments, as Markdown."""
    words = (inspect.getdoc(cls) or "").split("\nArgs:")[0].strip()
    return words.replace("``", "`")


def chosen(only: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The environments named, by file name or id; all of them if none are.

    Raises:
        ValueError: a name that there is not.
    """
    known = configurations()
    unknown = [word for word in only if word not in known and word not in ENV_IDS]
    if unknown:
        raise ValueError(f"--only {unknown[0]}: no such environment.{did_you_mean(unknown[0], known)}")
    return {name: c for name, c in known.items() if not only or name in only or c["id"] in only}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write or print the page; return 1 if an environment failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="names in conf/env, or ids")
    parser.add_argument("--tasks", type=int, default=200, help="tasks of each (default: 200)")
    parser.add_argument("--rollouts", type=int, default=16, help="episodes of a task (default: 16), in groups of 8")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="fewer tasks where they take longer (default: 120)"
    )
    parser.add_argument("--out", type=Path, help="file to write (default: docs/environments.md; with --only, none)")
    args = parser.parse_args(argv)
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        configs = chosen(args.only)
    except ValueError as error:
        parser.error(str(error))
    cards = []
    for name, config in configs.items():
        start = time.perf_counter()
        cards.append(card(name, config, args.tasks, args.rollouts, args.seconds))
        took = f"{time.perf_counter() - start:.0f} s"
        print(f"{name}: {took if cards[-1].figures else cards[-1].reason}", file=sys.stderr)
    made = page(cards, " ".join(["python scripts/env_card.py", *given]))
    out = args.out or (None if args.only else PAGE)
    if out is None:
        print(made, end="")
    else:
        out.write_text(made)
    return int(any(c.broken for c in cards))


if __name__ == "__main__":
    sys.exit(main())
