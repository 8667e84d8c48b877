"""Groups and advantages -> batches. Masks, token alignment and token budgets are made here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from itertools import pairwise

import torch
from torch import Tensor

from agentgrpo.prefixes import common_prefix
from agentgrpo.types import Batch, Credit, Denominators, Sequence, Step, TokenLayout, Trajectory


def sequences(trajectory: Trajectory, credit: Credit) -> list[Sequence]:
    """The training sequences of an episode: one in the transcript context, one per turn in the window context.

    What an expert gave is read by the model and stands among the tokens, but is no policy token.
    """
    if len(credit.advantages) != trajectory.num_policy_tokens:
        raise ValueError(f"Got {len(credit.advantages)} advantages for {trajectory.num_policy_tokens} policy tokens.")
    out: list[Sequence] = []
    start = 0  # policy tokens before the turns under way
    for turns in _runs(trajectory.steps):
        end = start + sum(step.num_policy_tokens for step in turns)
        if end > start:
            out.append(_sequence(turns, credit, slice(start, end)))
        start = end
    return out


def _runs(steps: Seq[Step]) -> Iterator[list[Step]]:
    """Turns that share a sequence."""
    run: list[Step] = []
    for step in steps:
        if step.starts_sequence and run:
            yield run
            run = []
        run.append(step)
    if run:
        yield run


def _sequence(turns: Seq[Step], credit: Credit, part: slice) -> Sequence:
    ids: list[int] = []
    index: list[int] = []
    for step in turns:
        ids += step.prompt_ids
        index += range(len(ids) + step.num_guided, len(ids) + len(step.action_ids))
        ids += step.action_ids
    sampled = tuple(x for step in turns for x in step.logprobs)
    recomputed = _joined(step.old_logprobs for step in turns)
    return Sequence(
        token_ids=tuple(ids),
        action_index=tuple(index),
        sampler_logprobs=sampled,
        old_logprobs=sampled if recomputed is None else recomputed,
        advantages=tuple(credit.advantages[part].tolist()),
        ref_logprobs=_joined(step.ref_logprobs for step in turns),
        values=_joined(step.values for step in turns),
        returns=None if credit.returns is None else tuple(credit.returns[part].tolist()),
    )


def _joined(columns: Iterable[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    parts = list(columns)
    return None if any(part is None for part in parts) else tuple(x for part in parts for x in part or ())


def count(items: Iterable[Sequence], max_length: int) -> Denominators:
    """Denominators of an optimiser step over the given sequences."""
    lengths = [len(s.action_index) for s in items]
    return Denominators(sum(length > 0 for length in lengths), sum(lengths), max_length)


def deal(items: Seq[Sequence], parts: int) -> list[list[int]]:
    """Cuts sequences into parts whose largest has as few distinct tokens as can be; for few sequences, some are empty.

    Neighbours in sorted order stay together, so that hardly any prefix is computed in two parts.

    Returns:
        per part the indices of its sequences.
    """
    order = _sorted(items)
    lengths = [len(items[i].token_ids) for i in order]
    shared = [common_prefix(items[a].token_ids, items[b].token_ids) for a, b in pairwise(order)]
    new = [length - common for length, common in zip(lengths, [0, *shared], strict=False)]

    def cut(most: int) -> list[list[int]]:
        out: list[list[int]] = []
        nodes = most + 1
        for at, i in enumerate(order):
            nodes += new[at]
            if nodes > most:
                out.append([])
                nodes = lengths[at]
            out[-1].append(i)
        return out

    low, high = max(lengths, default=0), sum(new)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(cut(middle)) <= parts else (middle + 1, high)
    found = cut(low) if order else []
    return found + [[] for _ in range(parts - len(found))]


def _sorted(items: Seq[Sequence]) -> list[int]:
    # In this order neighbours share the longest prefixes, so members of a group stand together.
    return sorted(range(len(items)), key=lambda i: items[i].token_ids)


def pack(items: Seq[Sequence], budget: int, *, share_prefixes: bool = True) -> list[Batch]:
    """Cuts sequences into micro-batches of at most ``budget`` computed tokens.

    Args:
        share_prefixes: a prefix that neighbours have in common counts once. False: each sequence is a row of its own,
            and its padding counts.
    Raises:
        ValueError: a sequence alone is larger than the budget.
    """
    check_budget(items, budget)
    order = _sorted(items)
    batches: list[Batch] = []
    part: list[int] = []
    width = nodes = 0
    for i in order:
        ids = items[i].token_ids
        width = max(width, len(ids))
        nodes += len(ids) - (common_prefix(items[part[-1]].token_ids, ids) if part else 0)
        if part and (nodes if share_prefixes else (len(part) + 1) * width) > budget:
            batches.append(_batch(items, part))
            part, width, nodes = [], len(ids), len(ids)
        part.append(i)
    return [*batches, _batch(items, part)] if part else batches


def check_budget(items: Iterable[Sequence], budget: int) -> None:
    """Refuses sequences of which one alone is larger than the budget.

    Raises:
        ValueError: what to set.
    """
    longest = max((len(s.token_ids) for s in items), default=0)
    if longest > budget:
        raise ValueError(
            f"optim.micro_batch_tokens={budget} is smaller than one episode of {longest} tokens. "
            f"Set it to {longest} or more, or shorten episodes (rollout.max_new_tokens, context.kind=window)."
        )


def _batch(items: Seq[Sequence], rows: Seq[int]) -> Batch:
    part = [items[i] for i in rows]
    layout = tree([s.token_ids for s in part])
    paths = layout.paths.tolist()
    # A token is predicted by the output at the node before it.
    predictor = [[path[at - 1] for at in s.action_index] for path, s in zip(paths, part, strict=True)]
    targets = [[s.token_ids[at] for at in s.action_index] for s in part]
    width = max(len(s.action_index) for s in part)
    num_actions = torch.tensor([len(s.action_index) for s in part])[:, None]
    return Batch(
        layout=layout,
        predictor=_rows(predictor, width, torch.int64),
        targets=_rows(targets, width, torch.int64),
        action_mask=torch.arange(width) < num_actions,
        sampler_logprobs=_rows([s.sampler_logprobs for s in part], width, torch.float32),
        old_logprobs=_rows([s.old_logprobs for s in part], width, torch.float32),
        advantages=_rows([s.advantages for s in part], width, torch.float32),
        ref_logprobs=_optional_rows([s.ref_logprobs for s in part], width),
        values=_optional_rows([s.values for s in part], width),
        returns=_optional_rows([s.returns for s in part], width),
        rows=tuple(rows),
    )


def tree(items: Seq[tuple[int, ...]]) -> TokenLayout:
    """The prefix tree of token sequences in sorted order: there a sequence shares most with the one before it."""
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    homes: list[int] = []
    paths: list[list[int]] = []
    width = max(map(len, items))
    for row, item in enumerate(items):
        path = paths[-1] if row else []
        shared = common_prefix(items[row - 1], item) if row else 0
        _close(path[shared:], ends, len(ids))
        paths.append([*path[:shared], *range(len(ids), len(ids) + len(item) - shared)])
        ids += item[shared:]
        positions += range(shared, len(item))
        ends += [0] * (len(item) - shared)
        homes += range(row * width + shared, row * width + len(item))
    _close(paths[-1], ends, len(ids))
    return TokenLayout(
        token_ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        ends=torch.tensor(ends),
        paths=_rows(paths, width, torch.int64),
        homes=torch.tensor(homes),
    )


def _close(nodes: Seq[int], ends: list[int], end: int) -> None:
    """Says where the subtrees of nodes end."""
    for node in nodes:
        ends[node] = end


def _rows(rows: Seq[Seq[int]] | Seq[Seq[float]], width: int, dtype: torch.dtype) -> Tensor:
    """(B, width) with zeros on the right."""
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype)


def _optional_rows(rows: Seq[Seq[float] | None], width: int) -> Tensor | None:
    known = [row for row in rows if row is not None]
    return _rows(known, width, torch.float32) if len(known) == len(rows) else None
