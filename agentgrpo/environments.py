"""Making environments, and what may be asked of one besides ``reset`` and ``step``.

Imports no model code: a process that holds one environment loads in a fraction of a second.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium as gym
import numpy as np

from agentgrpo.checks import did_you_mean
from agentgrpo.deadline import DeadlineRunner, Failure

if TYPE_CHECKING:
    from agentgrpo.config import EnvConfig

Env = gym.Env[str, str]
StepResult = tuple[str, float, bool, bool, dict[str, Any]]


def make_env(config: EnvConfig) -> Env:
    """A new environment: an object here, or a stand-in for one in a process of its own (``execution=process``).

    Raises:
        ValueError: no such id, module or keyword argument; a missing optional package.
    """
    if config.execution == "process":
        from agentgrpo.remote_env import RemoteEnv

        return RemoteEnv(config.id, config.kwargs)
    return make(config.id, config.kwargs)


def make(env_id: str, kwargs: Mapping[str, Any]) -> Env:
    """A new environment in this process; raises as :func:`make_env` does."""
    importlib.import_module("agentgrpo.envs")
    try:
        return gym.make(env_id, disable_env_checker=True, **kwargs)
    except gym.error.UnregisteredEnv as error:
        raise ValueError(unknown_env_message(env_id)) from error
    except ImportError as error:
        found, next_step = import_failure(env_id, error)
        raise ValueError(f"Environment {env_id!r} cannot be made: {found}. Next: {next_step}") from error
    except (gym.error.Error, TypeError, ValueError, OSError) as error:
        raise ValueError(f"Environment {env_id!r} with env.kwargs={dict(kwargs)}: {error}") from error


def import_failure(env_id: str, error: ImportError) -> tuple[str, str]:
    """What an environment lacks that cannot be imported, and the command or the step that helps."""
    words, _, arguments = str(error).partition("pip install ")
    words = words.split(" Environment registration via")[0]  # what gymnasium adds
    if arguments:  # an adapter's own error, which knows best
        return words.strip(" :."), f"pip install {arguments}"
    if not isinstance(error, ModuleNotFoundError):
        return words.strip(" ."), "install or correct what is named here."
    extra = importlib.import_module("agentgrpo.envs").EXTRAS.get(env_id)
    words = words.strip(" .")
    if extra is not None:
        return words, f"pip install 'agentgrpo[{extra}]'"
    return words, (
        "your own is named 'module:Name-v0', e.g. env.id=my_module:Maze-v0; run from the folder that holds the module, "
        "and install what it imports."
    )


def unknown_env_message(env_id: str) -> str:
    """Says that ``env_id`` is not registered, what may have been meant, and what there is."""
    module, _, name = env_id.rpartition(":")
    where = f" by module {module!r}" if module else ""
    ours = ", ".join(sorted(known for known in gym.registry if known.startswith("agentgrpo/")))
    return (
        f"Environment {name!r} is not registered{where}.{did_you_mean(name, gym.registry)} Built in: {ours}. "
        "Your own is named 'my_module:Name-v0', e.g. env.id=my_module:Maze-v0; my_module calls gymnasium.register."
    )


def checked_reset(env: Env, seed: int, noise_seed: int) -> tuple[str, dict[str, Any]]:
    """``env.reset`` whose observation is certainly a text."""
    return checked_reset_call(env, seed, {"noise_seed": noise_seed})


def checked_reset_call(env: Env, seed: int | None, options: dict[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """The same with all of gymnasium's arguments."""
    observation, info = env.reset(seed=seed, options=options)
    _check_text("reset", observation)
    _check_info("reset", info)
    return observation, info


def checked_step(env: Env, action: str) -> StepResult:
    """``env.step`` whose parts certainly have the types that the contract names."""
    result = env.step(action)
    if not (isinstance(result, tuple) and len(result) == 5):
        raise TypeError(
            f"step() returned {type(result).__name__}, not (observation, reward, terminated, truncated, info)."
        )
    observation, reward, terminated, truncated, info = result
    _check_text("step", observation)
    _check_info("step", info)
    return observation, _number(reward), bool(terminated), bool(truncated), info


def _check_text(method: str, observation: object) -> None:
    if not isinstance(observation, str):
        raise TypeError(f"{method}() returned a {type(observation).__name__} as observation; it must return a str.")


def _check_info(method: str, info: object) -> None:
    if not isinstance(info, dict):
        raise TypeError(f"{method}() returned a {type(info).__name__} as info; it must return a dict.")


def _number(reward: SupportsFloat) -> float:
    value = float(reward)
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"step() returned the reward {value}; it must be a finite number.")
    return value


def attribute(env: Env, name: str) -> Any:
    """An optional attribute of the environment below its wrappers, or None."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def seed_advice(env: Env) -> str:
    """What to do when the same seed gives different tasks: an environment that is no code here says it itself."""
    own = attribute(env, "seed_advice")
    return own or (
        "reset(seed=s) must draw the task from self.np_random only; noise that may differ between members belongs to "
        "options['noise_seed']."
    )


def oracle_plan(env: Env) -> list[str]:
    """Actions from here to the goal; empty where the environment offers no oracle or the oracle knows no way."""
    plan = attribute(env, "oracle_actions")
    return [str(action) for action in plan()] if plan is not None else []


def plain_entries(info: dict[str, Any]) -> dict[str, Any]:
    """The entries that can be copied and written to a file whatever the environment puts beside them."""
    plain = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in info.items()}
    return {k: v for k, v in plain.items() if isinstance(v, (str, int, float, list, tuple, dict)) or v is None}


def reference_trace(info: dict[str, Any]) -> str | None:
    """The written solution that a single-turn task offers in ``info["reference"]``, if any."""
    trace = info.get("reference")
    return None if trace is None else str(trace)


_PROBES = 3


@dataclass(frozen=True, slots=True)
class EnvFacts:
    """What an environment offers besides ``reset`` and ``step``."""

    max_return: float | None
    has_expert: bool
    info_keys: frozenset[str]
    """What ``reset`` gives in ``info``."""


def probe(config: EnvConfig, max_turns: int, timeout: float) -> EnvFacts:
    """Plays one short episode before anything expensive happens.

    An environment that fails now and then is the runner's affair: the first of three tries that goes well is enough.

    Raises:
        ValueError: the environment cannot be made, raises, hangs, returns no text, or does not end; with what to do.
    """
    env = make_env(config)
    # The deadline is one step's, so the whole probe gets it for every one of its calls.
    runner = DeadlineRunner(timeout * (max_turns + 2))
    given: dict[str, Any] = {}

    def episode(noise_seed: int) -> str:
        first, info = checked_reset(env, 0, noise_seed)
        given.update(info)
        again, info = checked_reset(env, 0, noise_seed)
        if again != first:
            return (
                f"two resets with the same seed gave different observations ({first[:80]!r} and {again[:80]!r}). All "
                f"members of a group must get the same task. {seed_advice(env)}"
            )
        for _ in range(max_turns):
            admissible = info.get("admissible_actions") or [""]
            _, _, terminated, truncated, info = checked_step(env, admissible[0])
            if terminated or truncated:
                return ""
        return (
            f"an episode did not end within rollout.max_turns={max_turns} actions. Return truncated=True after a turn "
            "limit, let gymnasium do it with +env.kwargs.max_episode_steps=50, or raise rollout.max_turns."
        )

    for attempt in range(_PROBES):
        result = runner.run([partial(episode, attempt)])[0]
        if result == "" or (isinstance(result, Failure) and result.timed_out):
            break
    has_expert = reference_trace(given) is not None or attribute(env, "oracle_actions") is not None
    facts = EnvFacts(attribute(env, "max_return"), has_expert, frozenset(given))
    env.close()
    trace = result.error.strip() if isinstance(result, Failure) else ""
    problem = trace.splitlines()[-1] if isinstance(result, Failure) else result
    if problem:
        details = f"\n{trace}" if "\n" in trace else ""
        raise ValueError(
            f"Environment {config.id!r} does not keep the contract: {problem}\n"
            f"`python -m agentgrpo check-env {config.id}` tells more.{details}"
        )
    return facts
