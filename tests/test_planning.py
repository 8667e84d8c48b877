"""The planner of a cluster: cases by hand, and formula against simulation."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from agentgrpo import explain, models
from agentgrpo.cluster.costs import Costs, Links, Setup
from agentgrpo.cluster.plan_words import print_plan
from agentgrpo.cluster.planning import even_sync_seconds, forecast, learner_seconds, limits
from agentgrpo.cluster.playing import batched_rounds, round_seconds
from agentgrpo.cluster.probe import costs_of_probe
from agentgrpo.cluster.splits import Devices, best, splits
from agentgrpo.composing import compose_config
from agentgrpo.config import TrainConfig, parse
from agentgrpo.preflight import checked

COSTS = Costs(
    batch_seconds=0.1,
    turn_seconds=0.01,
    step_seconds=0.02,
    execution="inline",
    workers=8,
    continuous=False,
    turns=10.0,
    longest_turns=10.0,
    turns_spread=0.0,
    group_size=4,
    groups_per_update=8,
    group_seconds=0.01,
    token_seconds=1e-3,
    tokens_per_group=300.0,
    optimizer_seconds=0.1,
    optimizer_steps=2,
    micro_batch_tokens=1000,
    weight_bytes=1e9,
    gradient_bytes=2e9,
)
LINKS = Links(pack_speed=2e9, copy_speed=4e9, exchange_speed=1e9, message_seconds=0.0025)
INSTANT = Links(1e18, 1e18, None, 1e18, 0.0)


# --- a round --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "groups", "seconds"),
    [
        ({}, 2, 0.1 + 8 * (0.01 + 0.02)),
        ({"turns": 5.0}, 2, 0.1 + 4 * (0.01 + 0.02)),  # half of the members have ended, on average
        ({"execution": "thread"}, 2, 0.1 + 8 * 0.01 + 0.02),
        ({"execution": "process"}, 2, 0.1 + 8 * 0.01 + 0.02),
        ({"execution": "process"}, 6, 3 * (0.1 + 8 * 0.01 + 0.02)),  # 8 of 24 episodes have a process at one time
        ({"execution": "thread", "step_seconds": 2.0}, 6, 24 / 8 * 2.0),  # environments never rest
        ({"execution": "thread", "continuous": True, "turn_seconds": 0.0}, 2, 0.1 + 0.02),
        ({"execution": "thread", "continuous": True, "step_seconds": 0.0}, 2, 0.1 + 8 * 0.01),
    ],
)
def test_a_round_by_hand(changes: dict[str, Any], groups: int, seconds: float) -> None:
    assert round_seconds(replace(COSTS, **changes), groups) == pytest.approx(seconds)


def test_a_continuous_sampler_is_not_kept_busy_by_turns_that_environments_answer() -> None:
    costs = replace(COSTS, execution="thread", continuous=True, step_seconds=1.0, workers=100)
    written = round_seconds(costs, 10) - 1.0
    assert written == pytest.approx(0.1 + 0.01 * 40 * written / (written + 1.0))


def test_simulated_rounds_are_those_of_the_formula_where_all_answer_together() -> None:
    assert batched_rounds(0.1, 0.01, 0.2, 8, 8) == pytest.approx(0.1 + 0.08 + 0.2)


def test_with_fewer_threads_than_turns_batches_alternate() -> None:
    # The policy takes a second for whatever is ready: 8 turns while the other 8 are answered. Two batches a round.
    assert batched_rounds(1.0, 0.0, 0.2, 8, 16) == pytest.approx(2.0)


# --- updates ----------------------------------------------------------------------------------------------------------


def test_a_sync_update_by_hand() -> None:
    # Each of 2 samplers plays 4 groups at once: 10 rounds of 0.1 + 16 * 0.03. Driver: 8 * 0.0125. One learner: 8 * 0.3
    # and 2 steps of 0.1. Weights: half a second to write, a quarter to take over.
    setup = Setup(samplers=2, learners=1)
    found = forecast(COSTS, LINKS, setup)
    assert found.update_seconds == pytest.approx(5.8 + 0.1 + 2.6 + 0.75)
    assert found.sampler_idle == pytest.approx(1 - 5.8 / 9.25)
    assert found.learner_idle == pytest.approx(1 - 2.6 / 9.25)
    assert found.groups_per_second == pytest.approx(8 / 9.25)
    assert found.bottleneck == "samplers"


@pytest.mark.parametrize("samplers", [1, 2, 3, 5, 8, 12])
@pytest.mark.parametrize("room", [1, 3, 4, 16])
@pytest.mark.parametrize("learners", [1, 3])
def test_even_groups_take_what_the_formula_says(samplers: int, room: int, learners: int) -> None:
    setup = Setup(samplers=samplers, learners=learners, groups_per_sampler=room)
    expected = even_sync_seconds(COSTS, LINKS, setup)
    assert forecast(COSTS, LINKS, setup).update_seconds == pytest.approx(expected)


def test_async_without_staleness_is_sync() -> None:
    costs = replace(COSTS, turns_spread=0.5)
    sync = forecast(costs, LINKS, Setup(2, 1))
    assert forecast(costs, LINKS, Setup(2, 1, mode="async", max_staleness=0)) == sync


@pytest.mark.parametrize(("tokens", "seconds", "slower"), [(300.0, 4.4, "samplers"), (1200.0, 9.8, "learners")])
def test_async_goes_as_fast_as_the_slower_side(tokens: float, seconds: float, slower: str) -> None:
    # One group at a time at each of 4 samplers: 8 of them take 2 * 10 * 0.22 s. Learning: 8 * tokens / 1000 + 0.2 s.
    costs = replace(COSTS, tokens_per_group=tokens, group_seconds=0.0)
    setup = Setup(4, 1, groups_per_sampler=1, mode="async", max_staleness=3)
    found = forecast(costs, INSTANT, setup, updates=40)
    assert found.update_seconds == pytest.approx(seconds)
    assert getattr(limits(costs, INSTANT, setup), slower) == pytest.approx(8 / seconds)
    assert found.bottleneck == slower


def test_variance_keeps_async_below_both_limits_and_room_ahead_makes_up_for_it() -> None:
    costs = replace(COSTS, turns_spread=0.6, tokens_per_group=680.0)
    found = [
        forecast(costs, LINKS, Setup(2, 1, mode="async", max_staleness=ahead), updates=200).groups_per_second
        for ahead in (0, 1, 2, 8)
    ]
    at_most = limits(costs, LINKS, Setup(2, 1, mode="async"))
    assert found == sorted(found)
    assert found[-1] < min(at_most.samplers, at_most.learners) * 1.02  # a finite sample of lengths
    assert found[-1] > 0.95 * min(at_most.samplers, at_most.learners)
    assert found[1] < 0.95 * min(at_most.samplers, at_most.learners)


def test_in_sync_the_slowest_sampler_counts() -> None:
    # Two samplers with one group each, of exponential length: the mean of the longer of two is 1.5 means, 10 * 0.22 s.
    costs = replace(COSTS, groups_per_update=2, turns_spread=1.0, token_seconds=0.0, optimizer_seconds=0.0)
    found = forecast(replace(costs, group_seconds=0.0), INSTANT, Setup(2, 1), updates=4000)
    assert found.update_seconds == pytest.approx(1.5 * 10 * 0.22, rel=0.03)
    assert found.sampler_idle == pytest.approx(1 / 3, abs=0.01)


def test_the_same_seed_gives_the_same() -> None:
    costs, setup = replace(COSTS, turns_spread=0.5), Setup(3, 1, mode="async")
    assert forecast(costs, LINKS, setup, seed=1) == forecast(costs, LINKS, setup, seed=1)
    assert forecast(costs, LINKS, setup, seed=1) != forecast(costs, LINKS, setup, seed=2)


def test_samplers_on_one_core_take_turns_unless_their_environments_wait() -> None:
    costs = replace(COSTS, token_seconds=0.0, optimizer_seconds=0.0, group_seconds=0.0)
    assert forecast(costs, INSTANT, Setup(2, 1, cores=1.0)).update_seconds == pytest.approx(2 * 5.8)
    waiting = replace(costs, sampler_cores=0.1)
    assert forecast(waiting, INSTANT, Setup(2, 1, cores=1.0)).update_seconds == pytest.approx(5.8)


def test_learner_and_samplers_slow_each_other_down_where_they_work_at_the_same_time() -> None:
    # 11.6 s of playing and 2.6 s of learning on one core, whatever the order.
    setup = Setup(1, 1, mode="async", max_staleness=2, cores=1.0)
    costs = replace(COSTS, group_seconds=0.0)
    assert forecast(costs, INSTANT, setup, updates=60).update_seconds == pytest.approx(11.6 + 2.6, rel=1e-3)


def test_fewer_cores_than_in_the_trial_take_longer() -> None:
    costs = replace(COSTS, sampler_cores=2.0, learner_cores=2.0)
    fewer = Setup(2, 1, cpus_per_sampler=1, cpus_per_learner=1)
    assert forecast(costs, INSTANT, fewer).update_seconds == pytest.approx(2 * 5.8 + 0.08 + 2 * 2.6)


def test_weights_that_are_copied_one_by_one_hold_up_the_last_sampler() -> None:
    one_by_one = replace(LINKS, copies_at_once=1)
    assert one_by_one.hand_over_seconds(COSTS, 8) == pytest.approx(0.5 + 8 * 0.25)
    setup = Setup(8, 1, groups_per_sampler=1)
    assert forecast(COSTS, one_by_one, setup).update_seconds == pytest.approx(2.2 + 0.1 + 2.6 + 0.5 + 8 * 0.25)
    slow = replace(one_by_one, copy_speed=0.2e9)  # 8 * 5 s: longer than all the rest, so it sets the pace of async
    found = forecast(COSTS, slow, replace(setup, mode="async", max_staleness=4))
    assert found.update_seconds == pytest.approx(40.5)
    assert found.bottleneck == "hand-over"


def test_what_learners_exchange() -> None:
    # Four ranks with two groups each: 600 tokens, one pass for each of 2 steps.
    compute = 2 * 0.3 + 2 * 0.1
    assert learner_seconds(COSTS, LINKS, Setup(1, 4)) == pytest.approx(compute + 2 * (2 * 3 / 4) * 2)
    sharded = 2 * 0.3 + 2 * 0.1 / 4
    assert learner_seconds(COSTS, LINKS, Setup(1, 4, sharding="fsdp")) == pytest.approx(sharded + 2 * (3 * 3 / 4) * 2)


def test_a_rank_more_than_divides_the_groups_waits() -> None:
    # 3 ranks have 3, 3 and 2 groups: 0.9 s of computing where 0.8 are done, on average.
    costs = replace(COSTS, optimizer_seconds=0.0)
    found = forecast(costs, INSTANT, Setup(2, 3))
    assert found.learner_idle == pytest.approx(1 - 0.8 / found.update_seconds)


# --- splits -----------------------------------------------------------------------------------------------------------


def test_the_best_split_is_the_one_that_trying_all_finds() -> None:
    costs = replace(COSTS, groups_per_update=64, turns_spread=0.2)
    setup = Setup(1, 1, mode="async")
    found = best(splits(costs, LINKS, setup, Devices(64)))
    every = [forecast(costs, LINKS, replace(setup, samplers=64 - n, learners=n)).update_seconds for n in range(1, 64)]
    assert found.forecast.update_seconds <= min(every) * 1.02
    assert found.setup.samplers + found.setup.learners == 64


def test_devices_that_are_too_few() -> None:
    with pytest.raises(ValueError, match=r"12 devices are too few .* Take at least 16"):
        splits(COSTS, LINKS, Setup(1, 1), Devices(12, per_sampler=8, per_learner=8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"mode": "later"}, "mode must be one of sync, async"), ({"samplers": 0}, "samplers must be at least 1")],
)
def test_setups_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Setup(1, 1), **changes)


# --- trials -----------------------------------------------------------------------------------------------------------


def config(*overrides: str) -> TrainConfig:
    return parse(compose_config("train", ["group_size=4", "optim.epochs=2", *overrides]))


def record(groups: int, **changes: float) -> dict[str, float]:
    """An update of COSTS with this many groups, in one process; each wins one of two."""
    playing = 10 * (0.1 + groups * 4 * 0.01)
    answers = 10 * groups * 4 * 0.02
    return {
        "time/rollout": playing + answers,
        "time/environments": answers,
        "time/environment_call": 0.02,
        "time/update": groups * 0.31 + 0.2,
        "time/forward": groups * 0.1,
        "time/backward": groups * 0.2,
        "time/optimizer": 0.2,
        "time/rollout_cpu": playing,
        "time/update_cpu": groups * 0.31 + 0.2,
        "rollout/turns_mean": 10.0,
        "rollout/turns_max": 10.0,
        "rollout/longest_turns_mean": 10.0,
        "rollout/longest_turns_std": 0.0,
        "loss/skipped": 0.0,
        "loss/distinct_tokens": groups * 300.0,
    } | changes


def test_costs_are_found_in_the_records_that_they_make() -> None:
    trials = {n: [record(n, **{"time/rollout": 1e9}), record(n)] for n in (8, 2)}  # the first update is left out
    found = costs_of_probe(trials, config("optim.micro_batch_tokens=1000"), weight_bytes=1e9, gradient_bytes=2e9)
    assert found.sampler_cores == pytest.approx((1.8 + 4.2) / (1.8 + 4.2 + 1.6 + 6.4))
    for name in Costs.__slots__:
        if name != "sampler_cores":
            assert getattr(found, name) == pytest.approx(getattr(COSTS, name)), name


def test_slow_environments_in_threads_are_told_from_the_policy() -> None:
    trials = {
        n: [
            record(
                n,
                **{
                    "time/rollout": 10 * (0.1 + n * 0.04 + 0.5),
                    "time/environments": 5.0,
                    "time/environment_call": 0.5,
                },
            )
        ]
        for n in (8, 2)
    }
    threads = config("env.execution=thread", "env.workers=64")
    found = costs_of_probe(trials, threads, weight_bytes=1.0, gradient_bytes=1.0)
    assert found.step_seconds == 0.5
    assert (found.batch_seconds, found.turn_seconds) == pytest.approx((0.1, 0.01))


def test_turns_and_tokens_are_those_of_the_runs_own_size() -> None:
    other = record(2, **{"rollout/turns_mean": 4.0, "rollout/longest_turns_mean": 5.0, "loss/distinct_tokens": 1.0})
    found = costs_of_probe({8: [record(8)], 2: [other]}, config(), weight_bytes=1.0, gradient_bytes=1.0)
    assert (found.turns, found.longest_turns, found.tokens_per_group) == (10.0, 10.0, 300.0)


def test_noise_does_not_make_seconds_negative() -> None:
    faster = record(8, **{"time/rollout": 6.4 + 1.0})
    found = costs_of_probe({8: [faster], 2: [record(2)]}, config(), weight_bytes=1.0, gradient_bytes=1.0)
    assert found.turn_seconds == 0.0
    assert found.batch_seconds == pytest.approx((0.1 + 0.18) / 2)


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ({8: [record(8)]}, "two numbers of groups, got 8"),
        ({8: [record(8)], 2: []}, "no finished update"),
        ({8: [record(8)], 2: [{"time/rollout": 1.0}]}, "lack rollout/longest_turns_mean"),
        ({n: [record(n, **{"loss/skipped": 1.0})] for n in (8, 2)}, r"learnt anything.*warm_start\.episodes"),
    ],
)
def test_trials_that_do_not_say_enough(trials: dict[int, list[dict[str, float]]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        costs_of_probe(trials, config(), weight_bytes=1.0, gradient_bytes=1.0)


# --- in words ---------------------------------------------------------------------------------------------------------


def said(costs: Costs, setup: Setup) -> str:
    console = Console(record=True, width=120, quiet=False, file=None)
    with console.capture() as capture:
        print_plan(console, costs, LINKS, setup)
    return capture.get()


def test_a_plan_in_words() -> None:
    text = said(COSTS, Setup(2, 1))
    assert "2 samplers and 1 learners, sync" in text
    assert "expected: 9.25 s an update, 0.86 groups per second; idle: samplers 37%, learners 72%" in text
    assert "busy for longest: samplers: more of them" in text
    rows = re.findall(r"│ +(\d) │ +(\d) │ +([\d.]+) │.*│ ([a-z, ]*?) *│", text)
    assert [(row[0], row[1]) for row in rows] == [("2", "1"), ("1", "2")]
    assert rows[0][2:] == ("9.25", "fastest, this one")


def test_the_split_that_is_asked_for_is_shown_among_many() -> None:
    text = said(replace(COSTS, groups_per_update=64), Setup(1, 39, mode="async"))
    assert len(re.findall(r"^│", text, re.MULTILINE)) <= 9
    assert re.search(r"│ +1 │ +39 │.*this one", text)


def test_explain_tries_two_sizes_and_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, str, int]] = []

    def try_out(_: Any, c: TrainConfig, *, warm_start: int) -> explain.Trial:
        tried.append((c.groups_per_update, c.rollout.mode, warm_start))
        return explain.Trial(0.0, 0.0, 0.0, 0, 0, 0, (record(c.groups_per_update),))

    monkeypatch.setattr(explain, "try_out", try_out)
    composed = compose_config("train", ["rollout.mode=async", "group_size=4", "warm_start.episodes=50"])
    ready = checked(parse(composed))
    console = Console(width=120)
    with console.capture() as capture:
        model = models.skeleton(ready.config.model, 0)
        explain.plan_cluster(console, composed, ready, model, Setup(2, 1, mode="async", cores=2.0))
    assert tried == [(8, "sync", 50), (2, "sync", 32)]
    assert "2 samplers and 1 learners, async, up to 1 updates ahead, on 2 shared cores" in capture.get()
    assert composed.rollout.mode == "async"
