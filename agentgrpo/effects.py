"""Which settings of a configuration have no effect, and which contradict each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agentgrpo.algorithm import Algorithm
from agentgrpo.config import TrainConfig
from agentgrpo.samplers.settings import VllmSettings


@dataclass(frozen=True, slots=True)
class Ignored:
    """Settings without an effect, and why."""

    keys: tuple[str, ...]
    reason: str


def ignored(config: TrainConfig, algorithm: Algorithm) -> list[Ignored]:
    """Everything that could be changed without changing the run."""
    found = [*_of_run(config), *_of_algorithm(config, algorithm)]
    return [entry for entry in found if entry.keys]


def _of_run(c: TrainConfig) -> Iterator[Ignored]:
    if c.curriculum.kind == "static":
        yield Ignored(("curriculum.num_tasks", "curriculum.low", "curriculum.high"), "curriculum.kind=static")
    if c.context.kind == "transcript":
        yield Ignored(("context.window_turns",), "context.kind=transcript")
    if c.rollout.mode == "sync":
        yield Ignored(("rollout.max_staleness",), "rollout.mode=sync")
    if not c.warm_start.episodes:
        keys = ("oracle_share", "epochs", "batch_episodes", "lr")
        yield Ignored(tuple(f"warm_start.{key}" for key in keys), "warm_start.episodes=0")
    if not c.log.trajectories:
        yield Ignored(("log.every",), "log.trajectories=0")
    if c.model.kind == "hf" and not c.model.lora.rank:
        yield Ignored(
            tuple(f"model.lora.{key}" for key in ("alpha", "target_modules", "base_bits")), "model.lora.rank=0"
        )
    prefix = "env" if not c.envs else "envs.{}"
    for name, env in c.environments.items():
        at = prefix.format(name)
        if env.execution == "inline":
            yield Ignored((f"{at}.workers",), f"{at}.execution=inline")
    if not c.envs:
        yield Ignored(("env.weight",), "a single environment")
    if isinstance(c.sampler_settings, VllmSettings):
        on_cpu = c.model.device == "cpu"
        key = "sampler.gpu_memory_share" if on_cpu else "sampler.kv_cache_gb"
        yield Ignored((key,), f"model.device={c.model.device}")


def _of_algorithm(c: TrainConfig, algorithm: Algorithm) -> Iterator[Ignored]:
    def present(*names: str) -> tuple[str, ...]:
        return tuple(f"algorithm.{name}" for name in names if hasattr(algorithm, name))

    name = c.algorithm["name"]
    yield Ignored(present(*algorithm.unused), f"algorithm.name={name} has no use for it")
    if not algorithm.kl_coef:
        yield Ignored(present("kl_estimator", "kl_in", "reference_every", "reference_mix"), "algorithm.kl_coef=0")
    elif not algorithm.reference_every:
        yield Ignored(present("reference_mix"), "algorithm.reference_every=0")
    if algorithm.group_filter not in ("spread_top_k", "spread_top_p"):
        yield Ignored(present("filter_share"), f"algorithm.group_filter={algorithm.group_filter}")
    if algorithm.group_filter == "none":
        yield Ignored(present("resample_rounds"), "algorithm.group_filter=none")
    if algorithm.correction == "none":
        keys = present("correction_mode", "correction_low", "correction_high")
        yield Ignored(keys, f"algorithm.correction={algorithm.correction}")
    if algorithm.old_logprobs == "recompute" and c.optim.epochs * c.optim.minibatches == 1:
        keys = present("clip_ratio_low", "clip_ratio_high", "dual_clip")
        yield Ignored(keys, "one optimiser step per update: the probability ratio is 1")


def contradictions(config: TrainConfig) -> list[str]:
    """Combinations that parse and run, and cannot be meant. Each names what to change."""
    c = config
    out = []
    episodes = c.groups_per_update * c.group_size
    if c.optim.minibatches > episodes:
        out.append(
            f"optim.minibatches={c.optim.minibatches} is more than the {episodes} episodes of an update: the rest "
            f"stays empty. Set it to {episodes} or less, or raise groups_per_update."
        )
    steps = c.num_updates * c.optim.epochs * min(c.optim.minibatches, episodes)
    if c.num_updates and c.optim.lr_warmup >= steps:
        out.append(
            f"optim.lr_warmup={c.optim.lr_warmup} with {steps} optimiser steps in all: the learning rate never reaches "
            f"optim.lr={c.optim.lr:g}. Lower optim.lr_warmup or raise num_updates."
        )
    if c.num_updates and c.rollout.mode == "async" and c.rollout.max_staleness >= c.num_updates:
        out.append(
            f"rollout.max_staleness={c.rollout.max_staleness} with num_updates={c.num_updates}: every episode would be "
            "played with the starting policy. Lower rollout.max_staleness."
        )
    return out
