"""The page of all settings: python scripts/config_reference.py [--check]

Writes docs/configuration.md from conf/*.yaml (defaults and comments), the dataclasses that check them (types) and the
checks in their code (ranges). With --check nothing is written; the status is 1 where the page is not what it should be.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from agentgrpo import config as configs
from agentgrpo.algorithm import Algorithm
from agentgrpo.cluster import settings as clusters
from agentgrpo.composing import choices
from agentgrpo.envs import ENV_IDS
from agentgrpo.registry import algorithm_class
from agentgrpo.rewards.base import KINDS, RewardTerm
from agentgrpo.rewards.scorer import build_terms
from agentgrpo.samplers import settings as samplers

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "configuration.md"
NOT_OURS = ("custom", "mix")
"""Choices that are made by other settings: env.id=..., algorithm.name=module:Class, env=[a,b]."""

PACKAGES = ("agentgrpo",)
"""Where checks are read."""

INTRODUCTION = """\
# Configuration

Every setting is written `key=value` on the command line. `python -m agentgrpo train --cfg job` prints what a run would
use. Unknown keys are refused, and so are values outside their range, before a model loads.

Made by `python scripts/config_reference.py` from `conf/`, whose files hold these comments too. A folder `conf` of your
own adds choices: [an environment of your own](custom_environment.md#2-its-settings).
"""


@dataclass(frozen=True)
class Setting:
    """One line of a yaml file."""

    key: str
    """Dotted, without its group."""
    default: str
    """As it is written; empty where keys follow below."""
    comment: str


def read(path: Path) -> list[Setting]:
    """A yaml file's settings with the comments beside them, and those that go on in lines of their own."""
    text = path.read_text()
    ends: dict[int, int] = {}  # of the last token of a line: what follows is its comment
    for token in yaml.scan(text):
        if token.start_mark.index < token.end_mark.index:
            line, column = token.end_mark.line, token.end_mark.column
            ends[line] = max(ends.get(line, 0), column)
    found: list[Setting] = []
    above: list[tuple[int, str]] = []  # (indent, key) of the blocks that a line is in
    for number, line in enumerate(text.splitlines()):
        comment = line[ends.get(number, 0) :].strip().removeprefix("#").strip()
        entry = re.match(r"( *)(\w+):( .*)?$", line[: ends.get(number, 0)])
        if entry:
            indent = len(entry[1])
            above = [a for a in above if a[0] < indent]
            key = ".".join([*(name for _, name in above), entry[2]])
            found.append(Setting(key, (entry[3] or "").strip(), comment))
            above.append((indent, entry[2]))
        elif comment and found and re.match(r" {8,}#", line):
            found[-1] = dataclasses.replace(found[-1], comment=f"{found[-1].comment} {comment}")
    return [s for s in found if s.key.split(".")[0] not in ("defaults", "hydra")]


def heading(path: Path) -> str:
    """The comment that a yaml file starts with, without commands."""
    lines: list[str] = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


# --- types and ranges -----------------------------------------------------------------------------------------------


def written_type(hint: Any) -> str:
    """A type in the words of the command line."""
    names = {float: "number", int: "whole number", bool: "true or false", str: "text", NoneType: "null", Any: ""}
    if hint in names:
        return names[hint]
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        parts = [written_type(h) for h in get_args(hint)]
        return " or ".join(dict.fromkeys(p for p in parts if p))
    if origin is Literal:
        return "one of the range"
    if origin in (list, tuple) or hint in (list, tuple) or origin in _SEQUENCES:
        return "list"
    if origin in (dict, Mapping) or hint is dict or origin in _MAPPINGS:
        return "keys"
    return str(getattr(hint, "__name__", hint))


_SEQUENCES = tuple({get_origin(Sequence[int])})
_MAPPINGS = tuple({get_origin(Mapping[str, int])})


def ranges(cls: type) -> dict[str, str]:
    """Field -> what its checks allow, read from the code of ``__post_init__`` of a class and of those above it."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        check = base.__dict__.get("__post_init__")
        if check is None or base.__module__.partition(".")[0] not in PACKAGES:
            continue
        names = vars(sys.modules[base.__module__])
        for call in _calls(ast.parse(textwrap.dedent(inspect.getsource(check)))):
            name, bound = call.args[0], call.args[2]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                assert isinstance(call.func, ast.Name)
                found[name.value.split(".")[-1]] = _range(call.func.id, bound, names)
    for field, hint in get_type_hints(cls).items():
        words = [o for h in (get_args(hint) or (hint,)) for o in _literals(h)] or _literals(hint)
        if words and field not in found:
            found[field] = " | ".join(words)
    return found


def _literals(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    return [word for h in get_args(hint) for word in _literals(h)]


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    checks = ("at_least", "above", "within", "one_of")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in checks:
            yield node


def _range(check: str, bound: ast.expr, names: Mapping[str, Any]) -> str:
    try:
        value = eval(compile(ast.Expression(bound), "<range>", "eval"), dict(names))  # our own source, nobody's input
    except NameError:  # another setting: self.initial_length
        value = re.sub(r"^f'(.*)'$", r"\1", ast.unparse(bound).replace("self.", "")).replace("{", "").replace("}", "")
    if check == "one_of":
        return " | ".join(map(str, value))
    value = f"{value:g}" if isinstance(value, (int, float)) else str(value)
    return {"at_least": f"≥ {value}", "above": f"> {value}", "within": value}[check]


# --- tables ---------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]], titles: Sequence[str]) -> str:
    """A Markdown table without the columns that would be empty."""
    used = [i for i, title in enumerate(titles) if i == 0 or any(row[i] for row in rows)]
    lines = [[titles[i] for i in used], ["---"] * len(used), *([row[i] for i in used] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def settings_table(settings: Sequence[Setting], cls: type, prefix: str, nested: bool = False) -> str:
    """Key, type, default, range and comment of settings that are fields of a dataclass.

    Args:
        prefix: what stands before a key on the command line.
        nested: fields may be dataclasses themselves, whose settings have dotted keys.
    """
    rows = []
    for s in settings:
        owner: Any = cls
        *path, field = s.key.split(".")
        for name in path if nested else ():
            owner = get_type_hints(owner)[name]
        hint = get_type_hints(owner).get(field)
        if hint is None or dataclasses.is_dataclass(hint):
            continue
        limits = ranges(owner).get(field, "")
        kind = written_type(hint) if "|" not in limits else ""
        meaning = escaped(without_range(s.comment, limits))
        rows.append([f"`{prefix}{s.key}`", kind, code(s.default), code(limits), meaning])
    return table(rows, ["key", "type", "default", "range", "meaning"])


def without_range(comment: str, limits: str) -> str:
    """A comment without the range that its column shows: ``a | b: what``, ``what, in [0, 1]``, ``what, > 0``."""
    if not limits:
        return comment
    if " | " in limits:
        word = "|".join(re.escape(word) for word in limits.split(" | "))
        comment = re.sub(rf"(^|: )({word})( \| ({word}))+(: |; |$)", "", comment)
    else:
        bound = re.escape(limits.replace("≥", ">="))
        comment = re.sub(rf"[,;]? ?(in )?{bound}(?=[:;]|$)", "", comment)
    return comment.lstrip(":; ")


def code(text: str) -> str:
    """As code in a cell; words to choose from stand alone, because a ``|`` in code is not read alike everywhere."""
    text = text.strip("'\"") if text[:1] == text[-1:] and text[:1] in "'\"" else text
    return ", ".join(f"`{word}`" for word in text.split(" | ")) if text else ""


def escaped(text: str) -> str:
    """As plain words in a cell, of which nothing is Markdown."""
    return re.sub(r"([|*_<>`\[\]\\])", r"\\\1", text)


# --- the page -------------------------------------------------------------------------------------------------------


def page() -> str:
    """All of it."""
    parts = [INTRODUCTION, *_run(), *_algorithms(), *_rewards(), *_models(), *_samplers(), *_clusters()]
    parts += [*_envs(), *_commands()]
    return "\n".join(parts)


def _run() -> Iterator[str]:
    settings = read(CONF / "train.yaml")
    top = [s for s in settings if "." not in s.key and s.default]
    yield "## The run\n"
    yield settings_table(top, configs.TrainConfig, "")
    for block in [s.key for s in settings if "." not in s.key and not s.default]:
        inside = [s for s in settings if s.key.startswith(f"{block}.")]
        yield f"## {block}\n"
        yield settings_table(inside, configs.TrainConfig, "", nested=True)


def _algorithms() -> Iterator[str]:
    shared = {s.key: s for s in read(CONF / "algorithm" / "_base.yaml")}
    yield "## algorithm\n"
    yield (
        f"`algorithm=` {', '.join(f'[{n}](#algorithm{n})' for n in _choices('algorithm'))}, or one "
        "[of your own](custom_algorithm.md). [algorithms](algorithms.md) says what each does. These options go with "
        "all of them:\n"
    )
    yield settings_table(list(shared.values()), Algorithm, "algorithm.")
    for name in _choices("algorithm"):
        cls = algorithm_class(name)
        own = {s.key: s for s in _lineage(name)}
        changed = [s for key, s in own.items() if key != "name" and shared.get(key) != s]
        mine = {s.key for s in read(CONF / "algorithm" / f"{name}.yaml")}
        changed.sort(key=lambda s: s.key not in mine)  # what it builds on comes after what is its own
        documented = [
            dataclasses.replace(s, comment=s.comment or (shared[s.key].comment if s.key in shared else ""))
            for s in changed
        ]
        yield f"### algorithm={name}\n"
        yield f"`{cls.formula}` ({cls.source}; [more](algorithms.md#{name}))\n"
        if documented:
            yield settings_table(documented, cls, "algorithm.")


def _lineage(name: str) -> Iterator[Setting]:
    """Settings of an algorithm's yaml after those of the one that it builds on, up to the options of all."""
    path = CONF / "algorithm" / f"{name}.yaml"
    for parent in yaml.safe_load(path.read_text())["defaults"]:
        if parent != "_base":
            yield from _lineage(parent)
    yield from read(path)


def _rewards() -> Iterator[str]:
    build_terms({"environment": {}})  # registers the kinds
    yield "## reward\n"
    yield "Terms of a return, weighted and logged apart: `reward=[environment,format] reward.format.weight=0.2`.\n"
    for name in _choices("reward"):
        path = CONF / "reward" / f"{name}.yaml"
        cls: type[RewardTerm] = KINDS[name]
        inside = [s for s in read(path) if "." in s.key and not s.key.endswith(".kind")]
        plain = [dataclasses.replace(s, key=s.key.split(".", 1)[1]) for s in inside]
        plain = [dataclasses.replace(s, comment=s.comment or _docstring_of(cls, s.key)) for s in plain]
        yield f"### reward={name}\n"
        yield heading(path) + "\n"
        yield settings_table(plain, cls, f"reward.{name}.")


def _docstring_of(cls: type, field: str) -> str:
    """The line under a field in the class that has it."""
    for base in cls.__mro__:
        if field in inspect.get_annotations(base):
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
            assert isinstance(body, ast.ClassDef)
            for node, after in zip(body.body, body.body[1:], strict=False):
                here = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == field
                if here and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    return inspect.cleandoc(str(after.value.value)).replace("\n", " ")
    return ""


def _models() -> Iterator[str]:
    yield "## model\n"
    adapters = [dataclasses.replace(s, key=f"lora.{s.key}") for s in read(CONF / "model" / "_lora.yaml")]
    for name in _choices("model"):
        path = CONF / "model" / f"{name}.yaml"
        yield f"### model={name}\n"
        yield heading(path) + "\n"
        yield settings_table([s for s in read(path) if s.key != "kind"], configs.ModelConfig, "model.")
    yield "### model.lora\n"
    yield heading(CONF / "model" / "_lora.yaml") + "\n"
    yield settings_table(adapters, configs.ModelConfig, "model.", nested=True)


def _samplers() -> Iterator[str]:
    yield "## sampler\n"
    yield "What writes the rollouts: [samplers](samplers.md).\n"
    for name in _choices("sampler"):
        settings = [s for s in read(CONF / "sampler" / f"{name}.yaml") if s.key != "kind"]
        yield f"### sampler={name}\n"
        yield settings_table(settings, samplers._KINDS[name], "sampler.")


def _clusters() -> Iterator[str]:
    yield "## cluster\n"
    yield "Where the processes of a run are: [several processes, several machines](cluster.md).\n"
    for name in _choices("cluster"):
        settings = [s for s in read(CONF / "cluster" / f"{name}.yaml") if s.key != "kind"]
        if settings:
            yield f"### cluster={name}\n"
            yield settings_table(settings, clusters._KINDS[name], "cluster.")


def _envs() -> Iterator[str]:
    yield "## env\n"
    yield (
        f"`env=` {', '.join(f'[{n}](#env{n})' for n in _choices('env'))}, one [of your own](custom_environment.md), or "
        "several: `env=[key_maze,sokoban] envs.sokoban.weight=2`. Each has these, below `env` (`envs.NAME` where there "
        "are several):\n"
    )
    common = [s for s in read(CONF / "env" / "key_maze.yaml") if "." not in s.key]
    values = {"name": "", "id": "", "instructions": "", "kwargs": ""}
    yield settings_table(
        [dataclasses.replace(s, default=values.get(s.key, s.default)) for s in common], configs.EnvConfig, "env."
    )
    yield "An environment's own dials; [environments](environments.md) has a card for each.\n"
    for name in _choices("env"):
        settings = read(CONF / "env" / f"{name}.yaml")
        hints = _constructor(next(s.default for s in settings if s.key == "id"))
        rows = [
            [f"`env.{s.key}`", written_type(hints[field]), code(s.default), escaped(s.comment)]
            for s in settings
            if s.key.startswith("kwargs.") and (field := s.key.removeprefix("kwargs.")) in hints
        ]
        others = [
            [f"`env.{s.key}`", "", code(s.default), escaped(s.comment)]
            for s in settings
            if (s.key, s.default) in (("execution", "thread"), ("execution", "process"))
        ]
        yield f"### env={name}\n"
        yield table([*rows, *others], ["key", "type", "default", "meaning"])


def _constructor(env_id: str) -> dict[str, Any]:
    """Types of an environment's arguments."""
    module, _, name = ENV_IDS[env_id].partition(":")
    return get_type_hints(getattr(importlib.import_module(module), name).__init__)


def _commands() -> Iterator[str]:
    yield "## Other commands\n"
    yield "`eval`, `play` and `export` take all of the above as well, on top of a run's own configuration.\n"
    for name in sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "train"):
        yield f"### {name}\n"
        rows = [[f"`{s.key}`", code(s.default), escaped(s.comment)] for s in read(CONF / f"{name}.yaml")]
        yield table(rows, ["key", "default", "meaning"])


def _choices(group: str) -> list[str]:
    """What a group can be, without what other settings choose by themselves."""
    return [name for name in choices(group) if name not in NOT_OURS]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where the page is another")
    args = parser.parse_args(argv)
    made = page()
    if not args.check:
        PAGE.write_text(made)
    elif not PAGE.is_file() or PAGE.read_text() != made:
        print(f"{PAGE.relative_to(ROOT)} is not what conf/ says: python scripts/config_reference.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
