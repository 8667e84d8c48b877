"""What every registered algorithm owes its callers, and what single ones promise."""

import dataclasses
import importlib.resources
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import yaml
from helpers import loss_batch, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agentgrpo.algorithm import Algorithm
from agentgrpo.algorithms.gigpo import GiGPO
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.losses import AGGREGATIONS
from agentgrpo.registry import algorithm_class, algorithm_names
from agentgrpo.types import Batch, Denominators, Group, RolloutStatus, Step, Trajectory

CONF = importlib.resources.files("agentgrpo.conf") / "algorithm"
YAMLS = sorted(f.name.removesuffix(".yaml") for f in CONF.iterdir() if f.name.endswith(".yaml"))

every_algorithm = pytest.mark.parametrize(
    "algorithm", [algorithm_class(n)() for n in algorithm_names()], ids=algorithm_names()
)
few = settings(max_examples=12, deadline=None)

rewards = st.floats(-10, 10).map(lambda x: round(x, 3))
steps = st.lists(st.tuples(st.sampled_from(["start", "door", "wall"]), rewards), min_size=1, max_size=4)
statuses = st.sampled_from([RolloutStatus.TERMINATED, RolloutStatus.TURN_LIMIT, RolloutStatus.ENV_ERROR])
members = st.builds(lambda s, status: trajectory(*s, status=status), steps, statuses)
groups = st.lists(members, min_size=1, max_size=6).map(lambda m: Group(tuple(m)))


def close(actual: Sequence[Tensor], expected: Sequence[Tensor], atol: float = 1e-9) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, atol=atol, rtol=0)


# --- advantages of every algorithm ------------------------------------------------------------------------------------


@every_algorithm
@given(group=groups)
@few
def test_one_finite_advantage_per_step(algorithm: Algorithm, group: Group) -> None:
    advantages = algorithm.advantages(group)
    assert [tuple(a.shape) for a in advantages] == [(len(t.steps),) for t in group]
    assert all(a.isfinite().all() for a in advantages)


@every_algorithm
@given(data=st.data())
@few
def test_permuting_the_members_permutes_the_advantages(algorithm: Algorithm, data: st.DataObject) -> None:
    group = data.draw(groups)
    order = data.draw(st.permutations(range(len(group))))
    before = algorithm.advantages(group)
    after = algorithm.advantages(Group(tuple(group.trajectories[i] for i in order)))
    # Sums are taken in another order: their rounding, divided by a std of a thousandth at least.
    close(after, [before[i] for i in order], atol=1e-7)


@every_algorithm
@given(reward=rewards, size=st.integers(1, 6))
@few
def test_equal_episodes_give_exact_zeros(algorithm: Algorithm, reward: float, size: int) -> None:
    group = Group(tuple(trajectory(("start", reward), ("door", reward)) for _ in range(size)))
    assert [a.tolist() for a in algorithm.advantages(group)] == [[0.0, 0.0]] * size


@every_algorithm
def test_a_group_of_one_gives_zero(algorithm: Algorithm) -> None:
    (advantages,) = algorithm.advantages(Group((trajectory(("start", 0.0), ("door", 5.0)),)))
    assert advantages.tolist() == [0.0, 0.0]


@every_algorithm
@given(group=groups)
@few
def test_crashed_members_get_zero(algorithm: Algorithm, group: Group) -> None:
    for advantages, member in zip(algorithm.advantages(group), group, strict=True):
        assert not member.status.crashed or advantages.tolist() == [0.0] * len(member.steps)


@every_algorithm
@given(group=groups)
@few
def test_crashed_members_leave_the_baseline(algorithm: Algorithm, group: Group) -> None:
    sound = [i for i, t in enumerate(group) if not t.status.crashed]
    alone = algorithm.advantages(Group(tuple(group.trajectories[i] for i in sound)))
    together = algorithm.advantages(group)
    close([together[i] for i in sound], alone)


@every_algorithm
def test_an_episode_without_steps_gets_no_advantages(algorithm: Algorithm) -> None:
    empty = trajectory(status=RolloutStatus.CONTEXT_LIMIT)
    advantages = algorithm.advantages(Group((empty, trajectory(("start", 1.0)))))
    assert [len(a) for a in advantages] == [0, 1]


@every_algorithm
def test_groups_do_not_see_each_other_unless_the_algorithm_says_so(algorithm: Algorithm) -> None:
    if type(algorithm).batch_advantages is not Algorithm.batch_advantages:
        pytest.skip("statistics cross groups")
    one = Group((trajectory(("start", 1.0)), trajectory(("start", 0.0))))
    other = Group((trajectory(("start", 9.0)), trajectory(("start", 5.0))))
    together = algorithm.batch_advantages([one, other])
    close(together[0], algorithm.advantages(one), atol=0)
    close(together[1], algorithm.advantages(other), atol=0)


# --- single algorithms ------------------------------------------------------------------------------------------------


@given(group=groups, shift=st.floats(-5, 5))
@few
def test_grpo_ignores_a_constant_added_to_every_final_reward(group: Group, shift: float) -> None:
    def shifted(t: Trajectory) -> Trajectory:
        last = dataclasses.replace(t.steps[-1], reward=t.steps[-1].reward + shift)
        return dataclasses.replace(t, steps=(*t.steps[:-1], last))

    # Rounding of the shifted sums, about 1e-15, over a std of a thousandth and an eps of 1e-6 where all are equal.
    moved = Group(tuple(map(shifted, group)))
    close(GRPO().advantages(moved), GRPO().advantages(group), atol=1e-7)


def test_grpo_gives_all_steps_of_an_episode_the_same_advantage() -> None:
    win, lose = trajectory(("start", 0.0), ("door", 1.0)), trajectory(("start", 0.0), ("wall", 0.0))
    won, lost = GRPO().advantages(Group((win, lose)))
    # Returns 1 and 0: mean 0.5, ddof-1 std sqrt(0.5), so +-0.7071 (less a millionth for eps).
    close([won, lost], [torch.full((2,), 0.5**0.5).double(), torch.full((2,), -(0.5**0.5)).double()], atol=2e-6)


def test_gigpo_compares_only_equal_states() -> None:
    win, lose = trajectory(("start", 0.0), ("door", 1.0)), trajectory(("start", 0.0), ("wall", 0.0))
    won, lost = GiGPO(gamma=0.5).advantages(Group((win, lose)))
    # Episode +-0.7071. "start" to-go 0.5 and 0: step +-0.7071 as well. "door" and "wall" seen once: step 0.
    unit = 0.5**0.5
    close([won, lost], [torch.tensor([2 * unit, unit]).double(), torch.tensor([-2 * unit, -unit]).double()], atol=1e-5)


def test_gigpo_compares_anchors_where_the_environment_names_them() -> None:
    def episode(anchor: str, reward: float) -> Trajectory:
        return Trajectory((Step("the same text", reward, anchor=anchor),))

    apart = GiGPO(scale_by_std=False).advantages(Group((episode("a", 1.0), episode("b", 0.0))))
    equal = GiGPO(scale_by_std=False).advantages(Group((episode("a", 1.0), episode("a", 0.0))))
    assert [a.tolist() for a in apart] == [[0.5], [-0.5]]
    assert [a.tolist() for a in equal] == [[1.0], [-1.0]]


def test_gigpo_one_episode_may_visit_a_state_twice() -> None:
    # Undiscounted to-go of the two visits: 3 and 2. The lone member has no episode advantage.
    (advantages,) = GiGPO(gamma=1.0, scale_by_std=False).advantages(Group((trajectory(("s", 1.0), ("s", 2.0)),)))
    assert advantages.tolist() == [0.5, -0.5]


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (GRPO, {"clip_ratio_low": 1.0}, r"algorithm.clip_ratio_low must be in \[0, 1\), got 1.0"),
        (GRPO, {"clip_ratio_high": -0.1}, "algorithm.clip_ratio_high"),
        (GRPO, {"kl_coef": -1.0}, "algorithm.kl_coef"),
        (GRPO, {"aggregation": "mean"}, "algorithm.aggregation must be one of token-mean"),
        (GiGPO, {"gamma": 0.0}, r"algorithm.gamma must be in \(0, 1\], got 0.0"),
        (GiGPO, {"kl_coef": -1.0}, "algorithm.kl_coef"),
    ],
)
def test_values_out_of_range_are_refused_by_name(cls: type[GRPO], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**options)


# --- configuration ----------------------------------------------------------------------------------------------------


def composed(name: str) -> dict[str, Any]:
    """A yaml of conf/algorithm with the ones it builds on."""
    own: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    merged: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        merged |= {} if base == "_self_" else composed(base)
    return merged | own


def test_every_algorithm_has_a_yaml() -> None:
    assert [composed(name)["name"] for name in YAMLS] == YAMLS == algorithm_names()


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_holds_exactly_the_fields_and_their_defaults(name: str) -> None:
    values = composed(name)
    assert values == {"name": name} | dataclasses.asdict(algorithm_class(values["name"])())


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
    out = [pytest.param(algorithm_class(name)(), id=name) for name in algorithm_names()]
    return out + [pytest.param(GRPO(aggregation=mode, kl_coef=0.1), id=mode) for mode in AGGREGATIONS]  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", variants())
def test_gradient_of_the_loss_matches_finite_differences(algorithm: Algorithm) -> None:
    logprobs, batch = example()
    assert torch.autograd.gradcheck(lambda x: algorithm.loss(x, batch, DENOMINATORS).loss, (logprobs,))


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
