"""The blocks of README.md and docs/, and whether what they say can be done.

Shell blocks are run by bash with no program in reach: every command that it would start is noted instead, with loops,
variables and braces expanded, and then checked against what this repository has. Python blocks are executed. A block
after a line that ends like "`envs/lights.py`:" is a file, which the page's other blocks find.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import yaml

from agentgrpo import cli, composing
from agentgrpo.config import build_algorithm, parse
from agentgrpo.env_check.command import _parse_pair
from agentgrpo.environments import make
from agentgrpo.envs import ENV_IDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("", "bash")
"""Languages of blocks that hold commands; output and drawings are ``text``."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w./-]+\.\w+)`:\s*\Z")
_INLINE = re.compile(r"`((?:python -m agentgrpo|python scripts/|make |pip install )[^`\n]*)`")
_NOTES = """
note() { printf '%s\\0' "$1" "$(($# - 1))" "${@:2}" >>"$NOTES"; }
command_not_found_handle() { note "${BASH_LINENO[0]}" "$@"; }
function . { note "${BASH_LINENO[0]}" . "$@"; }
function cd { note "${BASH_LINENO[0]}" cd "$@"; }
"""


class Wrong(Exception):
    """A block says what cannot be done; the message starts with file and line."""


@dataclass(frozen=True)
class Block:
    """A fenced block, or a command in a sentence."""

    page: str
    line: int
    """Of its first line of content."""
    language: str
    text: str
    file: str | None = None
    """Name of the file that it is said to be."""

    def at(self, offset: int = 0) -> str:
        return f"{self.page}:{self.line + offset}"


@dataclass(frozen=True)
class Command:
    """One command that a shell would start."""

    where: str
    words: tuple[str, ...]


def blocks(text: str, page: str) -> list[Block]:
    """All blocks of a page, fenced ones and commands in sentences, in their order."""
    found = []
    prose = text
    for fence in _FENCE.finditer(text):
        name = _FILE.search(text[: fence.start()])
        line = text.count("\n", 0, fence.start()) + 2
        found.append(Block(page, line, fence[1], fence[2], name[1] if name else None))
        prose = prose.replace(fence[0], "\n" * fence[0].count("\n"), 1)
    if "```" in prose:
        raise Wrong(f"{page}: a block that is not closed, or that is indented")
    for span in _INLINE.finditer(prose):
        found.append(Block(page, prose.count("\n", 0, span.start()) + 1, "bash", span[1]))
    return sorted(found, key=lambda block: block.line)


def check(found: list[Block], folder: Path) -> None:
    """Check the blocks of a page, in an empty folder that is the current one.

    Raises:
        Wrong: for the first of them that cannot be done.
    """
    for block in found:
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    for block in found:
        if block.language in SHELL:
            for command in commands(block, folder):
                check_command(command)
                _do(command, folder)
        elif block.language == "python":
            _run(block, folder)
        elif block.language in ("yaml", "json"):
            _load(block)
        elif block.language != "text":
            raise Wrong(f"{block.at(-1)}: nobody checks a block of {block.language!r}; output and drawings are text")


def _do(command: Command, folder: Path) -> None:
    """What other blocks may build on, and harms nobody: folders and empty files below the page's folder."""
    match command.words:
        case ["mkdir", "-p", *names]:
            for name in names:
                (folder / name).mkdir(parents=True, exist_ok=True)
        case ["touch", *names]:
            for name in names:
                (folder / name).touch()


def _run(block: Block, folder: Path) -> None:
    try:
        if block.file is not None:
            importlib.import_module(block.file.removesuffix(".py").replace("/", "."))
        else:
            script = folder / ".block.py"
            script.write_text(block.text)
            runpy.run_path(str(script))
    except Exception as error:
        raise Wrong(f"{block.at()}: {type(error).__name__}: {error}") from error


def _load(block: Block) -> None:
    try:
        yaml.safe_load(block.text) if block.language == "yaml" else json.loads(block.text)
    except ValueError as error:
        raise Wrong(f"{block.at()}: {error}") from error
    except yaml.YAMLError as error:
        raise Wrong(f"{block.at()}: {error}") from error


def commands(block: Block, folder: Path) -> Iterator[Command]:
    """What a shell would start, without starting it."""
    script, notes, prelude = (folder / name for name in (".block.sh", ".notes", ".prelude.sh"))
    script.write_text(block.text)
    prelude.write_text(_NOTES)
    notes.write_text("")
    env = {"PATH": "/nonexistent", "BASH_ENV": str(prelude), "NOTES": str(notes)}
    done = subprocess.run(["/bin/bash", str(script)], cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.stderr or done.returncode:
        raise Wrong(f"{block.at()}: bash says: {done.stderr.strip() or f'status {done.returncode}'}")
    noted = iter(notes.read_text().split("\0")[:-1])
    for line in noted:
        yield Command(block.at(int(line) - 1), tuple(next(noted) for _ in range(int(next(noted)))))


# --- commands -------------------------------------------------------------------------------------------------------


def check_command(command: Command) -> None:
    """Raises Wrong where the command names what there is not."""
    try:
        _check(list(command.words))
    except (ValueError, SystemExit) as error:
        raise Wrong(f"{command.where}: {' '.join(command.words)}\n  {error}") from error


def _check(words: list[str]) -> None:
    match words:
        case ["python", "-m", "agentgrpo", *rest]:
            _agentgrpo(rest)
        case ["python", "-m", "pytest" | "venv" | "http.server", *_]:
            pass
        case ["python", script, *rest]:
            _script(script, rest)
        case ["make", *targets]:
            _make(targets)
        case ["pip", "install" | "uninstall", *rest]:
            _pip(rest)
        case ["tar", "xf", archive]:
            if not (ROOT / archive).is_file():
                raise ValueError(f"there is no {archive}")
        case ["tensorboard", "--logdir", _] | ["vllm", "serve", _]:
            pass
        case ["torchrun", *rest]:
            _torchrun(rest)
        case ["ray", command, *rest]:
            _ray(command, rest)
        case ["sbatch", *rest]:
            _sbatch(rest)
        case ["docker", "build", *rest]:
            _docker_build(rest)
        case ["kubectl", "apply", "-f", path]:
            if not (ROOT / path).is_file():
                raise ValueError(f"there is no {path}")
        case ["kubectl", "get" | "logs" | "delete" | "cp" | "wait", *_] | ["scancel" | "squeue", *_]:
            pass
        case ["mkdir", "-p", *names] | ["touch", *names]:
            if any(Path(name).is_absolute() or ".." in name for name in names):
                raise ValueError("a page makes folders and files where the reader is, and nowhere else")
        case [".", path] if path.endswith("/bin/activate"):
            pass
        case _:
            raise ValueError("no check knows this command: see tests/doc_blocks.py")


def _agentgrpo(words: list[str]) -> None:
    if not words or words[0] not in cli.COMMANDS:
        raise ValueError(f"agentgrpo has no such command; it has {', '.join(cli.COMMANDS)}")
    name, rest = words[0], words[1:]
    if "--help" in rest:
        return
    if name == "train":
        _train(rest)
    elif name == "check-env":
        _check_env(rest)
    elif name == "algorithms":
        if rest:
            raise ValueError("algorithms takes no settings")
    else:
        # The others take settings, of conf/NAME.yaml or else a run's, and some take folders of runs before them.
        settings = [word for word in rest if "=" in word]
        config = f"{name}" if (ROOT / "conf" / f"{name}.yaml").is_file() else "train"
        composing.compose_config(config, settings)
        if any(word.startswith("-") for word in rest):
            raise ValueError(f"{name} has no options, only settings: key=value")


def _train(words: list[str]) -> None:
    flags, overrides = cli._split(words)
    unknown = set(flags) - {"-m", "--multirun", "--cfg", "job"}
    if unknown:
        raise ValueError(f"no check knows {' '.join(sorted(unknown))}")
    for job in jobs(overrides) if {"-m", "--multirun"} & set(flags) else [overrides]:
        config = parse(composing.compose_config("train", job))
        build_algorithm(config)
        for env in config.environments.values():
            if env.id not in ENV_IDS:  # a page's own; ours may need an extra
                make(env.id, env.kwargs).close()


def jobs(overrides: list[str]) -> list[list[str]]:
    """The first job of a sweep, and one for each further value of each swept setting: not all their combinations."""
    values = [
        [f"{o.key_or_group}={v}" for v in composing._values(o)] if o.is_sweep_override() else [line]
        for o, line in zip(composing._parse(overrides), overrides, strict=True)
    ]
    first = [v[0] for v in values]
    return [first, *([*first[:i], other, *first[i + 1 :]] for i, v in enumerate(values) for other in v[1:])]


def _check_env(words: list[str]) -> None:
    parser = _Parser()
    parser.add_argument("env_id")
    parser.add_argument("kwargs", nargs="*")
    parser.add_argument("--num-tasks", type=int)
    given = parser.parse_args(words)
    if given.env_id not in ENV_IDS:
        make(given.env_id, dict(_parse_pair(pair) for pair in given.kwargs)).close()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(message)


def _script(path: str, words: list[str]) -> None:
    if not (ROOT / path).is_file():
        raise ValueError(f"there is no {path}")
    parser = script_parser((ROOT / path).read_text())
    if parser is None:  # takes words as they come
        if any(word.startswith("-") for word in words):
            raise ValueError(f"{path} has no options")
        return
    parser.parse_args(words)


def script_parser(source: str) -> argparse.ArgumentParser | None:
    """What a script's parser takes, read from its code: loading it would load PyTorch. None: it has no parser."""
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
    ]
    if not calls:
        return None
    parser = _Parser()
    for call in calls:
        names = [ast.literal_eval(argument) for argument in call.args]
        options = {k.arg: k.value for k in call.keywords if k.arg in ("nargs", "action")}
        parser.add_argument(*names, **{k: ast.literal_eval(v) for k, v in options.items()})
    return parser


def _make(targets: list[str]) -> None:
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in targets:
        if "=" not in target and target not in known:
            raise ValueError(f"the Makefile has no target {target}")


def _pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    for before, word in zip(["", *words], words, strict=False):
        ours = re.fullmatch(r"(?:agentgrpo|\.)\[([\w,-]+)\]", word)
        for extra in ours[1].split(",") if ours else []:
            if extra not in extras:
                raise ValueError(f"pyproject.toml has no extra {extra}")
        if "==" in word and word not in pins:
            raise ValueError(f"{word} is not what constraints.txt has")
        if before == "-c" and not (ROOT / word).is_file():
            raise ValueError(f"there is no {word}")


# --- many machines ---------------------------------------------------------------------------------------------------

RAY_OPTIONS = {
    "start": {"--head", "--address", "--port", "--num-cpus", "--num-gpus", "--disable-usage-stats", "--block"},
    "stop": set(),
    "status": {"--address"},
    "health-check": {"--address"},
    "get-auth-token": {"--generate"},
}
"""Those of Ray's command line that pages and scripts use; a test compares them with Ray itself."""


def _torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser  # loads PyTorch's distributed part, which other pages do without

    parser = get_args_parser()
    parser.error = _Parser.error.__get__(parser)
    given = parser.parse_args(words)
    if not given.module or given.training_script != "agentgrpo":
        raise ValueError("torchrun starts `-m agentgrpo train ...`")
    _agentgrpo(given.training_script_args)


def _ray(command: str, words: list[str]) -> None:
    if command not in RAY_OPTIONS:
        raise ValueError(f"no check knows ray {command}")
    unknown = {word.split("=")[0] for word in words if word.startswith("--")} - RAY_OPTIONS[command]
    if unknown:
        raise ValueError(f"ray {command} has no {', '.join(sorted(unknown))}")


def _sbatch(words: list[str]) -> None:
    rest = [word for word in words if not word.startswith("--")]
    if not rest or not (ROOT / rest[0]).is_file():
        raise ValueError(f"there is no {rest[0] if rest else 'script'}")
    if len(rest) < 2 or "=" in rest[1]:
        raise ValueError("the scripts take the run's folder before settings")
    kind = Path(rest[0]).stem
    _train([f"cluster={kind}", f"run_dir={rest[1]}", *rest[2:]])


def _docker_build(words: list[str]) -> None:
    parser = _Parser()
    parser.add_argument("context")
    parser.add_argument("-f", required=True)
    parser.add_argument("-t", required=True)
    parser.add_argument("--build-arg", action="append", default=[])
    given = parser.parse_args(words)
    if not (ROOT / given.f).is_file():
        raise ValueError(f"there is no {given.f}")
    known = re.findall(r"^ARG (\w+)", (ROOT / given.f).read_text(), re.MULTILINE)
    for name, _, value in (pair.partition("=") for pair in given.build_arg):
        if name not in known:
            raise ValueError(f"{given.f} has no ARG {name}")
        if name == "EXTRAS":
            _pip([f".[{value}]"])
        if name == "CONSTRAINTS" and value != "/dev/null":
            _pip(["-c", value])


# --- settings in sentences ------------------------------------------------------------------------------------------


def settings_in_sentences(text: str, page: str) -> Iterator[tuple[str, str]]:
    """(file and line, key) of each `group.key=value` in a sentence."""
    prose = _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text)
    for span in re.finditer(r"`([^`]+)`", prose):
        for key in re.findall(r"(?:^| )\+?([a-z_]+(?:\.[a-zA-Z_]+)+)=", span[1].replace("\n", " ")):
            yield f"{page}:{prose.count(chr(10), 0, span.start()) + 1}", key


def forget(folder: Path) -> None:
    """Unload modules that came from a page's folder, and the environments that they registered."""
    for env_id, spec in list(gym.registry.items()):
        module = sys.modules.get(getattr(spec.entry_point, "__module__", None) or "")
        if module is not None and _came_from(module, folder):
            del gym.registry[env_id]
    for name, module in list(sys.modules.items()):
        if _came_from(module, folder):
            del sys.modules[name]
    importlib.invalidate_caches()


def _came_from(module: ModuleType, folder: Path) -> bool:
    return any(str(folder) in str(vars(module).get(place)) for place in ("__file__", "__path__"))
