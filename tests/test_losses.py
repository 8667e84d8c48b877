"""Shapes, masks and denominators of the losses; their values are in test_goldens."""

import pytest
import torch
from torch import Tensor

from agentgrpo.losses import aggregate, clip_fraction, clipped_surrogate, kl, masked_ratio
from agentgrpo.types import Denominators

MASK = torch.tensor([[True, True, False], [True, False, False]])
VALUES = torch.tensor([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]])
DENOMINATORS = Denominators(sequences=2, tokens=3, max_length=10)


def test_shape_error_names_the_shapes() -> None:
    good = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"\(B, T\).*got \(2, 4\), \(2, 3\), \(2, 3\)"):
        clipped_surrogate(torch.zeros(2, 4), good, MASK)


def test_an_advantage_per_batch_row_must_be_a_column() -> None:
    good = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"\(2,\)"):
        clipped_surrogate(good, torch.zeros(2), MASK)


def test_nothing_may_broadcast_the_ratio() -> None:
    with pytest.raises(ValueError, match="must be"):
        clipped_surrogate(torch.zeros(1, 3), torch.zeros(2, 3), MASK)


def test_a_column_of_advantages_equals_the_same_written_out() -> None:
    ratio = masked_ratio(-VALUES / 10, -VALUES / 9, MASK)
    column = torch.tensor([[1.0], [-2.0]])
    one = clipped_surrogate(ratio, column, MASK)
    assert torch.equal(one, clipped_surrogate(ratio, column.expand(2, 3), MASK))


HOSTILE = [float("inf"), float("-inf"), float("nan"), 1e38, -1e38]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_masked_positions_reach_neither_the_loss_nor_the_gradient(hostile: float) -> None:
    def run(filler: float) -> tuple[Tensor, Tensor]:
        logprobs = torch.where(MASK, -VALUES / 10, filler).requires_grad_()
        old = torch.where(MASK, -VALUES / 9, -filler)
        advantages = torch.where(MASK, VALUES, filler)
        loss = clipped_surrogate(masked_ratio(logprobs, old, MASK), advantages, MASK) + kl(logprobs, old, MASK)
        total = aggregate(loss, MASK, "seq-mean-token-mean", DENOMINATORS)
        total.backward()  # type: ignore[no-untyped-call]
        assert logprobs.grad is not None
        return total.detach(), logprobs.grad

    total, gradient = run(hostile)
    expected_total, expected_gradient = run(0.0)
    assert torch.equal(total, expected_total)
    assert torch.equal(gradient, expected_gradient)
    assert torch.equal(gradient[~MASK], torch.zeros(3))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_masked_positions_are_not_counted_as_clipped(hostile: float) -> None:
    ratio = torch.where(MASK, 1.0, hostile)
    clipped = clip_fraction(ratio, torch.ones(2, 3), MASK, clip_ratio_low=0.2, clip_ratio_high=0.2)
    assert clipped.sum() == 0


def test_ratio_is_one_off_the_mask() -> None:
    assert torch.equal(masked_ratio(VALUES, VALUES - 1, MASK)[~MASK], torch.ones(3))


@pytest.mark.parametrize("which", ["old", "ref"])
def test_no_gradient_reaches_the_other_policies(which: str) -> None:
    logprobs, other = torch.zeros(2, 3, requires_grad=True), torch.full((2, 3), -0.1, requires_grad=True)
    ratio = masked_ratio(logprobs, other, MASK)
    loss = clipped_surrogate(ratio, VALUES, MASK) if which == "old" else kl(logprobs, other, MASK)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert other.grad is None
    assert logprobs.grad is not None


# Row sums 3 and 6, row means 1.5 and 6.
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", 9 / 3),
        ("seq-mean-token-mean", 7.5 / 2),
        ("seq-mean-token-sum", 9 / 2),
        ("seq-mean-token-sum-norm", 9 / (2 * 10)),
    ],
)
def test_aggregation(mode: str, expected: float) -> None:
    assert aggregate(VALUES, MASK, mode, DENOMINATORS).item() == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "token-mean"])
def test_a_row_without_policy_tokens_changes_nothing(mode: str) -> None:
    values, mask = torch.cat([VALUES, torch.ones(1, 3)]), torch.cat([MASK, torch.zeros(1, 3, dtype=torch.bool)])
    one = aggregate(values, mask, mode, DENOMINATORS)  # type: ignore[arg-type]
    assert torch.equal(one, aggregate(VALUES, MASK, mode, DENOMINATORS))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "token-mean"])
def test_shares_of_micro_batches_add_up(mode: str) -> None:
    whole = aggregate(VALUES, MASK, mode, DENOMINATORS)  # type: ignore[arg-type]
    parts = [aggregate(VALUES[i : i + 1], MASK[i : i + 1], mode, DENOMINATORS) for i in (0, 1)]  # type: ignore[arg-type]
    assert sum(parts).item() == pytest.approx(whole.item())  # type: ignore[union-attr]


def test_unknown_aggregation_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="token-mean, seq-mean-token-sum"):
        aggregate(VALUES, MASK, "mean", DENOMINATORS)  # type: ignore[arg-type]
