"""A sampler that says which weights each token was drawn from, and that several threads may use."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from transformers import PreTrainedModel

from agentgrpo.samplers.base import Completion, ContinuousSampler, Sampler, SamplingParams


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
            self._finish()
            self._sampler.sync(model)
            self.version = version

    def rest(self) -> None:
        """Nothing is sampled before the next ``sync``."""
        with self._turn():
            self._sampler.rest()

    def _finish(self) -> None:
        """Completes what is under way with the weights that it was begun with."""

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One at a time, and whoever waits comes next: a lock alone may go to the thread that has just let it go."""
        with self._turnstile:
            self._busy.acquire()
        try:
            yield
        finally:
            self._busy.release()


class ContinuousVersionedSampler(VersionedSampler):
    """The same for a sampler that takes prompts at any time; each thread is handed what it has submitted itself."""

    def __init__(self, sampler: ContinuousSampler) -> None:
        super().__init__(sampler)
        self._continuous = sampler
        self._numbers = itertools.count()
        self._owners: dict[int, tuple[int, Hashable]] = {}  # number of a request -> thread, its key
        self._ready: defaultdict[int, list[tuple[Hashable, Completion]]] = defaultdict(list)  # by thread

    def submit(self, key: Hashable, prompt: Sequence[int], params: SamplingParams) -> None:
        """Takes a prompt; see :class:`agentgrpo.samplers.base.ContinuousSampler`."""
        with self._turn():
            number = next(self._numbers)
            self._continuous.submit(number, prompt, params)
            self._owners[number] = (threading.get_ident(), key)

    def poll(self) -> list[tuple[Hashable, Completion]]:
        """Goes on with everybody's prompts; this thread's completions that are ready."""
        with self._turn():
            self._go_on()
            return self._ready.pop(threading.get_ident(), [])

    def cancel(self) -> None:
        """Forgets what this thread has submitted; the sampler may still write it to its end, for nobody."""
        with self._turn():
            me = threading.get_ident()
            self._owners = {number: owner for number, owner in self._owners.items() if owner[0] != me}
            self._ready.pop(me, None)
            if not self._owners:
                self._continuous.cancel()

    def _go_on(self) -> None:
        for number, completion in self._continuous.poll():
            assert isinstance(number, int)
            thread, key = self._owners.pop(number, (0, None))
            if thread:
                self._ready[thread].append((key, replace(completion, version=self.version)))

    def _finish(self) -> None:
        while self._owners:
            self._go_on()


def versioned(sampler: Sampler) -> VersionedSampler:
    """The wrapper that suits the sampler."""
    return ContinuousVersionedSampler(sampler) if isinstance(sampler, ContinuousSampler) else VersionedSampler(sampler)
