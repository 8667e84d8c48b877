"""The forward pass that learner and sampler share: hidden states from the backbone, logits only where asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from agentgrpo.distribution import entropy, log_distribution
from agentgrpo.tree_attention import tree_mask
from agentgrpo.types import Batch, TokenLayout
from agentgrpo.weights import causal_model

CHUNK = 256
"""Policy tokens whose logits exist at one time."""


def hidden_states(
    model: PreTrainedModel,
    token_ids: Tensor,
    positions: Tensor,
    attention_mask: Tensor | None = None,
    cache: Cache | None = None,
) -> Tensor:
    """(R, L, D) outputs of the backbone, before the language-model head.

    Args:
        token_ids: (R, L) int64.
        positions: (R, L) int64.
        attention_mask: (R, 1, L, S) bool, or None for plain causal attention.
        cache: where keys and values are appended, if any.
    """
    output = causal_model(model).base_model(
        input_ids=token_ids,
        position_ids=positions,
        attention_mask=attention_mask,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    states: Tensor = output.last_hidden_state
    return states


def tree_states(model: PreTrainedModel, layout: TokenLayout) -> Tensor:
    """(N, D) outputs of the backbone at the nodes of a prefix tree, before the language-model head."""
    # A 4-D mask is handed on as it is; this one says nothing, because the tree says what a node looks at.
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=layout.token_ids.device)
    output = causal_model(model).base_model(
        input_ids=layout.token_ids[None],
        position_ids=layout.positions[None],
        attention_mask=no_mask,
        use_cache=False,
        tree=tree_mask(layout.ends),
    )
    states: Tensor = output.last_hidden_state[0]
    return states


def layout_states(model: PreTrainedModel, layout: TokenLayout, *, share_prefixes: bool) -> Tensor:
    """(N, D) outputs of the backbone at the nodes of a prefix tree; see :func:`can_share_prefixes`."""
    return tree_states(model, layout) if share_prefixes else row_states(model, layout)


def row_states(model: PreTrainedModel, layout: TokenLayout) -> Tensor:
    """The same as :func:`tree_states` for any causal LM, by one padded row per sequence."""
    token_ids = layout.token_ids[layout.paths]  # (B, W)
    positions = torch.arange(token_ids.shape[1], device=token_ids.device).expand_as(token_ids)
    return hidden_states(model, token_ids, positions).flatten(0, 1)[layout.homes]


@contextmanager
def recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Passes in this context keep only the input of each layer; the rest is computed again in the backward pass."""
    layers = layers_to_recompute(model)
    for layer in layers:
        # transformers asks for training mode. It is the layer's own flag alone: what is in it stays without dropout.
        layer.gradient_checkpointing = layer.training = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False


def layers_to_recompute(model: PreTrainedModel) -> list[Any]:
    """The model's layers, as far as transformers can compute them again."""
    return [layer for layer in causal_model(model).modules() if isinstance(layer, GradientCheckpointingLayer)]


def can_share_prefixes(model: PreTrainedModel) -> bool:
    """True when the model hands a prefix tree on to our attention and mixes tokens nowhere else."""
    config = model.config.get_text_config()
    if any(getattr(config, name, None) is not None for name in ("sliding_window", "attention_chunk_size")):
        return False  # such masks come from transformers, and the tree replaces its masks; a short probe cannot see it
    # Sequences 0 1 2 and 0 3 1 2, long enough for a state that leaks from one to the other.
    device = model.device
    layout = TokenLayout(
        token_ids=torch.tensor([0, 1, 2, 3, 1, 2], device=device),
        positions=torch.tensor([0, 1, 2, 1, 2, 3], device=device),
        ends=torch.tensor([6, 3, 3, 6, 6, 6], device=device),
        paths=torch.tensor([[0, 1, 2, 0], [0, 3, 4, 5]], device=device),
        homes=torch.tensor([0, 1, 2, 5, 6, 7], device=device),
    )
    try:
        with torch.no_grad():
            tree, rows = tree_states(model, layout), row_states(model, layout)
    except (TypeError, ValueError, RuntimeError):  # a model that takes no such arguments
        return False
    if tree.dtype.itemsize >= 4:
        return torch.allclose(tree, rows, rtol=1e-3, atol=1e-3)
    # Kernels may round each in its own way, by a few thousandths of a state. A leak moves one by a fifth and more.
    tree, rows = tree.float(), rows.float()
    return bool(((tree - rows).norm(dim=1) < 0.05 * rows.norm(dim=1)).all())


def logits(model: PreTrainedModel, states: Tensor) -> Tensor:
    """(N, V) logits of (N, D) hidden states."""
    out: Tensor = causal_model(model).get_output_embeddings()(states)
    return out


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision widened; float64 as it is."""
    return values.float() if values.dtype.itemsize < 4 else values


def token_logprobs(
    model: PreTrainedModel,
    states: Tensor,
    targets: Tensor,
    temperature: float,
    top_p: float = 1.0,
    *,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of chosen tokens, in chunks: the (N, V) logits never exist at once, nor in the backward pass.

    Args:
        states: (N, D) hidden states that predict the tokens.
        targets: (N,) int64 token ids.
        temperature: that the tokens were sampled with; 0 stands for 1.
        top_p: that the tokens were sampled with.
        with_entropy: whether the entropy of each distribution is asked for too.
    Returns:
        (N,) log-probabilities in nats under the distribution that is sampled from (``log_distribution``); (N,)
        entropies, or None. Both float32, or float64 where the model is.
    """

    def chunk(part: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        wide = at_least_float32(logits(model, part))
        logprobs = log_distribution(wide, temperature or 1.0, top_p, ids)
        chosen = logprobs.gather(1, ids[:, None])[:, 0]
        return (chosen, entropy(logprobs)) if with_entropy else (chosen,)

    if len(targets) <= CHUNK:
        found = chunk(states, targets)
    else:
        parts = [
            checkpoint(chunk, part, ids, use_reentrant=False, preserve_rng_state=False)
            for part, ids in zip(torch.split(states, CHUNK), torch.split(targets, CHUNK), strict=True)
        ]
        found = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return found[0], (found[1] if with_entropy else None)


class LogprobPass(nn.Module):
    """Log-probabilities of a micro-batch's policy tokens, as one module: weights that are spread over ranks are
    gathered when it is called.

    Args:
        model: the policy.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, batch: Batch, temperature: float, top_p: float, *, share_prefixes: bool, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(A,) log-probabilities of the A policy tokens, row by row, and their entropies or None.

        See :func:`token_logprobs`.
        """
        states = layout_states(self.model, batch.layout, share_prefixes=share_prefixes)  # (N, D)
        at, targets = batch.predictor[batch.action_mask], batch.targets[batch.action_mask]  # (A,)
        logprobs, entropies = token_logprobs(
            self.model, states[at], targets, temperature, top_p, with_entropy=with_entropy
        )
        return logprobs.clone(), entropies  # a view would lose the hook that gathers weights for the backward pass


def check_head(model: PreTrainedModel) -> None:
    """Refuses a model whose logits are more than head(backbone(x)), such as one with soft-capped logits.

    Raises:
        ValueError: the two disagree on a short probe.
    """
    ids = torch.arange(4, device=model.device)[None]
    positions = torch.arange(4, device=model.device)[None]
    with torch.no_grad():
        whole = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float()
        ours = logits(model, hidden_states(model, ids, positions)[0]).float()
    if not torch.allclose(whole, ours, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{type(model).__name__} changes its logits after the output head (soft-capping or scaling, say), so "
            f"log-probabilities would be wrong by up to {float((whole - ours).abs().max()):.3g} nats "
            f"before the softmax. "
            "Choose a model without, e.g. of the Llama, Qwen or GPT-NeoX family."
        )


def context_length(model: PreTrainedModel) -> int:
    """Most tokens that a sequence may have."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else 2**31
