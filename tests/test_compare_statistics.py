"""The statistics of ``compare``: numbers worked by hand, and slow references."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import bootstrap, mannwhitneyu, trim_mean

from agentgrpo.compare import statistics
from agentgrpo.compare.statistics import Estimate

MANY = 20_000


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2, 0.4, 0.9], 0.5),  # below four, nothing is left out
        ([0.0, 0.4, 0.6, 1.0], 0.5),
        ([0.0, 0.1, 0.2, 0.3, 1.0], 0.2),
        ([0.0, 0.0, 0.1, 0.3, 0.5, 0.7, 1.0, 1.0], 0.4),  # two at either end
    ],
)
def test_interquartile_mean(values: list[float], expected: float) -> None:
    assert statistics.iqm(np.array(values)) == pytest.approx(expected)
    assert statistics.iqm(np.array(values[::-1])) == pytest.approx(expected)


def test_interval_over_seeds_is_that_of_all_resamples() -> None:
    scores = np.array([0.1, 0.5, 0.6, 0.7, 0.9])
    every = [trim_mean(drawn, 0.25) for drawn in itertools.product(scores, repeat=5)]  # 3,125 of them
    found = statistics.over_seeds([scores], MANY)
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(every, [2.5, 97.5])), abs=0.015)


def test_interval_over_seeds_agrees_with_scipy() -> None:
    scores = np.random.default_rng(0).random(12)
    theirs = bootstrap(
        (scores,), lambda x, axis: trim_mean(x, 0.25, axis=axis), n_resamples=MANY, method="percentile", rng=1
    ).confidence_interval
    found = statistics.over_seeds([scores], MANY)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_every_environment_is_drawn_anew_by_itself() -> None:
    # Seeds agree within each environment, so however they are drawn nothing changes; drawn from one bag, they would.
    found = statistics.over_seeds([np.array([0.2, 0.2]), np.array([0.8, 0.8])], 1000)
    assert found == Estimate(0.5, 0.5, 0.5)


def test_strata_against_a_loop() -> None:
    strata = [np.array([0.0, 0.2, 0.5]), np.array([0.4, 0.9, 1.0])]
    rng = np.random.default_rng(3)
    loop = [trim_mean(np.concatenate([rng.choice(s, len(s)) for s in strata]), 0.25) for _ in range(5000)]
    found = statistics.over_seeds(strata, MANY)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(loop, [2.5, 97.5])), abs=0.02)


def test_one_seed_has_no_interval_over_seeds() -> None:
    assert statistics.over_seeds([np.array([0.7])], 1000) == Estimate(0.7)
    assert statistics.over_seeds([np.array([0.7]), np.array([0.1, 0.3])], 1000).low is not None


def test_curves_hold_the_estimate_of_each_evaluation() -> None:
    scores = np.array([[0.0, 0.5], [0.2, 0.6], [0.1, 1.0], [0.4, 0.9]])
    value, low, high = statistics.curve(scores, MANY)
    for e in range(2):
        alone = statistics.over_seeds([scores[:, e]], MANY)
        assert (value[e], low[e], high[e]) == (alone.value, alone.low, alone.high)


def test_seeds_and_tasks_against_a_loop() -> None:
    matrix = np.random.default_rng(0).random((3, 7))
    rng = np.random.default_rng(1)
    loop = [matrix[rng.integers(3, size=3)][:, rng.integers(7, size=7)].mean() for _ in range(MANY)]
    found = statistics.over_both(matrix, MANY)
    np.testing.assert_allclose(np.percentile(found, [2.5, 50, 97.5]), np.percentile(loop, [2.5, 50, 97.5]), atol=0.01)


def test_seeds_and_tasks_where_all_is_known() -> None:
    # Two seeds that differ by 1 on every task: the mean is that of two coin tosses, whatever the tasks.
    found = statistics.over_both(np.array([[0.0] * 5, [1.0] * 5]), MANY)
    values, counts = np.unique(found, return_counts=True)
    np.testing.assert_allclose(values, [0, 0.5, 1])
    np.testing.assert_allclose(counts / MANY, [0.25, 0.5, 0.25], atol=0.02)
    # With one seed, tasks alone are left: 40 equal ones have no spread.
    assert np.ptp(statistics.over_both(np.full((1, 40), 0.25), 1000)) == pytest.approx(0)


def test_environments_are_drawn_from_with_different_numbers() -> None:
    matrix = np.random.default_rng(0).random((4, 30))
    first, second = (statistics.over_both(matrix, 5000, stream) for stream in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_probability_of_improvement() -> None:
    ours, theirs = np.array([0.9, 0.5]), np.array([0.5, 0.1, 0.7])
    # 0.9 beats all three; 0.5 ties, wins, loses: 4.5 of 6.
    assert statistics.wins(ours, theirs).mean() == pytest.approx(4.5 / 6)
    assert statistics.wins(ours, theirs).mean() == pytest.approx(mannwhitneyu(ours, theirs).statistic / 6)
    assert statistics.wins(theirs, ours).mean() == pytest.approx(1.5 / 6)


def test_episodes_to_a_target() -> None:
    episodes = np.array([0.0, 64.0, 128.0])
    assert statistics.first_at(np.array([0.1, 0.8, 0.5]), episodes, 0.8) == 64
    assert statistics.first_at(np.array([0.9, 0.8, 0.5]), episodes, 0.8) == 0
    assert statistics.first_at(np.array([0.1, 0.2, 0.5]), episodes, 0.8) == math.inf


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 1, math.inf], 3),
        ([1, math.inf, math.inf], math.inf),
        ([1, 3], 2),
        ([1, math.inf], math.inf),  # the middle lies between a number and something later than was looked
        ([1, 2, 4, math.inf], 3),
    ],
)
def test_medians_count_seeds_that_never_got_there(values: list[float], expected: float) -> None:
    assert statistics.median(values) == expected


def test_held_out_pick_by_hand() -> None:
    # One task per half. Seed 0, task 0 is judged at the rate that did best on seed 1, task 1, and so on.
    slow = np.array([[0.5, 0.5], [0.5, 0.5]])
    fast = np.array([[1.0, 0.0], [1.0, 0.0]])
    # By task 1, slow is better: task 0 gives 0.5. By task 0, fast is: task 1 gives 0. Both seeds: (0.5 + 0) / 2.
    found = statistics.held_out_pick({1e-4: slow, 1e-3: fast})
    assert found is not None
    np.testing.assert_allclose(found, [0.25, 0.25])


def test_held_out_pick_is_not_flattered_by_luck() -> None:
    # Rates that are all alike: each one's success is 0.5. The best of ten by its own figures looks better than that.
    picked, honest = [], []
    for seed in range(300):
        scores = np.random.default_rng(seed).random((10, 4, 6)).round()
        picked.append(scores.mean(axis=(1, 2)).max())
        found = statistics.held_out_pick(dict(enumerate(scores)))
        assert found is not None
        honest.append(found.mean())
    assert np.mean(picked) > 0.6
    assert np.mean(honest) == pytest.approx(0.5, abs=0.02)


def test_held_out_pick_needs_something_to_hold_out() -> None:
    scores = np.ones((2, 4))
    assert statistics.held_out_pick({1e-3: scores}) is None
    assert statistics.held_out_pick({1e-3: scores[:1], 1e-4: scores[:1]}) is None
    assert statistics.held_out_pick({1e-3: scores[:, :1], 1e-4: scores[:, :1]}) is None
