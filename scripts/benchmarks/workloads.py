"""The same work for every side: random prompts of fixed length, answers of fixed length, random rewards."""

from __future__ import annotations

import random
import resource
import time
from dataclasses import dataclass
from pathlib import Path

LR = 1e-6
KL = 0.04


@dataclass(frozen=True)
class Workload:
    """One iteration: sample, compare with the reference, one optimiser step."""

    name: str
    prompts: int
    samples: int
    prompt_tokens: int
    new_tokens: int
    turns: int = 1

    @property
    def unique_tokens(self) -> int:
        """Distinct tokens of a prefix tree over all episodes, when no two answers agree."""
        first, rest = self.new_tokens, (self.turns - 1) * (self.prompt_tokens + self.new_tokens)
        return self.prompts * (self.prompt_tokens + self.samples * (first + rest))

    @property
    def padded_tokens(self) -> int:
        """Tokens of one row per episode."""
        return self.prompts * self.samples * self.turns * (self.prompt_tokens + self.new_tokens)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("W0", prompts=4, samples=4, prompt_tokens=128, new_tokens=16),
        Workload("W1", prompts=4, samples=8, prompt_tokens=256, new_tokens=32),
        Workload("W2", prompts=4, samples=8, prompt_tokens=96, new_tokens=8, turns=6),
    )
}


def texts(path: str, count: int, length: int, seed: int) -> tuple[list[str], list[list[int]]]:
    """Random texts that the model's tokenizer splits into exactly ``length`` tokens, and these tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    words = [
        t for t in range(1000, 20000) if tokenizer.decode([t]).startswith(" ") and tokenizer.decode([t])[1:].isalpha()
    ]
    rng = random.Random(seed)
    found: list[list[int]] = []
    while len(found) < count:
        ids = [rng.choice(words) for _ in range(length)]
        if tokenizer(tokenizer.decode(ids))["input_ids"] == ids:
            found.append(ids)
    return [tokenizer.decode(ids) for ids in found], found


def peak_gb() -> float:
    """Most memory that this process has had so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def resident_gb() -> float:
    """Memory that this process has now, in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


class Watch:
    """Seconds between marks."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds
