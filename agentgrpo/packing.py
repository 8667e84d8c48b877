"""Groups and advantages -> batches. Masks, token alignment and token budgets are made here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from agentgrpo.types import Batch, Denominators, Sequence, TokenLayout, Trajectory


def sequences(trajectory: Trajectory, advantages: Tensor) -> list[Sequence]:
    """The training sequences of an episode: one in the transcript context, one per turn in the window context.

    Args:
        advantages: (S,) one per step.
    Returns:
        none for an episode whose environment crashed: its return is unknown, so it teaches nothing.
    """
    if trajectory.status.crashed:
        return []
    if len(advantages) != len(trajectory.steps):
        raise ValueError(f"Got {len(advantages)} advantages for {len(trajectory.steps)} steps.")
    out: list[Sequence] = []
    ids: list[int] = []
    index: list[int] = []
    logprobs: list[float] = []
    values: list[float] = []
    for step, advantage in zip(trajectory.steps, advantages.tolist(), strict=True):
        if step.starts_sequence and ids:
            out.append(Sequence(tuple(ids), tuple(index), tuple(logprobs), tuple(values)))
            ids, index, logprobs, values = [], [], [], []
        ids += step.prompt_ids
        index += range(len(ids), len(ids) + len(step.action_ids))
        ids += step.action_ids
        logprobs += step.logprobs
        values += [advantage] * len(step.action_ids)
    if index:
        out.append(Sequence(tuple(ids), tuple(index), tuple(logprobs), tuple(values)))
    return out


def count(items: Iterable[Sequence], max_length: int) -> Denominators:
    """Denominators of an optimiser step over the given sequences."""
    lengths = [len(s.action_index) for s in items]
    return Denominators(sum(length > 0 for length in lengths), sum(lengths), max_length)


def pack(items: Seq[Sequence], budget: int) -> list[Batch]:
    """Cuts sequences into micro-batches of at most ``budget`` tokens, padding included.

    Raises:
        ValueError: a sequence alone is larger than the budget.
    """
    longest = max((len(s.token_ids) for s in items), default=0)
    if longest > budget:
        raise ValueError(
            f"optim.micro_batch_tokens={budget} is smaller than one episode of {longest} tokens. "
            f"Set it to {longest} or more, or shorten episodes (rollout.max_new_tokens, context.kind=window)."
        )
    # Neighbours in length share a micro-batch, so that little of it is padding.
    ordered = sorted(items, key=lambda s: -len(s.token_ids))
    batches: list[Batch] = []
    part: list[Sequence] = []
    for item in ordered:
        if part and (len(part) + 1) * len(part[0].token_ids) > budget:
            batches.append(_batch(part))
            part = []
        part.append(item)
    return [*batches, _batch(part)] if part else batches


def _batch(items: Seq[Sequence]) -> Batch:
    width = max(len(s.token_ids) for s in items)
    actions = max(len(s.action_index) for s in items)
    lengths = torch.tensor([len(s.token_ids) for s in items])[:, None]
    inside = torch.arange(width) < lengths  # (R, L)
    layout = TokenLayout(
        token_ids=_rows([s.token_ids for s in items], width, torch.int64),
        positions=torch.where(inside, torch.arange(width), 0),
    )
    # A token is predicted by the output at the position before it; rows do not overlap, so row i starts at i * width.
    predictor = [[i * width + at - 1 for at in s.action_index] for i, s in enumerate(items)]
    targets = [[s.token_ids[at] for at in s.action_index] for s in items]
    num_actions = torch.tensor([len(s.action_index) for s in items])[:, None]
    return Batch(
        layout=layout,
        predictor=_rows(predictor, actions, torch.int64),
        targets=_rows(targets, actions, torch.int64),
        action_mask=torch.arange(actions) < num_actions,
        old_logprobs=_rows([s.logprobs for s in items], actions, torch.float32),
        advantages=_rows([s.advantages for s in items], actions, torch.float32),
    )


def _rows(rows: Seq[Seq[int]] | Seq[Seq[float]], width: int, dtype: torch.dtype) -> Tensor:
    """(B, width) with zeros on the right."""
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype)
