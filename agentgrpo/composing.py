"""Composing configurations through Hydra, with errors that name the key and suggest the right one.

A folder ``conf`` in the current folder adds choices of the user's own: ``conf/env/maze.yaml`` is ``env=maze``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict

from agentgrpo.checks import did_you_mean
from agentgrpo.run_folder import RunFolder

CONFIG_MODULE = "agentgrpo.conf"
GROUPS = ("env", "algorithm", "reward", "model", "sampler", "cluster", "experiment")
"""What a run is composed of."""
_CHOSEN = (*GROUPS, "study")
_CONF = Path(__file__).resolve().parent / "conf"

# my_module:Maze-v0 -> Maze
OmegaConf.register_new_resolver("short_name", lambda id: re.sub(r"-v\d+$", "", re.split(r"[:/]", id)[-1]), replace=True)


def own_folder() -> Path | None:
    """``conf`` in the current folder; None if there is none, or if it is the built-in one itself."""
    folder = Path.cwd() / "conf"
    return folder if folder.is_dir() and not folder.samefile(_CONF) else None


class OwnConfigs(SearchPathPlugin):
    """Has Hydra look for choices in the user's folder as well, whichever way it is started."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Hydra's hook."""
        folder = own_folder()
        if folder is not None:
            search_path.append("agentgrpo: ./conf", f"file://{folder}")


Plugins.instance().register(OwnConfigs)


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration ``conf/<name>.yaml`` with overrides.

    Raises:
        ValueError: an override that Hydra refuses; the message names it, what is allowed, and a near miss.
    """
    overrides = complete(overrides)
    check_overrides(name, overrides)
    return _compose(name, overrides)


def check_overrides(name: str, overrides: Sequence[str]) -> None:
    """Checks the names in overrides, which may hold sweeps (``algorithm=grpo,gigpo``).

    Raises:
        ValueError: a choice or a key that there is not.
    """
    parsed = _parse(overrides)
    selections = [o for o in parsed if o.key_or_group in _CHOSEN]
    for override in selections:
        _check_choice(override)
    # Keys below a group differ with the choice, so they are looked up in what was chosen (in a sweep, first).
    chosen = _compose(name, [_first(o) for o in selections])
    keys = list(_keys(OmegaConf.to_container(chosen)))
    for override in parsed:
        key = override.key_or_group
        added = override.is_add() or override.is_force_add()
        if key not in keys and key not in _CHOSEN and not added and key.split(".")[0] != "hydra":
            raise ValueError(f"{key!r} is not a setting.{did_you_mean(key, keys)} {_where_settings_stand(name, key)}")


def _where_settings_stand(name: str, key: str) -> str:
    if name in ("view", "doctor", "sweep"):
        return f"`python -m agentgrpo {name} --help` prints all of them."
    if name == "compare":
        return f"`python -m agentgrpo compare --help` prints all of them. A folder of that name is written ./{key}=..."
    return (
        f"`python -m agentgrpo train --cfg job` prints all of them; a key that only your own environment or algorithm "
        f"knows is added with +{key}=..."
    )


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            config = compose(name, list(overrides), return_hydra_config=True)
    except HydraException as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ValueError(f"{str(error).splitlines()[0]}{cause}") from error
    except yaml.YAMLError as error:  # names the file and the line
        raise ValueError(f"This is not YAML: {' '.join(str(error).split())}") from error
    for group, choice in config.hydra.runtime.choices.items():
        _refuse_twin(group, choice)
    with open_dict(config):
        del config["hydra"]
    return config


def complete(overrides: Sequence[str]) -> list[str]:
    """Adds what some overrides leave unsaid.

    ``env=[a,b]`` puts each environment under ``envs``. Where an override names the user's own environment or algorithm,
    ``env=custom`` or ``algorithm=custom`` goes with it.

    Otherwise they would be made with the arguments of the default environment and the default algorithm. The fields of
    the user's algorithm stand in no yaml, so they are added.
    """
    parsed = _parse(overrides)
    keys = {o.key_or_group for o in parsed}
    lines = list(overrides)
    if "algorithm" not in keys and any(
        o.key_or_group == "algorithm.name" and ":" in value for o in parsed for value in _values(o)
    ):
        own = [o.key_or_group.startswith("algorithm.") and o.key_or_group != "algorithm.name" for o in parsed]
        lines = [f"+{line.lstrip('+')}" if added else line for line, added in zip(lines, own, strict=True)]
        lines = ["algorithm=custom", *lines]
    several = next((o for o in parsed if o.key_or_group == "env" and isinstance(o.value(), list)), None)
    if several is not None:
        names = _values(several)
        lines = [line for line, o in zip(lines, _parse(lines), strict=True) if o.key_or_group != "env"]
        return ["env=mix", f"env.name={'-'.join(names)}", *(f"+env@envs.{name}={name}" for name in names), *lines]
    return ["env=custom", *lines] if "env.id" in keys and "env" not in keys else lines


def config_for_run(name: str, overrides: Sequence[str]) -> tuple[DictConfig, DictConfig | None]:
    """The configuration to use with an existing run: the run's own, with the given overrides on top.

    Returns:
        the configuration, and the run's own as it was saved (None when ``run_dir`` names no run).
    """
    overrides = known_to_run(overrides)
    fresh = compose_config(name, overrides)
    folder = RunFolder(fresh.run_dir) if fresh.run_dir else None
    if folder is None or not folder.holds_run():
        return fresh, None
    saved = folder.load_config()
    config = OmegaConf.create(OmegaConf.to_container(saved))
    assert isinstance(config, DictConfig)
    with open_dict(config):
        for key in fresh:  # keys of eval.yaml and play.yaml, which a run's configuration has not
            if key not in config:
                config[key] = fresh[key]
        for override in _parse(overrides):
            key = override.key_or_group
            if key == "experiment":
                raise ValueError(
                    f"experiment={override.value()} cannot be laid over the run in {fresh.run_dir}: "
                    f"leave it out, the run "
                    "knows its own configuration. Single keys can be given."
                )
            OmegaConf.update(config, key, OmegaConf.select(fresh, key), merge=False, force_add=True)
    return config, saved


def known_to_run(overrides: Sequence[str]) -> list[str]:
    """The overrides, as additions where only the run that they name has the key: its environment's arguments, say."""
    parsed = _parse(overrides)
    folder = next((RunFolder(str(o.value())) for o in parsed if o.key_or_group == "run_dir" and o.value()), None)
    if folder is None or not folder.holds_run():
        return list(overrides)
    keys = {key for key in _keys(OmegaConf.to_container(folder.load_config())) if "." in key}
    own = [not (o.is_add() or o.is_force_add() or o.is_delete()) and o.key_or_group in keys for o in parsed]
    return [f"++{line}" if known else line for line, known in zip(overrides, own, strict=True)]


def differences(before: DictConfig, after: DictConfig, allowed: Sequence[str] = ()) -> list[str]:
    """``key: old -> new`` for every key that two configurations disagree on.

    Args:
        allowed: keys, or groups of keys, that do not count.
    """
    old, new = (dict(leaves(OmegaConf.to_container(c, resolve=True))) for c in (before, after))
    counted = (k for k in (old | new) if k not in allowed and not k.startswith(tuple(f"{a}." for a in allowed)))
    keys = [k for k in counted if old.get(k) != new.get(k)]
    return [f"{k}: {old.get(k)} -> {new.get(k)}" for k in keys]


def choices(group: str) -> list[str]:
    """Names of the yaml files of a group, the user's own among them; those that start with _ are parts of others."""
    folders = [folder for folder in (_CONF, own_folder()) if folder is not None]
    return sorted({p.stem for folder in folders for p in (folder / group).glob("[!_]*.yaml")})


def _refuse_twin(group: str, choice: object) -> None:
    """A user's yaml under a built-in name would be passed over by Hydra, which takes the first that it finds."""
    folder = own_folder()
    name = Path(group.split("@")[0]) / f"{choice}.yaml"
    if folder is None or not ((folder / name).is_file() and (_CONF / name).is_file()):
        return
    if (folder / name).read_bytes() != (_CONF / name).read_bytes():
        raise ValueError(
            f"{group}={choice}: there are two of them, the built-in one and conf/{name} in this folder. Rename yours; "
            f"it can still build on the built-in one, with `defaults: [{choice}, _self_]` as its first line."
        )


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{text[:300]} Settings are written key=value, e.g. algorithm=gigpo seed=1.") from error


def _check_choice(override: Override) -> None:
    group = override.key_or_group
    own = {
        "algorithm": " Your own is named algorithm.name=my_module:Mine.",
        "env": " Your own is named env.id=my_module:Maze-v0, or described in conf/env/NAME.yaml in this folder.",
        "model": " Any other model: model=hf model.path=... (folder or hub name).",
    }.get(group, "")
    for choice in _values(override):
        if choice not in choices(group) and choice != "null":
            raise ValueError(
                f"{group}={choice}: there is no such {group}.{did_you_mean(choice, choices(group))} "
                f"There are: {', '.join(choices(group))}.{own}"
            )
        _refuse_twin(group, choice)


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [str(v) for v in override.sweep_string_iterator()]
    value = override.value()
    if isinstance(value, list):
        return [str(v) for v in value]
    return ["null"] if value is None else [str(value)]


def _first(override: Override) -> str:
    """The override itself, or that of a sweep's first job."""
    line = f"{override.key_or_group}={_values(override)[0]}" if override.is_sweep_override() else override.input_line
    assert line is not None
    return line


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of a configuration."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], node


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of every node, leaves and what holds them."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
