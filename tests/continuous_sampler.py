"""A scripted sampler that takes prompts at any time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence

from agentgrpo.samplers.base import Completion, SamplingParams
from agentgrpo.samplers.scripted import ScriptedSampler


class Continuous(ScriptedSampler):
    """Writes one token of every prompt that it has at each poll."""

    def __init__(self, answer: Callable[[list[int]], Sequence[int]]) -> None:
        super().__init__(answer)
        self.writing: dict[Hashable, tuple[int, Completion]] = {}  # polls to go, and what it will be
        self.cancelled = False

    def submit(self, key: Hashable, prompt: Sequence[int], params: SamplingParams) -> None:
        assert key not in self.writing
        (completion,) = self.generate([prompt], [params])
        self.writing[key] = (len(completion.token_ids), completion)

    def poll(self) -> list[tuple[Hashable, Completion]]:
        self.writing = {key: (left - 1, completion) for key, (left, completion) in self.writing.items()}
        ready = [(key, completion) for key, (left, completion) in self.writing.items() if left == 0]
        for key, _ in ready:
            del self.writing[key]
        return ready

    def cancel(self, keys: Collection[Hashable]) -> None:
        self.cancelled = set(keys) == set(self.writing)
        self.writing = {}
