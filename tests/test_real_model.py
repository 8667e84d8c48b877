"""SmolLM2-135M in a BabyAI level, and the default experiment: what takes the real model, or minutes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from agentgrpo import packing, policy
from agentgrpo.cli import main
from agentgrpo.composing import compose_config
from agentgrpo.config import TrainConfig, parse
from agentgrpo.episode import Task
from agentgrpo.learner import Learner
from agentgrpo.players import PolicyPlayer
from agentgrpo.samplers.transformers import TransformersSampler
from agentgrpo.setup import build_runner, build_sampler, make_policy
from agentgrpo.types import Credit

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
FP32 = ["model.precision=fp32", f"model.path={ROOT / 'models' / 'smollm2-135m-instruct'}"]


HOT = 2.0
"""Temperature at which the model writes tokens that its own tokenizer would not have cut that way."""


def smollm2(*overrides: str) -> TrainConfig:
    return parse(compose_config("train", ["experiment=smollm2_babyai", *FP32, "rollout.max_new_tokens=6", *overrides]))


@pytest.mark.parametrize("kind", ["transcript", "window"])
def test_log_probabilities_of_trainer_and_sampler_agree(kind: str) -> None:
    config = smollm2(f"context.kind={kind}", "env.kwargs.max_turns=4")
    made = make_policy(config)
    sampler = build_sampler(config, made)
    assert isinstance(sampler, TransformersSampler)
    player = PolicyPlayer(sampler, config.rollout.params(HOT))
    groups = build_runner(config, made).collect(player, [Task(7, ("test", 7))], group_size=4)
    items = [s for t in groups[0] for s in packing.sequences(t, Credit(torch.ones(t.num_policy_tokens)))]
    learner = Learner(made.model, config.optim, precision="fp32", temperature=HOT, max_length=24)
    batches = packing.pack(items, 4096)
    with torch.no_grad():
        gaps = [(learner.logprobs(b) - b.old_logprobs)[b.action_mask].abs().max() for b in batches]
    assert float(max(gaps)) < 1e-4
    # Text of these episodes does not survive decoding and encoding: the ids are what counts.
    texts = [(s.action_ids, made.chat.decode(s.action_ids)) for t in groups[0] for s in t.steps]
    assert any(tuple(made.chat.encode(text)) != ids for ids, text in texts)
    if kind == "transcript":
        # The group's prompt once, later turns only what is new.
        first = len(groups[0].trajectories[0].steps[0].prompt_ids)
        appended = sum(len(s.prompt_ids) for t in groups[0] for s in t.steps[1:])
        unfed = sum(len(t.steps) - 1 for t in groups[0])  # the last token of an answer goes in with the next turn
        assert sampler.stats.prefilled_tokens == first + appended + unfed


def test_one_round_with_the_real_model_moves_the_weights(tmp_path: Path) -> None:
    small = ["num_updates=1", "groups_per_update=2", "group_size=2", "env.kwargs.max_turns=3", "eval.num_tasks=2"]
    small += ["warm_start.episodes=4", f"run_dir={tmp_path / 'run'}"]
    assert main(["train", "experiment=smollm2_babyai", *FP32[1:], *small]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["updates"] == 1
    assert summary["model"] == FP32[1].removeprefix("model.path=")
    assert summary["warm_start_seconds"] > 0


def test_bf16_sampler_stays_close_to_the_trainer() -> None:
    config = parse(compose_config("train", ["experiment=smollm2_babyai", *FP32[1:]]))
    made = make_policy(config)
    prompt = made.chat.prompt("Mission: go to the red ball. The red ball is 2 ahead, 1 left.")
    sampler = build_sampler(config, made)
    from agentgrpo.samplers.base import SamplingParams

    out = sampler.generate([prompt], [SamplingParams(16)])[0]
    ids = torch.tensor([[*prompt, *out.token_ids]])
    with torch.no_grad():
        states = policy.hidden_states(made.model, ids, torch.arange(ids.shape[1])[None])[0, len(prompt) - 1 : -1]
        exact, _ = policy.token_logprobs(made.model, states, ids[0, len(prompt) :], 1.0)
    gap = (exact - torch.tensor(out.logprobs)).abs()
    # bf16 keeps 8 bits of mantissa; a wrong mask or position would be off by whole nats.
    assert float(gap.mean()) < 0.15


def test_default_experiment_learns(tmp_path: Path) -> None:
    assert main(["train", "num_updates=20", f"run_dir={tmp_path / 'run'}"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    # The intervals before and after must not even touch.
    assert summary["after"]["success_low"] > summary["before"]["success_high"] + 0.1
