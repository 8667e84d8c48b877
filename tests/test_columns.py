"""Columns over all groups of an update, by hand."""

import math

import pytest
import torch
from helpers import trajectory

from agentgrpo import columns
from agentgrpo.types import Group, RolloutStatus, Step, Trajectory

CRASHED = trajectory(("start", 1.0), status=RolloutStatus.ENV_ERROR)
LED = Trajectory(
    (
        Step("start", 1.0, action_ids=(5, 6), num_guided=2, logprobs=(), values=()),
        Step("door", 2.0, action_ids=(5, 6, 7), num_guided=1, logprobs=(-0.5, -0.5), token_penalties=(0.25, 0.5)),
        Step("door", 4.0, action_ids=(8,), logprobs=(-0.5,)),
    )
)
"""An expert's turn, one that an expert begins, and the policy's own."""
GROUPS = [Group((trajectory(("start", 1.0), ("door", 0.0)), trajectory())), Group(()), Group((LED, CRASHED))]


def test_a_column_runs_over_all_groups() -> None:
    assert columns.owners(GROUPS).tolist() == [0, 0, 2, 2]
    assert columns.step_counts(GROUPS).tolist() == [2, 0, 3, 1]
    assert columns.token_counts(GROUPS).tolist() == [1, 1, 0, 2, 1, 1]
    assert columns.step_rewards(GROUPS).tolist() == [1.0, 0.0, 1.0, 1.25, 4.0, 1.0]


@pytest.mark.parametrize(
    "column", [columns.owners, columns.step_counts, columns.token_counts, columns.step_rewards, columns.known]
)
def test_no_groups_give_empty_columns(column: object) -> None:
    assert callable(column)
    assert column([]).tolist() == []


def test_columns_agree_with_the_properties_of_steps() -> None:
    steps = columns.all_steps(GROUPS)
    assert columns.token_counts(GROUPS).tolist() == [step.num_policy_tokens for step in steps]
    assert columns.step_rewards(GROUPS).tolist() == [step.net_reward for step in steps]
    named = Group((Trajectory((Step("text", anchor="name"), Step("text"))),))
    assert columns.states(named) == [step.state for step in columns.all_steps([named])] == ["name", "text"]


def test_a_reward_is_earned_at_the_last_token_of_its_step_and_a_penalty_at_its_own() -> None:
    # The expert's turn has no token, so its reward is nobody's; then -0.25 and 2 - 0.5.
    assert columns.token_rewards(GROUPS).tolist() == [1.0, 0.0, -0.25, 1.5, 4.0, 1.0]


def test_a_crash_or_a_missing_reward_makes_a_return_unknown() -> None:
    broken = trajectory(("start", math.nan))
    assert columns.known([Group((LED, CRASHED, broken))]).tolist() == [True, False, False]


def test_usable_members_are_counted_by_group() -> None:
    usable = torch.tensor([True, False, True, True])
    assert columns.num_usable(usable, GROUPS).tolist() == [1, 1, 2, 2]


def test_labels_of_different_rows_get_different_numbers() -> None:
    assert columns.numbered([["a", "b", "a"], [], ["b", None, "b"]]).tolist() == [0, 1, 0, 2, 3, 2]


def test_positions_start_again_in_every_run() -> None:
    assert columns.positions(torch.tensor([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]


def test_run_sums() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert columns.run_sums(values, torch.tensor([1, 0, 3])).tolist() == [1.0, 0.0, 14.0]


def test_each_trajectory_gets_its_own_run_back() -> None:
    found = columns.by_member(torch.arange(6.0), GROUPS)
    assert [[part.tolist() for part in group] for group in found] == [[[0, 1], []], [], [[2, 3, 4], [5]]]


def test_each_trajectory_gets_the_credit_of_its_tokens() -> None:
    counts = torch.tensor([2, 0, 3, 1])
    found = columns.credit_of_tokens(GROUPS, counts, torch.arange(6.0), -torch.arange(6.0))
    assert [[c.advantages.tolist() for c in group] for group in found] == [[[0, 1], []], [], [[2, 3, 4], [5]]]
    assert [c.returns.tolist() for c in found[2] if c.returns is not None] == [[-2, -3, -4], [-5]]
    assert columns.credit_of_tokens(GROUPS, counts, torch.arange(6.0))[0][0].returns is None
