"""KeyMaze: find the key, unlock the door, reach the treasure."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from agentgrpo.envs.base import TextEnv, View, in_range, shortest_path

GOAL = "Goal: find the key, unlock the door, reach the treasure."
DIRECTIONS = {"north": (-1, 0), "south": (1, 0), "west": (0, -1), "east": (0, 1)}
ROOM_NAMES = "ABCDEFGHIJKL"


class Situation(NamedTuple):
    """Where the player is, and what has been done."""

    room: int
    has_key: bool
    door_open: bool


@dataclass(frozen=True, slots=True)
class Maze:
    """One map. Room 0 .. n-1; the treasure room has one entrance, the locked door."""

    names: tuple[str, ...]
    exits: tuple[dict[str, int], ...]
    """For each room: direction -> room behind; the locked door is among them."""
    key_room: int
    door_room: int
    treasure_room: int
    views: dict[Situation, View] = field(default_factory=dict, compare=False)
    """Descriptions made so far: members of an episode revisit the same few situations."""


class KeyMazeEnv(TextEnv[Maze, Situation]):
    """Rooms on a small random map, of which the player sees only the current one.

    Actions: ``go north|south|east|west``, ``take key``, ``unlock door``, ``look``. Rooms that touch are connected;
    key and start are in different rooms, and neither is the treasure room.

    Args:
        rooms: number of rooms, the treasure room included; 3..12.
        max_turns: actions per episode; None: 10 for 3 rooms, 12 for 4, then 3 more for every 2 rooms.
        min_solution: fewest actions to the treasure; maps that take fewer, or more than ``max_turns``, are drawn again.
            0 (any map) .. rooms + 2.
    """

    def __init__(self, rooms: int = 3, max_turns: int | None = None, min_solution: int = 0) -> None:
        self.rooms = in_range("rooms", rooms, 3, len(ROOM_NAMES))
        super().__init__((10 if rooms == 3 else 6 + 3 * rooms // 2) if max_turns is None else max_turns)
        # Longer ways exist, but hardly any map has one: drawing again and again would take seconds.
        self.min_solution = in_range("min_solution", min_solution, 0, min(rooms + 2, self.max_turns))

    def _new_task(self) -> str:
        self._draw_map()
        while self.min_solution and not self.min_solution <= len(self._plan()) <= self.max_turns:
            self._draw_map()
        return GOAL

    def _draw_map(self) -> None:
        rng = self.np_random
        cells = _grow(self.rooms, rng)
        exits: list[dict[str, int]] = [
            {name: cells[y + dy, x + dx] for name, (dy, dx) in DIRECTIONS.items() if (y + dy, x + dx) in cells}
            for y, x in cells
        ]
        treasure = self.rooms - 1  # by construction a room with a single neighbour
        door_room = next(iter(exits[treasure].values()))
        start, key_room = (int(room) for room in rng.permutation(self.rooms - 1)[:2])
        names = tuple(ROOM_NAMES[i] for i in rng.permutation(len(ROOM_NAMES))[: self.rooms])
        self.task = Maze(names, tuple(exits), key_room, door_room, treasure)
        self.state = Situation(start, has_key=False, door_open=False)

    def _view(self) -> View:
        view = self.task.views.get(self.state)
        if view is None:
            view = self.task.views[self.state] = _describe(self.task, self.state)
        return view

    def _advance(self, action: str) -> None:
        self.state = _moves(self.task, self.state)[action]

    def _outcome(self) -> bool | None:
        return True if self.state.room == self.task.treasure_room else None

    def _plan(self) -> list[str]:
        treasure = self.task.treasure_room
        path = shortest_path(self.state, lambda s: _moves(self.task, s).items(), lambda s: s.room == treasure)
        assert path is not None, "every map is solvable from every situation"
        return path


def _grow(rooms: int, rng: np.random.Generator) -> dict[tuple[int, int], int]:
    """Grow connected cells one by one; the last one, the treasure room, touches exactly one other."""
    cells = {(0, 0): 0}
    while len(cells) < rooms:
        places = list(cells)
        y, x = places[rng.integers(len(places))]
        dy, dx = list(DIRECTIONS.values())[rng.integers(4)]
        new = (y + dy, x + dx)
        if new in cells:
            continue
        touching = sum((new[0] + dy, new[1] + dx) in cells for dy, dx in DIRECTIONS.values())
        if len(cells) < rooms - 1 or touching == 1:
            cells[new] = len(cells)
    return cells


def _moves(maze: Maze, now: Situation) -> dict[str, Situation]:
    """All actions that mean something now, and where each leads."""
    moves = {
        f"go {direction}": now._replace(room=room)
        for direction, room in maze.exits[now.room].items()
        if now.door_open or room != maze.treasure_room
    }
    if now.room == maze.key_room and not now.has_key:
        moves["take key"] = now._replace(has_key=True)
    if now.room == maze.door_room and now.has_key and not now.door_open:
        moves["unlock door"] = now._replace(door_open=True)
    moves["look"] = now
    return moves


def _describe(maze: Maze, now: Situation) -> View:
    admissible = sorted(_moves(maze, now))
    exits = ", ".join(action.removeprefix("go ") for action in admissible if action.startswith("go "))
    parts = [f"Room {maze.names[now.room]}. Exits: {exits}."]
    if now.room == maze.treasure_room:
        parts = ["You reach the treasure."]
    if now.room == maze.key_room and not now.has_key:
        parts.append("Key here.")
    if now.room == maze.door_room:
        direction = next(name for name, room in maze.exits[now.room].items() if room == maze.treasure_room)
        parts.append(f"{'Open' if now.door_open else 'Locked'} door {direction}.")
    if now.has_key:
        parts.append("You have the key.")
    text = " ".join(parts)
    # Away from the door the text does not tell whether it is open; the anchor must.
    return View(text, f"{text} Door {'open' if now.door_open else 'locked'}.", admissible)
