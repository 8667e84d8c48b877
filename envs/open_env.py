"""Environments behind a server that speaks OpenEnv's protocol. Needs ``pip install 'agentgrpo[openenv]'``."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import gymnasium as gym

from agentgrpo.envs.base import AnyText, in_range
from agentgrpo.envs.open_env_session import (
    SEE_LOG,
    SEE_PROTOCOL,
    ActionRefused,
    ConnectionLost,
    ServerError,
    Session,
    short,
)

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class OpenEnv(gym.Env[str, str]):
    """An environment that a server holds, as text.

    A server gives each WebSocket session an environment of its own, so that members of a group never meet. An object
    of this class holds one session from its first reset on. An action that the server cannot read uses a turn up; all
    else that goes wrong raises :class:`ServerError`, and the next reset opens a new session. No step is sent twice.

    The server gets a seed below 2**31, drawn from the one given to ``reset``. A reward of null counts as 0.0: it means
    that there is none, but the openenv package's server writes NaN like that, too.

    Args:
        base_url: such as ``http://127.0.0.1:8000`` or ``https://host/path``.
        action_field: field of the action that the text goes into; ``arguments.message`` is a field within a field.
        action_constants: other fields that the action needs, the same at every step.
        observation_field: field that the agent reads (``messages.-1.content`` is found, too), or a list of fields;
            None: all of them, one a line.
        actions_field: field with the list of possible actions; None: the server does not tell.
        anchor_field: field that names the state, without history or counters; None: what the agent reads.
        reset_arguments: further arguments of the server's reset.
        max_turns: actions per episode, 1..10000.
        timeout: seconds that one answer may take, above 0; less than ``rollout.step_timeout``.
        max_observation: characters of the longest observation that is taken, 1..1000000.
        token_variable: environment variable that holds a token for the server.
        max_return: highest return that an episode can have; None: unknown.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        action_field: str = "message",
        action_constants: Mapping[str, Any] | None = None,
        observation_field: str | Sequence[str] | None = None,
        actions_field: str | None = None,
        anchor_field: str | None = None,
        reset_arguments: Mapping[str, Any] | None = None,
        max_turns: int = 20,
        timeout: float = 8.0,
        max_observation: int = 20_000,
        token_variable: str | None = None,
        max_return: float | None = None,
    ) -> None:
        try:
            import websockets  # noqa: F401
        except ImportError as error:
            raise ImportError("OpenEnv's sessions need websockets: pip install 'agentgrpo[openenv]'") from error
        self._base_url = _websocket_address(base_url)
        if not isinstance(action_field, str) or not all(action_field.split(".")):
            raise ValueError(f"action_field must name a field, such as message, got {action_field!r}.")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be a number of seconds above 0, got {timeout!r}.")
        if token_variable is not None and not os.environ.get(token_variable, "").strip():
            raise ValueError(f"token_variable must name an environment variable that is set, got {token_variable!r}.")
        self._action_path, self._action_constants = action_field.split("."), dict(action_constants or {})
        self._read_fields = [observation_field] if isinstance(observation_field, str) else observation_field
        self._actions_field, self._anchor_field = actions_field, anchor_field
        self._reset_arguments = dict(reset_arguments or {})
        self.max_turns = in_range("max_turns", max_turns, 1, 10_000)
        self._timeout, self._token_variable = float(timeout), token_variable
        self._max_observation = in_range("max_observation", max_observation, 1, 1_000_000)
        self.max_return = max_return
        self.seed_advice = (
            f"The server at {self._base_url} ignores the seed: its environment's reset() must take `seed` and draw the "
            "task from it alone."
        )
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self._session: Session | None = None
        self._running = False
        self._num_unseeded = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a task. ``options`` may hold a ``noise_seed``, for which the protocol has no place."""
        if unknown := sorted(set(options or {}) - {"noise_seed"}):
            raise ValueError(f"reset(options=...) got {', '.join(unknown)}; allowed: noise_seed.")
        super().reset(seed=seed)
        self._num_unseeded = 0 if seed is not None else self._num_unseeded + 1
        task_id = str(self.np_random_seed) + (f"+{self._num_unseeded}" if self._num_unseeded else "")
        arguments = {**self._reset_arguments, "seed": int(self.np_random.integers(2**31))}
        self._turn, self._running = 0, False
        try:
            answer = self._start(arguments)
            self._text, told = self._observe("reset", answer)
            if answer["done"]:
                raise self._unusable("reset", "an episode that is over already", SEE_LOG)
        except BaseException:
            self._drop()
            raise
        self._told = {"task_id": task_id, **told}
        self._running = True
        return self._text, {**self._told, "valid_action": True, "success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one turn. An action that the server cannot read changes nothing, but uses the turn up."""
        if not self._running or self._session is None:
            raise RuntimeError("step() needs a running episode: call reset() first.")
        self._turn += 1
        self._running = False  # unless an answer comes
        reward, terminated, success, refusal = 0.0, False, False, ""
        try:
            answer = self._session.ask("step", self._action(action))
            self._text, told = self._observe("step", answer)
            self._told |= told
            reward, terminated = self._reward(answer["reward"]), answer["done"]
            claim = _claim(answer)
            success = terminated and (reward > 0 if claim is None else claim)
        except ActionRefused as error:
            if not (refusal := self._fault_of_the_text(error)):
                self._drop()
                raise
        except BaseException:
            self._drop()
            raise
        truncated = not terminated and self._turn >= self.max_turns
        self._running = not (terminated or truncated)
        text = f"Not possible: {refusal}\n{self._text}" if refusal else self._text
        return text, reward, terminated, truncated, {**self._told, "valid_action": not refusal, "success": success}

    def close(self) -> None:
        """End the session."""
        session, self._session, self._running = self._session, None, False
        if session is not None:
            session.close()

    def __del__(self) -> None:
        # A connection has a thread, which would keep it, and the server's environment, for ever.
        if getattr(self, "_session", None) is not None:
            self._drop()

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.drop()

    def _start(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._session is not None:
            try:
                return self._session.ask("reset", arguments)
            except ConnectionLost:  # while it lay idle, say: the server was restarted. Nothing has been played yet.
                self._drop()
        token = os.environ.get(self._token_variable, "").strip() if self._token_variable else None
        self._session = Session(self._base_url, token, self._timeout)
        return self._session.ask("reset", arguments)

    def _action(self, text: str) -> dict[str, Any]:
        action = inner = dict(self._action_constants)
        for name in self._action_path[:-1]:
            inner[name] = inner = dict(inner.get(name) or {})
        inner[self._action_path[-1]] = _clean(text)
        return action

    def _fault_of_the_text(self, error: ActionRefused) -> str:
        """What is wrong with the agent's text; empty if the action would be refused whatever the agent wrote."""
        for reason in error.reasons:
            if reason["loc"][:1] != self._action_path[:1] or reason.get("type") in ("missing", "extra_forbidden"):
                return ""
        return short(str(error.reasons[0].get("msg"))) if error.reasons else ""

    def _observe(self, asked: str, answer: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return what the agent reads, and what the observation tells for ``info``."""
        if missing := sorted({"observation", "reward", "done"} - set(answer)):
            came = f"an answer without {', '.join(missing)} but with {', '.join(sorted(answer)) or 'nothing'}"
            raise self._unusable(asked, came, SEE_PROTOCOL)
        observation = answer["observation"]
        if not isinstance(observation, dict) or not isinstance(answer["done"], bool):
            came = f"{short(repr(observation))} as observation and {short(repr(answer['done']))} as done"
            raise self._unusable(asked, came, SEE_PROTOCOL)
        if self._read_fields is not None:
            text = "\n".join(_shown(self._field(asked, observation, name)) for name in self._read_fields)
        else:
            text = "\n".join(f"{k}: {_shown(v)}" for k, v in observation.items() if v is not None and k != "metadata")
        if len(text) > self._max_observation:
            came = f"an observation of {len(text)} characters, more than max_observation={self._max_observation}"
            raise self._unusable(asked, came, "Name the field that matters (observation_field), or raise the limit.")
        told = {"anchor": _shown(self._field(asked, observation, self._anchor_field)) if self._anchor_field else text}
        if self._actions_field is None:
            return text, told
        actions = self._field(asked, observation, self._actions_field)
        if not isinstance(actions, list):
            came = f"{short(repr(actions))} as {self._actions_field}"
            raise self._unusable(asked, came, "Name a field with a list (actions_field).")
        return text, {**told, "admissible_actions": sorted(map(_shown, actions))}

    def _field(self, asked: str, observation: dict[str, Any], path: str) -> Any:
        found: Any = observation
        for name in path.split("."):
            try:
                found = found[int(name)] if isinstance(found, list) else found[name]
            except (KeyError, IndexError, ValueError, TypeError):
                has = f"the fields {', '.join(found)}" if isinstance(found, dict) else short(repr(found))
                check = "Check observation_field, actions_field and anchor_field against the fields in /schema."
                raise self._unusable(asked, f"an observation without {path}: at {name} it has {has}", check) from None
        return found

    def _reward(self, reward: Any) -> float:
        if reward is None:
            return 0.0
        value = math.nan
        with suppress(OverflowError):  # JSON's integers have no limit
            value = float(reward) if isinstance(reward, int | float) else math.nan
        if not math.isfinite(value):
            check = "Check the environment behind it: a reward is a finite number."
            raise self._unusable("step", f"the reward {short(repr(reward))}", check)
        return value

    def _unusable(self, asked: str, came: str, check: str) -> ServerError:
        return ServerError(self._base_url, asked, f"it gave {came}", check)


def _websocket_address(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        fits = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0 and not parts.query + parts.fragment
    except (ValueError, AttributeError, TypeError):
        fits = False
    if not fits:
        raise ValueError(f"base_url must be an address such as http://127.0.0.1:8000, got {base_url!r}.")
    if "@" in parts.netloc:
        raise ValueError("base_url must not hold a name or password, as it is written down: use token_variable.")
    return f"{_SCHEMES[parts.scheme]}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/ws')}"


def _claim(answer: dict[str, Any]) -> bool | None:
    """What the answer says of success, if anything: servers put it beside the observation or into it."""
    observation = answer["observation"]
    for place in (answer.get("info"), answer.get("metadata"), observation.get("metadata"), observation):
        if isinstance(place, dict) and isinstance(claim := place.get("success"), bool):
            return claim
    return None


def _shown(value: Any) -> str:
    return _clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _clean(text: str) -> str:
    """Replace what UTF-8 cannot say: halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode()
