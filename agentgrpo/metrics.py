"""Numbers about a round of rollouts."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from agentgrpo.types import Group, RolloutStatus, StopReason


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Means over episodes, turns and groups, named ``rollout/...``. Crashed episodes count in their own share only."""
    episodes = [t for group in groups for t in group]
    known = [t for t in episodes if not t.status.crashed]
    steps = [s for t in known for s in t.steps]
    returns = [t.episode_return for t in known]
    status = Counter(t.status for t in episodes)
    metrics = {
        "rollout/success": _mean([t.success for t in known]),
        "rollout/return_mean": _mean(returns),
        "rollout/return_std": statistics.pstdev(returns) if returns else 0.0,
        "rollout/turns_mean": _mean([len(t.steps) for t in known]),
        "rollout/valid_action_share": _mean([s.valid_action for s in steps]),
        "rollout/action_tokens_mean": _mean([len(s.action_ids) for s in steps]),
        "rollout/cut_off_action_share": _mean([s.stop_reason is StopReason.LENGTH for s in steps]),
    }
    for name in RolloutStatus:
        metrics[f"rollout/{name}_share"] = status[name] / max(len(episodes), 1)
    return metrics | _group_metrics(groups)


def _group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Groups whose members all have the same return give no episode advantage; which kind tells why."""
    kinds: Counter[str] = Counter()
    for group in groups:
        members = [t for t in group if not t.status.crashed]
        if len({t.episode_return for t in members}) > 1:
            kinds["signal"] += 1
        elif all(t.success for t in members):
            kinds["all_success"] += 1
        elif not any(t.success for t in members):
            kinds["all_failure"] += 1
        else:
            kinds["other"] += 1
    shares = {kind: kinds[kind] / max(len(groups), 1) for kind in ("all_success", "all_failure", "other")}
    return {"rollout/zero_variance_share": sum(shares.values())} | {
        f"rollout/zero_variance_{kind}_share": share for kind, share in shares.items()
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
