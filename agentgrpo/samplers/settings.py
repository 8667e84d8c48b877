"""What each kind of sampler can be set to: one dataclass per kind, chosen by ``sampler.kind``. Defaults: ``conf/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentgrpo import precision
from agentgrpo.checks import above, at_least, of_kind, one_of, within


@dataclass(slots=True)
class TransformersSettings:
    """Sampling with the model that is trained, in this process."""

    kind: str
    precision: str
    cache_gb: float

    def __post_init__(self) -> None:
        one_of("sampler.precision", self.precision, precision.CHOICES)
        self.precision = precision.settled(self.precision)
        above("sampler.cache_gb", self.cache_gb, 0)

    def copies_weights(self, model_precision: str) -> bool:
        """Whether the sampler holds weights of its own."""
        return self.precision != model_precision

    @property
    def cache(self) -> tuple[str, float]:
        """The setting that limits the memory for keys and values, and its gigabytes."""
        return "sampler.cache_gb", self.cache_gb

    takes_cache_at_once = False
    """The memory is taken as it is needed, and given back while the trainer learns."""

    def sleeps(self, device: str) -> bool:
        """Whether its copy of the weights goes while the trainer learns."""
        return False

    @property
    def context_limit(self) -> int | None:
        """Most tokens of a sequence; None: as many as the model takes."""
        return None


@dataclass(slots=True)
class VllmSettings:
    """A vLLM engine in this process."""

    kind: str
    precision: str
    gpu_memory_share: float
    kv_cache_gb: float
    tensor_parallel: int
    max_model_len: int | None
    max_num_seqs: int
    enforce_eager: bool

    def __post_init__(self) -> None:
        one_of("sampler.precision", self.precision, precision.CHOICES)
        self.precision = precision.settled(self.precision)
        within("sampler.gpu_memory_share", self.gpu_memory_share, "(0, 1]")
        above("sampler.kv_cache_gb", self.kv_cache_gb, 0)
        at_least("sampler.tensor_parallel", self.tensor_parallel, 1)
        if self.max_model_len is not None:
            at_least("sampler.max_model_len", self.max_model_len, 2)
        at_least("sampler.max_num_seqs", self.max_num_seqs, 1)

    def copies_weights(self, model_precision: str) -> bool:
        """Whether the sampler holds weights of its own: an engine always does."""
        return True

    @property
    def cache(self) -> tuple[str, float]:
        """The setting that limits the memory for keys and values, and its gigabytes."""
        return "sampler.kv_cache_gb", self.kv_cache_gb

    takes_cache_at_once = True
    """The engine takes the memory when it starts."""

    def sleeps(self, device: str) -> bool:
        """Whether its copy of the weights goes while the trainer learns: on a GPU, with its cache."""
        return device != "cpu"

    @property
    def context_limit(self) -> int | None:
        """Most tokens of a sequence; None: as many as the model takes."""
        return self.max_model_len


@dataclass(slots=True)
class OpenAiSettings:
    """A server that speaks OpenAI's protocol for chats."""

    kind: str
    base_url: str | None
    model: str | None
    api_key_env: str | None
    timeout: float
    retries: int
    retry_wait: float
    concurrency: int
    token_limit: str

    def __post_init__(self) -> None:
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"sampler.base_url must start with http:// or https://, got {self.base_url!r}. "
                "A server of vLLM on this machine: sampler.base_url=http://localhost:8000/v1"
            )
        above("sampler.timeout", self.timeout, 0)
        at_least("sampler.retries", self.retries, 0)
        at_least("sampler.retry_wait", self.retry_wait, 0)
        at_least("sampler.concurrency", self.concurrency, 1)
        one_of("sampler.token_limit", self.token_limit, ("max_tokens", "max_completion_tokens"))


TokenSettings = TransformersSettings | VllmSettings
"""Of samplers that give token ids with their log-probabilities: what training needs."""
SamplerSettings = TokenSettings | OpenAiSettings

_KINDS: dict[str, type[Any]] = {
    "transformers": TransformersSettings,
    "vllm": VllmSettings,
    "openai": OpenAiSettings,
}


def sampler_settings(values: Mapping[str, Any]) -> SamplerSettings:
    """Checks the keys below ``sampler`` and builds the settings of the kind that they name.

    Raises:
        ValueError: names the key, what it was given and what is allowed.
    """
    settings: SamplerSettings = of_kind("sampler", _KINDS, values)
    return settings
