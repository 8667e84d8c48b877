"""What every registered algorithm owes its callers, and what single ones promise."""

import dataclasses
import importlib.resources
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import default_algorithm, loss_batch, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agentgrpo.algorithm import Algorithm, RunFacts
from agentgrpo.algorithms.cispo import CISPO
from agentgrpo.algorithms.gigpo import GiGPO
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.algorithms.gspo import GSPO
from agentgrpo.algorithms.guided import Guided
from agentgrpo.algorithms.hgpo import HGPO
from agentgrpo.algorithms.mt_grpo import MTGRPO
from agentgrpo.algorithms.ngrpo import NGRPO
from agentgrpo.algorithms.ppo import PPO
from agentgrpo.algorithms.reinforce_pp import ReinforcePP
from agentgrpo.annotation import worth
from agentgrpo.losses import AGGREGATIONS
from agentgrpo.registry import algorithm_class, algorithm_names
from agentgrpo.types import Batch, Denominators, Group, RolloutStatus, Step, Trajectory

CONF = importlib.resources.files("agentgrpo.conf") / "algorithm"
YAMLS = sorted(f.name.removesuffix(".yaml") for f in CONF.iterdir() if f.name.endswith(".yaml") and f.name[0] != "_")
YAMLS.remove("custom")

NAMES = algorithm_names()
every_algorithm = pytest.mark.parametrize("algorithm", [default_algorithm(n) for n in NAMES], ids=NAMES)
few = settings(max_examples=12, deadline=None)

HIGHEST = 50.0
"""Above any return that is drawn here."""
NOT_OF_GROUPS = (PPO, ReinforcePP)
"""Statistics of a critic or of the whole batch: what holds for groups does not hold for them."""

rewards = st.floats(-10, 10).map(lambda x: round(x, 3))
steps = st.lists(st.tuples(st.sampled_from(["start", "door", "wall"]), rewards), min_size=1, max_size=4)
statuses = st.sampled_from([RolloutStatus.TERMINATED, RolloutStatus.TURN_LIMIT, RolloutStatus.ENV_ERROR])
members = st.builds(
    lambda s, status, success, tokens: trajectory(*s, status=status, success=success, tokens=tokens),
    steps,
    statuses,
    st.booleans(),
    st.integers(1, 3),
)
groups = st.lists(members, min_size=1, max_size=6).map(lambda m: Group(tuple(m), max_return=HIGHEST))


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: Sequence[Tensor], expected: Sequence[Tensor], atol: float = 1e-9) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, atol=atol, rtol=0)


def credit(algorithm: Algorithm, group: Group) -> list[Tensor]:
    """(A_i,) advantages of the policy tokens of each trajectory."""
    return [c.advantages for c in algorithm.credit([group])[0]]


def one_group(*members: Trajectory) -> Group:
    return Group(members, max_return=HIGHEST)


# --- credit of every algorithm ----------------------------------------------------------------------------------------


@every_algorithm
@given(group=groups)
@few
def test_one_finite_advantage_per_policy_token(algorithm: Algorithm, group: Group) -> None:
    found = credit(algorithm, group)
    assert [tuple(a.shape) for a in found] == [(t.num_policy_tokens,) for t in group]
    assert all(a.isfinite().all() and a.dtype == torch.float64 for a in found)


@every_algorithm
@given(data=st.data())
@few
def test_permuting_the_members_permutes_the_advantages(algorithm: Algorithm, data: st.DataObject) -> None:
    group = data.draw(groups)
    order = data.draw(st.permutations(range(len(group))))
    before = credit(algorithm, group)
    after = credit(algorithm, one_group(*(group.trajectories[i] for i in order)))
    # Sums are taken in another order: their rounding, divided by a std of a thousandth at least.
    close(after, [before[i] for i in order], atol=1e-7)


@every_algorithm
@given(reward=rewards, size=st.integers(2, 6))
@few
def test_equal_episodes(algorithm: Algorithm, reward: float, size: int) -> None:
    group = one_group(*(trajectory(("start", reward), ("door", reward)) for _ in range(size)))
    found = credit(algorithm, group)
    if isinstance(algorithm, NGRPO):  # all below the highest return: all alike, and pushed away from
        assert all((a < 0).all() and torch.equal(a, found[0]) for a in found)
    elif isinstance(algorithm, NOT_OF_GROUPS):
        assert all(torch.equal(a, found[0]) for a in found)
    else:
        assert [a.tolist() for a in found] == [[0.0, 0.0]] * size


@every_algorithm
def test_a_group_of_one_gives_zero(algorithm: Algorithm) -> None:
    if isinstance(algorithm, NOT_OF_GROUPS):
        assert algorithm.min_group_size == 1
        return
    (found,) = credit(algorithm, one_group(trajectory(("start", 0.0), ("door", 5.0))))
    assert found.tolist() == [0.0, 0.0]


@every_algorithm
@given(group=groups)
@few
def test_members_of_unknown_return_get_zero_or_no_gradient(algorithm: Algorithm, group: Group) -> None:
    for found, member in zip(credit(algorithm, group), group, strict=True):
        if not member.has_return:
            assert not algorithm.trains_on(member)
            assert algorithm.critic_rate is not None or found.tolist() == [0.0] * member.num_policy_tokens


@every_algorithm
@given(group=groups)
@few
def test_members_of_unknown_return_leave_the_statistics(algorithm: Algorithm, group: Group) -> None:
    sound = [i for i, t in enumerate(group) if t.has_return]
    alone = credit(algorithm, one_group(*(group.trajectories[i] for i in sound)))
    together = credit(algorithm, group)
    close([together[i] for i in sound], alone)


@every_algorithm
def test_a_missing_reward_is_like_a_crash(algorithm: Algorithm) -> None:
    good, bad = trajectory(("start", 1.0)), trajectory(("start", 0.0))
    broken = trajectory(("start", float("nan")))
    with_it = credit(algorithm, one_group(good, bad, broken))
    close(with_it[:2], credit(algorithm, one_group(good, bad)))
    assert not algorithm.trains_on(broken)


@every_algorithm
def test_an_episode_without_steps_gets_no_advantages(algorithm: Algorithm) -> None:
    empty = trajectory(status=RolloutStatus.CONTEXT_LIMIT)
    found = credit(algorithm, one_group(empty, trajectory(("start", 1.0)), trajectory(("start", 0.0))))
    assert [len(a) for a in found] == [0, 1, 1]


@every_algorithm
def test_no_groups_give_no_credit(algorithm: Algorithm) -> None:
    assert algorithm.credit([]) == []
    assert algorithm.keep([]) == []


@every_algorithm
def test_groups_do_not_see_each_other_unless_the_algorithm_says_so(algorithm: Algorithm) -> None:
    one = one_group(trajectory(("start", 1.0)), trajectory(("start", 0.0)))
    other = one_group(trajectory(("start", 9.0)), trajectory(("start", 5.0)))
    together = [[c.advantages for c in group] for group in algorithm.credit([one, other])]
    alone = [credit(algorithm, one), credit(algorithm, other)]
    if type(algorithm).credit is Algorithm.credit:
        close(together[0] + together[1], alone[0] + alone[1], atol=0)
    else:
        assert not all(torch.allclose(a, b) for a, b in zip(together[0], alone[0], strict=True))


@every_algorithm
@given(group=groups, shift=st.floats(-5, 5).map(lambda x: round(x, 3)))
@few
def test_a_constant_added_to_every_last_reward(algorithm: Algorithm, group: Group, shift: float) -> None:
    """What is centred by group does not see it; step groups and the outcome's own baseline do."""
    if isinstance(algorithm, (GiGPO, HGPO, NGRPO, PPO, ReinforcePP)):
        return

    def shifted(t: Trajectory) -> Trajectory:
        last = dataclasses.replace(t.steps[-1], reward=t.steps[-1].reward + shift)
        return dataclasses.replace(t, steps=(*t.steps[:-1], last))

    # Rounding of the shifted sums, about 1e-15, over a std of a thousandth and an eps of 1e-6 where all are equal.
    close(credit(algorithm, one_group(*map(shifted, group))), credit(algorithm, group), atol=1e-7)


@every_algorithm
@pytest.mark.parametrize("steps", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_many_steps(algorithm: Algorithm, steps: int) -> None:
    """Anything that is not linear would not come back."""
    episode = trajectory(*((f"state {t % 1000}", float(t % 7)) for t in range(steps // 4)), success=True)
    other = trajectory(*((f"state {t % 997}", float(t % 5)) for t in range(steps // 4)))
    found = credit(algorithm, Group((episode, other, episode, other), max_return=1e6))
    assert all(a.isfinite().all() for a in found)


@every_algorithm
def test_many_groups_at_once_give_what_one_at_a_time_does(algorithm: Algorithm) -> None:
    group = one_group(trajectory(("start", 1.0), ("door", 2.0), success=True), trajectory(("start", 0.5), tokens=2))
    other = one_group(trajectory(("start", 3.0)), trajectory(), trajectory(("door", 1.0), ("start", 0.0)))
    if type(algorithm).credit is Algorithm.credit:
        found = [a for part in algorithm.batch_advantages([group, other]) for a in part]
        close(found, [*algorithm.advantages(group), *algorithm.advantages(other)], atol=0)


class OwnRule(Algorithm):
    def advantages(self, group: Group) -> list[Tensor]:
        return [torch.full((len(t.steps),), t.episode_return) for t in group]


class OneMore(GiGPO):
    def advantages(self, group: Group) -> list[Tensor]:
        return [a + 1 for a in super().advantages(group)]


class Doubled(NGRPO):
    def episode_advantages(self, group: Group) -> Tensor:
        return 2 * super().episode_advantages(group)


def test_a_rule_for_one_group_is_all_that_an_algorithm_needs() -> None:
    groups = [one_group(trajectory(("s", 1.0), ("t", 1.0)), trajectory(("u", 0.0))), one_group(trajectory(("s", 3.0)))]
    found = [c.advantages.tolist() for group in OwnRule().credit(groups) for c in group]
    assert found == [[2.0, 2.0], [0.0], [3.0]]
    for changed, plain in ((OneMore(), GiGPO()), (Doubled(), NGRPO())):
        before = [c.advantages for group in plain.credit(groups) for c in group]
        after = [c.advantages for group in changed.credit(groups) for c in group]
        close(after, [a + 1 if isinstance(changed, OneMore) else 2 * a for a in before], atol=0)


def test_an_algorithm_without_any_rule_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"defines none of advantages\(\), step_advantages\(\) and credit"):
        Algorithm().credit([one_group(trajectory(("s", 1.0)))])


# --- single algorithms ------------------------------------------------------------------------------------------------


def test_grpo_gives_all_steps_of_an_episode_the_same_advantage() -> None:
    win, lose = trajectory(("start", 0.0), ("door", 1.0)), trajectory(("start", 0.0), ("wall", 0.0))
    won, lost = GRPO().advantages(Group((win, lose)))
    # Returns 1 and 0: mean 0.5, ddof-1 std sqrt(0.5), so +-0.7071 (less a millionth for eps).
    close([won, lost], [torch.full((2,), 0.5**0.5).double(), torch.full((2,), -(0.5**0.5)).double()], atol=2e-6)


def test_grpo_scaled_by_the_batch() -> None:
    groups = [
        one_group(trajectory(("s", 1.0)), trajectory(("s", 0.0))),
        one_group(trajectory(("s", 3.0)), trajectory(("s", 0.0))),
    ]
    found = GRPO(scale="batch").batch_advantages(groups)
    # Returns 1, 0, 3, 0: ddof-1 std sqrt(2). Centred by group: +-0.5 and +-1.5.
    expected = [x / 2**0.5 for x in (0.5, -0.5, 1.5, -1.5)]
    close([torch.cat(found[0] + found[1])], [torch.tensor(expected, dtype=torch.float64)], atol=2e-6)


def test_gigpo_compares_only_equal_states() -> None:
    win, lose = trajectory(("start", 0.0), ("door", 1.0)), trajectory(("start", 0.0), ("wall", 0.0))
    won, lost = GiGPO(gamma=0.5).advantages(Group((win, lose)))
    # Episode +-0.7071. "start" to-go 0.5 and 0: step +-0.7071 as well. "door" and "wall" seen once: step 0.
    unit = 0.5**0.5
    close(
        [won, lost],
        [torch.tensor([2 * unit, unit], dtype=torch.float64), torch.tensor([-2 * unit, -unit], dtype=torch.float64)],
        atol=1e-5,
    )


def test_gigpo_compares_anchors_where_the_environment_names_them() -> None:
    def episode(anchor: str, reward: float) -> Trajectory:
        return Trajectory((Step("the same text", reward, anchor=anchor),))

    apart = GiGPO(scale="none").advantages(Group((episode("a", 1.0), episode("b", 0.0))))
    equal = GiGPO(scale="none").advantages(Group((episode("a", 1.0), episode("a", 0.0))))
    assert [a.tolist() for a in apart] == [[0.5], [-0.5]]
    assert [a.tolist() for a in equal] == [[1.0], [-1.0]]


def test_gigpo_one_episode_may_visit_a_state_twice() -> None:
    # Undiscounted to-go of the two visits: 3 and 2. The lone member has no episode advantage.
    (advantages,) = GiGPO(gamma=1.0, scale="none").advantages(Group((trajectory(("s", 1.0), ("s", 2.0)),)))
    assert advantages.tolist() == [0.5, -0.5]


def test_gigpo_penalty_stays_with_the_step() -> None:
    def episode(valid: bool, reward: float) -> Trajectory:
        first, second = trajectory(("s", 0.0), ("t", reward)).steps
        return Trajectory((first, dataclasses.replace(second, valid_action=valid)))

    group = Group((episode(False, 1.0), episode(True, 0.0)))
    found = GiGPO(gamma=1.0, scale="none", invalid_action_penalty=0.1).advantages(group)
    # Episode: returns 1 and 0, mean 0.5; 0.1 less at the invalid step alone. Step groups s: (1, 0); t: (0.9, 0).
    close(
        found,
        [
            torch.tensor([0.5 + 0.5, 0.4 + 0.45], dtype=torch.float64),
            torch.tensor([-1.0, -0.5 - 0.45], dtype=torch.float64),
        ],
    )


def test_gigpo_with_a_penalty_and_no_spread_is_finite() -> None:
    def episode(valid: bool) -> Trajectory:
        (step,) = trajectory(("s", 0.0)).steps
        return Trajectory((dataclasses.replace(step, valid_action=valid),))

    found = GiGPO(invalid_action_penalty=0.1, step_weight=0.0).advantages(Group((episode(False), episode(True))))
    assert [a.tolist() for a in found] == [[-0.1], [0.0]]


def test_mt_grpo_gives_the_last_turn_the_outcome_alone() -> None:
    group = one_group(trajectory(("a", 1.0), ("b", 1.0)), trajectory(("a", 0.0), ("b", 0.0)))
    won, lost = MTGRPO(turn_weight=2.0, eps=1e-12).advantages(group)
    unit = 0.5**0.5
    close(
        [won, lost],
        [torch.tensor([3 * unit, unit], dtype=torch.float64), torch.tensor([-3 * unit, -unit], dtype=torch.float64)],
        1e-9,
    )


def test_ngrpo_without_a_highest_return_is_refused() -> None:
    algorithm = default_algorithm("ngrpo")
    with pytest.raises(ValueError, match=r"which is not known here.*Give the environment an attribute max_return"):
        algorithm.check(RunFacts(group_size=8, max_return=None, has_expert=True))
    algorithm.check(RunFacts(group_size=8, max_return=1.0, has_expert=False))


def test_guided_without_an_expert_is_refused() -> None:
    with pytest.raises(ValueError, match=r"oracle_actions\(\).*info\['reference'\]"):
        default_algorithm("guided").check(RunFacts(group_size=8, max_return=1.0, has_expert=False))


@pytest.mark.parametrize(("share", "size", "count"), [(2 / 12, 12, 2), (0.25, 8, 2), (0.3, 8, 3), (0.01, 8, 1)])
def test_guided_members_are_the_first_ones_rounded_up(share: float, size: int, count: int) -> None:
    algorithm = Guided(guided_share=share, initial_length=3)
    assert algorithm.guidance(algorithm.initial_state(), size) == (3,) * count + (0,) * (size - count)


def test_guided_must_leave_somebody_unguided() -> None:
    with pytest.raises(ValueError, match="leaves no unguided member"):
        Guided(guided_share=0.6).check(RunFacts(group_size=2, max_return=1.0, has_expert=True))


def test_guided_signal_of_the_unguided() -> None:
    led = Trajectory((Step("s", 1.0, action_ids=(1, 2), num_guided=2),))
    free = trajectory(("s", 0.5))
    group = one_group(led, free)
    state = Guided(signal="unguided").initial_state()
    assert Guided(signal="unguided").next_state(state, [group])["rewards"] == [0.5]
    assert Guided(signal="all").next_state(state, [group])["rewards"] == [0.75]


def test_guided_members_may_be_compared_among_themselves() -> None:
    led = [Trajectory((Step("s", r, action_ids=(1, 2), num_guided=1, logprobs=(-0.5,)),)) for r in (1.0, 0.0)]
    free = [trajectory(("s", 0.0)), trajectory(("s", 0.0))]
    shared, separate = (
        torch.cat(default_algorithm("guided", baseline=b).advantages(one_group(*led, *free)))
        for b in ("shared", "separate")
    )
    close([shared, separate], [f64(1.5, -0.5, -0.5, -0.5), f64(0.7071, -0.7071, 0.0, 0.0)], atol=1e-4)


def test_guided_lead_without_reward_doubles_until_there_is_one() -> None:
    algorithm = Guided(initial_length=3, max_length=10)
    state = algorithm.initial_state()
    lengths = []
    for reward in (0.0, 0.0, 0.2, 0.4, 0.0, 0.4, -1.0, 0.5):
        state = algorithm.adapt(state, reward)
        lengths.append(state["length"])
    # 3 -> 6 -> 10, the bound; the first reward has nothing to be compared with; 10 * 0.2 / 0.4; doubled; a little below
    # 10 * 0.3 / 0.4; a negative reward, and then a negative mean, leave it as it is.
    assert lengths == [6, 10, 10, 5, 10, 7, 7, 7]


def test_guided_length_steered_to_a_reward() -> None:
    algorithm = Guided(initial_length=8, target=0.25)
    state = algorithm.adapt(algorithm.initial_state(), 0.5)
    assert state["length"] == 4
    assert algorithm.adapt(state, 0.5)["length"] == 2  # the same reward again: still above the target


def test_guided_length_changes_at_most_by_its_bound() -> None:
    algorithm = Guided(initial_length=10, max_change=2)
    state = algorithm.adapt(algorithm.initial_state(), 0.2)
    assert [algorithm.adapt(state, r)["length"] for r in (0.8, 0.22, 0.1, 0.0)] == [8, 9, 12, 12]


def test_guided_released_schedule_keeps_a_length_whose_reward_stays() -> None:
    algorithm = Guided(initial_length=4, schedule="released_code")
    state = algorithm.initial_state()
    for _ in range(12):
        state = algorithm.adapt(state, 0.5)
    assert state["length"] == 4


def test_guided_released_schedule_acts_every_third_time_and_rounds_down() -> None:
    algorithm = Guided(initial_length=10, max_length=100, schedule="released_code")
    state = algorithm.initial_state()
    lengths = []
    for reward in (0.2, 0.2, 0.3, 0.3, 0.3, 0.4):
        state = algorithm.adapt(state, reward)
        lengths.append(state["length"])
    # Third: 10 * 0.2 / 0.3 = 6.67. Sixth: 6 * 0.3 / 0.4 = 4.5.
    assert lengths == [10, 10, 6, 6, 6, 4]


def test_ppo_turn_level_by_hand() -> None:
    episode = trajectory(("a", 0.0), ("b", 1.0), tokens=2, value=0.5)
    algorithm = default_algorithm("ppo", level="turn", turn_gamma=0.5, turn_lam=1.0, whiten_advantages=False)
    ((found,),) = algorithm.credit([one_group(episode)])
    # Second turn: 1 - 0.5. First: 0 + 0.5 * 0.5 - 0.5 = -0.25, plus 0.5 * 0.5.
    assert found.advantages.tolist() == [0.0, 0.0, 0.5, 0.5]
    assert found.returns is not None
    assert found.returns.tolist() == [0.5, 0.5, 1.0, 1.0]


def test_ppo_bilevel_keeps_turns_whose_reward_is_zero() -> None:
    episode = trajectory(("a", 0.0), ("b", 1.0), tokens=1, value=0.0)
    algorithm = default_algorithm("ppo", level="bilevel", turn_gamma=0.5, lam=1.0, whiten_advantages=False)
    ((found,),) = algorithm.credit([one_group(episode)])
    assert found.advantages.tolist() == [0.5, 1.0]


def test_penalties_count_where_rewards_do() -> None:
    def episode(penalty: float) -> Trajectory:
        (step,) = trajectory(("s", 1.0), tokens=2).steps
        return Trajectory((dataclasses.replace(step, token_penalties=(penalty, 0.0)),))

    group = one_group(episode(0.2), episode(0.0))
    rloo = default_algorithm("rloo").advantages(group)
    close(rloo, [torch.tensor([-0.2], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)])
    plain = default_algorithm("reinforce_pp").credit([group])[0]
    # Token returns 0.8, 1.0 | 1.0, 1.0: the first token alone is below the mean.
    assert (plain[0].advantages < 0).tolist() == [True, False]


@pytest.mark.parametrize("name", ["grpo", "gigpo", "hgpo", "mt_grpo", "ngrpo"])
def test_a_penalty_is_not_blown_up_by_a_missing_spread(name: str) -> None:
    with pytest.raises(ValueError, match=r"kl_in=reward with advantages that are divided.*Set algorithm\.kl_in=loss"):
        default_algorithm(name, kl_coef=0.01, kl_in="reward")
    assert default_algorithm("dr_grpo", kl_coef=0.01, kl_in="reward").kl_in == "reward"


@pytest.mark.parametrize(("name", "reward"), [("rloo", 0.0), ("rloo", 1.0), ("reinforce_pp", 0.0), ("dr_grpo", 1.0)])
def test_penalties_alone_are_no_signal(name: str, reward: float) -> None:
    def episode(penalty: float, earned: float) -> Trajectory:
        (step,) = trajectory(("s", earned)).steps
        return Trajectory((dataclasses.replace(step, token_penalties=(penalty,)),))

    algorithm = default_algorithm(name, kl_coef=0.01, kl_in="reward", kl_estimator="k1")
    equal = one_group(episode(0.01, reward), episode(-0.02, reward))
    assert not any(c.advantages.any() for c in worth([equal], algorithm)[0])
    mixed = one_group(episode(0.01, reward), episode(-0.02, reward + 1))
    assert all(c.advantages.all() for group in worth([equal, mixed], algorithm)[1:] for c in group)


def test_sums_of_the_same_rewards_are_equal_whatever_their_order() -> None:
    group = one_group(*(trajectory(*(("s", r) for r in order)) for order in ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))))
    assert not any(a.any() for a in default_algorithm("grpo").advantages(group))
    assert default_algorithm("dapo").keep([group]) == [False]
    tenths = trajectory(*[("s", 0.1)] * 10)
    assert default_algorithm("ngrpo").keep([Group((tenths, tenths), max_return=1.0)]) == [False]


def test_dapo_scaled_by_the_batch_counts_the_punishment() -> None:
    algorithm = default_algorithm("dapo", scale="batch", overlong_limit=8, overlong_buffer=4)
    group = one_group(trajectory(("s", 1.0), tokens=10), trajectory(("s", 1.0), tokens=2))
    # Returns 0 and 1 in both groups: four values with a standard deviation of sqrt(1/3).
    close(algorithm.batch_advantages([group, group])[0], [f64(-0.8660), f64(0.8660)], atol=1e-4)


def test_reinforce_pp_with_a_group_baseline_gives_all_tokens_the_same() -> None:
    algorithm = default_algorithm("reinforce_pp", baseline="group")
    same = one_group(trajectory(("s", 1.0), ("s", 0.0)), trajectory(("s", 1.0), ("s", 0.0)))
    assert not any(c.advantages.any() for c in algorithm.credit([same])[0])
    won, lost = algorithm.credit([one_group(trajectory(("s", 0.0), ("s", 1.0)), trajectory(("s", 0.0)))])[0]
    # Tokens 0.5, 0.5 | -0.5: mean 1/6, sample standard deviation sqrt(1/3).
    close([won.advantages, lost.advantages], [f64(0.57735, 0.57735), f64(-1.1547)], atol=1e-4)
    assert algorithm.unused == ("gamma",)


def test_process_supervision_of_one_known_member_gives_zero() -> None:
    group = one_group(trajectory(("s", 0.0), ("s", 1.0)), trajectory(("s", 1.0), status=RolloutStatus.ENV_ERROR))
    assert not any(a.any() for a in GRPO(supervision="process").advantages(group))


def test_graph_gpo_compares_nothing_with_a_step_whose_end_nobody_saw() -> None:
    won = trajectory(("s0", 0.0), ("s1", 1.0), success=True)
    cut = trajectory(("s0", 0.0), ("s0", 0.0), status=RolloutStatus.TURN_LIMIT)
    found = default_algorithm("graph_gpo", episode_weight=0.0).advantages(one_group(won, cut))
    # In s0: on to s1 (distance 1, reward 2), and back to s0 (distance 2, reward 0.4). The cut step is left out.
    close(found, [f64(0.7071, 0.0), f64(-0.7071, 0.0)], atol=1e-4)


def test_rloo_without_a_ratio_takes_one_step_per_round() -> None:
    algorithm = default_algorithm("rloo", ratio_level="none")
    algorithm.check(RunFacts(group_size=8, max_return=None, has_expert=False, steps_per_round=1))
    with pytest.raises(ValueError, match=r"one optimiser step per round; .* is 4\. Set both to 1"):
        algorithm.check(RunFacts(group_size=8, max_return=None, has_expert=False, steps_per_round=4))


def test_only_what_is_clipped_counts_as_clipped() -> None:
    logprobs, batch = example()
    fractions = {
        name: default_algorithm(name, **options).loss(logprobs, batch, DENOMINATORS).sums.get("loss/clip_fraction")
        for name, options in (("soft_gate", {}), ("rloo", {"ratio_level": "none"}), ("cispo", {"clip_ratio_high": 0.2}))
    }
    # CISPO: ratios above 1.2 in two places, both exp(0.5), whatever the sign of the advantage.
    assert fractions == {"soft_gate": None, "rloo": None, "cispo": 2.0}


@pytest.mark.parametrize("train_truncated", [True, False])
def test_truncated_episodes_may_leave_the_gradient(train_truncated: bool) -> None:
    algorithm = GRPO(train_truncated=train_truncated)
    assert algorithm.trains_on(trajectory(("s", 1.0), status=RolloutStatus.TURN_LIMIT)) is train_truncated
    assert algorithm.trains_on(trajectory(("s", 1.0)))


def test_void_turns_may_leave_the_gradient() -> None:
    void = Trajectory((Step("s", valid_action=False),))
    assert GRPO().trains_on(void)
    assert not GRPO(train_void_turns=False).trains_on(void)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("grpo", {"clip_ratio_low": 1.5}, r"algorithm.clip_ratio_low must be in \[0, 1\], got 1.5"),
        ("grpo", {"clip_ratio_high": -0.1}, "algorithm.clip_ratio_high"),
        ("grpo", {"dual_clip": 1.0}, "algorithm.dual_clip must be above 1"),
        ("grpo", {"kl_coef": -1.0}, "algorithm.kl_coef"),
        ("grpo", {"aggregation": "mean"}, "algorithm.aggregation must be one of token-mean"),
        ("grpo", {"correction": "token", "old_logprobs": "sampler"}, "count the gap between sampler and trainer twice"),
        ("grpo", {"kl_coef": 0.1, "kl_estimator": "k1"}, "gradient of zero mean"),
        ("grpo", {"reference_every": 5}, "asks for no reference policy"),
        ("grpo", {"resample_rounds": 2}, "drops nothing"),
        ("grpo", {"supervision": "process", "scale": "batch"}, "outcome supervision only"),
        ("gspo", {"aggregation": "token-mean"}, "Set algorithm.aggregation=seq-mean-token-mean"),
        ("gigpo", {"gamma": 0.0}, r"algorithm.gamma must be in \(0, 1\], got 0"),
        ("gigpo", {"similarity": 1.0}, r"algorithm.similarity must be in \(0, 1\)"),
        ("gigpo", {"kl_coef": -1.0}, "algorithm.kl_coef"),
        ("guided", {"guided_share": 1.0}, r"algorithm.guided_share must be in \(0, 1\), got 1"),
        ("ppo", {"critic_lr": None}, "ppo trains a critic, and algorithm.critic_lr is not set"),
        ("dapo", {"overlong_limit": 4, "overlong_buffer": 5}, "start below 0 tokens"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        default_algorithm(name, **options)


# --- configuration ----------------------------------------------------------------------------------------------------


def composed(name: str) -> dict[str, Any]:
    """A yaml of conf/algorithm with the ones that it builds on."""
    own: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    merged: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        merged |= {} if base == "_self_" else composed(base)
    return merged | own


def test_every_algorithm_has_a_yaml_a_formula_and_a_paragraph() -> None:
    assert [composed(name)["name"] for name in YAMLS] == YAMLS == NAMES
    text = (Path(__file__).resolve().parents[1] / "docs" / "algorithms.md").read_text()
    for name in NAMES:
        cls = algorithm_class(name)
        assert cls.formula
        assert cls.source
        assert f"\n## {name}\n" in text
        assert cls.source.removeprefix("arXiv:") in text


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_holds_exactly_the_fields_and_their_defaults(name: str) -> None:
    values = composed(name)
    defaults = {f.name: f.default for f in dataclasses.fields(algorithm_class(values["name"]))}
    if name == "ppo":  # the class has no default, so that naming it alone does not train a critic by surprise
        defaults["critic_lr"] = values["critic_lr"]
    assert values == {"name": name} | defaults


# --- losses -----------------------------------------------------------------------------------------------------------

MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
DENOMINATORS = Denominators(sequences=3, tokens=6, max_length=4)


def example() -> tuple[Tensor, Batch]:
    """Log-probabilities in float64 whose ratios lie inside and outside the clip, none within 0.01 of a bound."""
    old = -torch.tensor([[1.2, 0.7, 2.0], [0.5, 1.5, 0.0], [0.3, 0.0, 0.0]], dtype=torch.float64)
    moved = torch.tensor([[0.5, -0.5, 0.05], [0.5, -0.5, 0.0], [-0.02, 0.0, 0.0]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, 1.0, -0.5], [-1.0, -1.0, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    return (old + moved).requires_grad_(), loss_batch(old, advantages, MASK, old - 0.1)


def variants() -> list[Any]:
    out = [pytest.param(default_algorithm(name), id=name) for name in NAMES]
    out += [pytest.param(GRPO(aggregation=mode, kl_coef=0.1), id=mode) for mode in AGGREGATIONS]  # type: ignore[arg-type]
    options: list[dict[str, Any]] = [
        {"dual_clip": 3.0},
        {"kl_coef": 0.1, "kl_estimator": "k2"},
        {"old_logprobs": "recompute", "correction": "token"},
        {"old_logprobs": "recompute", "correction": "sequence", "correction_mode": "mask"},
        {"off_policy_kl": 0.1},
    ]
    return out + [pytest.param(GRPO(**o), id="-".join(map(str, o.values()))) for o in options]


# CISPO and GSPO treat a part of the loss as constant, which finite differences cannot know: they come below.
DIFFERENTIABLE = [v for v in variants() if not isinstance(v.values[0], (CISPO, GSPO))]


@pytest.mark.parametrize("algorithm", DIFFERENTIABLE)
def test_gradient_of_the_loss_matches_finite_differences(algorithm: Algorithm) -> None:
    logprobs, batch = example()
    assert torch.autograd.gradcheck(lambda x: algorithm.loss(x, batch, DENOMINATORS).loss, (logprobs,))


def test_gradient_of_cispo_with_its_weights_written_out() -> None:
    logprobs, batch = example()
    (found,) = torch.autograd.grad(default_algorithm("cispo").loss(logprobs, batch, DENOMINATORS).loss, logprobs)
    weights = (logprobs.detach() - batch.old_logprobs).exp().clamp(max=1.2)
    expected = torch.where(MASK, -weights * batch.advantages / DENOMINATORS.tokens, 0.0)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_gradient_of_gspo_is_the_sequences_ratio_times_the_advantage() -> None:
    logprobs, batch = example()
    algorithm = default_algorithm("gspo", clip_ratio_low=1.0, clip_ratio_high=9.0)  # nothing is clipped
    (found,) = torch.autograd.grad(algorithm.loss(logprobs, batch, DENOMINATORS).loss, logprobs)
    lengths = MASK.sum(1, keepdim=True)
    gap = torch.where(MASK, logprobs.detach() - batch.old_logprobs, 0.0).sum(1, keepdim=True) / lengths
    expected = torch.where(MASK, -gap.exp() * batch.advantages / lengths / DENOMINATORS.sequences, 0.0)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def mismatched(options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Loss of a policy at its old log-probabilities, as is and with options, where sampler and trainer disagree."""
    _, batch = example()
    batch = dataclasses.replace(batch, sampler_logprobs=batch.old_logprobs - 1.5)
    plain = GRPO().loss(batch.old_logprobs, batch, DENOMINATORS).loss
    return plain, GRPO(**options).loss(batch.old_logprobs, batch, DENOMINATORS).loss


def test_a_correction_weighs_every_token() -> None:
    # exp(1.5) = 4.48 is capped at 2 for every token, so the whole loss doubles.
    plain, corrected = mismatched({"old_logprobs": "recompute", "correction": "token"})
    torch.testing.assert_close(corrected, 2 * plain)


def test_a_masked_correction_drops_what_is_too_far_off() -> None:
    options = {"old_logprobs": "recompute", "correction": "token", "correction_mode": "mask"}
    assert float(mismatched(options)[1]) == 0.0


def test_sequences_that_the_policy_left_are_not_pushed_down() -> None:
    _, batch = example()
    batch = dataclasses.replace(batch, sampler_logprobs=batch.old_logprobs + 1.5)
    logprobs = batch.old_logprobs.clone().requires_grad_()
    (found,) = torch.autograd.grad(GRPO(off_policy_kl=1.0).loss(logprobs, batch, DENOMINATORS).loss, logprobs)
    assert torch.equal(found != 0, MASK & (batch.advantages > 0))


def test_an_entropy_bonus_is_averaged_like_the_loss() -> None:
    _, batch = example()
    entropy = torch.where(MASK, 0.5, 0.0).double()
    plain = GRPO().loss(batch.old_logprobs, batch, DENOMINATORS).loss
    with_bonus = GRPO(entropy_coef=0.1).loss(batch.old_logprobs, batch, DENOMINATORS, entropy).loss
    torch.testing.assert_close(with_bonus, plain - 0.05)


@pytest.mark.parametrize("algorithm", variants())
@pytest.mark.parametrize("cuts", [(0, 1, 2, 3), (0, 2, 3), (0, 1, 3)])
def test_micro_batches_give_the_loss_and_gradient_of_one(algorithm: Algorithm, cuts: tuple[int, ...]) -> None:
    logprobs, batch = example()
    whole = algorithm.loss(logprobs, batch, DENOMINATORS).loss
    (expected,) = torch.autograd.grad(whole, logprobs)
    assert batch.ref_logprobs is not None
    losses = [
        algorithm.loss(
            logprobs[a:b],
            loss_batch(batch.old_logprobs[a:b], batch.advantages[a:b], MASK[a:b], batch.ref_logprobs[a:b]),
            DENOMINATORS,
        ).loss
        for a, b in pairwise(cuts)
    ]
    (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), logprobs)
    torch.testing.assert_close(torch.stack(losses).sum(), whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


@every_algorithm
def test_the_first_gradient_follows_the_advantages(algorithm: Algorithm) -> None:
    # At ratio 1 nothing is clipped: more probability lowers the loss exactly where the advantage is positive.
    _, batch = example()
    logprobs = batch.old_logprobs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(algorithm.loss(logprobs, batch, DENOMINATORS).loss, logprobs)
    assert torch.equal(gradient.sign(), -batch.advantages.sign())


# --- which log-probabilities count as the old ones ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "exact", "expected"),
    [
        ({}, True, ("sampler", "none")),
        ({}, False, ("recompute", "token")),
        ({"old_logprobs": "sampler"}, False, ("sampler", "none")),
        ({"old_logprobs": "recompute"}, True, ("recompute", "none")),
        ({"old_logprobs": "recompute"}, False, ("recompute", "token")),
        ({"correction": "sequence"}, True, ("recompute", "sequence")),
        ({"correction": "none"}, False, ("recompute", "none")),
        ({"correction": "none"}, True, ("sampler", "none")),
    ],
)
def test_auto_is_settled_by_how_exact_the_sampler_is(
    options: dict[str, Any], exact: bool, expected: tuple[str, str]
) -> None:
    settled = default_algorithm("grpo", **options).settled(exact_sampler=exact)
    assert (settled.old_logprobs, settled.correction) == expected
