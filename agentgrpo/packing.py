"""Groups and advantages -> batches. Masks, token alignment and token budgets are made here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from agentgrpo.prefixes import common_prefix
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
    """Cuts sequences into micro-batches of at most ``budget`` tokens, shared prefixes and padding counted in full.

    Raises:
        ValueError: a sequence alone is larger than the budget.
    """
    longest = max((len(s.token_ids) for s in items), default=0)
    if longest > budget:
        raise ValueError(
            f"optim.micro_batch_tokens={budget} is smaller than one episode of {longest} tokens. "
            f"Set it to {longest} or more, or shorten episodes (rollout.max_new_tokens, context.kind=window)."
        )
    # In this order neighbours share the longest prefixes, so members of a group stand together.
    ordered = sorted(items, key=lambda s: s.token_ids)
    batches: list[Batch] = []
    part: list[Sequence] = []
    width = 0
    for item in ordered:
        width = max(width, len(item.token_ids))
        if part and (len(part) + 1) * width > budget:
            batches.append(_batch(part))
            part, width = [], len(item.token_ids)
        part.append(item)
    return [*batches, _batch(part)] if part else batches


def _batch(items: Seq[Sequence]) -> Batch:
    layout = tree([s.token_ids for s in items])
    paths = layout.paths.tolist()
    # A token is predicted by the output at the node before it.
    predictor = [[path[at - 1] for at in s.action_index] for path, s in zip(paths, items, strict=True)]
    targets = [[s.token_ids[at] for at in s.action_index] for s in items]
    actions = max(len(s.action_index) for s in items)
    num_actions = torch.tensor([len(s.action_index) for s in items])[:, None]
    return Batch(
        layout=layout,
        predictor=_rows(predictor, actions, torch.int64),
        targets=_rows(targets, actions, torch.int64),
        action_mask=torch.arange(actions) < num_actions,
        old_logprobs=_rows([s.logprobs for s in items], actions, torch.float32),
        advantages=_rows([s.advantages for s in items], actions, torch.float32),
    )


def tree(items: Seq[tuple[int, ...]]) -> TokenLayout:
    """The prefix tree of token sequences in sorted order: there a sequence shares most with the one before it."""
    ids: list[int] = []
    positions: list[int] = []
    homes: list[int] = []
    paths: list[list[int]] = []
    width = max(map(len, items))
    for row, item in enumerate(items):
        shared = common_prefix(items[row - 1], item) if row else 0
        nodes = range(len(ids), len(ids) + len(item) - shared)
        paths.append([*(paths[-1][:shared] if row else []), *nodes])
        ids += item[shared:]
        positions += range(shared, len(item))
        homes += range(row * width + shared, row * width + len(item))
    return TokenLayout(
        token_ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        paths=_rows(paths, width, torch.int64),
        homes=torch.tensor(homes),
    )


def _rows(rows: Seq[Seq[int]] | Seq[Seq[float]], width: int, dtype: torch.dtype) -> Tensor:
    """(B, width) with zeros on the right."""
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype)
