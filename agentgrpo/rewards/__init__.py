"""Reward terms: named, weighted, logged apart. What an episode earns is their weighted sum."""

from agentgrpo.rewards.base import RewardTerm, register_reward
from agentgrpo.rewards.scorer import RewardScorer, build_terms

__all__ = ["RewardScorer", "RewardTerm", "build_terms", "register_reward"]
