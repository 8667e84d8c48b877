"""The optimiser's side: forward, loss, backward, step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo import lora, losses, packing, policy
from agentgrpo.algorithm import Algorithm, LossOutput
from agentgrpo.cluster.ranks import Ranks
from agentgrpo.config import OptimConfig
from agentgrpo.critic import Critic
from agentgrpo.precision import PRECISIONS, HalfTwin, converted
from agentgrpo.seeding import permutation
from agentgrpo.timing import phase
from agentgrpo.types import Batch, Denominators
from agentgrpo.types import Sequence as TokenSequence
from agentgrpo.weights import whole

NOTHING = 1e-8
"""Advantages up to this are rounding errors of 0: Adam would scale the gradient they give up to a full step."""

LossFunction = Callable[[Tensor, Batch, Denominators, Tensor | None], LossOutput]


@dataclass(frozen=True, slots=True)
class _StepResult:
    """Sums over one optimiser step."""

    loss: float
    sums: dict[str, float]
    tokens: int
    """Policy tokens that were computed."""
    grad_norm: float
    gap_max: float
    micro_batch_tokens: int
    """Distinct tokens of the largest pass."""
    distinct_tokens: int
    """Of all passes."""


class Learner:
    """Holds the trained weights and the optimiser.

    Args:
        model: fp32 weights, or a base in any precision with fp32 adapters (:mod:`agentgrpo.lora`); what is trained is
            updated in place.
        config: optimiser settings.
        precision: what forward and backward passes compute in, ``fp32`` or ``bf16``; trained weights, their gradients
            and the optimiser's state are fp32 either way.
        temperature: that policy tokens are sampled with; their log-probabilities are taken at the same.
        top_p: likewise.
        max_length: constant L of ``seq-mean-token-sum-norm`` in policy tokens.
        ranks: that share the work. Each is given all sequences, computes its part of them, and takes the same step.
        sharded: whether the weights are spread over the ranks; the given model is cut up in place.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: OptimConfig,
        *,
        precision: str,
        temperature: float,
        max_length: int,
        top_p: float = 1.0,
        ranks: Ranks | None = None,
        sharded: bool = False,
    ) -> None:
        self.model = model
        self._ranks = Ranks() if ranks is None else ranks
        self._sharded = sharded
        self._config = config
        self._precision = precision
        self._twin = HalfTwin(model) if precision == "bf16" and not sharded else None
        self._temperature = temperature
        self._top_p = top_p
        self._max_length = max_length
        self.reference: PreTrainedModel | None = None
        self.critic: Critic | None = None
        self.critic_optimizer: torch.optim.Optimizer | None = None
        self.num_steps = 0
        self._critic_twin: HalfTwin | None = None
        self.shares_prefixes = policy.can_share_prefixes(model)  # the twin's rounding would look like a difference
        """False where the model cannot, and every sequence is computed whole."""
        if config.recompute and not policy.layers_to_recompute(model):
            raise ValueError(
                f"optim.recompute=true: transformers cannot compute the layers of {type(model).__name__} again. "
                "Set optim.recompute=false; a smaller optim.micro_batch_tokens needs less memory too."
            )
        self._passes: dict[int, policy.LogprobPass] = {}  # of models whose weights are spread over ranks
        if sharded:
            self._shard(model, precision)
        self.reset_optimizer()

    def _shard(self, model: PreTrainedModel, precision: str) -> None:
        from agentgrpo.cluster import sharding

        self._passes[id(model)] = whole_pass = policy.LogprobPass(model)
        sharding.shard(whole_pass, policy.layers_to_recompute(model), precision)

    @property
    def computing(self) -> PreTrainedModel:
        """The weights that passes are computed with: the model itself, or its twin in half precision."""
        return self.model if self._twin is None else self._twin.module

    @property
    def single_step(self) -> bool:
        """True when a round of rollouts gets one optimiser step: the policy before it is the one that it computes."""
        return self._config.epochs * self._config.minibatches == 1

    def follow(self) -> None:
        """Passes are computed with the weights as they are now."""
        for twin in (self._twin, self._critic_twin):
            if twin is not None:
                twin.follow()

    def reset_optimizer(self) -> None:
        """Forgets all moments, as between imitation and reinforcement learning."""
        self.optimizer = self._adamw(self.model, self._config.lr)
        self.num_steps = 0

    def _adamw(self, module: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=lr,
            betas=self._config.betas,
            weight_decay=self._config.weight_decay,
            fused=True,
        )

    def freeze_reference(self) -> None:
        """Keeps a copy of the weights as they are now: the policy that a KL term holds on to."""
        self.set_reference(self.model)

    def set_reference(self, model: PreTrainedModel) -> None:
        """Holds on to a copy of the given policy in the KL term, in the precision of the passes.

        A policy with adapters has its base in common with its reference, which is that base with the adapters off, or
        with a copy of them where a warm start has trained them before.
        """
        dtype = PRECISIONS[self._precision] if self._sharded else self.computing.dtype
        self.reference = converted(model, dtype).requires_grad_(False)
        if lora.adapted(model) and lora.untouched(model):
            lora.switch_off(self.reference)
        if self._sharded:
            self._shard(self.reference, "fp32")  # in the precision that it has

    @torch.no_grad()
    def move_reference(self, mix: float) -> None:
        """Moves the reference towards the policy: ``mix`` of the policy, the rest of the old reference."""
        assert self.reference is not None
        if lora.adapted(self.model):
            assert mix == 1, "refused by lora.check_algorithm"
            self.freeze_reference()
            return
        for old, new in zip(self.reference.parameters(), self.model.parameters(), strict=True):
            old.lerp_(new.to(old.dtype), mix)

    def make_critic(self, lr: float) -> None:
        """Starts a critic from the weights as they are now."""
        self.critic = Critic(self.model)
        self.critic_optimizer = self._adamw(self.critic, lr)
        self._critic_twin = None if self._twin is None else HalfTwin(self.critic)

    # --- reinforcement learning -----------------------------------------------------------------------------------

    def update(
        self, items: Sequence[TokenSequence], algorithm: Algorithm, coordinates: tuple[int | str, ...]
    ) -> dict[str, float]:
        """``epochs`` passes over the sequences of one round, in ``minibatches`` optimiser steps each.

        A minibatch whose advantages are all 0 does not touch the weights: Adam would scale momentum and any tiny term
        up to a full step. For the same reason sequences without any advantage are counted, but not computed, where
        the loss has no other term: they add exactly 0. A critic learns from every sequence.

        Args:
            coordinates: names this update's data order.
        Returns:
            metrics: means over policy tokens and steps.
        """
        steps: list[_StepResult] = []
        values: list[_StepResult] = []
        with_entropy = algorithm.entropy_coef > 0
        loss: LossFunction = algorithm.loss
        if algorithm.old_logprobs == "recompute" and self.single_step:
            loss = _from_own_logprobs(loss)
        for epoch in range(self._config.epochs):
            order = permutation(len(items), *coordinates, "order", epoch)
            size = max(1, math.ceil(len(items) / self._config.minibatches))
            for start in range(0, len(items), size):
                part = [items[i] for i in sorted(order[start : start + size])]
                signal = [s for s in part if any(abs(a) > NOTHING for a in s.advantages)]
                counts = packing.count(part, self._max_length)
                if signal:
                    computed = part if algorithm.needs_every_sequence else signal
                    steps.append(self._step(computed, loss, counts, self._rate(), with_entropy))
                    self.num_steps += 1
                if self.critic is not None:
                    values.append(self._critic_step(part, algorithm, counts))
        return self._metrics(steps) | _critic_metrics(values)

    def _metrics(self, steps: Sequence[_StepResult]) -> dict[str, float]:
        if not steps:
            return {"loss/skipped": 1.0}
        tokens = sum(s.tokens for s in steps)
        metrics = {name: sum(s.sums[name] for s in steps) / tokens for name in steps[0].sums if "/" in name}
        metrics["loss/policy"] = sum(s.loss for s in steps) / len(steps)
        metrics["loss/grad_norm"] = sum(s.grad_norm for s in steps) / len(steps)
        metrics["loss/skipped"] = 0.0
        metrics["loss/micro_batch_tokens"] = float(max(s.micro_batch_tokens for s in steps))
        metrics["loss/distinct_tokens"] = float(sum(s.distinct_tokens for s in steps))
        # The gap is taken where the weights are still those that sampled: the first step.
        metrics["sampler/logprob_gap_mean"] = steps[0].sums["gap"] / steps[0].tokens
        metrics["sampler/logprob_gap_max"] = steps[0].gap_max
        return metrics

    def _rate(self) -> float:
        warmup = self._config.lr_warmup
        return self._config.lr * min(1.0, (self.num_steps + 1) / (warmup + 1))

    # --- imitation ------------------------------------------------------------------------------------------------

    def imitate(self, items: Sequence[TokenSequence], lr: float) -> float:
        """One optimiser step on the cross-entropy of the policy tokens; returns it in nats per token."""

        def cross_entropy(
            logprobs: Tensor, batch: Batch, denominators: Denominators, entropy: Tensor | None
        ) -> LossOutput:
            return LossOutput(-torch.where(batch.action_mask, logprobs, 0.0).sum() / denominators.tokens, {})

        return self._step(items, cross_entropy, packing.count(items, self._max_length), lr, with_entropy=False).loss

    # --- one optimiser step ---------------------------------------------------------------------------------------

    def _step(
        self,
        items: Sequence[TokenSequence],
        loss: LossFunction,
        denominators: Denominators,
        lr: float,
        with_entropy: bool,
    ) -> _StepResult:
        total, sums, gap_max, largest, distinct = 0.0, {"gap": 0.0, "loss/entropy": 0.0}, 0.0, 0, 0
        for batch, counts in self._batches([items[i] for i in self._share(items)], items):
            logprobs, entropy = self._forward(batch, self.computing, with_entropy)
            output = loss(logprobs, batch, denominators, entropy)
            with phase("backward"):
                (output.loss if counts else 0 * output.loss).backward()  # type: ignore[no-untyped-call]
            if not counts:
                continue
            largest = max(largest, len(batch.layout.token_ids))
            distinct += len(batch.layout.token_ids)
            with torch.no_grad():
                total += float(output.loss)
                gap = torch.where(batch.action_mask, (logprobs - batch.sampler_logprobs).abs(), 0.0)
                gap_max = max(gap_max, float(gap.max()))
                sums["gap"] += float(gap.sum())
                # -log p of a sampled token estimates the entropy without bias while sampler and policy agree.
                sums["loss/entropy"] -= float(torch.where(batch.action_mask, logprobs, 0.0).sum())
                for name, value in output.sums.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        norm = self._apply(self.model, self.optimizer, lr, "optim.lr")
        mine = _StepResult(total, sums, sum(len(s.action_index) for s in items), norm, gap_max, largest, distinct)
        with phase("ranks"):
            return _together(self._ranks.gather(lambda: mine))

    def _critic_step(
        self, items: Sequence[TokenSequence], algorithm: Algorithm, denominators: Denominators
    ) -> _StepResult:
        assert self.critic is not None
        assert self.critic_optimizer is not None
        total, spread = 0.0, 0.0
        for batch in self.pack([items[i] for i in self._share(items)]):
            assert batch.returns is not None
            values = self.values(batch)
            errors = algorithm.value_loss(values, batch)
            loss = losses.aggregate(errors, batch.action_mask, "token-mean", denominators)
            with phase("backward"):
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            spread += float(torch.where(batch.action_mask, (values - batch.returns).abs(), 0.0).sum().detach())
        norm = self._apply(self.critic, self.critic_optimizer, None, "algorithm.critic_lr")
        mine = _StepResult(total, {"error": spread}, denominators.tokens, norm, 0.0, 0, 0)
        with phase("ranks"):
            return _together(self._ranks.gather(lambda: mine))

    def _apply(
        self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, lr: float | None, setting: str
    ) -> float:
        """Clips the gradient, takes the step and drops the gradient; returns the norm from before the clip."""
        if not self._sharded:  # otherwise they were added up on their way back
            with phase("ranks"):
                self._ranks.add_gradients(module.parameters())
        with phase("optimizer"):
            return self._take_step(module, optimizer, lr, setting)

    def _take_step(
        self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, lr: float | None, setting: str
    ) -> float:
        norm = whole(torch.nn.utils.clip_grad_norm_(module.parameters(), self._config.max_grad_norm))
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"The gradient is {float(norm)} at optimiser step {self.num_steps}. Lower {setting}, or "
                f"use model.precision=fp32."
            )
        if lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # at once: while episodes are played there is better use for the memory
        self.follow()
        return float(norm)

    # --- forward passes -------------------------------------------------------------------------------------------

    def _share(self, items: Sequence[TokenSequence]) -> Sequence[int]:
        """Which of the sequences this rank computes."""
        if self._ranks.size == 1:
            return range(len(items))
        with phase("packing"):
            packing.check_budget(items, self._config.micro_batch_tokens)  # at all ranks, or one would wait for others
            return packing.deal(items, self._ranks.size)[self._ranks.rank]

    def pack(self, items: Sequence[TokenSequence]) -> list[Batch]:
        """Micro-batches on the model's device."""
        budget = self._config.micro_batch_tokens
        with phase("packing"):
            batches = packing.pack(items, budget, share_prefixes=self.shares_prefixes)
            return [self._to_device(batch) for batch in batches]

    def _batches(self, mine: Sequence[TokenSequence], items: Sequence[TokenSequence]) -> Iterator[tuple[Batch, bool]]:
        """Micro-batches of this rank's sequences, and whether they count.

        Where weights are spread over ranks, each pass is one of all ranks: who has fewer micro-batches than others
        computes something that does not count.
        """
        batches = self.pack(mine)
        missing = max(self._ranks.gather(lambda: len(batches))) - len(batches) if self._sharded else 0
        idle = self.pack(items[:1]) * missing if missing else []
        yield from ((batch, True) for batch in batches)
        yield from ((batch, False) for batch in idle)

    @torch.no_grad()
    def columns(self, items: Sequence[TokenSequence], function: Callable[[Batch], Tensor]) -> list[list[float]]:
        """Per sequence (A,) what a function gives for its policy tokens.

        Args:
            function: (B, T) values of a micro-batch.
        """
        mine = self._share(items)
        found: dict[int, list[float]] = {}
        for batch, counts in self._batches([items[i] for i in mine], items):
            values = function(batch)
            if not counts:
                continue
            for row, index in enumerate(batch.rows):
                found[mine[index]] = values[row][batch.action_mask[row]].tolist()
        with phase("ranks"):
            parts = self._ranks.gather(lambda: found)
        whole = {index: column for part in parts for index, column in part.items()}
        return [whole[i] for i in range(len(items))]

    def logprobs(self, batch: Batch, model: PreTrainedModel | None = None) -> Tensor:
        """(B, T) float32 log-probabilities of the batch's policy tokens, 0 on padding."""
        return self._forward(batch, self.computing if model is None else model, with_entropy=False)[0]

    def values(self, batch: Batch) -> Tensor:
        """(B, T) float32 values of the critic before the batch's policy tokens, 0 on padding."""
        assert self.critic is not None
        critic = self.critic if self._critic_twin is None else self._critic_twin.module
        with phase("forward"), self._kept(critic.backbone):
            values: Tensor = critic(batch, share_prefixes=self.shares_prefixes)
        return values

    def _forward(self, batch: Batch, model: PreTrainedModel, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        run = self._passes.get(id(model)) or policy.LogprobPass(model)
        with phase("forward"), self._kept(model):
            found = run(
                batch,
                self._temperature,
                self._top_p,
                share_prefixes=self.shares_prefixes,
                with_entropy=with_entropy,
            )
        logprobs, entropy = (None if x is None else _padded(x, batch.action_mask) for x in found)
        assert logprobs is not None
        return logprobs, entropy

    def _kept(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Decides what a pass keeps for its backward pass."""
        again = self._config.recompute and torch.is_grad_enabled()
        return policy.recomputing(model) if again else nullcontext()

    def _to_device(self, batch: Batch) -> Batch:
        device = self.model.device
        if device.type == "cpu":
            return batch
        moved: dict[str, Any] = {
            f.name: value.to(device) for f in fields(Batch) if isinstance(value := getattr(batch, f.name), Tensor)
        }
        return replace(batch, layout=batch.layout.to(device), **moved)


def _together(parts: Sequence[_StepResult]) -> _StepResult:
    """One optimiser step, of which each rank has computed a part."""
    names = dict.fromkeys(name for part in parts for name in part.sums)
    return replace(
        parts[0],
        loss=sum(part.loss for part in parts),
        sums={name: sum(part.sums.get(name, 0.0) for part in parts) for name in names},
        gap_max=max(part.gap_max for part in parts),
        micro_batch_tokens=max(part.micro_batch_tokens for part in parts),
        distinct_tokens=sum(part.distinct_tokens for part in parts),
    )


def _from_own_logprobs(loss: LossFunction) -> LossFunction:
    """The loss with the policy's own log-probabilities as the old ones, which saves a pass to compute them."""

    def from_own(logprobs: Tensor, batch: Batch, denominators: Denominators, entropy: Tensor | None) -> LossOutput:
        return loss(logprobs, replace(batch, old_logprobs=logprobs.detach()), denominators, entropy)

    return from_own


def _padded(values: Tensor, mask: Tensor) -> Tensor:
    """(A,) -> (B, T), 0 off the mask."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def _critic_metrics(steps: Sequence[_StepResult]) -> dict[str, float]:
    if not steps:
        return {}
    tokens = sum(s.tokens for s in steps)
    return {
        "critic/loss": sum(s.loss for s in steps) / len(steps),
        "critic/error_mean": sum(s.sums["error"] for s in steps) / tokens,
        "critic/grad_norm": sum(s.grad_norm for s in steps) / len(steps),
    }
