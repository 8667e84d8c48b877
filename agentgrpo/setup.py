"""From a checked configuration to the parts of a run: policy, runner, sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentgrpo import lora, models, policy
from agentgrpo.config import TrainConfig
from agentgrpo.context import ChatFormat, make_conversation
from agentgrpo.precision import PRECISIONS
from agentgrpo.rollout import RolloutRunner
from agentgrpo.samplers import vllm_engine
from agentgrpo.samplers.base import Sampler
from agentgrpo.samplers.settings import VllmSettings
from agentgrpo.samplers.stopping import StopStrings
from agentgrpo.samplers.transformers import TransformersSampler
from agentgrpo.samplers.vllm import VllmSampler
from agentgrpo.vocabulary import sample_texts


@dataclass(frozen=True, slots=True)
class Policy:
    """A model with the tokenizer and chat format that it is prompted through."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chats: Mapping[str, ChatFormat]
    """By environment: each has instructions of its own."""

    @property
    def chat(self) -> ChatFormat:
        """Any of them: they differ in their instructions alone."""
        return next(iter(self.chats.values()))


def make_policy(config: TrainConfig, checkpoint: Path | None = None) -> Policy:
    """The starting policy of a configuration, or the one that a checkpoint folder holds.

    Raises:
        ValueError: the model cannot be loaded, or its chat template does not suit the context.
    """
    model, tokenizer = _load(config, checkpoint)
    chats = {name: ChatFormat(tokenizer, env.instructions) for name, env in config.environments.items()}
    for chat in chats.values():
        make_conversation(chat, config.context.kind, config.context.window_turns)  # refuses an unsuitable template
    return Policy(model, tokenizer, chats)


def _load(config: TrainConfig, checkpoint: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    m = config.model
    if m.lora.rank:
        assert m.path is not None
        base, tokenizer = models.load(
            m.path, device=m.device, dtype=PRECISIONS[m.precision], bits=m.lora.base_bits
        )  # it does not learn, so it needs no more than what passes compute in
        model = lora.attach(base, m.lora, config.seed)
        return (model if checkpoint is None else lora.restore(model, checkpoint)), tokenizer
    if checkpoint is not None:
        return models.load(str(checkpoint), device=m.device)
    if m.kind == "nano":
        model, tokenizer = models.build_nano(m, sample_texts(config), config.seed)
        return model.to(m.device), tokenizer
    assert m.path is not None
    return models.load(m.path, device=m.device)


def reference_in(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """The reference policy of a run, as :func:`agentgrpo.models.save` wrote it.

    Args:
        model: the run's policy, whose base it shares if that has adapters.
    """
    return lora.beside(model, folder) if lora.adapted(model) else models.load(str(folder), device=str(model.device))[0]


def build_runner(config: TrainConfig, made: Policy) -> RolloutRunner:
    """Environments and contexts for episodes of this policy."""
    limits = [policy.context_length(made.model), config.token_sampler.context_limit]
    return RolloutRunner(
        config.environments,
        config.rollout,
        lambda env: make_conversation(made.chats[env], config.context.kind, config.context.window_turns),
        made.chat,
        min(limit for limit in limits if limit is not None),
    )


def check_sampler(config: TrainConfig) -> None:
    """Refuses a sampler that cannot work here, before a model loads.

    Raises:
        ValueError: what is missing, and how to get it.
    """
    if isinstance(config.sampler_settings, VllmSettings):
        vllm_engine.check_installed()


def build_sampler(config: TrainConfig, made: Policy, *, own_weights: bool = False) -> Sampler:
    """The sampler that the configuration names, with the policy's weights.

    Args:
        own_weights: whether it copies them in any case, for a model that learns while it samples.
    """
    settings, stop_ids = config.token_sampler, [made.chat.end_id]
    strings = StopStrings(tuple(config.rollout.stop), made.chat.decode) if config.rollout.stop else None
    if isinstance(settings, VllmSettings):
        return VllmSampler(made.model, stop_ids, settings, strings)
    return TransformersSampler(
        made.model,
        stop_ids,
        precision=settings.precision,
        cache_gb=settings.cache_gb,
        own_weights=own_weights,
        stop_strings=strings,
    )
