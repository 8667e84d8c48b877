"""Household tasks of our own for ALFWorld's engine, by ALFWorld's rules of what holds, heats, cools and cleans what.

They are not ALFWorld's games: rooms here are lists of furniture, drawn at random, where ALFWorld's come from scenes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

TASK_TYPES = (
    "look_at_obj_in_light",
    "pick_and_place_simple",
    "pick_clean_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_two_obj_and_place",
)
MAX_RECEPTACLES, MAX_OBJECTS = 14, 20

APPLIANCES = {
    "pick_clean_then_place_in_recep": ("SinkBasin", "Cleanable"),
    "pick_cool_then_place_in_recep": ("Fridge", "Coolable"),
    "pick_heat_then_place_in_recep": ("Microwave", "Heatable"),
}
"""Where a task's object must be treated, and ALFWorld's name for the objects that can be."""
LAMP = "DeskLamp"


class Room(NamedTuple):
    """A kind of room.

    Attributes:
        receptacles: furniture, and the most of each there can be.
        objects: what lies about; each fits on the first receptacle.
    """

    receptacles: dict[str, int]
    objects: tuple[str, ...]


KITCHEN = Room(
    {
        "CounterTop": 2,
        "Cabinet": 4,
        "DiningTable": 1,
        "Drawer": 3,
        "Fridge": 1,
        "GarbageCan": 1,
        "Microwave": 1,
        "Shelf": 3,
        "SinkBasin": 1,
    },
    (
        "Apple",
        "Bowl",
        "Bread",
        "ButterKnife",
        "Cup",
        "DishSponge",
        "Egg",
        "Fork",
        "Knife",
        "Lettuce",
        "Mug",
        "PepperShaker",
        "Plate",
        "Potato",
        "SaltShaker",
        "Spoon",
        "Tomato",
    ),
)
BEDROOM = Room(
    {"Desk": 2, "Bed": 1, "Cabinet": 2, "Drawer": 4, "Dresser": 1, "GarbageCan": 1, "Safe": 1, "Shelf": 3},
    ("AlarmClock", "Book", "CD", "CellPhone", "CreditCard", "KeyChain", "Laptop", "Mug", "Pen", "Pencil", "Watch"),
)


class HouseholdTask(NamedTuple):
    """A task: what to do, in words, and the whole of it in PDDL."""

    goal: str
    problem: str


@dataclass(slots=True)
class _Scene:
    """Furniture and objects by kind; ``places[i]`` is the number of the receptacle that holds object ``i``."""

    receptacles: list[str]
    objects: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def put(self, kind: str, place: int) -> None:
        self.objects.append(kind)
        self.places.append(place)


def draw_task(
    rng: np.random.Generator, task_types: Sequence[str], num_receptacles: int, num_objects: int
) -> HouseholdTask:
    """Draw a task that can be solved and is not solved yet. Needs ALFWorld, for its rules.

    Args:
        rng: the source of all choices.
        task_types: some of ``TASK_TYPES``.
        num_receptacles: pieces of furniture, 4..``MAX_RECEPTACLES``.
        num_objects: things that can be taken, 2..``MAX_OBJECTS``; in a task with a lamp, the lamp comes on top.
    """
    from alfworld.gen import goal_library
    from alfworld.gen.constants import VAL_ACTION_OBJECTS, VAL_RECEPTACLE_OBJECTS

    task_type = task_types[int(rng.integers(len(task_types)))]
    appliance, treatment = APPLIANCES.get(task_type, (None, None))
    with_lamp = task_type == "look_at_obj_in_light"
    room = BEDROOM if with_lamp or (appliance is None and rng.random() < 0.5) else KITCHEN
    pairs = [
        (kind, target)
        for kind in room.objects
        for target in room.receptacles
        if kind in VAL_RECEPTACLE_OBJECTS[target]
        and target != appliance
        and (treatment is None or kind in VAL_ACTION_OBJECTS[treatment])
    ]
    kind, target = pairs[rng.integers(len(pairs))]
    # Where the object can be at the start. Only a place of another kind than the target leaves something to do.
    starts = [r for r in room.receptacles if kind in VAL_RECEPTACLE_OBJECTS[r] and r != target]
    start = starts[rng.integers(len(starts))]
    surface = next(iter(room.receptacles))
    needed = dict.fromkeys([start, target, surface] + ([appliance] if appliance else []))
    scene = _Scene(_furnish(rng, room, list(needed), num_receptacles))
    num_targets = 2 if task_type == "pick_two_obj_and_place" else 1
    for _ in range(num_targets):
        scene.put(kind, _place(rng, scene, starts))
    others = [other for other in room.objects if other != kind]
    for _ in range(num_objects - num_targets):
        other = others[rng.integers(len(others))]
        scene.put(other, _place(rng, scene, [r for r in room.receptacles if other in VAL_RECEPTACLE_OBJECTS[r]]))
    if with_lamp:
        scene.put(LAMP, scene.receptacles.index(surface))

    wording = goal_library.gdict[task_type]
    templates = wording["templates"]
    template = templates[rng.integers(len(templates))]
    goal = template.format(obj=kind.lower(), recep=target.lower(), toggle=LAMP.lower())
    goal_pddl = wording["pddl"].replace("#", "-").format(obj=kind, recep=target, toggle=LAMP)
    return HouseholdTask(goal, _problem(scene, goal_pddl, VAL_ACTION_OBJECTS, VAL_RECEPTACLE_OBJECTS))


def _furnish(rng: np.random.Generator, room: Room, needed: list[str], total: int) -> list[str]:
    """``needed`` and further furniture of the room, ``total`` pieces in all."""
    spare = [kind for kind, most in room.receptacles.items() for _ in range(most - (kind in needed))]
    order = rng.permutation(len(spare))[: total - len(needed)].tolist()
    return needed + [spare[i] for i in order]


def _place(rng: np.random.Generator, scene: _Scene, kinds: Iterable[str]) -> int:
    """The number of a receptacle that is of one of ``kinds``."""
    places = [place for place, kind in enumerate(scene.receptacles) if kind in kinds]
    return places[rng.integers(len(places))]


def _problem(scene: _Scene, goal: str, actions: dict[str, Any], holds: dict[str, Any]) -> str:
    """The scene in PDDL, with names from which ALFWorld makes "sinkbasin 1" and the like; ``goal`` closes the text."""
    from alfworld.gen.constants import OPENABLE_CLASS_LIST

    receptacles = [_receptacle_name(kind, place) for place, kind in enumerate(scene.receptacles)]
    objects = [f"{kind}_bar_{number}" for number, kind in enumerate(scene.objects)]
    kinds, furniture = sorted(set(scene.objects)), sorted(set(scene.receptacles))
    middle = f"loc_bar_{len(receptacles)}"
    facts = ["(= (total-cost) 0)", f"(atLocation agent1 {middle})"]
    for place, (name, kind) in enumerate(zip(receptacles, scene.receptacles, strict=True)):
        facts += [f"(receptacleType {name} {kind}Type)", f"(receptacleAtLocation {name} loc_bar_{place})"]
        if kind in OPENABLE_CLASS_LIST:
            facts.append(f"(openable {name})")
    for name, kind, place in zip(objects, scene.objects, scene.places, strict=True):
        facts += [f"(objectType {name} {kind}Type)", f"(inReceptacle {name} {receptacles[place]})"]
        facts.append(f"(objectAtLocation {name} loc_bar_{place})")
        facts += [f"({action.lower()} {name})" for action in sorted(actions) if kind in actions[action]]
        if kind != LAMP:
            facts.append(f"(pickupable {name})")
    facts += [f"(canContain {r}Type {kind}Type)" for r in furniture for kind in kinds if kind in holds[r]]
    declared = [
        "agent1 - agent",
        *(f"loc_bar_{place} - location" for place in range(len(receptacles) + 1)),
        *(f"{name} - receptacle" for name in receptacles),
        *(f"{name} - object" for name in objects),
        *(f"{kind}Type - rtype" for kind in furniture),
        *(f"{kind}Type - otype" for kind in kinds),
    ]
    return (
        "(define (problem household) (:domain alfred)\n"
        f"(:objects {' '.join(declared)})\n(:init {' '.join(facts)})\n{goal.strip()}\n"
    )


def _receptacle_name(kind: str, place: int) -> str:
    return f"Sink_bar_{place}_bar_SinkBasin" if kind == "SinkBasin" else f"{kind}_bar_{place}"
