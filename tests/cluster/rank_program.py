"""What one rank does for test_ranks.py: torchrun ... rank_program.py FOLDER SHARDING keep|recompute

Every rank computes the same update alone and as one of several, and compares the gradients that the optimiser took.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import sys
from pathlib import Path

import torch
from helpers import default_algorithm, optim_config, taken_gradients, tiny_llama
from transformers import PreTrainedModel

from agentgrpo.cluster import ranks
from agentgrpo.cluster.ranks import Ranks
from agentgrpo.learner import Learner
from agentgrpo.types import Sequence
from agentgrpo.weights import whole

COUNTED_PER_RANK = ("loss/micro_batch_tokens", "loss/distinct_tokens")
"""Prefixes that two ranks share are computed by both."""


def items(count: int) -> list[Sequence]:
    """Transcripts that share prefixes, of different lengths, with a few that have no advantage."""
    rng = random.Random(0)
    out = []
    for i in range(count):
        ids = (1, 2, 3, *(rng.randrange(4, 7) for _ in range(rng.randrange(6, 30))))
        index = tuple(sorted(rng.sample(range(3, len(ids)), 3)))
        advantages = (0.0,) * 3 if i % 5 == 4 else tuple(rng.gauss(0, 1) for _ in index)
        old = tuple(-rng.random() for _ in index)
        out.append(Sequence(ids, index, old, old, advantages, ref_logprobs=old))
    return out


def gradients(
    joined: Ranks, model: PreTrainedModel, part: list[Sequence], *, sharded: bool, recompute: bool, budget: int
) -> tuple[list[torch.Tensor], dict[str, float]]:
    learner = Learner(
        model,
        dataclasses.replace(optim_config(micro_batch_tokens=budget), recompute=recompute),
        precision="fp32",
        temperature=1.0,
        max_length=20,
        ranks=joined,
        sharded=sharded,
    )
    taken = taken_gradients(learner.optimizer)
    metrics = learner.update(part, default_algorithm("grpo", kl_coef=0.1), (0,))
    return [whole(g) for g in taken], metrics


def main(folder: str, sharding: str, recompute: str) -> None:
    joined = ranks.from_environment("auto", 60)
    found = {}
    # One sequence for several ranks leaves some without any; a small budget makes their micro-batches differ in number.
    for count, budget in ((23, 10_000), (23, 60), (1, 10_000)):
        model = tiny_llama()
        again = recompute == "recompute"
        alone, told = gradients(
            Ranks(), copy.deepcopy(model), items(count), sharded=False, recompute=again, budget=budget
        )
        together, said = gradients(
            joined, model, items(count), sharded=sharding == "fsdp", recompute=again, budget=budget
        )
        pairs = list(zip(together, alone, strict=True))
        apart = torch.cat([(a - b).flatten() for a, b in pairs])
        difference = apart.norm() / torch.cat([b.flatten() for b in alone]).norm()
        metrics = {k: [told[k], said[k]] for k in told if k not in COUNTED_PER_RANK}
        found[f"{count} in {budget}"] = {"difference": float(difference), "metrics": metrics}
    everybody = joined.gather(lambda: found)
    if joined.first:
        Path(folder, "found.json").write_text(json.dumps(everybody))
    ranks.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
