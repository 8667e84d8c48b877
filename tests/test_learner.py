"""Optimiser steps of a tiny random model."""

import dataclasses

import pytest
import torch
from helpers import optim_config, taken_gradients, tiny_llama
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.config import OptimConfig
from agentgrpo.learner import Learner
from agentgrpo.losses import AGGREGATIONS
from agentgrpo.packing import sequences
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.transformers import TransformersSampler
from agentgrpo.seeding import derive
from agentgrpo.types import Credit, Group, Sequence, Step, Trajectory


def learner(config: OptimConfig | None = None, model: PreTrainedModel | None = None) -> Learner:
    return Learner(model or tiny_llama(), config or optim_config(), precision="fp32", temperature=1.0, max_length=8)


def items(num: int = 6, advantage: float = 1.0) -> list[Sequence]:
    """Sequences of different lengths with advantages of both signs."""
    out = []
    for i in range(num):
        length = 6 + 3 * i
        ids = tuple(2 + derive(i, t) % 48 for t in range(length))
        index = tuple(t for t in range(2, length) if t % 3)
        values = tuple(advantage * (-1) ** i * (1 + t / 10) for t in index)
        logprobs = (-2.0,) * len(index)
        out.append(Sequence(ids, index, logprobs, logprobs, values))
    return out


def with_reference(one: Learner, part: list[Sequence]) -> list[Sequence]:
    """The sequences with the reference policy's log-probabilities filled in."""
    out = list(part)
    with torch.no_grad():
        for batch in one.pack(part):
            values = one.logprobs(batch, one.reference)
            for row, index in enumerate(batch.rows):
                found = tuple(values[row][batch.action_mask[row]].tolist())
                out[index] = dataclasses.replace(part[index], ref_logprobs=found)
    return out


def weights(model: PreTrainedModel) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("budget", [21, 40, 63, 10_000])
@pytest.mark.parametrize("mode", AGGREGATIONS)
def test_micro_batches_do_not_change_the_gradient(budget: int, mode: str) -> None:
    def gradients(tokens: int) -> list[Tensor]:
        one = learner(optim_config(lr=1e-3, micro_batch_tokens=tokens))
        taken = taken_gradients(one.optimizer)
        one.update(items(), GRPO(aggregation=mode, clip_ratio_high=10.0), (0,))  # type: ignore[arg-type]
        return taken

    for mine, expected in zip(gradients(budget), gradients(100_000), strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(mine / scale, expected / scale, atol=1e-5, rtol=0)


def test_micro_batches_do_not_change_the_weights() -> None:
    def trained(tokens: int) -> list[Tensor]:
        one = learner(optim_config(lr=1e-4, epochs=2, minibatches=2, micro_batch_tokens=tokens))
        one.update(items(), GRPO(), (0,))
        return weights(one.model)

    for mine, expected in zip(trained(21), trained(100_000), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)


def test_micro_batches_do_not_change_the_metrics() -> None:
    one, other = (learner(optim_config(micro_batch_tokens=t)).update(items(), GRPO(), (0,)) for t in (21, 100_000))
    # Six sequences of 6, 9, ... 21 tokens that have nothing in common: 81 together.
    assert (one.pop("loss/micro_batch_tokens"), other.pop("loss/micro_batch_tokens")) == (21, 81)
    assert one == pytest.approx(other, abs=1e-5)


def test_without_signal_the_weights_stay_bit_for_bit() -> None:
    one = learner(optim_config(weight_decay=0.1))
    one.update(items(), GRPO(), (0,))  # fills Adam's momentum
    before, steps = weights(one.model), one.num_steps
    assert one.update(items(advantage=0.0), GRPO(), (1,)) == {"loss/skipped": 1.0}
    assert all(torch.equal(a, b) for a, b in zip(before, one.model.parameters(), strict=True))
    assert one.num_steps == steps


def test_no_items_is_no_step() -> None:
    assert learner().update([], GRPO(), (0,)) == {"loss/skipped": 1.0}


def test_minibatch_without_signal_leaves_the_weights_to_the_others() -> None:
    # One sequence has signal, one has none, each in an optimiser step of its own: one step is worth taking.
    one = learner(optim_config(minibatches=2, weight_decay=0.1))
    one.update([*items(1), *items(1, advantage=0.0)], GRPO(), (0,))
    assert one.num_steps == 1


def test_epochs_and_minibatches_are_counted() -> None:
    one = learner(optim_config(epochs=3, minibatches=2))
    one.update(items(), GRPO(), (0,))
    assert one.num_steps == 6


def test_more_minibatches_than_items() -> None:
    one = learner(optim_config(minibatches=5))
    one.update(items(2), GRPO(), (0,))
    assert one.num_steps == 2


def test_warm_up_rises_linearly() -> None:
    one = learner(dataclasses.replace(optim_config(lr=1.0), lr_warmup=3))
    rates = []
    for step in range(6):
        one.num_steps = step
        rates.append(one._rate())
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_the_gradient_is_scaled_down_to_its_limit() -> None:
    one = learner(optim_config(max_grad_norm=0.01))
    taken = taken_gradients(one.optimizer)
    one.update(items(), GRPO(), (0,))
    assert float(torch.stack([gradient.norm() for gradient in taken]).norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_gradient_is_dropped_after_its_step() -> None:
    one = learner(optim_config(epochs=2))
    one.update(items(), GRPO(), (0,))
    assert all(p.grad is None for p in one.model.parameters())


def test_the_same_coordinates_give_the_same_weights_and_others_another_order() -> None:
    def trained(coordinate: int) -> list[Tensor]:
        one = learner(optim_config(minibatches=3))
        one.update(items(), GRPO(), (coordinate,))
        return weights(one.model)

    first = trained(0)
    assert all(torch.equal(a, b) for a, b in zip(first, trained(0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, trained(1), strict=True))


def test_gap_to_the_sampler_is_reported_of_the_first_step() -> None:
    one = learner(optim_config(epochs=2, lr=0.1))
    sampler = TransformersSampler(one.model, [1], cache_gb=0.1)
    (answer,) = sampler.generate([[3, 4, 5]], [SamplingParams(8, 1.0, noise_key=7)])
    step = Step("", prompt_ids=(3, 4, 5), action_ids=answer.token_ids, logprobs=answer.logprobs)
    metrics = one.update(sequences(Trajectory((step,)), Credit(torch.ones(len(answer.token_ids)))), GRPO(), (0,))
    assert metrics["sampler/logprob_gap_max"] < 1e-4
    assert metrics["loss/old_kl"] > 1e-4  # the second epoch has moved


def test_kl_needs_a_reference_and_is_zero_until_the_policy_moves() -> None:
    one = learner(optim_config(lr=1e-2))
    one.freeze_reference()
    algorithm = GRPO(kl_coef=0.1)
    assert one.update(with_reference(one, items()), algorithm, (0,))["loss/ref_kl"] == pytest.approx(0.0, abs=1e-9)
    assert one.update(with_reference(one, items()), algorithm, (1,))["loss/ref_kl"] > 1e-5


def test_kl_pulls_back_to_the_reference() -> None:
    one = learner(optim_config(lr=1e-2, epochs=2))
    one.freeze_reference()
    one.update(items(), GRPO(), (0,))
    # An advantage too small to matter: without any, there would be no step.
    small = with_reference(one, items(advantage=1e-6))
    away = one.update(small, GRPO(kl_coef=1.0), (1,))["loss/ref_kl"]
    one.reset_optimizer()
    for round_ in range(10):
        back = one.update(small, GRPO(kl_coef=1.0), (2 + round_,))["loss/ref_kl"]
    assert 0 <= back < away / 2


def test_without_kl_no_reference_is_needed() -> None:
    assert "loss/ref_kl" not in learner().update(items(), GRPO(), (0,))


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change() -> None:
    one = learner()
    with torch.no_grad():
        next(one.model.base_model.layers[0].parameters())[0, 0] = float("nan")
    before = weights(one.model)
    with pytest.raises(FloatingPointError, match=r"optimiser step 0.*optim\.lr"):
        one.update(items(), GRPO(), (0,))
    assert all(
        torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(before, one.model.parameters(), strict=True)
    )


def test_bf16_keeps_fp32_weights() -> None:
    one = Learner(tiny_llama(), optim_config(), precision="bf16", temperature=1.0, max_length=8)
    assert one.update(items(2), GRPO(), (0,))["loss/grad_norm"] > 0
    assert {p.dtype for p in one.model.parameters()} == {torch.float32}


def test_imitation_lowers_the_cross_entropy() -> None:
    one = learner()
    first = one.imitate(items(2), 1e-2)
    for _ in range(8):
        last = one.imitate(items(2), 1e-2)
    assert last < first / 2


def test_a_bandit_raises_its_reward() -> None:
    model = tiny_llama()
    one = learner(optim_config(lr=3e-3, max_grad_norm=1.0), model)
    sampler = TransformersSampler(model, [], cache_gb=0.1)
    prompt, rewarded = (3, 4, 5), range(25)  # half of the vocabulary earns 1
    means = []
    for update in range(12):
        params = [SamplingParams(1, 1.0, noise_key=derive(update, slot)) for slot in range(32)]
        answers = sampler.generate([prompt] * 32, params)
        group = Group(
            tuple(
                Trajectory(
                    (
                        Step(
                            "",
                            float(a.token_ids[0] in rewarded),
                            prompt_ids=prompt,
                            action_ids=a.token_ids,
                            logprobs=a.logprobs,
                        ),
                    )
                )
                for a in answers
            )
        )
        means.append(sum(t.episode_return for t in group) / 32)
        (credit,) = GRPO().credit([group])
        one.update([s for t, c in zip(group, credit, strict=True) for s in sequences(t, c)], GRPO(), (update,))
        sampler.sync(model)
    assert sum(means[-3:]) / 3 > 0.95 > 0.9 > means[0]


def test_with_one_step_per_round_the_policys_own_logprobs_are_the_old_ones() -> None:
    # Whatever the sampler reported, the ratio is 1 and the gradient that of the advantages alone.
    far = [dataclasses.replace(s, sampler_logprobs=(-9.0,) * len(s.action_index)) for s in items(2)]
    one = learner()
    assert one.single_step
    metrics = one.update(
        [dataclasses.replace(s, old_logprobs=s.sampler_logprobs) for s in far],
        GRPO(old_logprobs="recompute", correction="none"),
        (0,),
    )
    assert metrics["loss/old_kl"] == 0.0
    assert metrics["loss/clip_fraction"] == 0.0
    assert metrics["sampler/logprob_gap_mean"] > 0.1
    two = learner()
    exact = [dataclasses.replace(s, old_logprobs=tuple(two.logprobs(two.pack([s])[0])[0].tolist())) for s in items(2)]
    two.update(exact, GRPO(old_logprobs="sampler"), (0,))
    for mine, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
