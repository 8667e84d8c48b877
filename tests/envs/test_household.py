"""Household: one house by hand, and what all houses have in common."""

import pytest

from agentgrpo.envs.household import OBJECTS, OPENABLE, PLAIN, SINK, House, HouseholdEnv, Scene

# The apple is in the closed fridge and belongs on the desk, where the cup is.
RECEPTACLES = ("desk", "fridge", "sinkbasin")
START = Scene(-1, frozenset(), (1, 0), frozenset())


def at_home(clean: bool = False, scene: Scene = START, max_turns: int | None = None) -> HouseholdEnv:
    env = HouseholdEnv("mixed", max_turns=max_turns)
    env.reset(seed=0)
    snapshot = env.snapshot()
    house = House(RECEPTACLES, ("apple", "cup"), target=0, clean=clean)
    env.restore(type(snapshot)(house, scene, "by hand", 0, 0, None))
    return env


def test_put_by_hand() -> None:
    env = at_home()
    plan = ["go to fridge", "open fridge", "take apple from fridge", "go to desk", "put apple in/on desk"]
    assert env.oracle_actions() == plan
    results = [env.step(action) for action in plan]
    assert [result[0] for result in results] == [
        "The fridge is closed.",
        "In the fridge you see apple.",
        "In the fridge you see nothing. You hold apple.",
        "On the desk you see cup. You hold apple.",
        "The apple is in/on desk.",
    ]
    assert [result[1:3] for result in results] == [(0.0, False)] * 4 + [(1.0, True)]


def test_clean_by_hand() -> None:
    env = at_home(clean=True, scene=START._replace(where=(2, 0)))
    plan = [
        "go to sinkbasin",
        "take apple from sinkbasin",
        "clean apple with sinkbasin",
        "go to desk",
        "put apple in/on desk",
    ]
    assert env.oracle_actions() == plan
    texts = [env.step(action)[0] for action in plan]
    assert texts[:4] == [
        "In the sinkbasin you see apple.",
        "In the sinkbasin you see nothing. You hold apple.",
        "In the sinkbasin you see nothing. You hold clean apple.",
        "On the desk you see cup. You hold clean apple.",
    ]


def test_an_object_that_is_not_clean_does_not_count() -> None:
    env = at_home(clean=True, scene=START._replace(place=0, where=(-1, 0)))
    text, reward, terminated, _, _ = env.step("put apple in/on desk")
    assert (text, reward, terminated) == ("On the desk you see apple, cup.", 0.0, False)
    assert env.oracle_actions() == [
        "take apple from desk",
        "go to sinkbasin",
        "clean apple with sinkbasin",
        "go to desk",
        "put apple in/on desk",
    ]


def test_admissible_actions_follow_the_scene() -> None:
    env = at_home()
    seen = [env.step("look")[4]["admissible_actions"]]
    actions = ["go to fridge", "open fridge", "take apple from fridge", "close fridge", "go to sinkbasin"]
    seen += [env.step(action)[4]["admissible_actions"] for action in actions]
    assert seen == [
        ["go to desk", "go to fridge", "go to sinkbasin", "look"],
        ["go to desk", "go to sinkbasin", "look", "open fridge"],
        ["close fridge", "go to desk", "go to sinkbasin", "look", "take apple from fridge"],
        ["close fridge", "go to desk", "go to sinkbasin", "look", "put apple in/on fridge"],
        ["go to desk", "go to sinkbasin", "look", "open fridge"],
        ["clean apple with sinkbasin", "go to desk", "go to fridge", "look", "put apple in/on sinkbasin"],
    ]
    env.step("clean apple with sinkbasin")
    env.step("put apple in/on sinkbasin")
    assert env.step("look")[4]["admissible_actions"] == [
        "go to desk",
        "go to fridge",
        "look",
        "take apple from sinkbasin",
    ]


@pytest.mark.parametrize("action", ["take apple from fridge", "take cup from fridge", "go to fridge", "go to bed"])
def test_a_closed_door_and_what_is_not_there(action: str) -> None:
    env = at_home(scene=START._replace(place=1))
    text, _, _, _, info = env.step(action)
    assert text == (
        "Not possible. Answer with one of: go to desk, go to sinkbasin, look, open fridge. The fridge is closed."
    )
    assert info["valid_action"] is False


def test_another_object_is_put_down_on_the_way() -> None:
    # The cup is held, the apple in the closed fridge: the cup goes in there, too.
    env = at_home(scene=Scene(2, frozenset(), (1, -1), frozenset()))
    assert len(env.oracle_actions()) == 6
    env = at_home(scene=Scene(0, frozenset({1}), (1, -1), frozenset()))
    assert len(env.oracle_actions()) == 5


def test_anchor_tells_what_is_behind_a_door() -> None:
    env = at_home(scene=Scene(1, frozenset({1}), (1, -1), frozenset({1})))
    _, _, _, _, full = [env.step(action) for action in ("put cup in/on fridge", "close fridge")][-1]
    other = at_home(scene=Scene(1, frozenset(), (1, 0), frozenset({1})))
    text, _, _, _, empty = other.step("look")
    assert text == "The fridge is closed."
    assert full["admissible_actions"] == empty["admissible_actions"]
    assert full["anchor"] == "At fridge. Open: nothing. Things: apple fridge, clean cup fridge."
    assert empty["anchor"] == "At fridge. Open: nothing. Things: apple fridge, clean cup desk."


@pytest.mark.parametrize(
    ("task", "receptacles", "openable", "objects"),
    [("put", 4, None, 2), ("put", 3, 0, 1), ("put", 10, 6, 8), ("clean", 6, None, 2), ("mixed", 3, 2, 3)],
)
def test_every_house_is_as_the_dials_say(task: str, receptacles: int, openable: int | None, objects: int) -> None:
    env = HouseholdEnv(task, receptacles, openable, objects)
    washed = set()
    for seed in range(40):
        text, _ = env.reset(seed=seed)
        house, scene = env.task, env.state
        assert len(set(house.receptacles)) == receptacles
        assert (SINK in house.receptacles) == (task != "put")
        closing = sum(name in OPENABLE for name in house.receptacles)
        assert closing == ((receptacles - (task != "put")) // 2 if openable is None else openable)
        assert len(set(house.objects)) == len(scene.where) == objects
        assert scene.where[0] != house.target
        assert house.receptacles[house.target] != SINK
        wash = f"clean {house.objects[0]}, then " if house.clean else ""
        target = house.receptacles[house.target]
        assert text.startswith(f"Goal: {wash}put {house.objects[0]} in/on {target}. In the room you see ")
        washed.add(house.clean)
    assert washed == {"put": {False}, "clean": {True}, "mixed": {False, True}}[task]


def test_spare_names_decide_how_many_words_there_are() -> None:
    def words(spare_names: int | None) -> tuple[int, int]:
        env = HouseholdEnv(receptacles=3, openable=1, objects=1, spare_names=spare_names)
        receptacles: set[str] = set()
        objects: set[str] = set()
        for seed in range(200):
            env.reset(seed=seed)
            receptacles.update(env.task.receptacles)
            objects.update(env.task.objects)
        return len(receptacles), len(objects)

    assert words(0) == (3, 1)
    assert words(1) == (5, 2)  # one more that opens and one more that does not
    assert words(None) == (len(OPENABLE) + len(PLAIN), len(OBJECTS))


def test_dials() -> None:
    assert [HouseholdEnv(task).max_turns for task in ("put", "clean", "mixed")] == [12, 15, 15]
    with pytest.raises(ValueError, match=r"task must be one of put, clean, mixed, got 'cook'\."):
        HouseholdEnv("cook")
    with pytest.raises(ValueError, match=r"receptacles must be an integer from 3 to 10, got 2\."):
        HouseholdEnv(receptacles=2)
    with pytest.raises(ValueError, match=r"openable must be an integer from 4 to 6, got 3\."):
        HouseholdEnv(receptacles=10, openable=3)
    with pytest.raises(ValueError, match=r"openable must be an integer from 0 to 2, got 3\."):
        HouseholdEnv("clean", receptacles=3, openable=3)
    with pytest.raises(ValueError, match=r"objects must be an integer from 1 to 8, got 0\."):
        HouseholdEnv(objects=0)
    with pytest.raises(ValueError, match=r"spare_names must be an integer from 0 to 8, got -1\."):
        HouseholdEnv(spare_names=-1)
