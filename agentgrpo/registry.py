"""Name -> class, with errors that say what to do next."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TypeVar

from agentgrpo.algorithm import Algorithm
from agentgrpo.checks import did_you_mean

A = TypeVar("A", bound=type[Algorithm])

_ALGORITHMS: dict[str, type[Algorithm]] = {}


def register_algorithm(name: str) -> Callable[[A], A]:
    """Class decorator: makes an algorithm selectable as ``algorithm.name=<name>``."""

    def add(cls: A) -> A:
        known = _ALGORITHMS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"Algorithm {name!r} is registered already, by {known.__module__}.{known.__qualname__}.")
        _ALGORITHMS[name] = cls
        return cls

    return add


def algorithm_names() -> list[str]:
    """Registered names, sorted."""
    importlib.import_module("agentgrpo.algorithms")
    return sorted(_ALGORITHMS)


def algorithm_class(name: str) -> type[Algorithm]:
    """The class registered under ``name``, or the attribute that ``module:name`` names.

    Raises:
        ValueError: no such algorithm, module or attribute; or the attribute is not an :class:`Algorithm`.
    """
    if ":" in name:
        return _imported(name)
    if name not in algorithm_names():
        raise ValueError(
            f"Algorithm {name!r} is not registered.{did_you_mean(name, _ALGORITHMS)} "
            f"Registered: {', '.join(algorithm_names())}. "
            "Your own algorithm is named 'module:name', e.g. algorithm.name=my_module:Mine."
        )
    return _ALGORITHMS[name]


def _imported(name: str) -> type[Algorithm]:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Algorithm {name!r}: cannot import module {module_name!r} ({error}). "
            "Run from the folder that holds it, or put that folder on PYTHONPATH."
        ) from error
    # A registered name in that module serves as well as the class's own: both stand in the user's file.
    found = getattr(module, attribute, None)
    registered = _ALGORITHMS.get(attribute)
    if found is None and registered is not None and registered.__module__ == module.__name__:
        found = registered
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, Algorithm)]
        raise ValueError(
            f"Algorithm {name!r}: module {module_name!r} has no algorithm class {attribute!r}."
            f"{did_you_mean(attribute, classes)} Algorithms there: {', '.join(sorted(classes)) or 'none'}."
        )
    return found
