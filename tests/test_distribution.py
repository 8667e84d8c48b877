"""Temperature and top-p, by hand, and the same for drawing and for looking back."""

import math

import pytest
import torch
from helpers import optim_config, tiny_llama

from agentgrpo import policy
from agentgrpo.distribution import entropy, log_distribution, nucleus
from agentgrpo.learner import Learner
from agentgrpo.packing import pack
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.sampling import draw
from agentgrpo.samplers.transformers import TransformersSampler
from agentgrpo.seeding import derive
from agentgrpo.types import Sequence

LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
NO = -math.inf


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1.0, 4), (0.96, 4), (0.94, 3), (0.81, 3), (0.79, 2), (0.51, 2), (0.49, 1), (0.001, 1)],
)
def test_the_fewest_tokens_that_reach_top_p(top_p: float, kept: int) -> None:
    assert nucleus(LOGITS, top_p).sum() == kept
    found = log_distribution(LOGITS, 1.0, top_p).exp()
    expected = LOGITS.exp()[:, :kept] / LOGITS.exp()[:, :kept].sum()
    torch.testing.assert_close(found[:, :kept], expected)
    assert found[:, kept:].sum() == 0


def test_temperature_comes_first() -> None:
    # At temperature 0.5 probabilities are squared: 0.25, 0.09, 0.0225, 0.0025 over 0.365.
    found = log_distribution(LOGITS, 0.5, 0.9).exp()
    torch.testing.assert_close(found, torch.tensor([[0.25 / 0.34, 0.09 / 0.34, 0.0, 0.0]]))


def test_equally_probable_tokens_stay_together() -> None:
    assert nucleus(torch.full((1, 4), 0.25).log(), 0.3).tolist() == [[True] * 4]


def test_rows_may_have_their_own() -> None:
    logits = LOGITS.repeat(3, 1)
    found = log_distribution(logits, torch.ones(3, 1), torch.tensor([[1.0], [0.7], [0.4]]))
    assert (found > NO).sum(dim=1).tolist() == [4, 2, 1]


def test_a_sampled_token_stays_possible_when_the_policy_has_moved() -> None:
    found = log_distribution(LOGITS, 1.0, 0.7, torch.tensor([3]))
    torch.testing.assert_close(found.exp(), torch.tensor([[0.5, 0.3, 0.0, 0.05]]) / 0.85)


def test_entropy_counts_only_what_can_be_drawn() -> None:
    found = entropy(log_distribution(LOGITS, 1.0, 0.7))
    a, b = 0.5 / 0.8, 0.3 / 0.8
    torch.testing.assert_close(found, torch.tensor([-(a * math.log(a) + b * math.log(b))]))


def test_draws_follow_the_distribution() -> None:
    count = 4000
    uniforms = (torch.arange(count).double() + 0.5) / count
    tokens, logprobs = draw(LOGITS.repeat(count, 1), torch.ones(count), torch.full((count,), 0.7), uniforms)
    assert tokens.bincount(minlength=4).tolist() == [2500, 1500, 0, 0]
    torch.testing.assert_close(logprobs.exp().unique(), torch.tensor([0.375, 0.625]))


def test_greedy_draws_ignore_top_p() -> None:
    _, logprobs = draw(LOGITS, torch.zeros(1), torch.full((1,), 0.1), torch.zeros(1).double())
    torch.testing.assert_close(logprobs, LOGITS[:, 0])


def test_gradient_of_logprobs_and_entropy_under_top_p() -> None:
    model = tiny_llama().double()
    states = torch.randn(5, 32, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([3, 7, 7, 20, 49])

    def both(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return policy.token_logprobs(model, x, targets, 1.3, 0.6, with_entropy=True)  # type: ignore[return-value]

    assert torch.autograd.gradcheck(both, (states,))


@pytest.mark.parametrize("top_p", [0.9, 0.5])
def test_sampler_and_learner_agree(top_p: float) -> None:
    model = tiny_llama()
    sampler = TransformersSampler(model, [], cache_gb=0.1)
    prompt = (1, 40, 41, 7)
    params = [SamplingParams(12, 0.8, top_p, derive(i)) for i in range(4)]
    items = []
    for answer in sampler.generate([prompt] * 4, params):
        ids = (*prompt, *answer.token_ids)
        index = tuple(range(4, len(ids)))
        items.append(Sequence(ids, index, answer.logprobs, answer.logprobs, (1.0,) * len(index)))
    learner = Learner(model, optim_config(), precision="fp32", temperature=0.8, max_length=12, top_p=top_p)
    (batch,) = pack(items, 1000)
    with torch.no_grad():
        found = learner.logprobs(batch)[batch.action_mask]
    torch.testing.assert_close(found, batch.sampler_logprobs[batch.action_mask], atol=1e-4, rtol=0)
    whole = Learner(model, optim_config(), precision="fp32", temperature=0.8, max_length=12)
    with torch.no_grad():
        assert bool((found > whole.logprobs(batch)[batch.action_mask]).any())  # scaled up to a sum of 1


def test_chunks_give_what_one_chunk_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    states, targets = torch.randn(20, 32, requires_grad=True), torch.randint(50, (20,))
    found = []
    for size in (1000, 7):
        monkeypatch.setattr(policy, "CHUNK", size)
        logprobs, _ = policy.token_logprobs(model, states, targets, 0.7, 0.9)
        found.append((logprobs.detach(), torch.autograd.grad(logprobs.sum(), states)[0]))
    torch.testing.assert_close(found[0], found[1])
