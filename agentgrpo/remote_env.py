"""An environment in a process of its own: what crashes, hangs or leaks there ends one episode, never the run.

The two sides talk in lines of JSON over the child's standard input and output; nothing is pickled. Whatever the
environment prints goes to the child's standard error, whose end is quoted when the process dies.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import gymnasium as gym

_QUOTED = 2000
"""Characters of a dead process's last words."""

_FAREWELL = 1.0
"""Seconds that a process gets to end by itself once it has closed its output."""


class EnvDied(RuntimeError):
    """The process of an environment has ended; the message says how."""


class RemoteEnv(gym.Env[str, str]):
    """Stands in for an environment in a child process.

    The process starts at once and is waited for at the first question, so that many start side by side. It is a leader
    of its own process group: what it starts (a JVM, say) goes with it.

    Args:
        env_id: as for ``gymnasium.make``.
        kwargs: arguments of the environment's constructor; plain values.
    """

    def __init__(self, env_id: str, kwargs: Mapping[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        command = [sys.executable, "-m", "agentgrpo.env_process", env_id, json.dumps(dict(kwargs))]
        paths = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        self._facts: dict[str, Any] | None = None

    # --- what an environment has ----------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """As the environment's own."""
        observation, info = self._ask("reset", seed=seed, options=options)
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """As the environment's own."""
        observation, reward, terminated, truncated, info = self._ask("step", action=action)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Ends the process, politely first."""
        if self._process.poll() is None and self._facts is not None:
            with suppress(EnvDied, RuntimeError, OSError):
                self._ask("close")
        self.kill()

    # --- what it may have besides ---------------------------------------------------------------------------------

    def has_wrapper_attr(self, name: str) -> bool:
        """Whether the environment in the process has it, as far as plain values and the contract's methods go."""
        facts = self._known()
        return name in facts["values"] or name in facts["methods"]

    def get_wrapper_attr(self, name: str) -> Any:
        """A plain value, or a function that calls the method in the process."""
        facts = self._known()
        if name in facts["methods"]:
            return partial(self._ask, "call", name=name)
        return facts["values"][name]

    def _known(self) -> dict[str, Any]:
        if self._facts is None:
            facts = self._read()
            if "refused" in facts:
                self.kill()
                raise ValueError(facts["refused"])
            self._facts = facts
        return self._facts

    # --- the process ----------------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """False until the process has answered once: the first answer may take much longer than others."""
        return self._facts is not None

    def kill(self) -> None:
        """Ends the process and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.kill()
            self._errors.close()

    def _ask(self, what: str, **arguments: Any) -> Any:
        self._known()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise EnvDied(self._last_words()) from error
        answer = self._read()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
        except (OSError, ValueError):
            line = b""
        if not line.endswith(b"\n"):
            raise EnvDied(self._last_words())
        found: dict[str, Any] = json.loads(line)
        return found

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_FAREWELL)  # its output is closed, so it is about to end by itself
        self.kill()
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(self._errors.tell() - _QUOTED, 0))
        said = self._errors.read().decode(errors="replace").strip()
        code = self._process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        return f"The environment's process {how}.{chr(10) + said if said else ''}"
