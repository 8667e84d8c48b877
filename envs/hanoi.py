"""Hanoi: move all discs to peg c, never a larger one onto a smaller one."""

from functools import cache

from agentgrpo.envs.base import TextEnv, View, in_range

PEGS = "abc"
GOAL_PEG = 2
MAX_DISCS = 5
ACTIONS = [f"move {source} {to}" for source in PEGS for to in PEGS if source != to]  # sorted

Discs = tuple[int, ...]
"""The peg of each disc, the smallest disc first; pegs are 0, 1, 2."""


class HanoiEnv(TextEnv[Discs, Discs]):
    """Towers of Hanoi from a random position.

    Actions are the six moves from one peg to another, as ``move a c``. One that the rules forbid is possible, as in
    FrozenLake against the shore, and leaves everything as it is. Discs are numbered by size; the last one on a peg is
    the top one. With n discs there are 3 ** n - 1 positions to start from, so that an evaluation meets the starts of
    the training again.

    Args:
        discs: 2..5.
        min_solution: fewest moves to the goal, 1..2 ** discs - 1.
        max_solution: most moves to the goal, min_solution..2 ** discs - 1; None: any position.
        max_turns: moves per episode; None: 6, 12, 24, 48 for 2, 3, 4, 5 discs.
    """

    def __init__(
        self, discs: int = 2, min_solution: int = 1, max_solution: int | None = None, max_turns: int | None = None
    ) -> None:
        self.discs = in_range("discs", discs, 2, MAX_DISCS)
        super().__init__(3 * 2 ** (discs - 1) if max_turns is None else max_turns)
        longest = min(2**discs - 1, self.max_turns)
        self.min_solution = in_range("min_solution", min_solution, 1, longest)
        self.max_solution = longest if max_solution is None else max_solution
        in_range("max_solution", self.max_solution, self.min_solution, longest)
        self._starts = [
            start for start, length in _distances(discs).items() if self.min_solution <= length <= self.max_solution
        ]

    def _new_task(self) -> str:
        self.task = self.state = self._starts[self.np_random.integers(len(self._starts))]
        return "Goal: all discs on c."

    def _view(self) -> View:
        return _describe(self.state)

    def _advance(self, action: str) -> None:
        self.state = _moves(self.state).get(action, self.state)

    def _outcome(self) -> bool | None:
        return True if all(peg == GOAL_PEG for peg in self.state) else None

    def _plan(self) -> list[str]:
        """Go down the table of distances. The shortest way to a full peg is the only one of its length."""
        distances = _distances(self.discs)
        plan: list[str] = []
        now = self.state
        while distances[now]:
            action, now = min(_moves(now).items(), key=lambda move: distances[move[1]])
            plan.append(action)
        return plan


@cache
def _moves(discs: Discs) -> dict[str, Discs]:
    """The moves that the rules allow, and the positions they lead to."""
    size = len(discs)
    tops = [discs.index(peg) if peg in discs else size for peg in range(len(PEGS))]  # an empty peg takes any disc
    return {
        f"move {PEGS[source]} {PEGS[to]}": (*discs[:top], to, *discs[top + 1 :])
        for source, top in enumerate(tops)
        for to in range(len(PEGS))
        if top < tops[to]
    }


@cache
def _distances(discs: int) -> dict[Discs, int]:
    """Fewest moves from each position to the goal, found backwards from there: every move can be taken back."""
    goal = (GOAL_PEG,) * discs
    distances = {goal: 0}
    queue = [goal]
    for now in queue:
        for following in _moves(now).values():
            if following not in distances:
                distances[following] = distances[now] + 1
                queue.append(following)
    return distances


@cache
def _describe(discs: Discs) -> View:
    pegs = []
    for peg, name in enumerate(PEGS):
        on_it = [str(disc + 1) for disc in reversed(range(len(discs))) if discs[disc] == peg]
        pegs.append(f"{name}: {' '.join(on_it) or 'empty'}")
    text = f"{', '.join(pegs)}."
    return View(text, text, ACTIONS)
