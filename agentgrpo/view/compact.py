"""The data of the page: an index of all trajectories, and chunks of a few groups each, decoded when they are looked at.

Every text and every list of token ids stands once in a chunk; steps are columns of numbers that point at them. A block
is JSON, packed by gzip and written in base64, so nothing in it can end the element that holds it.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from agentgrpo.run_head import RunHead
from agentgrpo.view.reading import Record, rounded
from agentgrpo.view.tokens import TokenTexts

_CHUNK = 64
"""Trajectories after which a chunk is full. A group is never split."""
_OPTIONAL = {"gap": "old_logprobs", "reference": "ref_logprobs", "value": "values"}
"""Columns that only some runs have, and the field each is made from."""


_LEAST = {"gap": 0.01, "reference": 0.01}
"""Nats that the strongest colour stands for at least: below, differences are rounding and should look like it."""


class Table:
    """Distinct values, numbered in the order in which they came."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def add(self, value: Any) -> int:
        """The value's number. A list counts as equal to one of the same entries."""
        key = tuple(value) if isinstance(value, list) else value
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]


class Spread:
    """How large the values of a column are: what the strongest colour stands for."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._kept: list[float] = []
        self._stride = 1
        self.seen = 0

    def add(self, value: float) -> None:
        """Takes a value into account; of very many, every second, fourth, eighth ... is kept."""
        if self.seen % self._stride == 0:
            self._kept.append(abs(value))
            if len(self._kept) > self._limit:
                self._kept = self._kept[::2]
                self._stride *= 2
        self.seen += 1

    @property
    def scale(self) -> float:
        """The 98th percentile of the absolute values that are not 0; 0 where there is none."""
        sizes = sorted(v for v in self._kept if v > 0)
        return float(rounded(sizes[int(0.98 * (len(sizes) - 1))], 2) or 0) if sizes else 0.0


@dataclass
class PageData:
    """Filled file by file with ``add``, closed with ``finish``; ``blocks`` are what the page embeds."""

    run: RunHead
    notes: list[str] = field(default_factory=list)
    blocks: dict[str, str] = field(default_factory=dict)
    num_trajectories: int = 0

    def __post_init__(self) -> None:
        self.notes.extend(self.run.notes)
        self._envs, self._statuses, self._terms = Table(), Table(), Table()
        self._groups: list[dict[str, Any]] = []
        self._waiting: list[list[Record]] = []
        self._ids: set[int] = set()
        self._spreads = {name: Spread() for name in ("advantage", *_OPTIONAL)}
        self._num_chunks = 0

    @property
    def num_groups(self) -> int:
        return len(self._groups) + len(self._waiting)

    def add(self, records: Sequence[Record]) -> None:
        """Trajectories of one file, in its order."""
        for _, members in groupby(records, key=lambda r: (r["update"], r["group"])):
            self._waiting.append(list(members))
            self.num_trajectories += len(self._waiting[-1])
            if sum(map(len, self._waiting)) >= _CHUNK:
                self._close_chunk()

    def finish(self, texts: TokenTexts | None) -> None:
        """Writes what is left, the token texts and the index."""
        self._close_chunk()
        if texts is None:
            self.notes.append(
                "No tokenizer.json can be read in the run's checkpoints: tokens are shown by their ids, and what the "
                "policy wrote as text."
            )
        self.blocks["vocabulary"] = pack(
            {"texts": texts.texts(self._ids), "special": sorted(texts.special & self._ids)}
            if texts
            else {"texts": {}, "special": []}
        )
        self.blocks["index"] = pack(self._index())

    def _index(self) -> dict[str, Any]:
        run = self.run
        return {
            "run": {
                "name": run.name,
                "env": run.env,
                "algorithm": run.algorithm,
                "gamma": run.gamma,
                "similarity": run.similarity,
                "updates": run.updates,
                "finished": run.finished,
            },
            "notes": self.notes,
            "envs": self._envs.values,
            "statuses": self._statuses.values,
            "terms": self._terms.values,
            "scales": {name: max(spread.scale, _LEAST.get(name, 0.0)) for name, spread in self._spreads.items()},
            "columns": [name for name, spread in self._spreads.items() if spread.seen],
            "groups": self._groups,
        }

    def _close_chunk(self) -> None:
        if not self._waiting:
            return
        texts, sequences = Table(), Table()
        groups = []
        for row, members in enumerate(self._waiting):
            states = _number_states(members)
            trajectories = [self._trajectory(m, s, texts, sequences) for m, s in zip(members, states, strict=True)]
            groups.append(trajectories)
            self._groups.append(self._summary(members, self._num_chunks, row))
        self.blocks[f"chunk-{self._num_chunks}"] = pack(
            {"texts": texts.values, "sequences": sequences.values, "groups": groups}
        )
        for sequence in sequences.values:
            self._ids.update(sequence)
        self._num_chunks += 1
        self._waiting = []

    def _summary(self, members: Sequence[Record], chunk: int, row: int) -> dict[str, Any]:
        """A group as the list shows it."""
        first = members[0]
        return {
            "update": first["update"],
            "group": first["group"],
            "env": self._envs.add(str(first.get("env") or self.run.env)),
            "seed": str(first["task_seed"]),  # larger than what JavaScript's numbers hold exactly
            "max_return": rounded(first.get("max_return")),
            "chunk": chunk,
            "row": row,
            "slot": [m["slot"] for m in members],
            "status": [self._statuses.add(m["status"]) for m in members],
            "success": [int(m["success"]) for m in members],
            "return": [rounded(m.get("return")) for m in members],
            "turns": [len(m["steps"]) for m in members],
            "tokens": [len(m["advantages"]) for m in members],
            "guided": [sum(s["num_guided"] for s in m["steps"]) for m in members],
        }

    def _trajectory(self, record: Record, states: Sequence[int], texts: Table, sequences: Table) -> dict[str, Any]:
        steps = record["steps"]
        info = json.dumps(record["task_info"], indent=1, ensure_ascii=False) if record["task_info"] else ""
        made = {
            "final": texts.add(record["final_observation"]),
            "error": texts.add(record["error"]),
            "info": texts.add(info),
            "observation": [texts.add(s["observation"]) for s in steps],
            "text": [texts.add(s["text"]) for s in steps],
            "action": [texts.add(s["action"]) for s in steps],
            "anchor": [texts.add(s["anchor"]) if isinstance(s.get("anchor"), str) else -1 for s in steps],
            "state": list(states),
            "reward": [rounded(s["reward"]) for s in steps],
            "terms": [self._reward_terms(s) for s in steps],
            "prompt": [sequences.add(s["prompt_ids"]) for s in steps],
            "fresh": [int(s["starts_sequence"]) for s in steps],
            "tokens": [sequences.add(s["action_ids"]) for s in steps],
            "guided": [s["num_guided"] for s in steps],
            "valid": [int(s["valid_action"]) for s in steps],
            "cut": [int(s["stop_reason"] == "length") for s in steps],
            "version": [s["policy_version"] for s in steps],
            "advantage": list(self._advantages(record)),
            # Three decimals are a thousandth of a probability.
            "logprob": [[rounded(round(x, 3)) for x in s["logprobs"]] for s in steps],
        }
        for name, source in _OPTIONAL.items():
            if any(s.get(source) is not None for s in steps):
                made[name] = [self._column(name, s.get(source), s["logprobs"]) for s in steps]
        return made

    def _reward_terms(self, step: Record) -> list[list[float | int | None]]:
        """Pairs of the term's number and its value."""
        return [[self._terms.add(name), rounded(value)] for name, value in step["reward_terms"].items()]

    def _advantages(self, record: Record) -> Iterator[Any]:
        """Per step one number where its tokens share it, else a list."""
        start = 0
        for step in record["steps"]:
            end = start + len(step["logprobs"])
            values = record["advantages"][start:end]
            start = end
            for value in values:
                self._spreads["advantage"].add(value)
            short = [rounded(v) for v in values]
            yield short[0] if short and len(set(short)) == 1 else short

    def _column(self, name: str, values: Sequence[float] | None, logprobs: Sequence[float]) -> Any:
        """Values per token; log-probabilities as what they are above the sampler's."""
        if values is None:
            return None
        shown = list(values) if name == "value" else [v - s for v, s in zip(values, logprobs, strict=True)]
        for value in shown:
            self._spreads[name].add(value)
        return [rounded(v, 2 if name != "value" else 3) for v in shown]


def _number_states(members: Sequence[Record]) -> list[list[int]]:
    """Per member the step group of each of its steps: GiGPO's, which holds a group's visits to one state.

    Numbered from 0 by how often they are visited; -1 for a state that is visited once, which is compared with nothing.
    """
    states = [[_state(step) for step in m["steps"]] for m in members]
    visits = Counter(state for member in states for state in member)
    numbers = {state: n for n, (state, count) in enumerate(visits.most_common()) if count > 1}
    return [[numbers.get(state, -1) for state in member] for member in states]


def _state(step: Record) -> str:
    anchor = step.get("anchor")
    return str(step["observation"] if anchor is None else anchor)


def pack(value: Any) -> str:
    """Base64 of gzip of JSON; the same value gives the same text."""
    content = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
