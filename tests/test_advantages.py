"""Standardising and discounting, by hand."""

import dataclasses
import math

import pytest
import torch
from helpers import trajectory

from agentgrpo.advantages import bilevel_gae, gae, returns, returns_to_go, standardize, standardize_groups, whiten_known
from agentgrpo.types import Group, RolloutStatus, Trajectory

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
    assert out.tolist() == pytest.approx([-2 / math.sqrt(8), 0.0, 2 / math.sqrt(8)], abs=1e-15)
    assert out[1] == 0.0


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


def test_values_are_compared_with_those_of_equal_key() -> None:
    keys, values = torch.tensor([3, 0, 3, -1, 0, 1]), torch.tensor([1.0, 5.0, 3.0, 9.0, NAN, 7.0])
    # Key 3: 1 and 3, mean 2. Key 0 has one value that is known, key 1 one, and -1 is no key.
    assert standardize_groups(keys, values, scale=False).tolist() == [-1.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def test_statistics_may_be_taken_over_a_pool() -> None:
    pool = (torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 4.0, 2.0, 2.0]))
    found = standardize_groups(torch.tensor([0, 1, 2]), torch.tensor([1.0, 5.0, 5.0]), scale=False, pool=pool)
    # 1 against a mean of 2; 5 against a pool without spread; key 2 has no pool.
    assert found.tolist() == [-1.0, 3.0, 0.0]


def test_no_values_give_none() -> None:
    nothing = torch.zeros(0)
    assert standardize_groups(nothing.long(), nothing).tolist() == []


def test_whitening_leaves_out_tokens_of_unknown_return() -> None:
    crashed = trajectory(("start", 1.0), status=RolloutStatus.ENV_ERROR)
    groups = [Group((trajectory(("start", 1.0)), crashed)), Group((trajectory(("start", 1.0)),))]
    found = whiten_known(torch.tensor([1.0, 1.0, NAN, 4.0]).double(), torch.tensor([2, 1, 1]), groups)
    # 1, 1, 4: mean 2, variance (1 + 1 + 4) / 2 = 3.
    expected = torch.tensor([-1.0, -1.0, 0.0, 2.0]).double() / 3**0.5
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)


def test_returns_to_go_by_hand() -> None:
    # 4; 2 + 0.5 * 4 = 4; 1 + 0.5 * 4 = 3.
    assert returns_to_go([1.0, 2.0, 4.0], 0.5) == [3.0, 4.0, 4.0]


def test_returns_to_go_of_no_rewards() -> None:
    assert returns_to_go([], 0.9) == []


def test_returns_to_go_end_with_their_episode() -> None:
    # As above, an episode without steps, and 8 alone; what one is not does not reach the others.
    assert returns_to_go([1.0, 2.0, 4.0, 8.0], 0.5, [3, 0, 1]) == [3.0, 4.0, 4.0, 8.0]
    assert returns_to_go([1.0, NAN, 2.0], 1.0, [1, 1, 1])[::2] == [1.0, 2.0]


def test_gae_ends_with_its_episode() -> None:
    # First episode: 3 - 1 = 2 at the end, 1 + 0.5 * 1 - 2 = -0.5 before it, plus 0.5 * 0.5 * 2. Second: 4 - 3.
    assert gae([1.0, 3.0, 4.0], [2.0, 1.0, 3.0], 0.5, 0.5, [2, 1]) == [0.0, 2.0, 1.0]


def test_bilevel_gae_of_two_episodes() -> None:
    rewards, values = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 1.0, 1.0])
    found = bilevel_gae(
        rewards.double(), values.double(), torch.tensor([2, 1, 1]), torch.tensor([2, 1]), (1.0, 0.5), (0.5, 1.0)
    )
    # Turns earn 1, 2 | 3 with values 1, 1 | 1 at their ends: 2 - 1 = 1, then 1 + 0.5 * 1 - 1 + 0.5 * 1 = 1; and 2.
    # Inside the first: its end is worth 1 + 1, so 2 - 1 = 1; its first token 1 - 0.5 + 0.5 * 1.
    assert found == [1.0, 1.0, 1.0, 2.0]


def test_undiscounted_returns_to_go_start_with_the_episode_return() -> None:
    rewards = [0.25, -1.0, 2.0]
    assert returns_to_go(rewards, 1.0)[0] == sum(rewards)


def test_returns_of_a_group_are_nan_where_the_environment_crashed() -> None:
    crashed = trajectory(("start", 1.0), status=RolloutStatus.ENV_TIMEOUT)
    truncated = trajectory(("start", 1.0), ("door", 2.0), status=RolloutStatus.TURN_LIMIT)
    out = returns(Group((truncated, crashed)))
    assert out[0] == 3.0
    assert out[1].isnan()


def test_returns_of_several_groups_less_penalties() -> None:
    (step,) = trajectory(("start", 1.0), tokens=2).steps
    penalised = Trajectory((dataclasses.replace(step, token_penalties=(0.25, 0.5)), step))
    assert returns(Group((penalised,)), Group(()), Group((trajectory(("start", 3.0)),))).tolist() == [1.25, 3.0]
