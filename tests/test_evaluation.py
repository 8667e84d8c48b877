"""Panels are frozen and disjoint from training; intervals are Wilson's."""

from __future__ import annotations

import pytest

from agentgrpo.config import EnvConfig
from agentgrpo.evaluation import Evaluation, make_panel
from agentgrpo.seeding import training_task_seed

GUESS = EnvConfig("number_guess", "agentgrpo/NumberGuess-v0", {"low": 1, "high": 8})


def test_panel_is_the_same_every_time() -> None:
    one, other = make_panel({"guess": GUESS}, 16), make_panel({"guess": GUESS}, 16)
    assert one == other


def test_a_larger_panel_starts_with_the_smaller_one() -> None:
    small, large = make_panel({"guess": GUESS}, 4), make_panel({"guess": GUESS}, 8)
    assert large.tasks[:4] == small.tasks
    assert large.hash != small.hash


def test_other_arguments_are_another_panel() -> None:
    other = EnvConfig("number_guess", "agentgrpo/NumberGuess-v0", {"low": 1, "high": 9})
    assert make_panel({"guess": GUESS}, 4).hash != make_panel({"guess": other}, 4).hash


def test_training_never_draws_a_panel_task() -> None:
    panel = {task.seed for task in make_panel({"guess": GUESS}, 64).tasks}
    assert not panel & {training_task_seed(s, u, g) for s in range(3) for u in range(-2, 50) for g in range(8)}


def test_interval_is_wilsons() -> None:
    # 8 of 10: centre (0.8 + z^2/20) / (1 + z^2/10) = 0.7168, half width 0.2266 with z = 1.96.
    result = Evaluation((True,) * 8 + (False,) * 2, 0.8, 3.0, ())
    assert result.success == pytest.approx(0.8)
    assert result.interval == pytest.approx((0.4902, 0.9433), abs=1e-3)
