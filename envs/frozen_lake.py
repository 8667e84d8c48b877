"""FrozenLake: cross a small random lake without falling into a hole."""

from typing import NamedTuple

from agentgrpo.envs.base import TextEnv, View, in_range, share, shortest_path

MOVES = {"down": (1, 0), "left": (0, -1), "right": (0, 1), "up": (-1, 0)}  # sorted: the admissible actions
SIDEWAYS = {"down": ("left", "right"), "up": ("left", "right"), "left": ("up", "down"), "right": ("up", "down")}


class Lake(NamedTuple):
    """One map; cells are numbered row by row."""

    cells: str
    """One of ".OG" for each cell."""
    drawing: str
    """The map without the player: cells separated by spaces, each row on a line of its own."""


class FrozenLakeEnv(TextEnv[Lake, int]):
    """Walk from the top left corner to G; the whole map is shown: P you, . ice, O hole, G goal.

    A hole ends the episode without reward. Walking against the shore is possible and leaves you where you are.

    Args:
        size: rows and columns, 2..8.
        hole_share: chance of each cell to be a hole, 0..0.5; maps without a way are drawn again.
        slip: chance to slide to one of the two sides instead, 0..1; drawn from the noise stream.
        max_turns: moves per episode; None: 3 per row.
    """

    def __init__(
        self, size: int = 4, hole_share: float = 0.25, slip: float = 0.0, max_turns: int | None = None
    ) -> None:
        self.size = in_range("size", size, 2, 8)
        self.hole_share = share("hole_share", hole_share, 0.0, 0.5)
        self.slip = share("slip", slip, 0.0, 1.0)
        super().__init__(3 * size if max_turns is None else max_turns)
        self._neighbours = [{action: _walk(cell, action, size) for action in MOVES} for cell in range(size * size)]

    def _new_task(self) -> str:
        size = self.size
        self.state = 0
        while True:
            draws = self.np_random.random(size * size).tolist()
            ice = "".join("O" if draw < self.hole_share else "." for draw in draws)
            cells = f".{ice[1:-1]}G"
            rows = (" ".join(cells[start : start + size]) for start in range(0, size * size, size))
            self.task = Lake(cells, "\n".join(rows))
            if self._plan():
                return "Goal: walk to G, avoid O. You are P."

    def _view(self) -> View:
        cells, drawing = self.task
        here = cells[self.state]
        if here != ".":
            text = "You reach the goal." if here == "G" else "You fall into a hole."
            return View(text, text, list(MOVES))
        place = 2 * self.state  # each cell takes two characters: its symbol, then a separator
        text = f"{drawing[:place]}P{drawing[place + 1 :]}"
        return View(text, text, list(MOVES))

    def _advance(self, action: str) -> None:
        if self.slip and self.noise_random.random() < self.slip:
            action = SIDEWAYS[action][self.noise_random.integers(2)]
        self.state = self._neighbours[self.state][action]

    def _outcome(self) -> bool | None:
        return {"G": True, "O": False}.get(self.task.cells[self.state])

    def _plan(self) -> list[str]:
        """Shortest way round the holes, as if the ice did not slip."""
        cells, neighbours = self.task.cells, self._neighbours
        path = shortest_path(
            self.state,
            lambda cell: [(action, to) for action, to in neighbours[cell].items() if cells[to] != "O"],
            lambda cell: cells[cell] == "G",
        )
        return path or []


def _walk(cell: int, action: str, size: int) -> int:
    (y, x), (dy, dx) = divmod(cell, size), MOVES[action]
    return min(max(y + dy, 0), size - 1) * size + min(max(x + dx, 0), size - 1)
