"""The global generators are seeded for a while, and put back whatever happens."""

import random
import threading
from typing import Any

import numpy as np
import pytest

from agentgrpo.envs.global_random import seeded_global_random


def state() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:]


def draws() -> tuple[float, float]:
    return random.random(), float(np.random.random())


def test_the_same_seed_gives_the_same_draws_and_nothing_is_disturbed() -> None:
    before = state()
    found = []
    for seed in (1, 2**62 + 1, 1):
        with seeded_global_random(seed):
            found.append(draws())
    assert found[0] == found[2] != found[1]
    assert state() == before


def test_the_state_comes_back_after_an_error() -> None:
    before = state()
    with pytest.raises(KeyError), seeded_global_random(3):
        {}[draws()]
    assert state() == before


def test_threads_wait_for_each_other() -> None:
    entered, found = threading.Event(), []

    def other() -> None:
        entered.wait(5)
        with seeded_global_random(5):
            found.append(draws())

    thread = threading.Thread(target=other)
    thread.start()
    with seeded_global_random(4):
        first = random.random()
        entered.set()
        thread.join(0.05)  # it cannot get in
        assert found == []
        second = random.random()
    thread.join(5)
    expected = random.Random(4)
    assert (first, second) == (expected.random(), expected.random())
    assert found[0][0] == random.Random(5).random()
