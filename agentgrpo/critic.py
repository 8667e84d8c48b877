"""A value function for algorithms that need one: the policy's backbone, copied, with a head of one number."""

from __future__ import annotations

import copy
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from agentgrpo import policy
from agentgrpo.types import Batch

_WEIGHTS = "critic.safetensors"


class Critic(nn.Module):
    """Predicts, before each policy token, what the rest of the episode will bring.

    Args:
        model: the policy at the start; its backbone is copied. The head starts at 0, so all values do.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.backbone: PreTrainedModel = copy.deepcopy(model.base_model)
        self.head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.requires_grad_(True)

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
        """Writes the weights into a checkpoint's folder."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / _WEIGHTS)

    def load(self, folder: Path) -> None:
        """Reads what :meth:`save` wrote."""
        self.load_state_dict(load_file(folder / _WEIGHTS))
