"""Checks of what the policy plays: signal, endings, actions, variety."""

from __future__ import annotations

from agentgrpo.doctor.findings import FEW, Facts, Severity, Symptom, Window, mean_of

SOLVED, SOLVED_SUCCESS = 0.8, 0.95
"""Share of groups in which every member succeeds, and success, from which on a run has nothing left to learn."""
MOSTLY_SOLVED = 0.5
"""The same share from which on little variety and little spread are what success looks like."""
ALL_FAILURE, ALL_FAILURE_ALONE = 0.9, 0.99
"""Share of groups without a success; the second where a group is one episode."""
LOST_SUCCESS = 0.05
"""Success at the start from which on tasks that nobody solves any more were possible."""
NO_SIGNAL = 0.9
TURN_LIMIT, ENV_TURN_LIMIT = 0.5, 0.95
CONTEXT_LIMIT = 0.05
CUT_OFF = 0.1
VALID = 0.5
LENGTH_FACTOR, LENGTH_TOKENS = 2.0, 4.0
REPEATED, REPEATED_SUCCESS = 0.9, 0.6
"""Share of the repeats that there could be; success from which on it is the solution that repeats."""
SURPRISE, SURPRISE_FACTOR = 0.02, 0.1
CLIFF = 0.2
SHARED_STATES = 0.05
ENV_FAILURE_NOTE, ENV_FAILURE = 0.005, 0.05


def percent(share: float) -> str:
    """A share in words: 0.123 -> 12%."""
    return f"{100 * share:.2g}%" if share < 0.995 else f"{100 * share:.0f}%"


def solved(window: Window, facts: Facts) -> Symptom | None:
    """Every member of nearly every group succeeds."""
    whole, success = window.last("rollout/zero_variance_all_success_share"), window.last("rollout/success")
    if whole is None or success is None or whole < SOLVED or success < SOLVED_SUCCESS:
        return None
    return Symptom(
        Severity.NOTE,
        whole,
        f"In {percent(whole)} of the groups every member succeeds, success is {success:.2f}.",
        "The tasks are solved: returns that are all the same leave nothing to compare.",
        "Stop here, or take harder tasks (env.kwargs); curriculum.kind=success_band draws those solved now and then.",
    )


def all_failure(window: Window, facts: Facts) -> Symptom | None:
    """No member of nearly any group succeeds, and all earn the same."""
    share = window.last("rollout/zero_variance_all_failure_share")
    if share is None or share < (ALL_FAILURE if facts.group_size > 1 else ALL_FAILURE_ALONE):
        return None
    what = f"In {percent(share)} of the groups no member succeeds, and all earn the same."
    before = window.start.get("rollout/success", 0.0)
    if before >= LOST_SUCCESS:
        return Symptom(
            Severity.ALARM,
            share,
            what,
            f"The policy could do it at the start (success {before:.2f}) and was pushed too far.",
            "Lower optim.lr or optim.epochs, or hold on to the start (algorithm.kl_coef=0.01); the best policy "
            "so far is in checkpoints/best.",
        )
    return Symptom(
        Severity.ALARM,
        share,
        what,
        "The reward is never found by chance, so nothing tells good episodes from bad ones.",
        "Take easier tasks (env.kwargs), a longer warm start (warm_start.episodes, warm_start.oracle_share), a larger "
        "group_size, a reward for parts of the task, or an algorithm that an expert guides.",
    )


def one_env_fails(window: Window, facts: Facts) -> Symptom | None:
    """In one of several environments nothing is found, which the means over all of them hide."""
    start, end = "rollout/", "/zero_variance_share"
    names = sorted({k[len(start) : -len(end)] for r in window.recent for k in r if k.startswith(start) and end in k})
    failing = [name for name in names if _fails(window, f"{start}{name}", facts)]
    if not failing or all_failure(window, facts):
        return None
    return Symptom(
        Severity.ALARM,
        float(len(failing)),
        f"In {', '.join(failing)} no episode succeeds, and the members of a group earn the same.",
        "The reward is never found there by chance; the other environments alone are learned.",
        "Make its tasks easier (envs.NAME.kwargs), give it less weight (envs.NAME.weight), or show its solutions in a "
        "longer warm start.",
    )


def _fails(window: Window, env: str, facts: Facts) -> bool:
    """Whether the last updates that played an environment found nothing in it."""
    played = [r for r in window.recent if f"{env}/zero_variance_share" in r][-FEW:]
    same, success = mean_of(played, f"{env}/zero_variance_share"), mean_of(played, f"{env}/success")
    return len(played) == FEW and same is not None and same >= ALL_FAILURE and success == 0


def no_signal(window: Window, facts: Facts) -> Symptom | None:
    """Nearly no group has members of different returns, for more than one reason."""
    share = window.last("rollout/zero_variance_share")
    won, lost = (window.last(f"rollout/zero_variance_{x}_share") for x in ("all_success", "all_failure"))
    if share is None or won is None or lost is None or share < NO_SIGNAL or facts.group_size < 2:
        return None
    if solved(window, facts) or all_failure(window, facts) or not facts.compares_members:
        return None
    return Symptom(
        Severity.NOTE if won >= MOSTLY_SOLVED else Severity.ALARM,
        share,
        f"In {percent(share)} of the groups all members earn the same: all succeed in {percent(won)}, none in "
        f"{percent(lost)}.",
        "Tasks are either always solved or never, and such groups leave nothing to compare.",
        "Set curriculum.kind=success_band, a larger group_size or a higher rollout.temperature.",
    )


def turn_limit(window: Window, facts: Facts) -> Symptom | None:
    """Episodes run out of turns: by the runner's limit, or nearly all of them by the environment's own."""
    share, turns = window.last("rollout/turn_limit_share"), window.last("rollout/turns_max")
    if share is None or turns is None:
        return None
    if share >= TURN_LIMIT and turns >= facts.max_turns:
        return Symptom(
            Severity.ALARM,
            share,
            f"{percent(share)} of the episodes run out of turns, some at rollout.max_turns={facts.max_turns}.",
            "The limit of the run ends them before the environment does, so their outcome is unknown.",
            f"Set rollout.max_turns above {facts.max_turns}, or give the environment a limit of its own (env.kwargs).",
        )
    if share >= ENV_TURN_LIMIT and not all_failure(window, facts):  # which says why
        return Symptom(
            Severity.NOTE,
            share,
            f"{percent(share)} of the episodes run out of the environment's turns (at most {turns:.0f}).",
            "Nobody finishes the task in time.",
            "Give the environment more turns (env.kwargs), or take easier tasks, unless it is one that never ends.",
        )
    return None


def context_limit(window: Window, facts: Facts) -> Symptom | None:
    """Episodes outgrow the model's context."""
    share = window.last("rollout/context_limit_share")
    if share is None or share < CONTEXT_LIMIT:
        return None
    return Symptom(
        Severity.ALARM,
        share,
        f"{percent(share)} of the episodes end because the next turn would not fit into the model's context.",
        "Observations and answers add up to more tokens than the model, or sampler.max_model_len, allows.",
        "Set context.kind=window (a fresh prompt each turn), a lower rollout.max_turns or rollout.max_new_tokens, or "
        "take a model with a longer context.",
    )


def cut_off_actions(window: Window, facts: Facts) -> Symptom | None:
    """Actions reach the token limit before the policy ends them."""
    share = window.last("rollout/cut_off_action_share")
    if share is None or share < CUT_OFF:
        return None
    return Symptom(
        Severity.ALARM,
        share,
        f"{percent(share)} of the actions are cut off at rollout.max_new_tokens={facts.max_new_tokens}.",
        "The limit is too low for an answer, or the policy no longer ends its turns.",
        f"Set rollout.max_new_tokens above {facts.max_new_tokens}; if most actions once ended in time, lower optim.lr.",
    )


def invalid_actions(window: Window, facts: Facts) -> Symptom | None:
    """The environment cannot read what the policy writes."""
    share = window.last("rollout/valid_action_share")
    if share is None or share >= VALID:
        return None
    what = f"{percent(1 - share)} of the actions are not valid in the environment."
    before = window.start.get("rollout/valid_action_share", 0.0)
    if before >= VALID:
        return Symptom(
            Severity.ALARM,
            1 - share,
            what,
            f"At the start {percent(1 - before)} were not: the policy has drifted away from the form of an action.",
            "Lower optim.lr or optim.epochs, or hold on to the start (algorithm.kl_coef=0.01).",
        )
    return Symptom(
        Severity.ALARM,
        1 - share,
        what,
        "The policy does not know the form of an action.",
        "Say the form in env.instructions, read it with env.action_pattern, or imitate first (warm_start.episodes).",
    )


def length_explosion(window: Window, facts: Facts) -> Symptom | None:
    """Actions grow, and returns do not."""
    before, now = window.start.get("rollout/action_tokens_mean"), window.last("rollout/action_tokens_mean")
    if before is None or now is None or not window.started:
        return None
    if now < LENGTH_FACTOR * before or now < before + LENGTH_TOKENS or _gained(window):
        return None
    return Symptom(
        Severity.ALARM,
        now,
        f"Actions grew from {before:.1f} to {now:.1f} tokens, and returns did not.",
        "The policy drifts into long text; averages per sequence make long failures cheap.",
        "Set algorithm.aggregation=seq-mean-token-sum-norm or token-mean, reward=[environment,length], "
        "algorithm.kl_coef=0.01, or a lower optim.lr.",
    )


def repeated_episodes(window: Window, facts: Facts) -> Symptom | None:
    """The members of a group play the same episode, and it is not the solution."""
    share, whole = (window.last(f"rollout/{x}_share") for x in ("repeated_episode", "zero_variance_all_success"))
    success = window.last("rollout/success")
    if share is None or whole is None or success is None or facts.group_size < 2:
        return None
    if whole >= MOSTLY_SOLVED or success >= REPEATED_SUCCESS:
        return None
    most = (facts.group_size - 1) / facts.group_size  # when all members are the same
    if share < REPEATED * most:
        return None
    return Symptom(
        Severity.ALARM,
        share,
        f"{percent(share)} of the episodes repeat another one of their group word for word.",
        f"The policy leaves nothing to chance (rollout.temperature={facts.temperature:g}), so groups teach nothing.",
        "Set a higher rollout.temperature, a larger rollout.top_p, a small algorithm.entropy_coef or a lower optim.lr.",
    )


def entropy_collapse(window: Window, facts: Facts) -> Symptom | None:
    """The policy is sure of every token although the tasks are not solved."""
    now, before = window.last("rollout/surprise_mean"), window.start.get("rollout/surprise_mean")
    whole = window.last("rollout/zero_variance_all_success_share")
    if now is None or before is None or whole is None or whole >= MOSTLY_SOLVED:
        return None
    fell = window.started and now < SURPRISE_FACTOR * before
    if now >= SURPRISE and not (fell and not _gained(window)):
        return None
    since = f", {before:.3g} at the start" if window.started else ""
    return Symptom(
        Severity.ALARM,
        now,
        f"A sampled token surprises the policy by {now:.2g} nats on average{since}: it hardly tries anything else.",
        f"It was pushed too far on too little, or sampling is too cold (rollout.temperature={facts.temperature:g}).",
        "Go on from an earlier checkpoint with a lower optim.lr, algorithm.clip_ratio_high=0.28, a small "
        "algorithm.entropy_coef or algorithm.kl_coef, or a higher rollout.temperature.",
    )


def reward_spread_cliff(window: Window, facts: Facts) -> Symptom | None:
    """Returns inside a group became alike, and not because they rose (RAGEN, arXiv:2504.20073)."""
    spread, whole = "rollout/group_return_std_mean", window.last("rollout/zero_variance_all_success_share")
    now, value = window.last(spread), window.last("rollout/return_mean")
    if now is None or value is None or whole is None or whole >= MOSTLY_SOLVED or all_failure(window, facts):
        return None
    earlier = [window.recent[i : i + FEW] for i in range(len(window.recent) - 2 * FEW + 1)]
    spreads = [
        (s, v)
        for part in earlier
        if (s := mean_of(part, spread)) and (v := mean_of(part, "rollout/return_mean")) is not None
    ]
    if not spreads:
        return None
    widest, return_then = max(spreads)
    if now >= CLIFF * widest or value > return_then:
        return None
    return Symptom(
        Severity.ALARM,
        now,
        f"The spread of returns inside a group fell from {widest:.2g} to {now:.2g}, and the mean return from "
        f"{return_then:.2g} to {value:.2g}.",
        "The policy settles on one way that does not earn more: groups stop telling good from bad.",
        "Go on from the best checkpoint with a lower optim.lr or algorithm.kl_coef=0.01, or drop groups without spread "
        "(algorithm.group_filter=zero_variance).",
    )


def step_groups(window: Window, facts: Facts) -> Symptom | None:
    """States hardly repeat, so that comparing visits to a state compares nothing."""
    share = window.last("rollout/shared_state_share")
    if share is None or share >= SHARED_STATES or not facts.compares_states:
        return None
    if window.last("rollout/turns_max") == 1:
        return Symptom(
            Severity.NOTE,
            share,
            "Episodes have one turn, so all steps of a group are in one state.",
            "The algorithm compares episodes, and visits to one state: here both say the same, twice.",
            "Choose an algorithm that compares episodes alone; at the same optim.lr its steps are smaller.",
        )
    return Symptom(
        Severity.NOTE,
        share,
        f"After the first turn {percent(share)} of the steps are in a state that another step of the group visits.",
        "The algorithm compares visits to one state; without repeats its step advantages are nearly all 0 and it is "
        "GRPO.",
        'Have the environment name its states without history or counters (info["anchor"]), set algorithm.similarity '
        "where the algorithm has it, or choose one that compares episodes alone.",
    )


def env_failures(window: Window, facts: Facts) -> Symptom | None:
    """Environments crash or hang."""
    errors, timeouts = (window.last(f"rollout/env_{x}_share") for x in ("error", "timeout"))
    if errors is None or timeouts is None or errors + timeouts < ENV_FAILURE_NOTE:
        return None
    share = errors + timeouts
    return Symptom(
        Severity.ALARM if share >= ENV_FAILURE else Severity.NOTE,
        share,
        f"The environment fails in {percent(share)} of the episodes: {percent(errors)} raise, {percent(timeouts)} "
        "outlast their deadline.",
        "Such episodes have no return and teach nothing; their tracebacks are in train.log.",
        "Mend the environment (python -m agentgrpo check-env), set a higher rollout.step_timeout, or "
        "env.execution=process for one that hangs.",
    )


def _gained(window: Window) -> bool:
    """Whether returns are higher than at the start, by more than a tenth of their spread then."""
    before, now = window.start.get("rollout/return_mean"), window.last("rollout/return_mean")
    spread = window.start.get("rollout/return_std") or 0.0
    return before is not None and now is not None and now > before + spread / 10
