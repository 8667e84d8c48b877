"""The sampler interface: stateless. Whole prompts in; token ids, log-probabilities and a stop reason out.

An implementation may keep caches behind it, but an answer depends only on the weights, the prompt and the parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from transformers import PreTrainedModel

from agentgrpo.types import StopReason


class SamplerError(ValueError):
    """A sampler that cannot go on: its engine failed, or its weights are not the trainer's. The message says which."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one completion is drawn."""

    max_new_tokens: int
    """Token limit, at least 1."""
    temperature: float = 1.0
    """Logits are divided by this; 0 takes the most probable token."""
    top_p: float = 1.0
    """Draws from the most probable tokens that together reach this, in (0, 1]; 1: from all."""
    noise_key: int = 0
    """Key of the stream of uniforms (see ``seeding.uniforms``): one per token position."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "max_new_tokens must be at least 1, temperature at least 0 and top_p in (0, 1], "
                f"got {self.max_new_tokens}, {self.temperature} and {self.top_p}."
            )


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy wrote for one prompt."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probabilities (nats) of the sampled tokens under the distribution that they were sampled from, so after
    temperature and top-p; at temperature 0 under the distribution at temperature 1."""
    stop_reason: StopReason
    num_guided: int = 0
    """How many of ``token_ids``, from the first on, an expert gave: they were not sampled and have no logprobs."""
    version: int = 0
    """Updates that the weights had seen which it was sampled from."""


@dataclass(slots=True)
class SamplerStats:
    """Counts since the sampler was made."""

    prompt_tokens: int = 0
    """Tokens of all prompts that were asked for."""
    prefilled_tokens: int = 0
    """Prompt tokens that went through the model: the rest came from a cache."""
    sampled_tokens: int = 0

    def cached_share_since(self, before: SamplerStats) -> float:
        """Share of the prompts' tokens that came from a cache, of those that were asked for since ``before``."""
        asked = self.prompt_tokens - before.prompt_tokens
        return 1 - (self.prefilled_tokens - before.prefilled_tokens) / max(asked, 1)


class Sampler(Protocol):
    """Anything that continues prompts."""

    stats: SamplerStats

    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        """One completion per prompt, in order."""

    def sync(self, model: PreTrainedModel) -> None:
        """Take over new weights and forget everything computed with the old ones."""

    def rest(self) -> None:
        """Nothing is sampled before the next ``sync``: memory that only sampling needs may be given back."""


@runtime_checkable
class ContinuousSampler(Sampler, Protocol):
    """A sampler that takes prompts at any time, while it is still writing for others."""

    def submit(self, key: Hashable, prompt: Sequence[int], params: SamplingParams) -> None:
        """Takes a prompt; :meth:`poll` hands out its completion under the same key, which no other may have yet."""

    def poll(self) -> list[tuple[Hashable, Completion]]:
        """Goes on with everything that was submitted, by about one token each; returns what is complete, if any is."""

    def cancel(self, keys: Collection[Hashable]) -> None:
        """Forgets prompts that were submitted under these keys and not handed out."""
