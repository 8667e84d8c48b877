"""Sokoban: push the box onto the target."""

from typing import NamedTuple

from agentgrpo.envs.base import TextEnv, View, in_range, shortest_path

DIRECTIONS = {"down": (1, 0), "left": (0, -1), "right": (0, 1), "up": (-1, 0)}  # sorted
DEFAULT_TURNS = {4: 8, 5: 10, 6: 15, 7: 18, 8: 20}
DEFAULT_SOLUTION = {4: 6, 5: 6, 6: 7, 7: 9, 8: 10}


class Level(NamedTuple):
    """The squares that can be entered, numbered row by row on a grid with a margin, and the target."""

    floor: frozenset[int]
    target: int


class Position(NamedTuple):
    """Where the player and the box stand."""

    player: int
    box: int


class SokobanEnv(TextEnv[Level, Position]):
    """One box, one target, on a walled square: # wall, . floor, $ box, X target, P you, Q you on the target.

    The edge of the grid is a wall that is not drawn. Actions are the moves that are not blocked. A box can be pushed
    to where it cannot be got out again; then the turns run out.

    Args:
        size: rows and columns, 4..8.
        walls: inner walls, 0..size; None: 2 for sizes up to 5, then 4.
        max_solution: length of the longest optimal solution in moves, 1..max_turns; None: 6, 6, 7, 9, 10 by size.
        max_turns: moves per episode; None: 8, 10, 15, 18, 20 by size.
    """

    def __init__(
        self, size: int = 5, walls: int | None = None, max_solution: int | None = None, max_turns: int | None = None
    ) -> None:
        self.size = in_range("size", size, 4, 8)
        self.walls = in_range("walls", (2 if size <= 5 else 4) if walls is None else walls, 0, size)
        super().__init__(DEFAULT_TURNS[size] if max_turns is None else max_turns)
        if max_solution is None:
            max_solution = min(DEFAULT_SOLUTION[size], self.max_turns)
        self.max_solution = in_range("max_solution", max_solution, 1, self.max_turns)
        self._width = size + 2  # one column of margin on each side, so that a step over the edge hits no other row
        self._rows = [[(y + 1) * self._width + x + 1 for x in range(size)] for y in range(size)]
        self._cells = [cell for row in self._rows for cell in row]
        self._steps = [(action, dy * self._width + dx) for action, (dy, dx) in DIRECTIONS.items()]

    def _new_task(self) -> str:
        while True:
            order = self.np_random.permutation(len(self._cells))[: self.walls + 3].tolist()
            *walls, player, box, target = (self._cells[i] for i in order)
            if self._hopeless(player, box, target):
                continue
            self.task = Level(frozenset(self._cells).difference(walls), target)
            self.state = Position(player, box)
            if self._search(self.max_solution):
                return "Goal: push the box $ to X. You are P."

    def _view(self) -> View:
        (player, box), (floor, target) = self.state, self.task
        admissible = list(self._moves(self.state))
        if box == target:
            return View("The box is on the target.", f"Solved at {player}.", admissible)
        symbols = dict.fromkeys(self._cells, "#") | dict.fromkeys(floor, ".")
        symbols |= {target: "X", box: "$", player: "Q" if player == target else "P"}
        text = "\n".join([" ".join([symbols[cell] for cell in row]) for row in self._rows])
        return View(text, text, admissible)

    def _advance(self, action: str) -> None:
        self.state = self._moves(self.state)[action]

    def _outcome(self) -> bool | None:
        return True if self.state.box == self.task.target else None

    def _plan(self) -> list[str]:
        return self._search(None)

    def _search(self, max_length: int | None) -> list[str]:
        target = self.task.target
        path = shortest_path(self.state, lambda s: self._moves(s).items(), lambda s: s.box == target, max_length)
        return path or []

    def _moves(self, now: Position) -> dict[str, Position]:
        """Moves that are not blocked, and where each leads."""
        player, box = now
        floor = self.task.floor
        moves = {}
        for action, step in self._steps:
            ahead = player + step
            if ahead not in floor:
                continue
            if ahead != box:
                moves[action] = Position(ahead, box)
            elif ahead + step in floor:
                moves[action] = Position(ahead, ahead + step)
        return moves

    def _hopeless(self, player: int, box: int, target: int) -> bool:
        """Whether a glance shows that a draw is no level; it saves most searches."""
        (py, px), (by, bx), (ty, tx) = (divmod(cell, self._width) for cell in (player, box, target))
        if (by in (1, self.size) and by != ty) or (bx in (1, self.size) and bx != tx):
            return True  # a box at the edge never leaves it
        return abs(py - by) + abs(px - bx) - 1 + abs(by - ty) + abs(bx - tx) > self.max_solution
