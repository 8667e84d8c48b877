"""Household: find an object in a room, clean it if asked to, and put it where it belongs."""

from dataclasses import dataclass, field
from typing import NamedTuple

from agentgrpo.envs.base import TextEnv, View, in_range, shortest_path

TASKS = ("put", "clean", "mixed")
SINK = "sinkbasin"
OPENABLE = ("cabinet", "drawer", "fridge", "microwave", "safe", "box")
PLAIN = ("desk", "shelf", "table", "bed", "sofa", "stove")
OBJECTS = ("apple", "cup", "egg", "fork", "knife", "mug", "plate", "potato")
ROOM = -1
"""The place from which an episode starts: beside no receptacle."""
HELD = -1
"""Where an object is that the player holds."""


class Scene(NamedTuple):
    """What changes. Receptacles and objects are numbered as in ``House``."""

    place: int
    """The receptacle at which the player stands, or ROOM."""
    opened: frozenset[int]
    where: tuple[int, ...]
    """The receptacle of each object, or HELD."""
    cleaned: frozenset[int]


@dataclass(frozen=True, slots=True)
class House:
    """One room and what is to be done in it."""

    receptacles: tuple[str, ...]
    objects: tuple[str, ...]
    """The wanted object is number 0."""
    target: int
    """The receptacle where the object belongs."""
    clean: bool
    """Whether the object has to be clean by then."""
    views: dict[Scene, View] = field(default_factory=dict, compare=False)
    """Descriptions made so far: members of an episode revisit the same few scenes."""


class HouseholdEnv(TextEnv[House, Scene]):
    """An object in one receptacle of a room belongs in or on another one; the player sees what stands before him.

    Actions: ``go to X``, ``open X``, ``close X``, ``take O from X``, ``put O in/on X``, ``clean O with sinkbasin``,
    ``look``. One object can be held at a time. Openable receptacles are closed at the start; the wanted object lies
    anywhere but where it belongs, other objects anywhere.

    Args:
        task: ``put``: take it there; ``clean``: wash it first; ``mixed``: one or the other in each episode.
        receptacles: 3..10, the sinkbasin of the tasks clean and mixed included; None: 4 for put, 6 for the others.
        openable: how many of them open and close, 0..6; None: half of those that are not the sinkbasin. At most 6
            others, the sinkbasin not counted, do not.
        objects: number of objects, the wanted one included, 1..8.
        spare_names: how many more kinds of openable receptacles, of other receptacles and of objects there are than one
            room has, 0..8; None: all that there are. With 0 every room has the same things in it, for small models.
        max_turns: actions per episode; None: 12 for put, 15 for the others.
    """

    def __init__(
        self,
        task: str = "put",
        receptacles: int | None = None,
        openable: int | None = None,
        objects: int = 2,
        spare_names: int | None = None,
        max_turns: int | None = None,
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
        self.kind = task
        put = task == "put"
        super().__init__((12 if put else 15) if max_turns is None else max_turns)
        self.receptacles = in_range("receptacles", (4 if put else 6) if receptacles is None else receptacles, 3, 10)
        self._num_dry = self.receptacles - (not put)  # all but the sinkbasin
        low, high = max(0, self._num_dry - len(PLAIN)), min(self._num_dry, len(OPENABLE))
        self.openable = in_range("openable", self._num_dry // 2 if openable is None else openable, low, high)
        self.objects = in_range("objects", objects, 1, len(OBJECTS))
        self.spare_names = in_range(
            "spare_names", len(OBJECTS) if spare_names is None else spare_names, 0, len(OBJECTS)
        )

    def _new_task(self) -> str:
        rng = self.np_random
        clean = self.kind == "clean" or (self.kind == "mixed" and bool(rng.integers(2)))
        names = self._draw(OPENABLE, self.openable) + self._draw(PLAIN, self._num_dry - self.openable)
        target_name = names[rng.integers(len(names))]
        receptacles = tuple(sorted(names if self.kind == "put" else [*names, SINK]))
        target = receptacles.index(target_name)
        objects = tuple(self._draw(OBJECTS, self.objects))
        others = [i for i in range(len(receptacles)) if i != target]
        wanted = others[rng.integers(len(others))]
        where = (wanted, *rng.integers(len(receptacles), size=self.objects - 1).tolist())
        self.task = House(receptacles, objects, target, clean)
        self.state = Scene(ROOM, frozenset(), where, frozenset())
        wash = f"clean {objects[0]}, then " if clean else ""
        return f"Goal: {wash}put {objects[0]} in/on {target_name}."

    def _draw(self, names: tuple[str, ...], number: int) -> list[str]:
        pool = names[: number + self.spare_names]
        return [pool[i] for i in self.np_random.permutation(len(pool))[:number]]

    def _view(self) -> View:
        view = self.task.views.get(self.state)
        if view is None:
            view = self.task.views[self.state] = _describe(self.task, self.state)
        return view

    def _advance(self, action: str) -> None:
        self.state = _moves(self.task, self.state)[action]

    def _outcome(self) -> bool | None:
        return True if _solved(self.task, self.state) else None

    def _plan(self) -> list[str]:
        house, now = self.task, self.state
        useful = _useful(house, now)
        path = shortest_path(
            now,
            lambda scene: [(action, to) for action, to in _moves(house, scene).items() if action in useful],
            lambda scene: _solved(house, scene),
        )
        assert path is not None, "every scene can be solved"
        return path


def _solved(house: House, now: Scene) -> bool:
    return now.where[0] == house.target and (not house.clean or 0 in now.cleaned)


def _useful(house: House, now: Scene) -> set[str]:
    """Actions of which some shortest way can be made: all that concern what it needs, whether possible now or not.

    Wherever another object has to be put down first, that can be done at a place where the way leads anyway.
    """
    places = {now.place, now.where[0], house.target} - {ROOM}
    names = {house.receptacles[place] for place in places} | ({SINK} if house.clean else set())
    wanted = house.objects[0]
    useful = {f"{action} {name}" for name in names for action in ("go to", "open", f"take {wanted} from")}
    useful |= {f"put {thing} in/on {name}" for name in names for thing in house.objects}
    return useful | {f"clean {wanted} with {SINK}"}


def _moves(house: House, now: Scene) -> dict[str, Scene]:
    """All actions that mean something now, and where each leads."""
    moves = {
        f"go to {name}": now._replace(place=place) for place, name in enumerate(house.receptacles) if place != now.place
    }
    moves["look"] = now
    if now.place == ROOM:
        return moves
    here, name = now.place, house.receptacles[now.place]
    if name in OPENABLE:
        verb = "close" if here in now.opened else "open"
        moves[f"{verb} {name}"] = now._replace(opened=now.opened ^ {here})
        if verb == "open":
            return moves
    if HELD in now.where:
        held = now.where.index(HELD)
        thing = house.objects[held]
        moves[f"put {thing} in/on {name}"] = now._replace(where=_moved(now.where, held, here))
        if name == SINK and held not in now.cleaned:
            moves[f"clean {thing} with {SINK}"] = now._replace(cleaned=now.cleaned | {held})
        return moves
    for number, thing in enumerate(house.objects):
        if now.where[number] == here:
            moves[f"take {thing} from {name}"] = now._replace(where=_moved(now.where, number, HELD))
    return moves


def _moved(where: tuple[int, ...], number: int, to: int) -> tuple[int, ...]:
    return (*where[:number], to, *where[number + 1 :])


def _describe(house: House, now: Scene) -> View:
    text = f"The {house.objects[0]} is in/on {house.receptacles[house.target]}."
    if not _solved(house, now):
        text = " ".join([_surroundings(house, now), *_carried(house, now)])
    # What is behind closed doors and elsewhere belongs to the state, too; the text tells only what can be seen.
    things = [
        f"{_called(house, now, number)} {'held' if place == HELD else house.receptacles[place]}"
        for number, place in enumerate(now.where)
    ]
    at = "room" if now.place == ROOM else house.receptacles[now.place]
    opened = [house.receptacles[place] for place in sorted(now.opened)]
    anchor = f"At {at}. Open: {', '.join(opened) or 'nothing'}. Things: {', '.join(things)}."
    return View(text, anchor, sorted(_moves(house, now)))


def _surroundings(house: House, now: Scene) -> str:
    if now.place == ROOM:
        return f"In the room you see {', '.join(house.receptacles)}."
    name = house.receptacles[now.place]
    if name in OPENABLE and now.place not in now.opened:
        return f"The {name} is closed."
    things = [_called(house, now, number) for number, place in enumerate(now.where) if place == now.place]
    return f"{'In' if name in (*OPENABLE, SINK) else 'On'} the {name} you see {', '.join(sorted(things)) or 'nothing'}."


def _carried(house: House, now: Scene) -> list[str]:
    return [f"You hold {_called(house, now, now.where.index(HELD))}."] if HELD in now.where else []


def _called(house: House, now: Scene, number: int) -> str:
    return f"{'clean ' if number in now.cleaned else ''}{house.objects[number]}"
