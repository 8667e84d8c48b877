"""What must be installed in the same version on every machine of a cluster."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata

# Records, random numbers and arithmetic of these must agree; Ray looks after Python's version and its own.
_PACKAGES = ("agentgrpo", "torch", "transformers", "tokenizers")


def here() -> dict[str, str]:
    """The versions of this process."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}


def check(wanted: Mapping[str, str], host: str) -> None:
    """Refuses a machine where other versions are installed than where the run was started.

    Raises:
        ValueError: names both.
    """
    found = here()
    wrong = [f"{name} {found.get(name)} instead of {version}" for name, version in wanted.items()
             if found.get(name) != version]  # fmt: skip
    if wrong:
        raise ValueError(
            f"{host} has {', '.join(wrong)}, which is what the run was started with. Install the same versions on "
            "every machine of the cluster, for example with pip install -c constraints.txt."
        )
