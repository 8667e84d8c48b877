"""Value iteration over the turns left, for games with a table of transitions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATIENCE = 1 - 1e-6
"""Worth of a success one turn later: just enough to prefer the shorter of two equally sure ways."""

Transitions = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]
"""``P[state][action]``: (probability, next state, reward, terminated) of each thing that can happen."""


class SuccessValues:
    """The best chance of success from each state, for each number of turns left.

    Args:
        transitions: gymnasium's ``P``; states and actions are numbered from 0.
        is_win: whether a last reward means success.
        max_turns: most turns that may be asked for.
    """

    def __init__(self, transitions: Transitions, is_win: Callable[[float], bool], max_turns: int) -> None:
        num_states = len(transitions)
        num_actions = max(len(actions) for actions in transitions.values())
        most = max(len(outcomes) for actions in transitions.values() for outcomes in actions.values())
        shape = (num_states, num_actions, most)
        self._chance = np.zeros(shape)
        self._next = np.zeros(shape, dtype=np.int64)
        self._wins = np.zeros(shape, dtype=bool)
        self._goes_on = np.zeros(shape, dtype=bool)
        for state, actions in transitions.items():
            for action, outcomes in actions.items():
                for i, (chance, following, reward, terminated) in enumerate(outcomes):
                    here = int(state), int(action), i
                    self._chance[here], self._next[here] = chance, int(following)
                    self._wins[here] = terminated and is_win(float(reward))
                    self._goes_on[here] = not terminated and chance > 0
        self._values = [np.zeros(num_states)]
        while len(self._values) <= max_turns:
            values = self._of_actions(self._values[-1], slice(None)).max(axis=1)
            if np.array_equal(values, self._values[-1]):  # more turns do not help
                break
            self._values.append(values)

    def _of_actions(self, values: NDArray[np.float64], state: Any) -> NDArray[np.float64]:
        return (self._chance[state] * self._of_outcomes(values, state)).sum(axis=-1)  # type: ignore[no-any-return]

    def _of_outcomes(self, values: NDArray[np.float64], state: Any) -> NDArray[np.float64]:
        later = PATIENCE * values[self._next[state]] * self._goes_on[state]
        return np.where(self._wins[state], 1.0, later)

    def _after(self, turns: int) -> NDArray[np.float64]:
        return self._values[min(turns, len(self._values) - 1)]

    def chance(self, state: int, turns: int) -> float:
        """Return the chance of success, a hair smaller the longer it takes."""
        return float(self._after(turns)[state])

    def plan(self, state: int, turns: int) -> list[int]:
        """Return the best actions if of all that can happen the best does; [] where success is out of reach."""
        plan: list[int] = []
        while turns > 0 and self._after(turns)[state] > 0:
            values = self._after(turns - 1)
            action = int(self._of_actions(values, state).argmax())
            plan.append(action)
            outcomes = np.where(self._chance[state, action] > 0, self._of_outcomes(values, state)[action], -1.0)
            best = int(outcomes.argmax())
            if self._wins[state, action, best]:
                return plan
            state, turns = int(self._next[state, action, best]), turns - 1
        return []

    def winnable(self, starts: NDArray[np.float64]) -> list[int]:
        """Return the states that can be reached from ``starts`` (chance of each) and still be won, in order."""
        reached = set(np.flatnonzero(starts).tolist())
        frontier = sorted(reached)
        while frontier:
            state = frontier.pop()
            following = set(self._next[state][self._goes_on[state]].tolist()) - reached
            reached |= following
            frontier.extend(following)
        values = self._values[-1]
        return sorted(state for state in reached if values[state] > 0)
