"""A value function for algorithms that need one: the policy's backbone, copied, with a head of one number."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from agentgrpo import policy
from agentgrpo.precision import converted
from agentgrpo.types import Batch
from agentgrpo.weights import causal_model

_WEIGHTS = "critic.safetensors"


class Critic(nn.Module):
    """Predicts, before each policy token, what the rest of the episode will bring.

    Args:
        model: the policy at the start. Of its backbone the critic copies what is trained, all of it or the adapters,
            and shares what is frozen. The head starts at 0, so all values do.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.backbone: PreTrainedModel = converted(causal_model(model).base_model, None)
        self.head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch, *, share_prefixes: bool) -> Tensor:
        """(B, T) float32 values before each policy token, 0 on padding."""
        states = policy.layout_states(self.backbone, batch.layout, share_prefixes=share_prefixes)  # (N, D)
        # In bf16 values near 1 would come in steps of 0.004.
        chosen = policy.at_least_float32(states[batch.predictor[batch.action_mask]])
        weight, bias = self.head.weight.to(chosen.dtype), self.head.bias.to(chosen.dtype)
        values = nn.functional.linear(chosen, weight, bias)[:, 0]
        out = values.new_zeros(batch.action_mask.shape)
        return out.masked_scatter(batch.action_mask, values)

    def save(self, folder: Path) -> None:
        """Writes the trained weights into a checkpoint's folder."""
        save_file({name: value.detach().contiguous() for name, value in self._trained().items()}, folder / _WEIGHTS)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Reads what :meth:`save` wrote."""
        saved, trained = load_file(folder / _WEIGHTS), self._trained()
        assert saved.keys() == trained.keys()
        for name, value in trained.items():
            value.copy_(saved[name])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}
