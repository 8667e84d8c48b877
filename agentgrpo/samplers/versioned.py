"""A sampler that says which weights each token was drawn from, and that several threads may use."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from transformers import PreTrainedModel

from agentgrpo.samplers.base import Completion, Sampler, SamplingParams


class VersionedSampler:
    """Lets one thread at a time sample or change the weights, so that a completion comes from one version of them.

    Args:
        sampler: does the work.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._turnstile = threading.Lock()
        self._busy = threading.Lock()
        self.stats = sampler.stats
        self.version = 0
        """Updates that the weights have seen."""

    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        """One completion per prompt, in order, each with the version of the weights."""
        with self._turn():
            found = self._sampler.generate(prompts, params)
            return [replace(completion, version=self.version) for completion in found]

    def sync(self, model: PreTrainedModel, version: int = 0) -> None:
        """Takes over new weights and forgets everything computed with the old ones."""
        with self._turn():
            self._sampler.sync(model)
            self.version = version

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One at a time, and whoever waits comes next: a lock alone may go to the thread that has just let it go."""
        with self._turnstile:
            self._busy.acquire()
        try:
            yield
        finally:
            self._busy.release()
