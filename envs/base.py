"""What the built-in tasks share: the text space, turns, info, noise, snapshots and a shortest-path oracle."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Text

Task = TypeVar("Task")
State = TypeVar("State")
Node = TypeVar("Node", bound=Hashable)

MAX_TEXT = 1_000_000
"""Characters. Far above any real observation or action, so that no model text is ever out of the space."""

MAX_ACTION = 256
"""Characters of an action that is one of a list; longer text is none."""

_SAMPLE_LENGTH = 32
_SAMPLE_CHARSET = "abcdefghijklmnopqrstuvwxyz0123456789 .,!?<>"


class AnyText(Text):
    """Any str of up to ``max_length`` characters, the empty one included.

    gymnasium's ``Text`` admits only the characters of a charset, and there is none that holds all of Unicode. The
    charset given here serves ``sample`` alone.
    """

    def __init__(self, max_length: int = MAX_TEXT, *, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(max_length, min_length=0, charset=_SAMPLE_CHARSET, seed=seed)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a str which is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return a short random text; without a mask its length is at most 32 characters."""
        if mask is None and probability is None:
            mask = (int(self.np_random.integers(min(_SAMPLE_LENGTH, self.max_length) + 1)), None)
        return super().sample(mask, probability)

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"


class View(NamedTuple):
    """One state as the agent meets it.

    Attributes:
        text: what the agent reads.
        anchor: names the true state within one task, without history or counters. Step advantages compare equal ones.
        admissible: the actions that mean something here, sorted.
    """

    text: str
    anchor: str
    admissible: list[str]


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[Task, State]):
    """All that ``TextEnv.restore`` needs to continue an episode from here, noise included."""

    task: Task
    state: State
    task_id: str
    turn: int
    noise_seed: int
    noise_state: dict[str, Any] | None


class TextEnv(gym.Env[str, str], ABC, Generic[Task, State]):
    """A task in text: strings in, strings out, and reward 1.0 on success.

    A task writes ``_new_task``, ``_view``, ``_advance``, ``_outcome`` and ``_plan``. It keeps all that is fixed
    during an episode in ``self.task`` and all that changes in ``self.state``, both immutable; a snapshot is then free.

    ``reset(seed=s)`` draws the task from ``s``. ``reset(seed=s, options={"noise_seed": n})`` also fixes
    ``self.noise_random``, the stream for stochastic dynamics: members of a group share ``s`` and differ in ``n``.
    Without the option the noise derives from ``s`` as well.
    """

    max_return: ClassVar[float] = 1.0

    task: Task
    state: State

    def __init__(self, max_turns: int) -> None:
        self.max_turns = in_range("max_turns", max_turns, 1, 10_000)
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self._running = False
        self._num_unseeded = 0  # resets since the last one with a seed; each draws the next task of the same stream

    # --- what a task writes ---------------------------------------------------------------------------------------

    @abstractmethod
    def _new_task(self) -> str:
        """Draw ``self.task`` and ``self.state`` from ``self.np_random``; return the goal in a sentence."""

    @abstractmethod
    def _view(self) -> View:
        """Describe the current state. Called once per turn."""

    @abstractmethod
    def _advance(self, action: str) -> None:
        """Apply ``action``, which ``_read`` returned, to ``self.state``."""

    @abstractmethod
    def _outcome(self) -> bool | None:
        """True: solved; False: failed for good; None: neither yet."""

    @abstractmethod
    def _plan(self) -> list[str]:
        """Return a shortest way from the current state to success; [] if there is none."""

    def _read(self, action: str) -> str | None:
        """Return the action that a text means, in the form that ``_advance`` takes; None if it means none here."""
        readable = " ".join(action.lower().split()) if len(action) <= MAX_ACTION else ""
        return readable if readable in self._now.admissible else None

    def _reward(self, outcome: bool | None) -> float:
        """Return what a turn with this outcome earns: ``max_return`` in all for a success, less for anything else."""
        return float(outcome is True)

    def _expected(self) -> str:
        """Say in a phrase what can be answered now."""
        return f"one of: {', '.join(self._now.admissible)}"

    # --- gymnasium ------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a task; see the class for what ``seed`` and ``options`` decide."""
        super().reset(seed=seed)
        self._num_unseeded = 0 if seed is not None else self._num_unseeded + 1
        goal = self._new_task()
        # Always drawn, so that giving a noise seed does not change the tasks which follow on the same stream.
        noise_seed = int(self.np_random.integers(2**62))
        self._noise_seed = _noise_seed(options or {}, default=noise_seed)
        self._noise: np.random.Generator | None = None
        self._task_id = str(self.np_random_seed) + (f"+{self._num_unseeded}" if self._num_unseeded else "")
        self._turn = 0
        self._running = True
        self._now = self._view()
        return _join(goal, self._now.text), self._info(valid=True, success=False)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one turn. Text that means no possible action changes nothing, but uses the turn up."""
        if not self._running:
            raise RuntimeError("step() needs a running episode: call reset() first.")
        self._turn += 1
        readable = self._read(action)
        outcome = None
        if readable is None:
            text = _join(f"Not possible. Answer with {self._expected()}.", self._now.text)
        else:
            self._advance(readable)
            self._now = self._view()
            outcome = self._outcome()
            text = self._now.text
        terminated = outcome is not None
        truncated = not terminated and self._turn >= self.max_turns
        self._running = not (terminated or truncated)
        info = self._info(valid=readable is not None, success=outcome is True)
        return text, self._reward(outcome), terminated, truncated, info

    def _info(self, *, valid: bool, success: bool) -> dict[str, Any]:
        return {
            "anchor": self._now.anchor,
            "admissible_actions": list(self._now.admissible),
            "valid_action": valid,
            "success": success,
            "task_id": self._task_id,
        }

    @property
    def noise_random(self) -> np.random.Generator:
        """The stream of the dynamics, apart from ``np_random``, which draws tasks. Made on first use."""
        if self._noise is None:
            self._noise = np.random.Generator(np.random.PCG64(self._noise_seed))
        return self._noise

    # --- optional parts of the contract -----------------------------------------------------------------------------

    def oracle_actions(self) -> list[str]:
        """Return an optimal continuation from here; [] if the episode is over or cannot be won in the turns left."""
        if not self._running:
            return []
        plan = self._plan()
        return plan if len(plan) <= self.max_turns - self._turn else []

    def snapshot(self) -> Snapshot[Task, State]:
        """Return the running episode's state, to be handed to ``restore`` of any env with the same arguments."""
        if not self._running:
            raise RuntimeError("snapshot() needs a running episode: call reset() first.")
        noise_state = None if self._noise is None else dict(self._noise.bit_generator.state)
        return Snapshot(self.task, self.state, self._task_id, self._turn, self._noise_seed, noise_state)

    def restore(self, snapshot: Snapshot[Task, State]) -> tuple[str, dict[str, Any]]:
        """Continue from ``snapshot``; return the state's text (without the goal) and info."""
        self.task, self.state = snapshot.task, snapshot.state
        self._task_id, self._turn, self._noise_seed = snapshot.task_id, snapshot.turn, snapshot.noise_seed
        self._noise = None
        if snapshot.noise_state is not None:
            self.noise_random.bit_generator.state = snapshot.noise_state
        self._running = True
        self._now = self._view()
        return self._now.text, self._info(valid=True, success=False)


def _join(sentence: str, text: str) -> str:
    if not sentence:
        return text
    return f"{sentence}\n{text}" if "\n" in text else f"{sentence} {text}"  # a drawing starts on a line of its own


def _noise_seed(options: dict[str, Any], default: int) -> int:
    unknown = sorted(set(options) - {"noise_seed"})
    if unknown:
        raise ValueError(f"reset(options=...) got {', '.join(unknown)}; allowed: noise_seed.")
    value = options.get("noise_seed", default)
    if not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"options['noise_seed'] must be an int of at least 0, got {value!r}.")
    return int(value)


def in_range(name: str, value: int, low: int, high: int) -> int:
    """Return ``value`` if it is an int in [low, high]; else raise a ValueError which names the argument."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}.")
    return value


def share(name: str, value: float, low: float, high: float) -> float:
    """Return ``value`` if it is a number in [low, high]; else raise a ValueError which names the argument."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low} to {high}, got {value!r}.")
    return float(value)


def shortest_path(
    start: Node,
    moves: Callable[[Node], Iterable[tuple[str, Node]]],
    is_goal: Callable[[Node], bool],
    max_length: int | None = None,
) -> list[str] | None:
    """Breadth-first search.

    Args:
        start: where to begin.
        moves: gives (action, next node) pairs of a node.
        is_goal: tells the nodes at which to stop.
        max_length: give up on longer paths; None: search everything that can be reached.

    Returns:
        The actions of a shortest path ([] if ``start`` is a goal), or None if there is none.
    """
    if is_goal(start):
        return []
    came: dict[Node, tuple[str, Node]] = {}
    length = {start: 0}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        if length[node] == max_length:
            return None
        for action, following in moves(node):
            if following in length:
                continue
            length[following] = length[node] + 1
            came[following] = (action, node)
            if is_goal(following):
                return _walk_back(came, start, following)
            queue.append(following)
    return None


def _walk_back(came: dict[Node, tuple[str, Node]], start: Node, goal: Node) -> list[str]:
    actions = []
    node = goal
    while node != start:
        action, node = came[node]
        actions.append(action)
    return actions[::-1]
