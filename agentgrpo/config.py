"""The composed configuration as checked dataclasses. Defaults live in ``conf/``, types and ranges here."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agentgrpo import precision
from agentgrpo.algorithm import Algorithm
from agentgrpo.checks import above, at_least, fields, one_of, within
from agentgrpo.cluster.settings import ClusterSettings, cluster_settings
from agentgrpo.registry import algorithm_class
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.settings import OpenAiSettings, SamplerSettings, TokenSettings, sampler_settings


@dataclass
class EnvConfig:
    name: str
    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    instructions: str = ""
    action_pattern: str | None = None
    execution: str = "inline"
    workers: int = 8
    weight: float = 1.0

    def __post_init__(self) -> None:
        one_of("env.execution", self.execution, ("inline", "thread", "process"))
        at_least("env.workers", self.workers, 1)
        above("env.weight", self.weight, 0)
        if self.action_pattern is None:
            return
        try:
            groups = re.compile(self.action_pattern).groups
        except re.error as error:
            raise ValueError(
                f"env.action_pattern={self.action_pattern!r} is no regular expression: {error}."
            ) from error
        if groups < 1:
            raise ValueError(
                f"env.action_pattern={self.action_pattern!r} has no group, so it does not say which part "
                f"is the action. "
                "Put the action in parentheses, e.g. '<action>(.*?)</action>'."
            )


@dataclass
class LoraConfig:
    rank: int = 0
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: Any = "all-linear"
    base_bits: int | None = None

    def __post_init__(self) -> None:
        at_least("model.lora.rank", self.rank, 0)
        above("model.lora.alpha", self.alpha, 0)
        if self.dropout != 0:
            raise ValueError(
                f"model.lora.dropout must be 0, got {self.dropout!r}: what is dropped in training would not be dropped "
                "in sampling, so the trainer's log-probabilities would be those of another policy."
            )
        names = self.target_modules
        if names != "all-linear" and not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
            raise ValueError(
                "model.lora.target_modules must be all-linear or a list of names such as [q_proj,v_proj], "
                f"got {names!r}."
            )
        if self.base_bits not in (None, 4):
            raise ValueError(f"model.lora.base_bits must be null or 4, got {self.base_bits}.")
        if self.base_bits and not self.rank:
            raise ValueError(
                f"model.lora.base_bits={self.base_bits} with model.lora.rank=0 leaves nothing to train: weights of so "
                "few bits cannot learn. Set model.lora.rank=16, or model.lora.base_bits=null."
            )


@dataclass
class ModelConfig:
    kind: str
    path: str | None = None
    precision: str = "fp32"
    # Shape of a nano model; a loaded model brings its own.
    hidden_size: int = 0
    num_layers: int = 0
    num_heads: int = 0
    vocab_size: int = 0
    context_length: int = 0
    device: str = "auto"
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        one_of("model.kind", self.kind, ("nano", "hf"))
        one_of("model.precision", self.precision, precision.CHOICES)
        one_of("model.device", self.device, ("auto", "cpu", "cuda"))
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.precision = precision.settled(self.precision)
        if self.kind != "nano":
            return
        if self.lora.rank:
            raise ValueError(
                f"model.lora.rank={self.lora.rank} with model=nano: its base would be random weights, which know no "
                "words. Set model.lora.rank=0; or model=smollm2; or take a nano model that a run has trained: "
                "model=hf model.path=RUN/checkpoints/best."
            )
        at_least("model.vocab_size", self.vocab_size, 300)
        at_least("model.num_layers", self.num_layers, 1)
        at_least("model.num_heads", self.num_heads, 1)
        at_least("model.context_length", self.context_length, 16)
        if self.hidden_size <= 0 or self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"model.hidden_size must be a multiple of 2 * model.num_heads, got {self.hidden_size} "
                f"and {self.num_heads}."
            )


@dataclass
class ContextConfig:
    kind: str
    window_turns: int

    def __post_init__(self) -> None:
        one_of("context.kind", self.kind, ("transcript", "window"))
        at_least("context.window_turns", self.window_turns, 0)


@dataclass
class RolloutConfig:
    temperature: float
    top_p: float
    max_new_tokens: int
    max_turns: int
    step_timeout: float
    stop: list[str] = field(default_factory=list)
    mode: str = "sync"
    max_staleness: int = 1

    def __post_init__(self) -> None:
        one_of("rollout.mode", self.mode, ("sync", "async"))
        at_least("rollout.max_staleness", self.max_staleness, 1)
        above("rollout.temperature", self.temperature, 0)
        within("rollout.top_p", self.top_p, "(0, 1]")
        at_least("rollout.max_new_tokens", self.max_new_tokens, 1)
        if "" in self.stop:
            raise ValueError("rollout.stop has an empty string, which would end every turn at once. Leave it out.")
        at_least("rollout.max_turns", self.max_turns, 1)
        above("rollout.step_timeout", self.step_timeout, 0)

    def params(self, temperature: float | None = None) -> SamplingParams:
        """How a turn is drawn, at another temperature if one is given."""
        return SamplingParams(self.max_new_tokens, self.temperature if temperature is None else temperature, self.top_p)


@dataclass
class OptimConfig:
    lr: float
    lr_warmup: int
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    epochs: int
    minibatches: int
    micro_batch_tokens: int
    recompute: bool = False

    def __post_init__(self) -> None:
        above("optim.lr", self.lr, 0)
        at_least("optim.lr_warmup", self.lr_warmup, 0)
        at_least("optim.weight_decay", self.weight_decay, 0)
        above("optim.max_grad_norm", self.max_grad_norm, 0)
        at_least("optim.epochs", self.epochs, 1)
        at_least("optim.minibatches", self.minibatches, 1)
        at_least("optim.micro_batch_tokens", self.micro_batch_tokens, 1)


@dataclass
class WarmStartConfig:
    episodes: int
    oracle_share: float
    epochs: int
    batch_episodes: int
    lr: float

    def __post_init__(self) -> None:
        at_least("warm_start.episodes", self.episodes, 0)
        within("warm_start.oracle_share", self.oracle_share, "[0, 1]")
        at_least("warm_start.epochs", self.epochs, 1)
        at_least("warm_start.batch_episodes", self.batch_episodes, 1)
        above("warm_start.lr", self.lr, 0)


@dataclass
class EvalConfig:
    every: int
    num_tasks: int
    temperature: float

    def __post_init__(self) -> None:
        at_least("eval.every", self.every, 1)
        at_least("eval.num_tasks", self.num_tasks, 1)
        at_least("eval.temperature", self.temperature, 0)


@dataclass
class CheckpointConfig:
    every: int
    keep: int

    def __post_init__(self) -> None:
        at_least("checkpoint.every", self.every, 1)
        at_least("checkpoint.keep", self.keep, 1)


@dataclass
class LogConfig:
    trajectories: int
    every: int

    def __post_init__(self) -> None:
        at_least("log.trajectories", self.trajectories, 0)
        at_least("log.every", self.every, 1)


@dataclass
class CurriculumConfig:
    kind: str
    num_tasks: int
    low: float
    high: float

    def __post_init__(self) -> None:
        one_of("curriculum.kind", self.kind, ("static", "success_band"))
        at_least("curriculum.num_tasks", self.num_tasks, 1)
        within("curriculum.low", self.low, "[0, 1]")
        within("curriculum.high", self.high, "[0, 1]")
        if self.low >= self.high:
            raise ValueError(f"curriculum.low must be below curriculum.high, got {self.low:g} and {self.high:g}.")


@dataclass
class TrainConfig:
    """Everything that ``train`` reads. Built by :func:`parse`, after which every value has been checked."""

    env: EnvConfig
    envs: dict[str, EnvConfig]
    curriculum: CurriculumConfig
    algorithm: dict[str, Any]
    reward: dict[str, Any]
    model: ModelConfig
    sampler: dict[str, Any]
    seed: int
    num_updates: int
    groups_per_update: int
    group_size: int
    run_dir: str
    resume: bool
    profile: bool
    memory_gb: float | None
    context: ContextConfig
    rollout: RolloutConfig
    optim: OptimConfig
    warm_start: WarmStartConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    cluster: dict[str, Any] = field(default_factory=lambda: {"kind": "local"})
    doctor: bool = True

    def __post_init__(self) -> None:
        at_least("num_updates", self.num_updates, 0)
        at_least("groups_per_update", self.groups_per_update, 1)
        at_least("group_size", self.group_size, 1)
        above("memory_gb", 1.0 if self.memory_gb is None else self.memory_gb, 0)
        if self.curriculum.kind != "static" and self.curriculum.num_tasks < self.groups_per_update:
            raise ValueError(
                f"curriculum.num_tasks={self.curriculum.num_tasks} is less than the {self.groups_per_update} tasks of "
                "an update (groups_per_update). Set it to several times as many."
            )
        if self.model.kind == "hf" and not self.model.path:
            raise ValueError("model.path is not set. Name a folder or a hub model: model.path=...")
        sampler_settings(self.sampler)
        cluster_settings(self.cluster)

    @property
    def environments(self) -> dict[str, EnvConfig]:
        """The environments by name: one, or those of ``env=[a,b]``."""
        return self.envs or {self.env.name: self.env}

    @property
    def exact_sampler(self) -> bool:
        """True where the sampler's log-probabilities are the trainer's, up to rounding in fp32."""
        return self.model.precision == self.token_sampler.precision == "fp32" and self.rollout.mode == "sync"

    @property
    def sampler_settings(self) -> SamplerSettings:
        """The keys below ``sampler``, as those of its kind."""
        return sampler_settings(self.sampler)

    @property
    def cluster_settings(self) -> ClusterSettings:
        """The keys below ``cluster``, as those of its kind."""
        return cluster_settings(self.cluster)

    @property
    def token_sampler(self) -> TokenSettings:
        """The same, for what needs token ids.

        Raises:
            ValueError: the sampler gives text alone.
        """
        settings = self.sampler_settings
        if isinstance(settings, OpenAiSettings):
            raise ValueError(
                "sampler=openai answers with text: there are no token ids, and no log-probabilities of them, to train "
                "with. Train with sampler=vllm or sampler=transformers; `eval` and `play` take a server."
            )
        return settings


def parse(config: DictConfig) -> TrainConfig:
    """Checks types, keys and ranges.

    Raises:
        ValueError: names the key, what it was given and what is allowed.
    """
    try:
        # Without any reward term the key is missing altogether; what to do about that is said where terms are built.
        checked = OmegaConf.merge(OmegaConf.structured(TrainConfig), {"reward": {}}, config)
        parsed = OmegaConf.to_object(checked)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ValueError(f"{key}{str(error).splitlines()[0]}") from error
    assert isinstance(parsed, TrainConfig)
    return parsed


def build_algorithm(config: TrainConfig) -> tuple[Algorithm, list[str]]:
    """The algorithm of a configuration, and the options that are set although it has no use for them.

    Raises:
        ValueError: unknown name or key, a value out of range, or a combination that makes no sense.
    """
    cls = algorithm_class(config.algorithm["name"])
    values = {k: v for k, v in config.algorithm.items() if k != "name"}
    advice = "A registered algorithm is chosen with its own yaml: algorithm=NAME."
    fields("algorithm", f"field of {config.algorithm['name']!r}", cls, values, advice)
    algorithm = cls(**values)
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    return algorithm, sorted(k for k in algorithm.unused if values.get(k, defaults[k]) != defaults[k])
