"""Columns that models add to a round: the right numbers at the right tokens, in both contexts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as Seq

import pytest
import torch
from helpers import default_algorithm, optim_config, reference_logprobs, tiny_llama
from torch import Tensor

from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.annotation import annotate
from agentgrpo.critic import Critic
from agentgrpo.learner import Learner
from agentgrpo.losses import value_loss
from agentgrpo.packing import sequences
from agentgrpo.types import Credit, Group, Step, Trajectory


def step(prompt: Seq[int], action: Seq[int], *, starts: bool = True, num_guided: int = 0, reward: float = 0.0) -> Step:
    return Step(
        "s",
        reward,
        prompt_ids=tuple(prompt),
        starts_sequence=starts,
        action_ids=tuple(action),
        num_guided=num_guided,
        logprobs=(-1.0,) * (len(action) - num_guided),
    )


TRANSCRIPT = Trajectory((step([3, 4], [5, 6], num_guided=2), step([7], [8, 9, 10], starts=False, num_guided=1)))
WINDOWS = Trajectory((step([3, 4], [5, 6]), step([3, 4, 7], [8])))
SHORT = Trajectory((step([3, 4], [5], reward=1.0),))
GROUPS = [Group((TRANSCRIPT, SHORT)), Group((WINDOWS,))]


def learner(**options: object) -> Learner:
    return Learner(tiny_llama(), optim_config(**options), precision="fp32", temperature=0.7, max_length=4)  # type: ignore[arg-type]


def expected(model: torch.nn.Module, trajectory: Trajectory) -> Tensor:
    """(A,) float64, by one full forward pass per sequence."""
    items = sequences(trajectory, Credit(torch.zeros(trajectory.num_policy_tokens)))
    return torch.cat([reference_logprobs(model, s.token_ids, s.action_index, 0.7) for s in items])  # type: ignore[arg-type]


def column(trajectory: Trajectory, name: str) -> Tensor:
    parts = [getattr(s, name) for s in trajectory.steps]
    assert [len(p) for p in parts] == [s.num_policy_tokens for s in trajectory.steps]
    return torch.tensor([x for part in parts for x in part], dtype=torch.float64)


def test_nothing_is_asked_for_by_default() -> None:
    assert annotate(GROUPS, GRPO(), learner()) == GROUPS


def test_a_single_step_needs_no_pass_for_the_old_logprobs() -> None:
    for group in annotate(GROUPS, GRPO(old_logprobs="recompute"), learner()):
        assert all(step.old_logprobs is None for trajectory in group for step in trajectory.steps)


@pytest.mark.parametrize("budget", [8, 1000])
def test_recomputed_logprobs_stand_at_their_tokens(budget: int) -> None:
    one = learner(micro_batch_tokens=budget, epochs=2)
    for group in annotate(GROUPS, GRPO(old_logprobs="recompute"), one):
        for trajectory in group:
            torch.testing.assert_close(
                column(trajectory, "old_logprobs"), expected(one.model, trajectory), atol=1e-4, rtol=0
            )


def test_reference_logprobs_are_the_references() -> None:
    one = learner()
    one.set_reference(tiny_llama(seed=1))
    assert one.reference is not None
    for group in annotate(GROUPS, GRPO(kl_coef=0.1), one):
        for trajectory in group:
            found = column(trajectory, "ref_logprobs")
            torch.testing.assert_close(found, expected(one.reference, trajectory), atol=1e-4, rtol=0)
            assert all(s.token_penalties is None for s in trajectory.steps)


def test_penalties_in_the_reward_are_the_estimate_times_its_weight() -> None:
    one = learner()
    one.set_reference(tiny_llama(seed=1))
    algorithm = default_algorithm("rloo", kl_coef=0.5)
    (group, _) = annotate(GROUPS, algorithm, one)
    short = group.trajectories[1]
    (ref,) = column(short, "ref_logprobs").tolist()
    assert short.steps[0].token_penalties == pytest.approx((0.5 * (-1.0 - ref),))
    assert short.steps[0].net_reward == pytest.approx(1.0 - 0.5 * (-1.0 - ref))
    assert short.episode_return == 1.0


def test_a_reference_moves_by_its_share() -> None:
    one = learner()
    one.set_reference(tiny_llama(seed=1))
    assert one.reference is not None
    old = [p.clone() for p in one.reference.parameters()]
    one.move_reference(0.25)
    for before, after, policy in zip(old, one.reference.parameters(), one.model.parameters(), strict=True):
        torch.testing.assert_close(after, 0.75 * before + 0.25 * policy)


# --- critic -----------------------------------------------------------------------------------------------------------


def test_a_new_critic_says_zero_everywhere() -> None:
    one = learner()
    one.make_critic(1e-3)
    for group in annotate(GROUPS, default_algorithm("ppo"), one):
        for trajectory in group:
            assert column(trajectory, "values").tolist() == [0.0] * trajectory.num_policy_tokens


def test_a_critic_learns_what_comes() -> None:
    one = learner(lr=1e-9)
    one.make_critic(3e-3)
    algorithm = default_algorithm("ppo", whiten_advantages=False)
    won, lost = step([3, 4], [5, 6], reward=1.0), step([3, 9], [7, 8], reward=-1.0)
    groups = [Group((Trajectory((won,)), Trajectory((lost,))))]
    errors = []
    for update in range(30):
        annotated = annotate(groups, algorithm, one)
        credit = algorithm.credit(annotated)
        items = [s for t, c in zip(annotated[0], credit[0], strict=True) for s in sequences(t, c)]
        errors.append(one.update(items, algorithm, (update,))["critic/error_mean"])
    assert errors[0] == pytest.approx(0.975, abs=0.03)  # 1, and 0.95 one token earlier
    assert errors[-1] < 0.2


def test_a_critic_does_not_touch_the_policy() -> None:
    one = learner()
    one.make_critic(1e-2)
    before = [p.clone() for p in one.model.parameters()]
    algorithm = default_algorithm("ppo")
    groups = annotate([Group((SHORT,))], algorithm, one)
    # One episode of one token: whitened to 0, so the policy takes no step and the critic does.
    items = [s for c in algorithm.credit(groups)[0] for s in sequences(groups[0].trajectories[0], c)]
    assert one.update(items, algorithm, (0,))["critic/grad_norm"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, one.model.parameters(), strict=True))


def test_a_critic_comes_back_from_its_folder(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny_llama()
    one, other = Critic(model), Critic(tiny_llama(seed=1))
    torch.nn.init.ones_(one.head.weight)
    one.save(tmp_path)
    other.load(tmp_path)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_value_loss_by_hand() -> None:
    values, old = torch.tensor([[0.0, 2.0, 9.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    returns, mask = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[True, True, False]])
    # Second: the value moved by 2 counts as moved by 0.5; (2 - 1)^2 is the larger of 1 and 0.25.
    assert value_loss(values, old, returns, mask, value_clip=0.5).tolist() == [[0.5, 0.5, 0.0]]


def test_policy_items_of_a_guided_episode_leave_the_expert_out() -> None:
    (item,) = sequences(TRANSCRIPT, Credit(torch.ones(2)))
    assert [item.token_ids[at] for at in item.action_index] == [9, 10]
    assert dataclasses.replace(item, advantages=()).action_index == (6, 7)
