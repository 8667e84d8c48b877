"""A learned reward: any ``AutoModelForSequenceClassification`` reads the episode and gives one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from agentgrpo import models
from agentgrpo.rewards.base import RewardTerm, at_the_end, register_reward
from agentgrpo.types import Trajectory


@register_reward("reward_model")
@dataclass(frozen=True)
class RewardModel(RewardTerm):
    """The first logit of a sequence classifier, given at the last step."""

    path: str = ""
    """Folder, or name on the hub."""
    max_tokens: int = 2048
    """The end of an episode that is read."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is not set. Name a folder or a hub model: reward.reward_model.path=...")

    def check(self, info_keys: frozenset[str]) -> None:
        models.check_folder("path", self.path)

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        model, tokenizer = _load(self.path)
        return [at_the_end(t, self._one(model, tokenizer, t)) for t in trajectories]

    def _one(self, model: Any, tokenizer: Any, trajectory: Trajectory) -> float:
        if not trajectory.steps:
            return 0.0
        tokenizer.truncation_side = "left"
        inputs = tokenizer(
            _render(tokenizer, trajectory),
            return_tensors="pt",
            truncation=True,
            max_length=self.max_tokens,
            add_special_tokens=not tokenizer.chat_template,  # a template writes its own
        )
        with torch.inference_mode():
            return float(model(**inputs).logits[0, 0])


def _render(tokenizer: Any, trajectory: Trajectory) -> str:
    turns = [
        {"role": role, "content": content}
        for step in trajectory.steps
        for role, content in (("user", step.observation), ("assistant", step.text))
    ]
    if tokenizer.chat_template:
        return str(tokenizer.apply_chat_template(turns, tokenize=False))
    return "\n".join(turn["content"] for turn in turns)


@lru_cache(maxsize=2)
def _load(path: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
        return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"reward model {path!r} cannot be loaded: {error}") from error
