"""Standardising and discounting, by hand."""

import math

import pytest
import torch
from helpers import trajectory

from agentgrpo.advantages import returns, returns_to_go, standardize
from agentgrpo.types import Group, RolloutStatus

NAN = float("nan")


def test_standardize_uses_the_sample_standard_deviation() -> None:
    # mean 2, squares 1 + 0 + 1 over 3 - 1: std 1.
    out = standardize(torch.tensor([1.0, 2.0, 3.0]), eps=0.0)
    assert out.tolist() == [-1.0, 0.0, 1.0]


def test_eps_is_added_to_the_standard_deviation() -> None:
    assert standardize(torch.tensor([1.0, 2.0, 3.0]), eps=1.0).tolist() == [-0.5, 0.0, 0.5]


def test_scale_false_only_centres() -> None:
    assert standardize(torch.tensor([0.0, 4.0]), scale=False).tolist() == [-2.0, 2.0]


def test_result_is_float64() -> None:
    assert standardize(torch.tensor([0, 1])).dtype == torch.float64


def test_missing_values_get_zero_and_leave_the_statistics() -> None:
    # Of 0 and 4: mean 2, std sqrt(8).
    out = standardize(torch.tensor([0.0, NAN, 4.0]), eps=0.0)
    assert out.tolist() == [-2 / math.sqrt(8), 0.0, 2 / math.sqrt(8)]


@pytest.mark.parametrize("values", [[], [3.0], [NAN], [NAN, 3.0], [NAN, NAN], [0.1, 0.1, 0.1]])
def test_without_a_comparison_there_is_no_signal(values: list[float]) -> None:
    assert standardize(torch.tensor(values), eps=0.0).tolist() == [0.0] * len(values)


def test_equal_values_that_no_binary_mean_hits_exactly_give_exact_zeros() -> None:
    # 0.1 summed seven times and divided by 7 is not 0.1: the rest over a tiny eps would look like a signal.
    assert standardize(torch.full((7,), 0.1, dtype=torch.float64), eps=1e-20).tolist() == [0.0] * 7


def test_the_input_is_not_changed() -> None:
    values = torch.tensor([0.0, NAN, 4.0], dtype=torch.float64)
    standardize(values)
    assert values[0] == 0.0
    assert values[1].isnan()


def test_returns_to_go_by_hand() -> None:
    # 4; 2 + 0.5 * 4 = 4; 1 + 0.5 * 4 = 3.
    assert returns_to_go([1.0, 2.0, 4.0], 0.5) == [3.0, 4.0, 4.0]


def test_returns_to_go_of_no_rewards() -> None:
    assert returns_to_go([], 0.9) == []


def test_undiscounted_returns_to_go_start_with_the_episode_return() -> None:
    rewards = [0.25, -1.0, 2.0]
    assert returns_to_go(rewards, 1.0)[0] == sum(rewards)


def test_returns_of_a_group_are_nan_where_the_environment_crashed() -> None:
    crashed = trajectory(("start", 1.0), status=RolloutStatus.ENV_TIMEOUT)
    truncated = trajectory(("start", 1.0), ("door", 2.0), status=RolloutStatus.TURN_LIMIT)
    out = returns(Group((truncated, crashed)))
    assert out[0] == 3.0
    assert out[1].isnan()
