"""Randomness by a counter-based hash: every draw is a function of its own coordinates, never of what came before.

No stream of random numbers is consumed anywhere, so batching, resuming and the order of finished episodes cannot
change a sample, and anybody can later recompute the uniform that a token was drawn with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_GOLDEN = 0x9E3779B97F4A7C15


def derive(*coordinates: int | str) -> int:
    """A 63-bit seed from named coordinates, e.g. ``derive(seed, "noise", update, group, slot, turn)``.

    Uses BLAKE2b, not ``hash``, which differs from process to process.
    """
    text = "\x1f".join(f"{type(c).__name__}:{c}" for c in coordinates)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def uniforms(keys: Sequence[int] | npt.NDArray[np.uint64], position: int) -> npt.NDArray[np.float64]:
    """One uniform in [0, 1) per key, at the given position of its stream.

    Args:
        keys: (B,) 64-bit keys from :func:`derive`.
        position: token position within the turn, from 0.
    Source: the SplitMix64 finaliser (Steele, Lea & Flood, OOPSLA 2014) over key + position * golden ratio.
    """
    z = np.asarray(keys, dtype=np.uint64) + np.uint64((position + 1) * _GOLDEN % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.asarray((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def permutation(size: int, *coordinates: int | str) -> list[int]:
    """A permutation of ``range(size)`` that depends on the coordinates only."""
    return [int(i) for i in np.random.Generator(np.random.Philox(key=derive(*coordinates))).permutation(size)]


# Training and evaluation tasks never share a seed: they come from the two halves of the seed space.
_HALF = 2**30


def training_task_seed(seed: int, update: int, group: int) -> int:
    """Seed of a training task, in [0, 2^30)."""
    return derive(seed, "task", update, group) % _HALF


def panel_task_seed(panel: str, index: int) -> int:
    """Seed of a held-out task, in [2^30, 2^31); the same for every run, whatever the run's own seed."""
    return _HALF + derive("panel", panel, index) % _HALF
