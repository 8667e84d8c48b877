"""Tasks spread over environments, and the curriculum that chooses among them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from helpers import trajectory

from agentgrpo.config import CurriculumConfig, EnvConfig
from agentgrpo.curriculum import Curriculum
from agentgrpo.mix import Mix
from agentgrpo.seeding import training_task_seed
from agentgrpo.types import Group

ENVS = {"a": EnvConfig("a", "A-v0", weight=3.0), "b": EnvConfig("b", "B-v0", weight=1.0)}
BAND = CurriculumConfig("success_band", num_tasks=40, low=0.2, high=0.8)
STATIC = replace(BAND, kind="static")


@pytest.mark.parametrize("seed", range(5))
def test_every_stretch_of_tasks_is_near_the_weights(seed: int) -> None:
    mix = Mix(ENVS, seed)
    for start in (0, 17, 1000):
        count = Counter(mix.name(i) for i in range(start, start + 40))
        assert abs(count["a"] - 30) <= 2


def test_one_environment_gets_all() -> None:
    assert {Mix({"a": ENVS["a"]}, 0).name(i) for i in range(50)} == {"a"}


def test_static_tasks_are_those_of_a_run_without_a_curriculum() -> None:
    curriculum = Curriculum(STATIC, Mix({"a": ENVS["a"]}, 7), 7)
    tasks = curriculum.tasks({}, update=2, first=1, count=3, size=8)
    assert [t.seed for t in tasks] == [training_task_seed(7, 2, i) for i in (1, 2, 3)]
    assert [t.coordinates for t in tasks] == [(7, "train", 2, i) for i in (1, 2, 3)]
    assert curriculum.measured({}, [group(tasks[0].seed, 1.0)]) == {}


def group(seed: int, *rewards: float, env: str = "a") -> Group:
    members = tuple(trajectory(("s", r), success=r > 0) for r in rewards)
    return Group(members, seed, 1.0, env)


def test_success_is_measured_by_task_and_old_measurements_fade() -> None:
    curriculum = Curriculum(BAND, Mix(ENVS, 0), 0)
    seed = training_task_seed(0, -3, 5)
    state = curriculum.measured({}, [group(seed, 1.0, 0.0, 0.0, 0.0)])
    assert state == {"a": {"5": 0.25}}
    state = curriculum.measured(state, [group(seed, 1.0, 1.0)])
    assert state == {"a": {"5": 0.625}}  # half of 0.25 and half of 1
    assert curriculum.measured(state, [group(seed, 0.0, env="b")])["b"] == {"5": 0.0}
    metrics = curriculum.metrics({"a": {"1": 0.5, "2": 1.0}, "b": {"1": 0.3, "2": 0.0}})
    assert metrics == {
        "curriculum/tasks_played": 4.0,
        "curriculum/success_mean": pytest.approx(0.45),
        "curriculum/in_band_share": 0.5,
    }


def test_tasks_outside_the_band_come_a_tenth_as_often() -> None:
    curriculum = Curriculum(BAND, Mix({"a": ENVS["a"]}, 0), 0)
    outside = {str(i): float(i % 2) for i in range(20)}  # solved never or always; the other 20 were never played
    drawn: Counter[int] = Counter()
    index_of = {training_task_seed(0, -3, i): i for i in range(40)}
    for update in range(400):
        tasks = curriculum.tasks({"a": outside}, update, 0, 4, 4)
        assert len({t.seed for t in tasks}) == 4  # no task twice in an update
        drawn.update(index_of[t.seed] for t in tasks)
    # Of 1,600 draws 20 tasks of weight 0.1 get near 1,600 * 2 / 22 = 145; without replacement a little more.
    assert 110 < sum(drawn[i] for i in range(20)) < 220


def test_the_draw_depends_on_its_coordinates_alone() -> None:
    curriculum = Curriculum(BAND, Mix(ENVS, 3), 3)
    assert curriculum.tasks({}, 5, 0, 8, 8) == curriculum.tasks({}, 5, 0, 8, 8)
    assert curriculum.tasks({}, 5, 0, 8, 8) != curriculum.tasks({}, 6, 0, 8, 8)


def test_tasks_drawn_again_in_an_update_are_others() -> None:
    curriculum = Curriculum(BAND, Mix({"a": ENVS["a"]}, 3), 3)
    first = {t.coordinates for t in curriculum.tasks({}, 5, 0, 8, 8)}
    assert not first & {t.coordinates for t in curriculum.tasks({}, 5, 8, 8, 8)}
