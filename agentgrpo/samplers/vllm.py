"""Sampling with vLLM: hundreds of requests at a time, each taken and answered while others are being written."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Hashable, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from agentgrpo import policy
from agentgrpo.samplers.base import Completion, SamplerError, SamplerStats, SamplingParams
from agentgrpo.samplers.settings import VllmSettings
from agentgrpo.samplers.stopping import StopStrings
from agentgrpo.samplers.vllm_engine import Finished, VllmEngine, engine_config
from agentgrpo.seeding import derive, uniforms
from agentgrpo.timing import phase
from agentgrpo.types import StopReason
from agentgrpo.weights import causal_model, merged_weights

EXACT_GAP = 1e-3
"""Nats by which a token's log-probability may differ between trainer and engine where both compute in fp32; measured:
4e-5."""
ROUNDED_GAP = 0.15
"""Nats by which log-probabilities may differ on average where either computes in bf16; measured: 0.03, as much as
rounding makes within transformers. Old weights in a part of the engine make 0.07 to 0.7, more with every update, so
that what is not noticed at once is noticed soon."""
# A check costs about as much as handing SmolLM2's weights over.
_PROBES = 3
_PROBE_PROMPT = 64
_PROBE_TOKENS = 6


class VllmSampler:
    """Continues prompts with a vLLM engine that holds a copy of the policy's weights.

    Args:
        model: the policy, plain or with peft's adapters.
        stop_ids: token ids that end a turn.
        settings: of the engine.
        stop_strings: text that ends a turn too.
    Raises:
        ValueError: vLLM is missing or cannot run the model; see :class:`VllmEngine`.
    """

    def __init__(
        self,
        model: nn.Module,
        stop_ids: Sequence[int],
        settings: VllmSettings,
        stop_strings: StopStrings | None = None,
    ) -> None:
        causal = causal_model(model)
        context = policy.context_length(causal)
        if settings.max_model_len is not None and settings.max_model_len > context:
            raise ValueError(
                f"sampler.max_model_len={settings.max_model_len} is more than the {context} tokens that the model "
                f"takes. Set it to {context} or less, or to null."
            )
        self.stats = SamplerStats()
        self._vocabulary = causal.get_input_embeddings().weight.shape[0]
        config = engine_config(causal.config, type(causal).__name__)
        self._engine = VllmEngine(config, stop_ids, settings, stop_strings)
        self._exact = settings.precision == "fp32"
        self._names = itertools.count()
        self._pending: dict[str, tuple[Hashable, int]] = {}  # engine's name -> key, length of the prompt
        self._ready: list[tuple[Hashable, Completion]] = []
        self._recent: deque[tuple[int, ...]] = deque(maxlen=_PROBES)
        self._recent.extend(self._made_up(index) for index in range(_PROBES))
        self.sync(model)

    # --- requests -------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        """One completion per prompt, in order."""
        keys: list[Hashable] = [object() for _ in prompts]
        mine = set(keys)
        found: dict[Hashable, Completion] = {}
        others: list[tuple[Hashable, Completion]] = []
        try:
            for key, prompt, limits in zip(keys, prompts, params, strict=True):
                self.submit(key, prompt, limits)
            while len(found) < len(keys):
                for key, completion in self.poll():
                    if key in mine:
                        found[key] = completion
                    else:
                        others.append((key, completion))
        except BaseException:
            self.cancel(mine)
            raise
        self._ready += others
        return [found[key] for key in keys]

    def submit(self, key: Hashable, prompt: Sequence[int], params: SamplingParams) -> None:
        """Takes a prompt; see :class:`agentgrpo.samplers.base.ContinuousSampler`.

        Raises:
            ValueError: it is empty, longer than the engine's context leaves room for, or has ids that are no tokens.
        """
        self._check_prompt(prompt, params)
        name = str(next(self._names))
        self._engine.add(name, prompt, params)
        self._pending[name] = (key, len(prompt))
        self._recent.append(tuple(prompt[:_PROBE_PROMPT]))

    def poll(self) -> list[tuple[Hashable, Completion]]:
        """Goes on with what was submitted, by about a token each; completions that are ready."""
        ready, self._ready = self._ready, []
        if self._pending:
            with phase("sampling"):
                ready += [self._completion(finished) for finished in self._engine.step()]
        return ready

    def cancel(self, keys: Collection[Hashable]) -> None:
        """Forgets prompts that were submitted under these keys and not handed out."""
        names = [name for name, (key, _) in self._pending.items() if key in keys]
        self._engine.abort(names)
        for name in names:
            del self._pending[name]
        self._ready = [(key, completion) for key, completion in self._ready if key not in keys]

    def _completion(self, finished: Finished) -> tuple[Hashable, Completion]:
        key, prompt_tokens = self._pending.pop(finished.name)
        self.stats.prompt_tokens += prompt_tokens
        self.stats.prefilled_tokens += prompt_tokens - finished.cached_tokens
        self.stats.sampled_tokens += len(finished.token_ids)
        reason = StopReason.STOP if finished.stopped else StopReason.LENGTH
        return key, Completion(finished.token_ids, finished.logprobs, reason)

    def _check_prompt(self, prompt: Sequence[int], params: SamplingParams) -> None:
        if not prompt:
            raise ValueError("A prompt needs at least one token.")
        room = self._engine.max_model_len
        if len(prompt) + params.max_new_tokens > room:
            raise ValueError(
                f"A prompt of {len(prompt)} tokens and {params.max_new_tokens} new ones are more than the {room} of "
                "the engine's context. Raise sampler.max_model_len, or lower rollout.max_new_tokens."
            )
        if not 0 <= min(prompt) <= max(prompt) < self._vocabulary:
            raise ValueError(f"A prompt has token ids outside the model's vocabulary of {self._vocabulary}.")

    # --- weights --------------------------------------------------------------------------------------------------

    def sync(self, model: nn.Module) -> None:
        """Takes over the model's weights, forgets every cached prefix, and checks that both compute the same.

        Raises:
            SamplerError: they do not; the message says by how much.
        """
        with phase("sync"):
            self._engine.load(merged_weights(model))
            self._check_against(causal_model(model))

    def rest(self) -> None:
        """Gives an accelerator's memory to the trainer."""
        self._engine.sleep()

    def _check_against(self, model: PreTrainedModel) -> None:
        """Compares log-probabilities of a few sampled tokens with those that the trainer computes.

        The prompts are the last ones that were sampled for: what is left of the old weights in the prefix cache, if
        anything is, is found there first.
        """
        prompts = list(self._recent)
        before = asdict(self.stats)
        limits = [SamplingParams(self._probe_room(p), noise_key=derive("probe", i)) for i, p in enumerate(prompts)]
        answers = self.generate(prompts, limits)
        for name, count in before.items():  # what is asked here is nobody's rollout
            setattr(self.stats, name, count)
        gaps = _gaps(model, prompts, answers)
        exact = self._exact and model.dtype == torch.float32
        gap, bound = (float(gaps.max()), EXACT_GAP) if exact else (float(gaps.mean()), ROUNDED_GAP)
        if not gap <= bound:  # NaN is no agreement either
            which = "at most" if exact else "on average"
            raise SamplerError(
                f"vLLM's log-probabilities differ from the trainer's by {gap:.3g} nats ({len(gaps)} tokens of "
                f"{len(prompts)} prompts), where {which} {bound:g} is rounding: it does not compute with the weights "
                "that were just handed over. vLLM's version may load this model in another way; use "
                "sampler=transformers, or the version that constraints name."
            )

    def _probe_room(self, prompt: Sequence[int]) -> int:
        return min(_PROBE_TOKENS, self._engine.max_model_len - len(prompt))

    def _made_up(self, index: int) -> tuple[int, ...]:
        """A prompt for the first check, before there are any."""
        length = max(1, min(2 * _PROBE_TOKENS * (index + 2), self._engine.max_model_len - _PROBE_TOKENS))
        key = derive("probe prompt", index)
        return tuple(int(uniforms([key], position)[0] * self._vocabulary) for position in range(length))


@torch.no_grad()
def _gaps(model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Completion]) -> Tensor:
    """(all tokens,) absolute differences between the answers' log-probabilities and the model's own."""
    rows = [[*prompt, *answer.token_ids] for prompt, answer in zip(prompts, answers, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor(
        [row + [0] * (width - len(row)) for row in rows], device=model.device
    )  # padding is seen by nobody
    positions = torch.arange(width, device=model.device).expand_as(ids)
    states = policy.hidden_states(model, ids, positions)  # (B, T, D)
    before = torch.cat([states[i, len(p) - 1 : len(rows[i]) - 1] for i, p in enumerate(prompts)])
    chosen = torch.tensor([token for answer in answers for token in answer.token_ids], device=model.device)
    own, _ = policy.token_logprobs(model, before, chosen, temperature=1.0)
    return (own.cpu() - torch.tensor([value for answer in answers for value in answer.logprobs])).abs()
