"""What models of several sizes hold on one GPU, as a Markdown table: python scripts/gpu_memory.py

Computed and not measured, by the estimate that ``agentgrpo explain`` and ``memory_gb`` use, from the shapes of
Qwen2.5-Instruct: nothing is fetched, no GPU is needed. Settings after the script's name, key=value, hold for every row.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence

import torch
from transformers import Qwen2Config

from agentgrpo import memory, models
from agentgrpo.composing import compose_config
from agentgrpo.config import build_algorithm, parse

# layers, width, width of the feed-forward layers, query heads, key heads, one matrix for embedding and head
SHAPES = {
    "0.5B": (24, 896, 4864, 14, 2, True),
    "1.5B": (28, 1536, 8960, 12, 2, True),
    "3B": (36, 2048, 11008, 16, 2, True),
    "7B": (28, 3584, 18944, 28, 4, False),
}
WAYS = {"LoRA, rank 32": "model.lora.rank=32", "all weights": "model.lora.rank=0"}


def row(size: str, way: str, overrides: Sequence[str]) -> str:
    """A line of the table."""
    layers, width, inner, heads, key_heads, tied = SHAPES[size]
    shape = Qwen2Config(
        vocab_size=151_936 if tied else 152_064,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=tied,
        max_position_embeddings=32_768,
    )
    with tempfile.TemporaryDirectory() as folder:
        shape.save_pretrained(folder)
        config = parse(
            compose_config("train", ["experiment=qwen_babyai", WAYS[way], *overrides, f"model.path={folder}"])
        )
        model = models.skeleton(config.model, config.seed)
    algorithm, _ = build_algorithm(config)
    found = memory.plan(config, model, algorithm.settled(exact_sampler=False))
    # On a GPU the engine sleeps while the trainer learns, so its weights come beside what is always held.
    held = sum(found.held.values()) - found.held["sampler's copy"] - found.held["prefix cache"]
    learning = sum(found.learning.values())
    engine = found.held["sampler's copy"]
    token = memory.kv_bytes(model, torch.bfloat16)
    return (
        f"| {size} | {way} | {held:.1f} GB | {learning:.1f} GB | {engine:.1f} GB | {token / 1e3:.0f} kB "
        f"| **{held + learning:.0f} GB** |"
    )


def main() -> None:
    """Prints the table."""
    print("| model | trained | always | learning | engine's weights | cache per token | most while learning |")
    print("|---|---|---|---|---|---|---|")
    for size in SHAPES:
        for way in WAYS:
            print(row(size, way, sys.argv[1:]), flush=True)


if __name__ == "__main__":
    main()
