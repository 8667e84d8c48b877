"""Verifiers: is the last answer right? Judged against what the environment gives in ``info`` at reset."""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from agentgrpo.checks import above, at_least
from agentgrpo.rewards.base import RewardTerm, at_the_end, register_reward
from agentgrpo.types import Trajectory

_FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)

# Limits are set inside the child, before the policy's text is compiled: a fork in a process with threads is unsafe.
_CHILD = """
import resource, sys
seconds, megabytes = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
passed = sys.argv[3]
del sys.argv[1:]
source = open("program.py").read()
exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})
sys.__stdout__.write(passed)
"""


@register_reward("exact_answer")
@dataclass(frozen=True)
class ExactAnswer(RewardTerm):
    """1.0 when the last action equals ``info["answer"]``, apart from case, white space and a final full stop."""

    def check(self, info_keys: frozenset[str]) -> None:
        _needs("answer", info_keys)

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        return [at_the_end(t, float(self._right(t))) for t in trajectories]

    def max_return(self, env_max_return: float | None) -> float | None:
        return 1.0

    def _right(self, trajectory: Trajectory) -> bool:
        if not trajectory.steps:  # nothing was said, or the environment failed at once
            return False
        _needs("answer", trajectory.task_info)
        return normalised(trajectory.steps[-1].action) == normalised(str(trajectory.task_info["answer"]))


def _needs(key: str, given: Container[str]) -> None:
    if key not in given:
        raise ValueError(
            f"it judges by info[{key!r}], which the environment's reset() does not give. Add it there, or leave the "
            "term out."
        )


def normalised(text: str) -> str:
    """A text without what does not change an answer: case, runs of white space, a final full stop."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".")


@register_reward("unit_test")
@dataclass(frozen=True)
class UnitTest(RewardTerm):
    """1.0 when the program in the last answer passes ``info["tests"]`` (Python that raises when it does not).

    The program runs in a process of its own, in an empty folder, with limits on time, memory and file size and without
    the caller's environment variables. That stops accidents and endless loops; it is no jail for hostile code, for
    which the whole run belongs into a container.
    """

    seconds: float = 5.0
    """Time that a program may take, CPU and wall clock, > 0."""
    megabytes: int = 512
    """Memory that it may use, at least 64."""
    workers: int = 2
    """Programs that run at the same time, at least 1."""

    def __post_init__(self) -> None:
        above("seconds", self.seconds, 0)
        at_least("megabytes", self.megabytes, 64)
        at_least("workers", self.workers, 1)

    def check(self, info_keys: frozenset[str]) -> None:
        _needs("tests", info_keys)

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        with ThreadPoolExecutor(self.workers) as pool:
            passed = list(pool.map(self._passes, trajectories))
        return [at_the_end(t, float(p)) for t, p in zip(trajectories, passed, strict=True)]

    def max_return(self, env_max_return: float | None) -> float | None:
        return 1.0

    def _passes(self, trajectory: Trajectory) -> bool:
        if not trajectory.steps:
            return False
        _needs("tests", trajectory.task_info)
        text = trajectory.steps[-1].text
        blocks = _FENCE.findall(text)
        return self.run(f"{blocks[-1] if blocks else text}\n{trajectory.task_info['tests']}\n")

    def run(self, program: str) -> bool:
        """Whether a program gets to its end within the limits and without an error."""
        # A status of 0 is not enough: `exit(0)` in an answer would end before the tests. Only who gets to the end
        # writes this word, which differs every time.
        word = secrets.token_hex(16)
        limits = [str(max(1, math.ceil(self.seconds))), str(self.megabytes)]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "program.py").write_text(program)
            child = subprocess.Popen(
                [sys.executable, "-I", "-c", _CHILD, *limits, word],
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                written, _ = child.communicate(timeout=self.seconds)
            except subprocess.TimeoutExpired:
                written = b""
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # with everything that it started
                child.communicate()
        return child.returncode == 0 and written.endswith(word.encode())
