"""The environments of a run, and where their calls are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from agentgrpo import timing
from agentgrpo.config import EnvConfig
from agentgrpo.deadline import DeadlineRunner, Failure
from agentgrpo.environments import Env, attribute, make_env
from agentgrpo.remote_env import RemoteEnv
from agentgrpo.workers import Workers

T = TypeVar("T")

START_TIMEOUT = 120.0
"""Seconds that a process may take to start and answer for the first time: it may load an engine."""
_LINGER = 0.005
"""Seconds between two results up to which the second is waited for: larger batches for the policy."""


class EnvPools:
    """Environments by name. Each is taken for an episode and given back; calls are made where its configuration says.

    Args:
        envs: the environments.
        timeout: seconds that one call may take.
    """

    def __init__(self, envs: Mapping[str, EnvConfig], timeout: float) -> None:
        self._configs = dict(envs)
        self._free: dict[str, list[Env]] = {name: [] for name in envs}
        self._num_taken = dict.fromkeys(envs, 0)
        self._timeout = timeout
        self._calls = DeadlineRunner(timeout)
        self._inline: list[tuple[Any, Callable[[], Any]]] = []
        self._workers: Workers[Any, Any] = self._new_workers()
        self._max_returns: dict[str, float | None] = {}
        for name, config in envs.items():
            env = make_env(config)
            self._max_returns[name] = attribute(env, "max_return")
            self._free[name].append(env)

    def max_return(self, name: str) -> float | None:
        """Highest return that the environment declares possible."""
        return self._max_returns[name]

    def env_id(self, name: str) -> str:
        """What gymnasium calls it."""
        return self._configs[name].id

    def num_free(self, name: str) -> int:
        """Environments that are made and not taken."""
        return len(self._free[name])

    def take(self, name: str) -> Env | None:
        """An environment to play in, or None while as many as allowed are taken."""
        config = self._configs[name]
        if config.execution == "process" and self._num_taken[name] >= config.workers:
            return None
        self._num_taken[name] += 1
        return self._free[name].pop() if self._free[name] else make_env(config)

    def give_back(self, name: str, env: Env, *, usable: bool) -> None:
        """Ends an episode's use of an environment."""
        self._num_taken[name] -= 1
        if usable:
            self._free[name].append(env)
        elif isinstance(env, RemoteEnv):
            env.kill()

    # --- calls ----------------------------------------------------------------------------------------------------

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T | Failure]:
        """Makes calls now, one after the other, each with a deadline; results in order."""
        return self._calls.run(calls)

    @property
    def num_pending(self) -> int:
        """Calls whose results have not been handed out."""
        return len(self._inline) + self._workers.num_pending

    def submit(self, name: str, tag: Any, call: Callable[[], Any], env: Env) -> None:
        """Takes a call on an environment; :meth:`finished` hands out the tag with its result."""
        call = timing.environment_calls.timed(call)
        if self._configs[name].execution == "inline":
            self._inline.append((tag, call))
        else:
            first = isinstance(env, RemoteEnv) and not env.started
            self._workers.submit(tag, call, START_TIMEOUT if first else self._timeout)

    def finished(self, *, wait: bool) -> list[tuple[Any, Any]]:
        """Results of submitted calls, all inline ones among them; with ``wait``, at least one where any is pending."""
        inline, self._inline = self._inline, []
        results = self._calls.run([call for _, call in inline])
        out = list(zip((tag for tag, _ in inline), results, strict=True))
        return out + self._workers.finished(wait=wait and not out, linger=_LINGER)

    def abandon(self) -> None:
        """Forgets calls under way, and the environments that are out."""
        self._inline = []
        self._workers.close()
        self._workers = self._new_workers()
        self._num_taken = dict.fromkeys(self._configs, 0)

    def close(self) -> None:
        """Closes what is not in use, and lets the threads end."""
        self._workers.close()
        for envs in self._free.values():
            for env in envs:
                with suppress(Exception):
                    env.close()
            envs.clear()

    def _new_workers(self) -> Workers[Any, Any]:
        return Workers(max(sum(c.workers for c in self._configs.values() if c.execution != "inline"), 1))
