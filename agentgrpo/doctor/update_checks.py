"""Checks of what an update does: gradient, ratio, gap to the sampler, numbers."""

from __future__ import annotations

from statistics import median

from agentgrpo.doctor.findings import FEW, Facts, Severity, Symptom, Window
from agentgrpo.doctor.rollout_checks import percent

SPIKE, SPIKE_CLIPPED, SPIKE_HISTORY = 10.0, 10.0, 10
"""Times the usual norm, times the norm that gradients are clipped to, and updates that say what is usual."""
GAP_EXACT, GAP_ROUNDED, GAP_STALE = 1e-3, 0.1, 0.5
"""Mean gap in nats per token: same precision on both sides; half precision or another engine; older weights."""
CLIPPED, NARROW, CLIPPED_NARROW = 0.3, 0.05, 0.8
"""Share of tokens; a clip narrower than the second acts on many of them by design, as where whole sequences have one
ratio."""
STALE_CORRECTED, STALE = 8.0, 1.5
SKIPPED = 0.5


def gradient_spike(window: Window, facts: Facts) -> Symptom | None:
    """A gradient is many times the usual one, and would have been many times the longest step."""
    norms = [(int(r.get("update", 0)), r["loss/grad_norm"]) for r in window.recent if "loss/grad_norm" in r]
    if len(norms) < SPIKE_HISTORY:
        return None
    usual = median(norm for _, norm in norms)
    update, highest = max(norms[-FEW:], key=lambda pair: pair[1])
    if highest < SPIKE * usual or highest < SPIKE_CLIPPED * facts.max_grad_norm:
        return None
    return Symptom(
        Severity.ALARM,
        highest,
        f"The gradient's norm was {highest:.3g} at update {update}; {usual:.2g} is usual.",
        "A few tokens of tiny probability, or a ratio far from 1, decide the whole update; it was scaled down to "
        f"optim.max_grad_norm={facts.max_grad_norm:g}.",
        "Lower optim.lr, optim.epochs or optim.max_grad_norm, or bound negative advantages (algorithm.dual_clip=3).",
    )


def logprob_gap(window: Window, facts: Facts) -> Symptom | None:
    """Trainer and sampler disagree about the log-probabilities of the same tokens."""
    gap = window.recent[-1].get("sampler/logprob_gap_mean") if window.recent else None
    if gap is None:
        return None
    if facts.exact_sampler:
        bound, cause = GAP_EXACT, "Both compute the same model in fp32, so they should agree up to rounding."
        change = (
            "Look for a model whose output depends on the batch (dropout, experts) or is patched in one of the two."
        )
    elif facts.max_staleness:
        bound, cause = GAP_STALE, "The weights have moved far since the tokens were drawn."
        change = "Lower rollout.max_staleness or optim.lr, or set rollout.mode=sync."
    else:
        bound, cause = GAP_ROUNDED, "Half precision, or another engine, rounds differently; this is more than rounding."
        change = (
            "Set model.precision=fp32 and sampler.precision=fp32 to see whether it goes; compare weights and version."
        )
    if gap < bound:
        return None
    if not facts.corrected:
        change += " Until then set algorithm.old_logprobs=recompute, algorithm.correction=token."
    return Symptom(
        Severity.ALARM,
        gap,
        f"Log-probabilities of trainer and sampler differ by {gap:.2g} nats per token (limit {bound:g}).",
        cause,
        change,
    )


def clip_share(window: Window, facts: Facts) -> Symptom | None:
    """The clip takes the gradient from a large part of the tokens."""
    share = window.last_trained("loss/clip_fraction")
    if share is None or share < (CLIPPED_NARROW if facts.clip_width < NARROW else CLIPPED):
        return None
    return Symptom(
        Severity.ALARM,
        share,
        f"The clip acts on {percent(share)} of the policy tokens, which then give no gradient.",
        "An update moves the policy further than its clip allows.",
        "Lower optim.lr, optim.epochs or optim.minibatches; or widen algorithm.clip_ratio_low and clip_ratio_high.",
    )


def staleness(window: Window, facts: Facts) -> Symptom | None:
    """Tokens were drawn from weights of long ago."""
    mean = window.last("rollout/staleness_mean")
    bound = STALE_CORRECTED if facts.corrected else STALE
    if mean is None or mean < bound:
        return None
    way = "" if facts.corrected else ", and algorithm.correction=none takes them for its own"
    return Symptom(
        Severity.ALARM,
        mean,
        f"Tokens are {mean:.1f} updates old on average when they are learned from.",
        f"Sampling is slower than learning{way}.",
        f"Set rollout.max_staleness below {facts.max_staleness}"
        + (
            ", or more groups_per_update."
            if facts.corrected
            else ", or algorithm.old_logprobs=recompute and algorithm.correction=token."
        ),
    )


def skipped_updates(window: Window, facts: Facts) -> Symptom | None:
    """Updates leave the weights as they are, although returns differ."""
    last = window.recent[-FEW:]
    # An update without any spread of returns has nothing to learn from: that is another finding.
    idle = [r.get("loss/skipped", 0.0) > 0 and r.get("rollout/zero_variance_share", 1.0) < 1 for r in last]
    share = sum(idle) / FEW
    if len(last) < FEW or share < SKIPPED:
        return None
    return Symptom(
        Severity.ALARM,
        share,
        f"{percent(share)} of the updates left the weights as they were, although groups had members of different "
        "returns.",
        "What was collected is not trained on, or its advantages are all 0.",
        "Look at algorithm.group_filter, algorithm.train_truncated, algorithm.train_void_turns and the weights of the "
        "algorithm's terms; or collect more groups_per_update.",
    )


def not_finite(window: Window, facts: Facts) -> Symptom | None:
    """A metric is infinite or no number."""
    if not window.not_finite:
        return None
    names = ", ".join(window.not_finite[:4]) + (" ..." if len(window.not_finite) > 4 else "")
    return Symptom(
        Severity.ALARM,
        float(len(window.not_finite)),
        f"{len(window.not_finite)} metrics are infinite or no number: {names}.",
        "The loss overflowed, or a reward is no number.",
        "Lower optim.lr, set model.precision=fp32, and check the rewards (python -m agentgrpo check-env).",
    )
