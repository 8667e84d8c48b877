"""Value iteration on a corridor of three states, by hand."""

import numpy as np
import pytest

from agentgrpo.envs.value_iteration import PATIENCE, SuccessValues, Transitions

# 0 - 1 - 2: action 0 walks right for sure; action 1 jumps two ahead with chance 1/2, or falls out of the game.
# From 2 both actions win. State 3 cannot be reached.
WALK = {0: [(1.0, 1, 0.0, False)], 1: [(0.5, 2, 0.0, False), (0.5, 0, -1.0, True)]}
CORRIDOR: Transitions = {
    0: WALK,
    1: {0: [(1.0, 2, 0.0, False)], 1: [(1.0, 1, 0.0, False)]},
    2: {0: [(1.0, 2, 1.0, True)], 1: [(1.0, 2, 1.0, True)]},
    3: {0: [(1.0, 3, 0.0, False)], 1: [(1.0, 3, 0.0, False)]},
}


@pytest.fixture
def values() -> SuccessValues:
    return SuccessValues(CORRIDOR, lambda reward: reward > 0, max_turns=10)


def test_chances_depend_on_the_turns_left(values: SuccessValues) -> None:
    assert [values.chance(2, turns) for turns in (0, 1, 9)] == [0.0, 1.0, 1.0]
    assert values.chance(1, 1) == 0.0
    assert values.chance(0, 2) == pytest.approx(0.5 * PATIENCE)  # only the jump is fast enough
    assert values.chance(0, 3) == pytest.approx(PATIENCE**2)  # walking is sure
    assert values.chance(3, 10) == 0.0


def test_plans_take_the_risk_only_where_time_is_short(values: SuccessValues) -> None:
    assert values.plan(0, 3) == [0, 0, 0]
    assert values.plan(0, 10) == [0, 0, 0]
    assert values.plan(0, 2) == [1, 0]
    assert values.plan(0, 1) == []
    assert values.plan(3, 10) == []


def test_winnable_states_are_reachable_and_can_be_won(values: SuccessValues) -> None:
    assert values.winnable(np.array([1.0, 0.0, 0.0, 0.0])) == [0, 1, 2]
    assert values.winnable(np.array([0.0, 1.0, 0.0, 0.0])) == [1, 2]


def test_what_never_happens_is_no_way() -> None:
    table: Transitions = {0: {0: [(0.0, 0, 1.0, True), (1.0, 0, 0.0, False)]}}
    values = SuccessValues(table, lambda reward: reward > 0, max_turns=5)
    assert values.chance(0, 5) == 0.0
    assert values.plan(0, 5) == []
