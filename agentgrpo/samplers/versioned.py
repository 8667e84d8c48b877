"""A sampler that says which weights each completion was drawn from, and that several threads may use."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
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
            return [self._tagged(completion) for completion in found]

    def sync(self, model: PreTrainedModel, version: int = 0, change: Callable[[], None] = lambda: None) -> None:
        """Takes over new weights and forgets everything computed with the old ones.

        Args:
            change: changes the model before, while nobody samples: a sampler may compute with that very model.
        """
        with self._turn():
            self._drain()
            change()
            self._sampler.sync(model)
            self.version = version

    def rest(self) -> None:
        """Gives back what memory the sampler can do without until the next sync."""
        with self._turn():
            self._sampler.rest()

    def _drain(self) -> None:
        """Finishes what is being written, before the weights change."""

    def _tagged(self, completion: Completion) -> Completion:
        return replace(completion, version=self.version)

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
    """The same for a sampler that takes prompts at any time. Each thread is handed out what it submitted itself.

    Turns that are being written when the weights change are finished first, with the old ones.
    """

    def __init__(self, sampler: ContinuousSampler) -> None:
        super().__init__(sampler)
        self._continuous = sampler
        self._writing: set[tuple[int, Hashable]] = set()  # thread, its key
        self._ready: dict[int, list[tuple[Hashable, Completion]]] = defaultdict(list)  # by thread

    def submit(self, key: Hashable, prompt: Sequence[int], params: SamplingParams) -> None:
        """Takes a prompt under a key of the calling thread's."""
        name = (threading.get_ident(), key)
        with self._turn():
            self._continuous.submit(name, prompt, params)
            self._writing.add(name)

    def poll(self) -> list[tuple[Hashable, Completion]]:
        """Goes on with everybody's prompts; returns the calling thread's completions."""
        me = threading.get_ident()
        with self._turn():
            if not self._ready[me]:
                self._step()
            return self._ready.pop(me, [])

    def cancel(self, keys: Collection[Hashable]) -> None:
        """Forgets prompts of the calling thread."""
        me = threading.get_ident()
        names = [(me, key) for key in keys]
        with self._turn():
            self._continuous.cancel([name for name in names if name in self._writing])
            self._writing.difference_update(names)
            self._ready[me] = [(key, completion) for key, completion in self._ready[me] if key not in keys]

    def _step(self) -> None:
        for name, completion in self._continuous.poll():
            assert isinstance(name, tuple)
            self._writing.discard(name)
            thread, key = name
            self._ready[thread].append((key, self._tagged(completion)))

    def _drain(self) -> None:
        while self._writing:
            self._step()


def versioned(sampler: Sampler) -> VersionedSampler:
    """A sampler that says which weights it drew from, continuous where the given one is."""
    return ContinuousVersionedSampler(sampler) if isinstance(sampler, ContinuousSampler) else VersionedSampler(sampler)
