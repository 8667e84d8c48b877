"""Small things that many tests build on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from agentgrpo import attention
from agentgrpo.algorithm import Algorithm
from agentgrpo.composing import compose_config
from agentgrpo.config import OptimConfig, build_algorithm, parse
from agentgrpo.models import _nano_tokenizer
from agentgrpo.types import Batch, RolloutStatus, Step, TokenLayout, Trajectory

TEXTS = ["go north", "go south", "open the door", "You are in a maze.", "You see a wall. You see a door."] * 4

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""ChatML's shape: every message is closed by the end-of-turn token and a newline."""

THINK_STRIPPING = (
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""Cuts the reasoning from earlier answers, as Qwen3 and DeepSeek-R1 do."""


def taken_gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Fills with the gradients of an optimiser's steps from here on, as they were when it took them."""
    taken: list[Tensor] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        taken.extend(p.grad.clone() for g in optimizer.param_groups for p in g["params"] if p.grad is not None)

    optimizer.register_step_pre_hook(look)
    return taken


def trajectory(
    *steps: tuple[str, float],
    status: RolloutStatus = RolloutStatus.TERMINATED,
    success: bool = False,
    tokens: int = 1,
    value: float = 0.0,
) -> Trajectory:
    """An episode of (observation, reward) pairs, with ``tokens`` policy tokens per step and a critic's ``value``."""
    made = [
        Step(
            observation,
            reward,
            prompt_ids=(1,),
            starts_sequence=t == 0,
            action_ids=(2,) * tokens,
            logprobs=(-0.5,) * tokens,
            values=(value,) * tokens,
        )
        for t, (observation, reward) in enumerate(steps)
    ]
    return Trajectory(tuple(made), status, success)


def default_algorithm(name: str, **options: Any) -> Algorithm:
    """A registered algorithm with the values of its yaml."""
    return dataclasses.replace(_composed(name), **options)


@functools.cache
def _composed(name: str) -> Algorithm:
    return build_algorithm(parse(compose_config("train", [f"algorithm={name}"])))[0]


def tiny_llama(vocab: int = 50, kv_heads: int = 2, seed: int = 0, layers: int = 2) -> PreTrainedModel:
    """A random Llama of a few thousand weights, large enough that its distributions are far from uniform."""
    attention.register()
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = LlamaForCausalLM._from_config(
            config, attn_implementation=attention.NAME, dtype=torch.float32
        )
    return model.eval()


def tiny_tokenizer(template: str | None = None, vocab: int = 300) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer with a few dozen merges and a chat template, the nano model's unless given."""
    tokenizer = _nano_tokenizer(vocab, TEXTS)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def reference_logprobs(
    model: PreTrainedModel, token_ids: Sequence[int], index: Sequence[int], temperature: float = 1.0
) -> Tensor:
    """(A,) float64 log-probabilities of the tokens at ``index``, by one full forward pass without any cache."""
    double = LlamaForCausalLM._from_config(model.config, attn_implementation="sdpa", dtype=torch.float64)
    double.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits = double.eval()(torch.tensor([list(token_ids)]), use_cache=False).logits[0]
    logprobs = (logits / temperature).log_softmax(dim=-1)
    return torch.stack([logprobs[at - 1, token_ids[at]] for at in index])


def loss_batch(
    old_logprobs: Tensor, advantages: Tensor, action_mask: Tensor, ref_logprobs: Tensor | None = None
) -> Batch:
    """A batch of which only the loss side is filled."""
    zeros = torch.zeros(action_mask.shape, dtype=torch.int64)
    nothing = torch.zeros(0, dtype=torch.int64)
    layout = TokenLayout(nothing, nothing, nothing, nothing, nothing)
    return Batch(layout, zeros, zeros, action_mask, old_logprobs, old_logprobs, advantages, ref_logprobs)


def optim_config(
    *,
    lr: float = 1e-3,
    epochs: int = 1,
    minibatches: int = 1,
    micro_batch_tokens: int = 4096,
    max_grad_norm: float = 1e9,
    weight_decay: float = 0.0,
) -> OptimConfig:
    return OptimConfig(
        lr=lr,
        lr_warmup=0,
        weight_decay=weight_decay,
        betas=(0.9, 0.95),
        max_grad_norm=max_grad_norm,
        epochs=epochs,
        minibatches=minibatches,
        micro_batch_tokens=micro_batch_tokens,
    )
