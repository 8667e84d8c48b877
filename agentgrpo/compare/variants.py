"""What makes a variant: the algorithm, and the settings that runs of one environment differ in."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from agentgrpo.compare.reading import Run, passing

_NO_VARIANT = ("seed", "optim.lr", "env.name", "algorithm.name")


def name_variants(runs: Sequence[Run], ignore: Sequence[str] = ()) -> list[str]:
    """The variant of each run: ``gigpo``, or ``gigpo, gamma=0.9, group_size=4`` where those keys tell runs apart.

    A key counts if runs of one environment differ in it; a key of the algorithm, if runs of one environment and one
    algorithm do. Of keys of one group (``model``) that always change together, the first stands for all.
    """
    keys = _distinguishing(runs, ignore)
    names = []
    for run in runs:
        shown = [k for k in keys if k in keys[k] or run.algorithm in keys[k]]
        names.append(", ".join([run.algorithm, *(f"{_short(k)}={_value(run, k)}" for k in shown)]))
    return names


def _distinguishing(runs: Sequence[Run], ignore: Sequence[str]) -> dict[str, set[str]]:
    """Keys that tell variants apart, with the algorithms whose runs they do so for; the key itself stands for all."""
    found: dict[str, set[str]] = defaultdict(set)
    for key in dict.fromkeys(k for run in runs for k in run.config):
        if key in _NO_VARIANT or key in ignore or passing(key):
            continue
        own = key.startswith("algorithm.")
        values: dict[tuple[str, str], set[str]] = defaultdict(set)
        for run in runs:
            values[run.env, run.algorithm if own else key].add(_value(run, key))
        found[key] |= {owner for (_, owner), seen in values.items() if len(seen) > 1}
    seen_splits = set()
    out = {}
    for key, owners in found.items():
        values_of = [_value(run, key) for run in runs]
        split = (key.split(".")[0], tuple(values_of.index(v) for v in values_of), frozenset(owners - {key}))
        if owners and split not in seen_splits:
            seen_splits.add(split)
            out[key] = owners
    return out


def _value(run: Run, key: str) -> str:
    """A setting as text; the run's own seed in it, as in the path of a start made for each seed, stands for any."""
    return re.sub(rf"\bseed([=_-]?){run.seed}\b", r"seed\1*", run.config.get(key, "null"))


def _short(key: str) -> str:
    return key.removeprefix("algorithm.")


def distinct(names: Iterable[str]) -> list[str]:
    """Each name once: grpo first, since it is what others are compared with, then in the order of the alphabet."""
    return sorted(set(names), key=lambda name: (name.split(",")[0] != "grpo", name))
