"""This framework's side of every comparison."""

from __future__ import annotations

import gc
import random
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from agentgrpo import attention, models, packing, policy
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.annotation import annotate, worth
from agentgrpo.config import OptimConfig
from agentgrpo.learner import Learner
from agentgrpo.samplers.base import Sampler, SamplingParams
from agentgrpo.samplers.settings import VllmSettings
from agentgrpo.samplers.transformers import TransformersSampler
from agentgrpo.seeding import derive
from agentgrpo.types import Group, Sequence, Step, Trajectory
from benchmarks.workloads import KL, LR, WORKLOADS, Watch, Workload, peak_gb, resident_gb, texts

MICRO_BATCH_TOKENS = 2048


def optim(micro_batch_tokens: int = MICRO_BATCH_TOKENS) -> OptimConfig:
    """One step per round, as on the other side."""
    return OptimConfig(
        lr=LR, lr_warmup=0, weight_decay=0.0, betas=(0.9, 0.999), max_grad_norm=1.0,
        epochs=1, minibatches=1, micro_batch_tokens=micro_batch_tokens,
    )  # fmt: skip


def play(sampler: Sampler, work: Workload, prompts: list[list[int]], seed: int) -> list[Group]:
    """Episodes of a workload; after the first turn every episode has observations of its own."""
    rng = random.Random(seed)
    histories = [list(prompt) for prompt in prompts for _ in range(work.samples)]
    steps: list[list[Step]] = [[] for _ in histories]
    added = [list(h) for h in histories]
    for turn in range(work.turns):
        params = [SamplingParams(work.new_tokens, 1.0, noise_key=derive(seed, i, turn)) for i in range(len(histories))]
        for i, answer in enumerate(sampler.generate(histories, params)):
            steps[i].append(
                Step("", prompt_ids=tuple(added[i]), starts_sequence=turn == 0,
                     action_ids=answer.token_ids, logprobs=answer.logprobs)
            )  # fmt: skip
            added[i] = rng.choices(prompts[i // work.samples], k=work.prompt_tokens)
            histories[i] += [*answer.token_ids, *added[i]]
    episodes = [Trajectory((*s[:-1], _rewarded(s[-1], rng.random()))) for s in steps]
    return [Group(tuple(episodes[i : i + work.samples])) for i in range(0, len(episodes), work.samples)]


def _rewarded(step: Step, reward: float) -> Step:
    return replace(step, reward=reward)


def items_of(groups: list[Group], algorithm: GRPO) -> list[Sequence]:
    """Training sequences with their advantages."""
    credit = worth(groups, algorithm)
    return [
        item
        for group, credits in zip(groups, credit, strict=True)
        for trajectory, one in zip(group, credits, strict=True)
        for item in packing.sequences(trajectory, one)
    ]


def iteration(path: str, name: str, precision: str, repeat: int) -> dict[str, Any]:
    """Seconds of rollout and training of GRPO iterations; the first one, which touches memory first, is left out."""
    work = WORKLOADS[name]
    model, _ = models.load(path)
    learner = Learner(model, optim(), precision=precision, temperature=1.0, max_length=work.turns * work.new_tokens)
    learner.freeze_reference()
    sampler = TransformersSampler(learner.computing, [], precision=precision)
    algorithm = GRPO(kl_coef=KL).settled(exact_sampler=precision == "fp32")
    rollout, training = [], []
    for round_ in range(repeat + 1):
        _, prompts = texts(path, work.prompts, work.prompt_tokens, seed=round_)
        watch = Watch()
        sampler.sync(learner.computing)
        groups = play(sampler, work, prompts, round_)
        rollout.append(watch.lap())
        learner.update(items_of(annotate(groups, algorithm, learner), algorithm), algorithm, (round_,))
        training.append(watch.lap())
    return {"rollout": rollout[1:], "training": training[1:], "peak_gb": peak_gb()}


def training_pass(path: str, name: str, precision: str, repeat: int) -> dict[str, Any]:
    """Seconds of forward and backward alone, and the rate of a matrix product at the model's shapes, taking turns."""
    work = WORKLOADS[name]
    model, _ = models.load(path)
    learner = Learner(model, optim(), precision=precision, temperature=1.0, max_length=work.turns * work.new_tokens)
    sampler = TransformersSampler(learner.computing, [], precision=precision)
    _, prompts = texts(path, work.prompts, work.prompt_tokens, seed=0)
    algorithm = GRPO()
    items = items_of(play(sampler, work, prompts, 0), algorithm)
    counts = packing.count(items, 1)
    seconds, rates = [], []
    for _ in range(repeat + 1):
        rates.append(matrix_rate(model, precision))
        watch = Watch()
        for batch in learner.pack(items):
            logprobs = learner.logprobs(batch)
            algorithm.loss(logprobs, batch, counts).loss.backward()
        seconds.append(watch.lap())
        learner.optimizer.zero_grad(set_to_none=True)
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "seconds": seconds[1:],
        "gflops": rates[1:],
        "floor": [6 * parameters * work.unique_tokens / 1e9 / rate for rate in rates[1:]],
    }


def matrix_rate(model: PreTrainedModel, precision: str) -> float:
    """GFLOP/s of 2048 tokens times a weight of the model's feed-forward layer."""
    width, inner = model.config.hidden_size, model.config.intermediate_size
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    a, b = torch.randn(2048, width).to(dtype), torch.randn(inner, width).to(dtype)
    best = 0.0
    for _ in range(5):
        watch = Watch()
        for _ in range(10):
            torch.nn.functional.linear(a, b)
        best = max(best, 10 * 2 * 2048 * width * inner / watch.lap() / 1e9)
    return best


def sampling(path: str, precision: str, **work: int) -> dict[str, Any]:
    """New tokens per second, prompts included; see :func:`_rates`."""
    model, _ = models.load(path)
    return _rates(TransformersSampler(model, [], precision=precision), model, path, **work)


def vllm_sampling(path: str, precision: str, **work: int) -> dict[str, Any]:
    """The same with ``sampler=vllm``."""
    from agentgrpo.samplers.vllm import VllmSampler

    model, _ = models.load(path)
    return _rates(VllmSampler(model, [], vllm_settings(precision)), model, path, **work)


def _rates(
    sampler: Sampler, model: PreTrainedModel, path: str, *,
    sequences: int, prompt_tokens: int, new_tokens: int, group: int, repeat: int,
) -> dict[str, Any]:  # fmt: skip
    """Taking over weights, and checking them where a sampler does, is within the time, as in every update."""
    rates = []
    for round_ in range(repeat + 1):
        _, prompts = texts(path, sequences // group, prompt_tokens, seed=round_)
        requests = [p for p in prompts for _ in range(group)]
        params = [SamplingParams(new_tokens, 1.0, noise_key=derive(round_, i)) for i in range(sequences)]
        watch = Watch()
        sampler.sync(model)
        sampler.generate(requests, params)
        rates.append(sequences * new_tokens / watch.lap())
    return {"rates": rates[1:], "peak_gb": peak_gb()}


def vllm_settings(precision: str) -> VllmSettings:
    """An engine for SmolLM2."""
    return VllmSettings(
        "vllm", precision, gpu_memory_share=0.4, kv_cache_gb=1.0, tensor_parallel=1, max_model_len=2048,
        max_num_seqs=64, enforce_eager=True,
    )  # fmt: skip


def vllm_turns(path: str, name: str, precision: str, repeat: int) -> dict[str, Any]:
    """Seconds of rollouts with ``sampler=vllm``, the handing over of weights and its check included."""
    from agentgrpo.samplers.vllm import VllmSampler

    work = WORKLOADS[name]
    model, _ = models.load(path)
    sampler = VllmSampler(model, [], vllm_settings(precision))
    rollout = []
    for round_ in range(repeat + 1):
        _, prompts = texts(path, work.prompts, work.prompt_tokens, seed=round_)
        watch = Watch()
        sampler.sync(model)
        play(sampler, work, prompts, round_)
        rollout.append(watch.lap())
    return {"rollout": rollout[1:], "peak_gb": peak_gb()}


def nano_iteration(prompts: int, samples: int, prompt_tokens: int, new_tokens: int, turns: int) -> dict[str, Any]:
    """Seconds and memory of one iteration of a model as small as the default one, at any size of episodes."""
    work = Workload("nano", prompts, samples, prompt_tokens, new_tokens, turns)
    length = turns * (prompt_tokens + new_tokens)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=length, tie_word_embeddings=True,
    )  # fmt: skip
    attention.register()
    model = LlamaForCausalLM._from_config(config, attn_implementation=attention.NAME, dtype=torch.float32).eval()
    learner = Learner(
        model, optim(max(16384, length)), precision="fp32", temperature=1.0, max_length=turns * new_tokens
    )
    sampler = TransformersSampler(model, [])
    algorithm = GRPO()
    rng = random.Random(0)
    starts = [[rng.randrange(512) for _ in range(prompt_tokens)] for _ in range(prompts)]
    play(sampler, replace(work, turns=1), starts[:1], 0)  # memory is touched for the first time
    before = resident_gb()
    sampler.sync(model)
    watch = Watch()
    groups = play(sampler, work, starts, 1)
    rollout = watch.lap()
    learner.update(items_of(groups, algorithm), algorithm, (0,))
    return {"rollout": rollout, "training": watch.lap(), "grown_gb": max(peak_gb() - before, 0.0)}


def gradient_difference(path: str, name: str) -> dict[str, Any]:
    """fp32 gradient of the GRPO loss, against padded rows through transformers' own attention and all logits."""
    work = WORKLOADS[name]
    model, _ = models.load(path)
    learner = Learner(model, optim(), precision="fp32", temperature=1.0, max_length=work.turns * work.new_tokens)
    _, prompts = texts(path, work.prompts, work.prompt_tokens, seed=0)
    algorithm = GRPO()
    items = items_of(play(TransformersSampler(model, []), work, prompts, 0), algorithm)
    counts = packing.count(items, 1)
    ours = 0.0
    for batch in learner.pack(items):
        loss = algorithm.loss(learner.logprobs(batch), batch, counts).loss
        loss.backward()
        ours += float(loss)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    theirs = 0.0
    for item in items:  # one row at a time: the same sums, in little memory
        ids = torch.tensor([item.token_ids])
        logprobs = model(ids, use_cache=False).logits[0, :-1].log_softmax(dim=-1).gather(1, ids[0, 1:, None])[:, 0]
        chosen = logprobs[torch.tensor(item.action_index) - 1]
        ratio = (chosen - torch.tensor(item.old_logprobs)).exp()
        advantages = torch.tensor(item.advantages)
        loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean() / counts.sequences
        loss.backward()
        theirs += float(loss)
    plain = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return {"gradient": float((gradient - plain).norm() / plain.norm()), "loss": abs(ours - theirs)}


def vocabulary(size: int, tokens: int) -> dict[str, Any]:
    """Memory that log-probabilities of ``tokens`` tokens take, forward and backward, beyond weights and states."""
    attention.register()
    config = LlamaConfig(
        vocab_size=size, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM._from_config(config, attn_implementation=attention.NAME, dtype=torch.float32)
    states = torch.randn(tokens, 64, requires_grad=True)
    targets = torch.randint(size, (tokens,))
    policy.token_logprobs(model, states[:8], targets[:8], 1.0)[0].sum().backward()  # gradients and buffers exist
    before = resident_gb()
    policy.token_logprobs(model, states, targets, 1.0)[0].sum().backward()
    return {"grown_gb": peak_gb() - before, "head_gb": size * 64 * 4 / 1e9, "chunk_gb": policy.CHUNK * size * 4 / 1e9}


def advantages(steps: list[int]) -> dict[str, Any]:
    """Seconds that each algorithm's credit takes for so many steps, in groups of 8 episodes of 10 turns."""
    from agentgrpo.composing import compose_config
    from agentgrpo.config import build_algorithm, parse
    from agentgrpo.registry import algorithm_names

    out: dict[str, list[float]] = {}
    for count in steps:
        groups = _made_up_groups(count)
        gc.collect()
        gc.freeze()  # the collector would look through all of these again and again, and count as the algorithm's time
        for name in algorithm_names():
            algorithm, _ = build_algorithm(parse(compose_config("train", [f"algorithm={name}"])))
            watch = Watch()
            algorithm.credit(groups)
            out.setdefault(name, []).append(watch.lap())
    return {"steps": steps, "seconds": out}


def _made_up_groups(steps: int) -> list[Group]:
    rng = random.Random(0)
    groups = []
    for _ in range(steps // 80):
        episodes = []
        for _ in range(8):
            won = float(rng.random() < 0.5)
            turns = [
                Step("", reward=won * (t == 9), anchor=str(rng.randrange(12)), prompt_ids=(1,), action_ids=(2, 3),
                     logprobs=(-0.5, -0.5), values=(0.1, 0.2))
                for t in range(10)
            ]  # fmt: skip
            episodes.append(Trajectory(tuple(turns), success=bool(won)))
        groups.append(Group(tuple(episodes), max_return=1.0))
    return groups
