"""Composing configurations through Hydra, with errors that name the key and suggest the right one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from agentgrpo.registry import did_you_mean
from agentgrpo.run_folder import RunFolder

CONFIG_MODULE = "agentgrpo.conf"
GROUPS = ("env", "algorithm", "model", "sampler", "experiment")
_CONF = Path(__file__).resolve().parent / "conf"

# my_module:Maze-v0 -> Maze
OmegaConf.register_new_resolver("short_name", lambda id: re.sub(r"-v\d+$", "", re.split(r"[:/]", id)[-1]), replace=True)


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
    selections = [o for o in parsed if o.key_or_group in GROUPS]
    for override in selections:
        _check_choice(override)
    # Keys below a group differ with the choice, so they are looked up in what was chosen (in a sweep, first).
    chosen = _compose(name, [f"{o.key_or_group}={_values(o)[0]}" for o in selections])
    keys = list(_keys(OmegaConf.to_container(chosen)))
    for override in parsed:
        key = override.key_or_group
        if key not in keys and key not in GROUPS and not override.is_add() and key.split(".")[0] != "hydra":
            raise ValueError(
                f"{key!r} is not a setting.{did_you_mean(key, keys)} `python -m agentgrpo train --cfg job` prints all "
                f"of them; a key that only your own environment or algorithm knows is added with +{key}=..."
            )


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            return compose(name, list(overrides))
    except HydraException as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ValueError(f"{str(error).splitlines()[0]}{cause}") from error


def complete(overrides: Sequence[str]) -> list[str]:
    """Adds ``env=custom`` where ``env.id`` names an environment of the user's own.

    Otherwise it would be made with the arguments and the instructions of the default environment.
    """
    keys = {o.key_or_group for o in _parse(overrides)}
    return ["env=custom", *overrides] if "env.id" in keys and "env" not in keys else list(overrides)


def config_for_run(name: str, overrides: Sequence[str]) -> tuple[DictConfig, DictConfig | None]:
    """The configuration to use with an existing run: the run's own, with the given overrides on top.

    Returns:
        the configuration, and the run's own as it was saved (None when ``run_dir`` names no run).
    """
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


def differences(before: DictConfig, after: DictConfig, allowed: Sequence[str] = ()) -> list[str]:
    """``key: old -> new`` for every key that two configurations disagree on."""
    old, new = (dict(_flat(OmegaConf.to_container(c, resolve=True))) for c in (before, after))
    keys = [k for k in (old | new) if old.get(k) != new.get(k) and k not in allowed]
    return [f"{k}: {old.get(k)} -> {new.get(k)}" for k in keys]


def choices(group: str) -> list[str]:
    """Names of the yaml files of a group."""
    return sorted(p.stem for p in (_CONF / group).glob("*.yaml"))


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
        "env": " Your own is named env.id=my_module:Maze-v0.",
        "model": " Any other model: model=hf model.path=... (folder or hub name).",
    }.get(group, "")
    for choice in _values(override):
        if choice not in choices(group) and choice != "null":
            raise ValueError(
                f"{group}={choice}: there is no such {group}.{did_you_mean(choice, choices(group))} "
                f"There are: {', '.join(choices(group))}.{own}"
            )


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [str(v) for v in override.sweep_string_iterator()]
    return [str(override.value())] if override.value() is not None else ["null"]


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], node


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of every node, leaves and what holds them."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
