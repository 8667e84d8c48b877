"""Numbers about a round of rollouts."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence

from agentgrpo.algorithm import State
from agentgrpo.collection import Experience
from agentgrpo.types import Group, RolloutStatus, Step, StopReason, Trajectory


def experience_metrics(experience: Experience, update: int) -> dict[str, float]:
    """Everything about a round: the policy's own episodes, what an expert's lead made of the others, what was kept.

    Args:
        update: updates that the weights which learn from it have seen.
    """
    metrics = rollout_metrics(experience.groups)
    guided = [t for g in experience.groups for t in g if t.guided and t.has_return]
    if guided:
        metrics["guided/success"] = _mean([t.success for t in guided])
        metrics["guided/return_mean"] = _mean([t.episode_return for t in guided])
        metrics["guided/expert_tokens_mean"] = _mean([sum(s.num_guided for s in t.steps) for t in guided])
    names = {g.env for g in experience.groups}
    if len(names) > 1:
        for name in sorted(names):
            metrics |= _of_env(name, [g for g in experience.groups if g.env == name])
    metrics["rollout/kept_group_share"] = len(experience.kept) / max(len(experience.groups), 1)
    metrics["rollout/num_rounds"] = experience.num_rounds
    return metrics | _staleness_metrics(experience.groups, update)


def _staleness_metrics(groups: Sequence[Group], update: int) -> dict[str, float]:
    """How many updates ago the weights were made that a token was drawn from."""
    steps = [s for group in groups for t in group for s in t.steps if s.num_policy_tokens]
    tokens = sum(s.num_policy_tokens for s in steps)
    total = sum((update - s.policy_version) * s.num_policy_tokens for s in steps)
    return {
        "rollout/staleness_mean": total / max(tokens, 1),
        "rollout/staleness_max": float(max((update - s.policy_version for s in steps), default=0)),
    }


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Means over episodes, turns and groups, named ``rollout/...``.

    Episodes that an expert led in are left out: they do not show what the policy can do. Episodes of unknown return
    count in their own share only.
    """
    episodes = [t for group in groups for t in group if not t.guided]
    known = [t for t in episodes if t.has_return]
    steps = [s for t in known for s in t.steps]
    returns = [t.episode_return for t in known]
    status = Counter(t.status for t in episodes)
    metrics = {
        "rollout/success": _mean([t.success for t in known]),
        "rollout/return_mean": _mean(returns),
        "rollout/return_std": statistics.pstdev(returns) if returns else 0.0,
        "rollout/turns_mean": _mean([len(t.steps) for t in known]),
        "rollout/turns_max": float(max((len(t.steps) for t in known), default=0)),
        "rollout/valid_action_share": _mean([s.valid_action for s in steps]),
        "rollout/action_tokens_mean": _mean([len(s.action_ids) for s in steps]),
        "rollout/cut_off_action_share": _mean([s.stop_reason is StopReason.LENGTH for s in steps]),
        "rollout/surprise_mean": _surprise(steps),
    }
    for name in RolloutStatus:
        metrics[f"rollout/{name}_share"] = status[name] / max(len(episodes), 1)
    return metrics | _group_metrics(groups) | _diversity_metrics(groups) | _term_metrics(known)


def _of_env(name: str, groups: Sequence[Group]) -> dict[str, float]:
    """What tells environments of one run apart, named ``rollout/ENV/...``."""
    found = rollout_metrics(groups)
    shown = ("success", "return_mean", "turns_mean", "valid_action_share", "zero_variance_share")
    crashed = found["rollout/env_error_share"] + found["rollout/env_timeout_share"]
    return {f"rollout/{name}/{key}": found[f"rollout/{key}"] for key in shown} | {
        f"rollout/{name}/crashed_share": crashed,
        f"rollout/{name}/num_groups": float(len(groups)),
    }


def algorithm_metrics(state: State) -> dict[str, float]:
    """The numbers that an algorithm carries from update to update, named ``algorithm/...``."""
    return {f"algorithm/{k}": float(v) for k, v in state.items() if isinstance(v, (int, float))}


def _surprise(steps: Sequence[Step]) -> float:
    """Minus the mean log-probability of the sampled tokens, in nats: estimates the entropy that they were drawn with.

    Temperature and top_p count. It costs nothing, and there is one when an update is skipped too.
    """
    logprobs = [p for s in steps for p in s.logprobs]
    return -math.fsum(logprobs) / len(logprobs) if logprobs else 0.0


def _term_metrics(episodes: Sequence[Trajectory]) -> dict[str, float]:
    """Mean over episodes of each reward term's sum, before weighting."""
    sums: dict[str, float] = defaultdict(float)
    for trajectory in episodes:
        for step in trajectory.steps:
            for name, value in step.reward_terms.items():
                sums[name] += value
    return {f"reward/{name}": value / len(episodes) for name, value in sums.items()}


def _group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Groups whose members all have the same return give no episode advantage; which kind tells why."""
    kinds: Counter[str] = Counter()
    spreads = []
    for group in groups:
        members = [t for t in group if t.has_return]
        returns = [t.episode_return for t in members]
        spreads.append(statistics.pstdev(returns) if returns else 0.0)
        if len(set(returns)) > 1:
            kinds["signal"] += 1
        elif not members:
            kinds["other"] += 1
        elif all(t.success for t in members):
            kinds["all_success"] += 1
        elif not any(t.success for t in members):
            kinds["all_failure"] += 1
        else:
            kinds["other"] += 1
    shares = {kind: kinds[kind] / max(len(groups), 1) for kind in ("all_success", "all_failure", "other")}
    longest = [max((len(t.steps) for t in group), default=0) for group in groups]
    return {
        "rollout/longest_turns_mean": _mean(longest),
        "rollout/longest_turns_std": statistics.pstdev(longest) if longest else 0.0,
        "rollout/group_return_std_mean": _mean(spreads),
        "rollout/zero_variance_share": sum(shares.values()),
    } | {f"rollout/zero_variance_{kind}_share": share for kind, share in shares.items()}


def _diversity_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """How much the members of a group have in common: states to compare actions in, and episodes that teach nothing."""
    visits = [Counter(s.state for t in group for s in t.steps) for group in groups]
    # All members share the state that they start from: it says nothing about whether they meet again.
    met = [seen[s.state] > 1 for group, seen in zip(groups, visits, strict=True) for t in group for s in t.steps[1:]]
    episodes = [Counter(tuple(s.action for s in t.steps) for t in group if t.steps) for group in groups]
    return {
        "rollout/visits_per_state": _mean([n for states in visits for n in states.values()]),
        "rollout/shared_state_share": _mean(met),
        "rollout/repeated_episode_share": _share_repeated(episodes),
    }


def _share_repeated(counters: Sequence[Counter[tuple[str, ...]]]) -> float:
    total = sum(c.total() for c in counters)
    return (total - sum(len(c) for c in counters)) / max(total, 1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
