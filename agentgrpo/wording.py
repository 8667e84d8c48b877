"""How a run puts itself into words, and into TensorBoard's table of hyperparameters."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from agentgrpo.algorithm import Algorithm
from agentgrpo.config import TrainConfig


def hyperparameters(c: TrainConfig) -> dict[str, Any]:
    """The columns of a run in TensorBoard's HPARAMS tab."""
    values = {f"algorithm.{k}": v for k, v in c.algorithm.items() if k != "name"}
    values |= {"env": c.env.name, "algorithm": c.algorithm["name"], "model": c.model.path or c.model.kind}
    values |= {"seed": c.seed, "lr": c.optim.lr, "epochs": c.optim.epochs, "group_size": c.group_size}
    return values | {"groups_per_update": c.groups_per_update, "context": c.context.kind, "updates": c.num_updates}


def result(summary: dict[str, Any], c: TrainConfig) -> str:
    """The lines that a run ends with."""
    before, after = summary["before"], summary["after"]
    lines = [
        f"{summary['status']}: {summary['updates']} updates, {summary['training_seconds']:.0f} s of training "
        f"(+ {summary['warm_start_seconds']:.0f} s warm start, {summary['evaluation_seconds']:.0f} s evaluation)",
        f"held-out success {before['success']:.3f} [{before['success_low']:.2f}, {before['success_high']:.2f}] -> "
        f"{after['success']:.3f} [{after['success_low']:.2f}, {after['success_high']:.2f}] on "
        f"{before['num_tasks']} tasks "
        f"(best {summary['best']['success']:.3f} at update {summary['best']['update']})",
    ]
    if summary["status"] == "interrupted":
        lines.append(f"Go on with: python -m agentgrpo train run_dir={c.run_dir} resume=true")
    lines.append(f"Curves:   tensorboard --logdir {c.run_dir}")
    lines.append(f"Watch it: python -m agentgrpo play run_dir={c.run_dir}")
    return "\n".join(lines)


def denominator(algorithm: Algorithm) -> str:
    """Which log-probabilities an update is compared with."""
    if algorithm.old_logprobs == "sampler":
        return "old log-probabilities: the sampler's, as they are (algorithm.old_logprobs=sampler)"
    own = "old log-probabilities: the trainer's own (algorithm.old_logprobs=recompute)"
    if algorithm.correction == "none":
        return own
    verb = "weighs" if algorithm.correction_mode == "truncate" else "drops"
    return f"{own}; the sampler's differ: their ratio {verb} tokens (algorithm.correction={algorithm.correction})"


def precision(c: TrainConfig) -> str:
    """What passes are computed in."""
    sampling = c.token_sampler.precision
    if c.model.precision == sampling:
        return f"precision: {c.model.precision}"
    return f"precision: {c.model.precision} in training, {sampling} in sampling"


def trained(model: PreTrainedModel) -> str:
    """How much of a model with adapters learns."""
    settings = model.peft_config["default"]
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    layers = sum(name.endswith("lora_A") for name, _ in model.named_modules())
    return f"LoRA: rank {settings.r} on {layers} linear layers, {weights:,} weights learn; the base is frozen"


def last_line(text: str) -> str:
    """What a traceback ends with."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
