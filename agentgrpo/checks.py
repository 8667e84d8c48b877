"""Range checks of settings: each error names the setting, what it was given and what is allowed."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def at_least(name: str, value: float, lowest: float) -> None:
    """Refuses a value below ``lowest``."""
    if not value >= lowest:
        raise ValueError(f"{name} must be at least {lowest:g}, got {value:g}.")


def above(name: str, value: float, bound: float) -> None:
    """Refuses a value that is not above ``bound``."""
    if not value > bound:
        raise ValueError(f"{name} must be above {bound:g}, got {value:g}.")


def within(name: str, value: float, interval: str) -> None:
    """Refuses a value outside an interval written as in mathematics: ``[0, 1)``, ``(0, 1]``."""
    low, high = (float(x) for x in interval[1:-1].split(","))
    inside_low = value >= low if interval[0] == "[" else value > low
    inside_high = value <= high if interval[-1] == "]" else value < high
    if not (inside_low and inside_high):
        raise ValueError(f"{name} must be in {interval}, got {value:g}.")


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuses a value that is not among ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.{did_you_mean(value, allowed)}")


def typed(name: str, value: object, hint: Any) -> None:
    """Refuses a value that is not of its field's type: a number, a truth value, a text, one of a few words, or null."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    allowed = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", type(None): "null"}
    plain = [o for o in options if o in allowed]
    if len(plain) < len(options):  # one of a few words, or a type of the user's own: checked where it is known
        return
    kind: type = float if type(value) is int and float in plain else type(value)
    if kind not in plain:
        raise ValueError(f"{name} must be {' or '.join(allowed[o] for o in plain)}, got {value!r}.")


def fields(group: str, owner: str, cls: type, values: Mapping[str, object], advice: str) -> None:
    """Refuses keys that are no field of a dataclass, and values of another type than their field's.

    Args:
        group: where the keys stand: ``algorithm`` or ``sampler``.
        owner: what the keys are of, as the error puts it.
        advice: what to do about an unknown key.
    """
    known = [f.name for f in dataclasses.fields(cls)]
    hints = get_type_hints(cls)
    for key, value in values.items():
        if key not in known:
            raise ValueError(
                f"{group}.{key} is no {owner}.{did_you_mean(key, known)} It has: {', '.join(known)}. {advice}"
            )
        typed(f"{group}.{key}", value, hints[key])


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` (with a leading space) or an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def of_kind(group: str, kinds: Mapping[str, type[Any]], values: Mapping[str, Any]) -> Any:
    """Builds the settings of the kind that ``<group>.kind`` names.

    Args:
        kinds: a dataclass for each kind.
    Raises:
        ValueError: an unknown kind or key, one that is missing, or a value that is not allowed.
    """
    kind = values.get("kind")
    one_of(f"{group}.kind", kind, tuple(kinds))
    cls = kinds[str(kind)]
    advice = f"A {group} is chosen with its own yaml: {group}={kind}."
    fields(group, f"setting of {group}.kind={kind}", cls, values, advice)
    missing = [field.name for field in dataclasses.fields(cls) if field.name not in values]
    if missing:
        raise ValueError(f"{group}.kind={kind} needs {', '.join(f'{group}.{key}' for key in missing)}. {advice}")
    return cls(**values)
