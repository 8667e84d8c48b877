"""The optimiser's side: forward, loss, backward, step."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo import packing, policy
from agentgrpo.algorithm import Algorithm, LossOutput
from agentgrpo.config import OptimConfig
from agentgrpo.seeding import permutation
from agentgrpo.types import Batch, Denominators, TokenLayout
from agentgrpo.types import Sequence as TokenSequence

LossFunction = Callable[[Tensor, Batch, Denominators], LossOutput]


@dataclass(frozen=True, slots=True)
class _StepResult:
    """Sums over one optimiser step."""

    loss: float
    sums: dict[str, float]
    tokens: int
    """Policy tokens that were computed."""
    grad_norm: float
    gap_max: float


class Learner:
    """Holds the trained weights and the optimiser.

    Args:
        model: fp32 weights; updated in place.
        config: optimiser settings.
        precision: ``fp32``, or ``bf16`` for autocast (weights and optimiser state stay fp32).
        temperature: that policy tokens are sampled with; their log-probabilities are taken at the same.
        max_length: constant L of ``seq-mean-token-sum-norm`` in policy tokens.
    """

    def __init__(
        self, model: PreTrainedModel, config: OptimConfig, *, precision: str, temperature: float, max_length: int
    ) -> None:
        self.model = model
        self._config = config
        self._bf16 = precision == "bf16"
        self._temperature = temperature
        self._max_length = max_length
        self._reference: PreTrainedModel | None = None
        self.num_steps = 0
        self.shares_prefixes = policy.can_share_prefixes(model)
        """False where the model cannot, and every sequence is computed whole."""
        self._states = policy.tree_states if self.shares_prefixes else policy.row_states
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Forgets all moments, as between imitation and reinforcement learning."""
        config = self._config
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.num_steps = 0

    def freeze_reference(self) -> None:
        """Keeps a copy of the weights as they are now: the policy that a KL term holds on to."""
        self.set_reference(copy.deepcopy(self.model))

    def set_reference(self, model: PreTrainedModel) -> None:
        """Holds on to the given policy in the KL term."""
        self._reference = model.requires_grad_(False)

    # --- reinforcement learning -----------------------------------------------------------------------------------

    def update(
        self, items: Sequence[TokenSequence], algorithm: Algorithm, coordinates: tuple[int | str, ...]
    ) -> dict[str, float]:
        """``epochs`` passes over the sequences of one round, in ``minibatches`` optimiser steps each.

        A minibatch whose advantages are all 0 does not touch the weights: Adam would scale momentum and any tiny term
        up to a full step. For the same reason sequences without any advantage are counted, but not computed, where
        the loss has no other term: they add exactly 0.

        Args:
            coordinates: names this update's data order.
        Returns:
            metrics: means over policy tokens and steps.
        """
        steps: list[_StepResult] = []
        for epoch in range(self._config.epochs):
            order = permutation(len(items), *coordinates, "order", epoch)
            size = max(1, math.ceil(len(items) / self._config.minibatches))
            for start in range(0, len(items), size):
                part = [items[i] for i in sorted(order[start : start + size])]
                signal = [s for s in part if any(s.advantages)]
                if signal:
                    counts = packing.count(part, self._max_length)
                    computed = part if algorithm.needs_reference else signal
                    rate = self._rate()
                    steps.append(self._step(computed, algorithm.loss, counts, rate, algorithm.needs_reference))
                    self.num_steps += 1
        return self._metrics(steps)

    def _metrics(self, steps: Sequence[_StepResult]) -> dict[str, float]:
        if not steps:
            return {"loss/skipped": 1.0}
        tokens = sum(s.tokens for s in steps)
        metrics = {name: sum(s.sums[name] for s in steps) / tokens for name in steps[0].sums if "/" in name}
        metrics["loss/policy"] = sum(s.loss for s in steps) / len(steps)
        metrics["loss/grad_norm"] = sum(s.grad_norm for s in steps) / len(steps)
        metrics["loss/skipped"] = 0.0
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

        def cross_entropy(logprobs: Tensor, batch: Batch, denominators: Denominators) -> LossOutput:
            return LossOutput(-torch.where(batch.action_mask, logprobs, 0.0).sum() / denominators.tokens, {})

        return self._step(items, cross_entropy, packing.count(items, self._max_length), lr, with_reference=False).loss

    # --- one optimiser step ---------------------------------------------------------------------------------------

    def _step(
        self,
        items: Sequence[TokenSequence],
        loss: LossFunction,
        denominators: Denominators,
        lr: float,
        with_reference: bool,
    ) -> _StepResult:
        total, sums, gap_max = 0.0, {"gap": 0.0, "loss/entropy": 0.0}, 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for packed in packing.pack(items, self._config.micro_batch_tokens):
            batch = self._to_device(packed)
            if with_reference:
                assert self._reference is not None
                with torch.no_grad():
                    batch = replace(batch, ref_logprobs=self.logprobs(batch, self._reference))
            logprobs = self.logprobs(batch)
            output = loss(logprobs, batch, denominators)
            output.loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                total += float(output.loss)
                gap = torch.where(batch.action_mask, (logprobs - batch.old_logprobs).abs(), 0.0)
                gap_max = max(gap_max, float(gap.max()))
                sums["gap"] += float(gap.sum())
                # -log p of a sampled token estimates the entropy without bias while sampler and policy agree.
                sums["loss/entropy"] -= float(torch.where(batch.action_mask, logprobs, 0.0).sum())
                for name, value in output.sums.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._config.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"The gradient is {float(norm)} at optimiser step {self.num_steps}. Lower optim.lr, or "
                f"use model.precision=fp32."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return _StepResult(total, sums, sum(len(s.action_index) for s in items), float(norm), gap_max)

    def logprobs(self, batch: Batch, model: PreTrainedModel | None = None) -> Tensor:
        """(B, T) float32 log-probabilities of the batch's policy tokens, 0 on padding."""
        model = self.model if model is None else model
        autocast = torch.autocast(model.device.type, torch.bfloat16) if self._bf16 else contextlib.nullcontext()
        with autocast:
            states = self._states(model, batch.layout)  # (N, D)
            at, targets = batch.predictor[batch.action_mask], batch.targets[batch.action_mask]  # (A,)
            values = policy.token_logprobs(model, states[at], targets, self._temperature)
        return torch.zeros(batch.action_mask.shape, device=values.device).masked_scatter(batch.action_mask, values)

    def _to_device(self, batch: Batch) -> Batch:
        device = self.model.device
        if device.type == "cpu":
            return batch
        nodes = {f.name: getattr(batch.layout, f.name).to(device) for f in fields(TokenLayout)}
        moved = {
            name: getattr(batch, name).to(device)
            for name in ("predictor", "targets", "action_mask", "old_logprobs", "advantages")
        }
        return replace(batch, layout=TokenLayout(**nodes), **moved)
