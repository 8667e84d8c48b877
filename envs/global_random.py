"""Other people's code that draws from the global ``random`` and ``numpy.random``, kept apart from everybody else's."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_LOCK = threading.RLock()
"""There is one global state: who borrows it makes the others wait, in whatever thread they run."""


@contextmanager
def seeded_global_random(seed: int) -> Iterator[None]:
    """Seed both global generators for the body of a ``with``, and put them back as they were.

    Args:
        seed: at least 0; the same seed gives the same draws.
    """
    with _LOCK:
        before = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
