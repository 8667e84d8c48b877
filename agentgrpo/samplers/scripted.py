"""A sampler that plays a script instead of a model, for tests and dry runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from agentgrpo.samplers.base import Completion, SamplerStats, SamplingParams
from agentgrpo.types import StopReason


class ScriptedSampler:
    """Answers each prompt with the token ids that a function gives; all log-probabilities are 0.

    Args:
        answer: a prompt's token ids -> the answer's. Called in the order of the prompts; an answer longer than its
            token limit is cut there and stops for its length.
    """

    def __init__(self, answer: Callable[[list[int]], Sequence[int]]) -> None:
        self._answer = answer
        self.stats = SamplerStats()

    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        """One completion per prompt, in order."""
        completions = []
        for prompt, limits in zip(prompts, params, strict=True):
            whole = tuple(self._answer(list(prompt)))
            ids = whole[: limits.max_new_tokens]
            reason = StopReason.STOP if ids == whole else StopReason.LENGTH
            completions.append(Completion(ids, (0.0,) * len(ids), reason))
            self.stats.prompt_tokens += len(prompt)
            self.stats.sampled_tokens += len(ids)
        return completions

    def sync(self, model: PreTrainedModel) -> None:
        """A script has no weights."""

    def rest(self) -> None:
        """There is nothing to give back."""
