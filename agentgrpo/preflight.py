"""Everything that can be wrong with a configuration and found before a model loads."""

from __future__ import annotations

from dataclasses import dataclass

from agentgrpo import environments, lora, models
from agentgrpo.algorithm import Algorithm, RunFacts
from agentgrpo.cluster.settings import check as check_cluster
from agentgrpo.config import TrainConfig, build_algorithm
from agentgrpo.evaluation import Panel, make_panel
from agentgrpo.rewards import RewardScorer, build_terms
from agentgrpo.setup import check_sampler


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration that a run can start with."""

    config: TrainConfig
    algorithm: Algorithm
    """Its choices that depend on the rest of the configuration are made."""
    ignored: list[str]
    """Options of the algorithm that are set although it has no use for them."""
    scorer: RewardScorer
    panel: Panel


def checked(config: TrainConfig) -> Checked:
    """Builds what needs no model, and asks each part whether it goes with the others.

    Raises:
        ValueError: a sentence that names the setting, what is allowed and the next step.
    """
    algorithm, ignored = build_algorithm(config)
    algorithm = algorithm.settled(exact_sampler=config.exact_sampler)
    scorer = RewardScorer(build_terms(config.reward))
    for env in config.environments.values():
        facts = environments.probe(env, config.rollout.max_turns, config.rollout.step_timeout)
        scorer.check(facts.info_keys)
        steps = config.optim.epochs * config.optim.minibatches
        algorithm.check(RunFacts(config.group_size, scorer.max_return(facts.max_return), facts.has_expert, steps))
    lora.check_algorithm(config.model, algorithm)
    models.check(config.model)
    check_sampler(config)
    check_cluster(
        config.cluster_settings,
        has_critic=algorithm.critic_rate is not None,
        has_adapters=config.model.lora.rank > 0,
        sampler=config.sampler_settings.kind,
    )
    return Checked(config, algorithm, ignored, scorer, make_panel(config.environments, config.eval.num_tasks))
