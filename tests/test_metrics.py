"""Rollout metrics by hand."""

from __future__ import annotations

import pytest
from helpers import trajectory

from agentgrpo.metrics import rollout_metrics
from agentgrpo.types import Group, RolloutStatus, Step, Trajectory

WON = trajectory(("a", 0.0), ("b", 1.0), success=True)
LOST = trajectory(("a", 0.0), status=RolloutStatus.TURN_LIMIT)
CRASHED = trajectory(("a", 5.0), status=RolloutStatus.ENV_ERROR)


def test_crashed_episodes_count_in_their_own_share_only() -> None:
    metrics = rollout_metrics([Group((WON, LOST, CRASHED, CRASHED))])
    assert metrics["rollout/success"] == 0.5
    assert metrics["rollout/return_mean"] == 0.5
    assert metrics["rollout/turns_mean"] == 1.5
    assert metrics["rollout/env_error_share"] == 0.5
    assert metrics["rollout/turn_limit_share"] == 0.25


def test_groups_without_signal_are_told_apart() -> None:
    groups = [Group((WON, WON)), Group((LOST, LOST)), Group((WON, LOST)), Group((LOST, LOST))]
    metrics = rollout_metrics(groups)
    assert metrics["rollout/zero_variance_share"] == 0.75
    assert metrics["rollout/zero_variance_all_success_share"] == 0.25
    assert metrics["rollout/zero_variance_all_failure_share"] == 0.5
    assert metrics["rollout/zero_variance_other_share"] == 0.0


def test_what_members_have_in_common() -> None:
    # States: a three times, b twice. Actions are all "", so an episode is told by its length: one of three repeats.
    metrics = rollout_metrics([Group((WON, LOST, WON)), Group((LOST,))])
    assert metrics["rollout/visits_per_state"] == pytest.approx((3 + 2 + 1) / 3)
    assert metrics["rollout/repeated_episode_share"] == 0.25
    # Of the steps after the first, the two winners' are in a state that both visit; a state of one's own is not shared.
    assert metrics["rollout/shared_state_share"] == 1.0
    alone = trajectory(("a", 0.0), ("c", 0.0), ("c", 0.0), ("d", 0.0))
    assert rollout_metrics([Group((WON, alone))])["rollout/shared_state_share"] == 0.5
    assert rollout_metrics([Group((LOST, LOST))])["rollout/shared_state_share"] == 0.0


def test_spread_is_taken_inside_groups() -> None:
    metrics = rollout_metrics([Group((WON, WON)), Group((LOST, LOST)), Group((WON, LOST, CRASHED)), Group((CRASHED,))])
    assert metrics["rollout/return_std"] == 0.5
    assert metrics["rollout/group_return_std_mean"] == 0.5 / 4


def test_surprise_and_the_longest_episode() -> None:
    sure = Trajectory((Step("a", action_ids=(5, 2), logprobs=(-0.1, 0.0)),))
    unsure = Trajectory((Step("a", action_ids=(5,), logprobs=(-2.0,)), Step("b", action_ids=(6,), logprobs=(-1.9,))))
    led = Trajectory((Step("a", action_ids=(5, 2), num_guided=1, logprobs=(-9.0,)),))
    metrics = rollout_metrics([Group((sure, unsure, led))])
    assert metrics["rollout/surprise_mean"] == pytest.approx(4.0 / 4)  # per token, without what an expert led in
    assert metrics["rollout/turns_max"] == 2.0


def test_a_round_in_which_everything_crashed_gives_numbers() -> None:
    metrics = rollout_metrics([Group((CRASHED, CRASHED))])
    assert all(value == pytest.approx(value) for value in metrics.values())
    assert metrics["rollout/zero_variance_all_success_share"] == 0.0


def test_the_longest_episode_of_each_group() -> None:
    metrics = rollout_metrics([Group((WON, LOST)), Group((LOST, LOST))])  # of 2 and 1 turns
    assert metrics["rollout/longest_turns_mean"] == 1.5
    assert metrics["rollout/longest_turns_std"] == 0.5
