"""Keys and values in slots: one slot holds one token prefix, column i of a slot is token i.

The storage is allocated ahead and written in place, and stays as large as it once was until it is cleared: fewer slots
or columns are a smaller part of it. The active slots always stand first, so that the model reads a view of the storage
and nothing is copied while tokens are drawn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PretrainedConfig


class SlotCache(Cache):
    """The transformers ``Cache`` that attention layers append to; which slots and columns is set before a pass."""

    def __init__(self, config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(layers=[])
        text = config.get_text_config()
        self._num_layers: int = text.num_hidden_layers
        self._heads: int = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        self._width: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._dtype, self._device = dtype, device
        self._keys: list[Tensor] = []  # per layer (at least num_slots, K, at least num_columns, D)
        self._values: list[Tensor] = []
        self.num_slots = 0
        self.num_columns = 0
        self._slots: Tensor | slice = slice(0, 0)
        self._columns = torch.empty(0)
        self._end = 0

    @property
    def bytes_per_column(self) -> int:
        """Bytes that one token of one slot takes, over all layers."""
        return 2 * self._num_layers * self._heads * self._width * self._dtype.itemsize

    def resize(self, num_slots: int, num_columns: int) -> None:
        """Grows or shrinks what is in use; what fits stays. New places hold zeros or what once stood there."""
        slots, columns = min(num_slots, self.num_slots), min(num_columns, self.num_columns)
        self.num_slots, self.num_columns = num_slots, num_columns
        held_slots, held_columns = (self._keys[0].shape[0], self._keys[0].shape[2]) if self._keys else (0, 0)
        if num_columns == 0 or (num_slots <= held_slots and num_columns <= held_columns):
            return
        # More columns give up idle slots, so that both together stay within the caller's limit.
        shape = (num_slots, self._heads, max(num_columns, held_columns), self._width)
        for tensors in (self._keys, self._values):
            for layer in range(self._num_layers):
                # Zeros, not empty: a masked column still enters the product, and 0 * NaN is NaN.
                new = torch.zeros(shape, dtype=self._dtype, device=self._device)
                if layer < len(tensors):
                    new[:slots, :, :columns] = tensors[layer][:slots, :, :columns]
                    tensors[layer] = new
                else:
                    tensors.append(new)

    def clear(self) -> None:
        """Drops the storage. Its size must not outlive a weight update: strides can change how products round."""
        self._keys, self._values = [], []
        self.num_slots = self.num_columns = 0

    def move(self, sources: list[int], destinations: list[int], num_columns: int) -> None:
        """Copies slots onto others, all at once: every source is read before any destination is written."""
        if not sources:
            return
        src = torch.tensor(sources, device=self._device)
        dst = torch.tensor(destinations, device=self._device)
        for tensor in (*self._keys, *self._values):
            tensor[dst, :, :num_columns] = tensor[src, :, :num_columns]

    def select(self, slots: list[int], columns: Tensor) -> None:
        """Says where the next pass writes.

        Args:
            slots: (B,) slot of each row of the pass.
            columns: (B, Q) column of each new token; padding may name columns past the row's own tokens, which are
                never looked at before they are written again.
        """
        contiguous = slots == list(range(len(slots)))
        self._slots = slice(0, len(slots)) if contiguous else torch.tensor(slots, device=self._device)
        self._index = torch.tensor(slots, device=self._device)[:, None]
        self._columns = columns
        self._end = int(columns.max()) + 1

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes (B, K, Q, D) new states and returns (B, K, S, D) of everything up to the last column written."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._index, :, self._columns] = key_states.transpose(1, 2)  # (B, Q, K, D)
        values[self._index, :, self._columns] = value_states.transpose(1, 2)
        return keys[self._slots, :, : self._end], values[self._slots, :, : self._end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns in use; positions are always given explicitly, so no model needs more than this."""
        return self._end
