"""Gradients of every algorithm's loss through a tiny model, in float64."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from helpers import default_algorithm
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from agentgrpo import attention, packing, policy
from agentgrpo.algorithm import Algorithm
from agentgrpo.critic import Critic
from agentgrpo.registry import algorithm_names
from agentgrpo.seeding import derive
from agentgrpo.types import Batch, Denominators, Sequence

TEMPERATURE = 1.5
# Log ratios far from every clip bound, inside and outside, so that no finite difference steps over a kink.
MOVES = (0.5, -0.5, 0.05, -0.02)
# GSPO clips the mean over a sequence at 3e-4 and 4e-4: as far outside as that is inside for the others.
SEQUENCE_MOVES = (0.3, -0.3)


def tiny_model() -> PreTrainedModel:
    """A few hundred weights. GPT-NeoX, because Llama's norms compute in float32 whatever the dtype."""
    attention.register()
    config = GPTNeoXConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = GPTNeoXForCausalLM._from_config(
            config, attn_implementation=attention.NAME, dtype=torch.float64
        )
    assert policy.can_share_prefixes(model)
    return model.eval()


def logprobs_of(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(B, T) float64, as the learner computes them."""
    states = policy.layout_states(model, batch.layout, share_prefixes=True)
    at, targets = batch.predictor[batch.action_mask], batch.targets[batch.action_mask]
    found, _ = policy.token_logprobs(model, states[at], targets, TEMPERATURE)
    return found.new_zeros(batch.action_mask.shape).masked_scatter(batch.action_mask, found)


def items(model: PreTrainedModel, by_sequence: bool) -> list[Sequence]:
    """Sequences of different lengths that share prefixes, with ratios inside and outside the clip."""
    bare = []
    for i in range(5):
        ids = (1, 2, *(3 + derive(i // 2, t) % 8 for t in range(3)), *(3 + derive(i, t) % 8 for t in range(2 + i)))
        index = tuple(t for t in range(2, len(ids)) if t % 3)
        zeros = (0.0,) * len(index)
        advantages = tuple((-1.0) ** i * (1 + t / 10) for t in range(len(index)))
        bare.append(Sequence(ids, index, zeros, zeros, advantages, values=zeros, returns=advantages))
    (batch,) = packing.pack(bare, 10_000)
    with torch.no_grad():
        current = logprobs_of(model, batch)
    out = list(bare)
    for row, i in enumerate(batch.rows):
        known = current[row][batch.action_mask[row]].tolist()
        moves = [SEQUENCE_MOVES[i // 2 % 2]] * len(known) if by_sequence else [MOVES[(i + t) % 4] for t in range(20)]
        old = tuple(x - move for x, move in zip(known, moves, strict=False))
        reference = tuple(x + 0.1 * (-1) ** t for t, x in enumerate(known))
        out[i] = dataclasses.replace(bare[i], sampler_logprobs=old, old_logprobs=old, ref_logprobs=reference)
    return out


class Loss(nn.Module):
    """The loss of one optimiser step as a function of the weights."""

    def __init__(self, model: PreTrainedModel, algorithm: Algorithm, batches: list[Batch], counts: Denominators):
        super().__init__()
        self.model = model
        self._rest = (algorithm, batches, counts)

    def forward(self) -> Tensor:
        algorithm, batches, counts = self._rest
        return torch.stack([algorithm.loss(logprobs_of(self.model, b), b, counts).loss for b in batches]).sum()


def loss_of(name: str, budget: int, kl_coef: float) -> Loss:
    """The loss of an algorithm with its own defaults, in micro-batches of at most ``budget`` tokens."""
    model = tiny_model()
    algorithm = default_algorithm(name, kl_coef=kl_coef)
    part = items(model, by_sequence=name == "gspo")
    return Loss(model, algorithm, packing.pack(part, budget), packing.count(part, 20))


class Constants:
    """What a loss detaches stays what it was at the first call, as its gradient assumes.

    Finite differences cannot know that some losses treat a part of themselves as constant.
    """

    def __init__(self) -> None:
        self._values: list[Tensor] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        original, calls = torch.Tensor.detach, itertools.count()

        def detach(tensor: Tensor) -> Tensor:
            at = next(calls)
            if at == len(self._values):
                self._values.append(original(tensor).clone())
            return self._values[at]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "detach", detach)
            yield


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
@pytest.mark.parametrize("name", algorithm_names())
def test_the_loss_has_the_gradient_of_finite_differences(name: str, kl_coef: float) -> None:
    loss = loss_of(name, 10_000, kl_coef)
    names = [key for key, _ in loss.named_parameters()]
    weights = tuple(p.detach().clone().requires_grad_() for p in loss.parameters())
    constants = Constants()

    def value(*given: Tensor) -> Tensor:
        with constants.held():
            out: Tensor = functional_call(loss, dict(zip(names, given, strict=True)), ())
        return out

    assert any(float(g.norm()) > 1e-3 for g in torch.autograd.grad(value(*weights), weights, allow_unused=True))
    assert torch.autograd.gradcheck(value, weights, fast_mode=True)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
@pytest.mark.parametrize("name", algorithm_names())
def test_micro_batches_of_any_size_give_the_gradient_of_one(name: str, kl_coef: float) -> None:
    def gradient(budget: int) -> Tensor:
        loss = loss_of(name, budget, kl_coef)
        loss().backward()
        return torch.cat([p.grad.flatten() for p in loss.parameters() if p.grad is not None])

    whole = gradient(10_000)
    for budget in (11, 18, 25, 40):
        assert float((gradient(budget) - whole).norm() / whole.norm()) < 1e-12


def test_the_loss_of_the_critic_has_the_gradient_of_finite_differences() -> None:
    model = tiny_model()
    critic = Critic(model).double()
    with torch.no_grad():
        critic.head.weight.copy_(torch.linspace(-1, 1, 8)[None])
    part = items(model, by_sequence=False)
    (batch,) = packing.pack(part, 10_000)
    algorithm = default_algorithm("ppo", value_clip=100.0)
    names = [key for key, _ in critic.named_parameters()]

    def value(*given: Tensor) -> Tensor:
        found: Tensor = functional_call(
            critic, dict(zip(names, given, strict=True)), (batch,), {"share_prefixes": True}
        )
        return algorithm.value_loss(found, batch).sum()

    weights = tuple(p.detach().clone().requires_grad_() for p in critic.parameters())
    assert torch.autograd.gradcheck(value, weights, fast_mode=True)
