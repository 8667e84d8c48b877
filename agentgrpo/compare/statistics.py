"""Interquartile means, bootstrap intervals, paired differences: plain functions on arrays.

S seeds, T tasks, R resamples of a bootstrap. Resampling uses fixed random numbers: the same runs give the same table.
Source of the interquartile mean, the stratified bootstrap and the probability of improvement: Agarwal et al.,
arXiv:2108.13264; of resampling rows and columns: Owen, "The pigeonhole bootstrap", arXiv:0712.1111.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import trim_mean

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval; without one where there is nothing to resample."""

    value: float
    low: float | None = None
    high: float | None = None


def iqm(values: Array, axis: int = 0) -> Array:
    """Mean of the middle half: of n values, floor(n / 4) are left out at either end. Below four, the mean."""
    return np.asarray(trim_mean(values, 0.25, axis=axis), dtype=np.float64)


def interval(replicates: Array) -> tuple[Array, Array]:
    """95% percentile interval along the first axis."""
    low, high = np.percentile(replicates, [2.5, 97.5], axis=0)
    return low, high


def over_seeds(strata: Sequence[Array], resamples: int) -> Estimate:
    """Interquartile mean of all scores; every stratum's scores are drawn anew among themselves.

    Args:
        strata: an array of S scores per environment.
    Returns:
        without an interval if no stratum has a second seed.
    """
    value = float(iqm(np.concatenate(strata)))
    if all(len(s) < 2 for s in strata):
        return Estimate(value)
    drawn = [s[_drawn(len(s), resamples, i)] for i, s in enumerate(strata)]  # (R, S) each
    low, high = interval(iqm(np.concatenate(drawn, axis=1), axis=1))
    return Estimate(value, float(low), float(high))


def curve(scores: Array, resamples: int) -> tuple[Array, Array, Array]:
    """Interquartile mean over seeds with its interval, at each of E evaluations.

    Args:
        scores: (S, E).
    Returns:
        three (E,): value, low, high; the latter two equal the first for a single seed.
    """
    low, high = interval(iqm(scores[_drawn(len(scores), resamples)], axis=1))
    return iqm(scores), low, high


def over_both(matrix: Array, resamples: int, stream: int = 0) -> Array:
    """(R,) means of the matrix with its rows and its columns drawn anew, independently of each other.

    Seeds and tasks (or the runs of one variant and those of another) are crossed: all entries of a row share its seed,
    all entries of a column its task, so neither can be drawn entry by entry.

    Args:
        stream: matrices of different environments are drawn from with different numbers.
    """
    rows, columns = (_counts(n, resamples, 2 * stream + axis) for axis, n in enumerate(matrix.shape))
    return np.asarray(np.einsum("rt,rt->r", rows @ matrix, columns) / matrix.size, dtype=np.float64)


def estimate(value: float, replicates: Array) -> Estimate:
    """A figure with the interval of its replicates."""
    low, high = interval(replicates)
    return Estimate(value, float(low), float(high))


def wins(ours: Array, theirs: Array) -> Array:
    """(S, S') 1 where a run of ours has the higher score, 0.5 where they are equal. The mean is P(ours > theirs)."""
    return np.where(ours[:, None] == theirs, 0.5, (ours[:, None] > theirs).astype(np.float64))


def first_at(success: Array, episodes: Array, target: float) -> float:
    """Episodes at the first of E evaluations that reaches the target; infinite if none does."""
    reached = np.flatnonzero(success >= target)
    return float(episodes[reached[0]]) if len(reached) else float("inf")


def median(values: Sequence[float]) -> float:
    """Median, in which infinity stands for "later than was looked"; between a number and infinity it is infinite."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    low, high = ordered[middle - 1], ordered[middle]
    return low if low == high else (low + high) / 2


def held_out_pick(by_rate: Mapping[float, Array]) -> Array | None:
    """What a learning rate earns that is picked without looking at what it is judged on.

    For every seed and either half of the tasks (even and odd places of the panel), the rate is the one with the highest
    interquartile mean over the other seeds, on the other half.

    Args:
        by_rate: rate -> (S, T) success; the same seeds in the same order.
    Returns:
        (S,) success of every seed; None with fewer than two rates or two seeds, where nothing can be held out.
    """
    scores = np.stack(list(by_rate.values())) if by_rate else np.zeros((0, 0, 0))  # (rates, S, T)
    if scores.shape[0] < 2 or scores.shape[1] < 2 or scores.shape[2] < 2:
        return None
    halves = np.stack([scores[:, :, 0::2].mean(axis=2), scores[:, :, 1::2].mean(axis=2)])  # (2, rates, S)
    sizes = np.array([scores[0, 0, 0::2].size, scores[0, 0, 1::2].size])
    others = np.stack([iqm(np.delete(halves, s, axis=2), axis=2) for s in range(scores.shape[1])], axis=2)
    picked = others[::-1].argmax(axis=1)  # (2, S): by the other half
    own = np.take_along_axis(halves, picked[:, None, :], axis=1)[:, 0]  # (2, S)
    return np.asarray((own * sizes[:, None]).sum(axis=0) / sizes.sum(), dtype=np.float64)


def _drawn(n: int, resamples: int, stream: int = 0) -> npt.NDArray[np.int64]:
    return np.random.default_rng([n, stream]).integers(n, size=(resamples, n))


@functools.lru_cache(maxsize=8)
def _counts(n: int, resamples: int, stream: int) -> Array:
    """(R, n) how often each was drawn."""
    rng = np.random.default_rng([n, stream])
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
