"""Which groups an update gets: dropped ones are replaced, a bounded number of times, and all are reported."""

from __future__ import annotations

from collections.abc import Sequence

from helpers import default_algorithm, trajectory

from agentgrpo.algorithm import Algorithm
from agentgrpo.collection import Collector
from agentgrpo.composing import compose_config
from agentgrpo.config import parse
from agentgrpo.episode import Task
from agentgrpo.metrics import experience_metrics
from agentgrpo.rewards import RewardScorer, build_terms
from agentgrpo.rollout import Order
from agentgrpo.stages import Key, ScoredStage
from agentgrpo.types import Group, Step, Trajectory


class Tasks:
    """Stands for a stage: every ``period``-th task gives a group with spread."""

    def __init__(self, period: int) -> None:
        self._period = period
        self._orders: dict[Key, Order] = {}
        self.asked: list[Task] = []
        self.guidance: list[Sequence[int]] = []

    def submit(self, orders: Sequence[Order]) -> None:
        self._orders |= {order.key: order for order in orders}

    def take(self, keys: Sequence[Key]) -> list[Group]:
        return [self.played(self._orders.pop(key)) for key in keys]

    def played(self, order: Order) -> Group:
        self.asked.append(order.task)
        self.guidance.append(order.guidance)
        mixed = len(self.asked) % self._period == 0
        members = [trajectory(("s", float(mixed and i == 0))) for i in range(len(order.guidance))]
        return Group(tuple(members), order.task.seed, 1.0)


def collector(tasks: Tasks, algorithm: Algorithm) -> Collector:
    config = parse(compose_config("train", ["groups_per_update=4", "group_size=2"]))
    scored = ScoredStage(tasks, RewardScorer(build_terms(config.reward)))  # type: ignore[arg-type]
    return Collector(config, algorithm, scored)


def test_without_a_filter_everything_is_kept() -> None:
    tasks = Tasks(period=2)
    found = collector(tasks, default_algorithm("grpo")).collect(0, {}, {})
    assert len(found.groups) == len(found.kept) == 4
    assert found.num_rounds == 1


def test_dropped_groups_are_replaced_until_enough_are_kept() -> None:
    tasks = Tasks(period=2)
    found = collector(tasks, default_algorithm("dapo", resample_rounds=9)).collect(0, {}, {})
    # 4 give 2, 2 give 1, 1 gives 0 or 1: four kept after 8 tasks.
    assert len(found.kept) == 4
    assert len(found.groups) == 8
    assert len({task.seed for task in tasks.asked}) == 8  # no task twice


def test_replacing_is_bounded() -> None:
    found = collector(Tasks(period=1000), default_algorithm("dapo", resample_rounds=2)).collect(0, {}, {})
    assert (len(found.kept), found.num_rounds, len(found.groups)) == (0, 3, 12)


def test_the_first_tasks_do_not_depend_on_the_filter() -> None:
    plain, filtered = Tasks(2), Tasks(2)
    collector(plain, default_algorithm("grpo")).collect(5, {}, {})
    collector(filtered, default_algorithm("dapo")).collect(5, {}, {})
    assert plain.asked == filtered.asked[:4]


def test_guidance_reaches_the_runner() -> None:
    algorithm = default_algorithm("guided", guided_share=0.5, initial_length=3)
    tasks = Tasks(2)
    collector(tasks, algorithm).collect(0, algorithm.initial_state(), {})
    assert set(map(tuple, tasks.guidance)) == {(3, 0)}


def test_success_is_reported_of_unguided_members_only() -> None:
    led = Trajectory((Step("s", 1.0, action_ids=(1, 2), num_guided=1, logprobs=(0.0,)),), success=True)
    free = trajectory(("s", 0.0))

    class Mixed(Tasks):
        def played(self, order: Order) -> Group:
            return Group((led, free), order.task.seed, 1.0)

    metrics = experience_metrics(collector(Mixed(1), default_algorithm("guided")).collect(0, {"length": 1.0}, {}), 0)
    assert metrics["rollout/success"] == 0.0
    assert metrics["guided/success"] == 1.0
    assert metrics["guided/expert_tokens_mean"] == 1.0
    assert metrics["reward/environment"] == 0.0
    assert metrics["rollout/zero_variance_share"] == 0.0
