"""Drawing tokens by inverse CDF."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agentgrpo.samplers.sampling import draw, inverse_cdf

ALMOST_ONE = 1 - 2**-53  # the largest uniform there is


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(probabilities: list[float], *uniforms: float) -> list[int]:
    rows = torch.tensor([probabilities] * len(uniforms))
    return inverse_cdf(rows, float64(*uniforms)).tolist()


def reference(probabilities: Tensor, uniforms: Tensor) -> list[int]:
    """The first index whose running sum exceeds u times the total, in float64 and one row at a time."""
    out = []
    for row, u in zip(probabilities.double().numpy(), uniforms.tolist(), strict=True):
        sums = np.cumsum(row)
        out.append(int(np.searchsorted(sums, u * sums[-1], side="right")))
    return out


def test_by_hand() -> None:
    # Running sums 0.25, 0.75, 1.
    assert drawn([0.25, 0.5, 0.25], 0.0, 0.2, 0.25, 0.7, 0.75, 0.99) == [0, 0, 1, 1, 2, 2]


def test_zero_probability_at_the_start_is_skipped_at_u_zero() -> None:
    assert drawn([0.0, 0.0, 1.0], 0.0) == [2]


def test_zero_probability_at_the_end_is_skipped_at_u_almost_one() -> None:
    assert drawn([0.5, 0.5, 0.0, 0.0], ALMOST_ONE) == [1]


@pytest.mark.parametrize("u", [0.0, 0.5, ALMOST_ONE])
@pytest.mark.parametrize("only", [0, 255, 256, 511, 512, 599])
def test_a_certain_token_is_drawn_whatever_its_block(only: int, u: float) -> None:
    assert drawn([float(i == only) for i in range(600)], u) == [only]


@given(
    seed=st.integers(0, 2**32 - 1),
    vocabulary=st.sampled_from([1, 2, 255, 256, 257, 511, 700, 1024]),
    zeros=st.sampled_from([0.0, 0.5, 0.99]),
    edge=st.sampled_from([0.0, 0.5, ALMOST_ONE]),
)
@settings(max_examples=30, deadline=None)
def test_equals_the_reference_and_never_draws_an_impossible_token(
    seed: int, vocabulary: int, zeros: float, edge: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(8, vocabulary, generator=generator) ** 8
    probabilities[torch.rand(8, vocabulary, generator=generator) < zeros] = 0.0
    probabilities[:, vocabulary // 2] += 1e-3  # at least one possible token
    probabilities /= probabilities.sum(dim=-1, keepdim=True)
    uniforms = torch.rand(8, dtype=torch.float64, generator=generator)
    uniforms[0] = edge
    tokens = inverse_cdf(probabilities, uniforms)
    assert tokens.tolist() == reference(probabilities, uniforms)
    assert (probabilities.gather(1, tokens[:, None]) > 0).all()


def test_a_large_vocabulary_keeps_its_tail() -> None:
    # float32 running sums over 49152 tokens of 2e-5 drift by several tokens near the end.
    vocabulary = 49152
    probabilities = torch.full((4, vocabulary), 1 / vocabulary)
    uniforms = float64(0.0, 0.25, 0.999, ALMOST_ONE)
    tokens = inverse_cdf(probabilities, uniforms).tolist()
    assert tokens == reference(probabilities, uniforms)
    assert tokens[0] == 0
    assert tokens[-1] == vocabulary - 1


def test_a_large_vocabulary_of_a_softmax_equals_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = (5 * torch.randn(64, 49152, generator=generator)).softmax(dim=-1)
    uniforms = torch.rand(64, dtype=torch.float64, generator=generator)
    assert inverse_cdf(probabilities, uniforms).tolist() == reference(probabilities, uniforms)


def test_frequencies_follow_the_probabilities() -> None:
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    tokens = inverse_cdf(torch.tensor([[0.1, 0.2, 0.7]]).expand(1000, -1), uniforms)
    assert torch.bincount(tokens).tolist() == [100, 200, 700]


def test_temperature_divides_the_logits() -> None:
    # ln 4 and 0: probabilities 0.8 and 0.2 at 1; at 0.5 the odds are 16 to 1; at 2 they are 2 to 1.
    logits = torch.tensor([[math.log(4), 0.0]]).expand(3, -1)
    _, logprobs = draw(logits, torch.tensor([1.0, 0.5, 2.0]), torch.ones(len(logits)), float64(0.0, 0.0, 0.0))
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.8, 16 / 17, 2 / 3]))


def test_temperature_changes_what_is_drawn() -> None:
    logits = torch.tensor([[math.log(4), 0.0]]).expand(3, -1)
    tokens, _ = draw(logits, torch.tensor([1.0, 0.5, 2.0]), torch.ones(len(logits)), float64(0.75, 0.9, 0.75))
    assert tokens.tolist() == [0, 0, 1]


def test_temperature_zero_takes_the_most_probable_token_with_its_logprob_at_one() -> None:
    logits = torch.tensor([[0.0, math.log(3), 0.0]])
    tokens, logprobs = draw(logits, torch.tensor([0.0]), torch.ones(len(logits)), float64(0.99))
    assert tokens.tolist() == [1]
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.6)]))


def test_greedy_and_sampled_rows_may_mix() -> None:
    logits = torch.tensor([[0.0, 1.0]]).expand(2, -1)
    tokens, _ = draw(logits, torch.tensor([0.0, 1.0]), torch.ones(len(logits)), float64(0.0, 0.0))
    assert tokens.tolist() == [1, 0]


def test_bf16_logits_are_normalised_in_fp32() -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    _, logprobs = draw(logits, torch.ones(4), torch.ones(len(logits)), float64(0.1, 0.4, 0.6, 0.9))
    tokens, _ = draw(logits, torch.ones(4), torch.ones(len(logits)), float64(0.1, 0.4, 0.6, 0.9))
    expected = logits.double().log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), expected, atol=1e-5, rtol=0)


def test_a_forbidden_token_is_never_drawn() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]]).expand(3, -1)
    tokens, logprobs = draw(logits, torch.ones(3), torch.ones(len(logits)), float64(0.0, 0.5, ALMOST_ONE))
    assert tokens.tolist() == [1, 3, 3]
    assert logprobs.isfinite().all()
