"""agentgrpo: train multi-turn language-model agents with GRPO and its variants."""

__version__ = "0.1.0"
