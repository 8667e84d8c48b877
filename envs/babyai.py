"""BabyAI: the levels of MiniGrid, told in one line of text. Needs ``pip install 'agentgrpo[babyai]'``."""

import copy
import dataclasses
import difflib
import hashlib
import os
import re
from typing import Any

import gymnasium as gym

from agentgrpo.envs.base import Snapshot, TextEnv, View, in_range

DOOR_STATES = ("open ", "closed ", "locked ")
NO_STEP_LIMIT = 1_000_000


class BabyAIEnv(TextEnv[str, Any]):
    """One of BabyAI's levels: a mission in a grid of rooms, of which the agent sees what is in front of it.

    An observation names what is in view: "A red ball is 2 ahead, 1 left. A wall is 4 ahead." Actions are ``forward``,
    ``left`` and ``right``; all but the single-room GoTo levels add ``drop``, ``pickup`` and ``toggle``. The reward is
    1.0 on success, without MiniGrid's discount for time. The oracle is BabyAI's own bot: it sees no more than the
    agent, and explores. As it knows nothing of the past when it is asked anew, a plan is kept while it is followed.

    Unlike the other tasks' state, MiniGrid's is mutable: snapshots copy it.

    Args:
        level: name without prefix and version, such as GoToObj, GoToRedBall, GoToLocal, PickupLoc, OpenDoor.
        max_turns: actions per episode, 1..10000; it replaces MiniGrid's own limit.
    """

    def __init__(self, level: str = "GoToObj", max_turns: int = 12) -> None:
        super().__init__(in_range("max_turns", max_turns, 1, 10_000))
        self.state = _make_level(level)
        self._only_walks = level.startswith("GoTo") and self.state.num_rows * self.state.num_cols == 1
        self._actions = ["forward", "left", "right"]
        if not self._only_walks:
            self._actions = sorted([*self._actions, "drop", "pickup", "toggle"])
        self._solved: bool | None = None
        self._kept_plan: list[str] = []

    def _new_task(self) -> str:
        observation, _ = self.state.reset(seed=int(self.np_random.integers(2**31)))
        self.state.max_steps = NO_STEP_LIMIT
        self.task = self.state.mission
        self._solved = None
        self._kept_plan = []
        self._image = observation["image"].tolist()
        return f"Mission: {self.task}."

    def _view(self) -> View:
        level = self.state
        text = describe(self._image)
        if level.carrying is not None:
            text += f" You carry a {level.carrying.color} {level.carrying.type}."
        x, y = level.agent_pos
        anchor = f"{x},{y},{level.agent_dir}: {text}"
        # Only where something else than the agent can change need the rest of the grid be told apart.
        return View(text, anchor if self._only_walks else f"{anchor} {_digest(level)}", self._actions)

    def _advance(self, action: str) -> None:
        observation, reward, terminated, _, _ = self.state.step(self.state.actions[action])
        self._image = observation["image"].tolist()
        self._solved = reward > 0 if terminated else None
        self._kept_plan = self._kept_plan[1:] if self._kept_plan[:1] == [action] else []

    def _outcome(self) -> bool | None:
        return self._solved

    def _plan(self) -> list[str]:
        self._kept_plan = self._kept_plan or self._ask_bot()
        return list(self._kept_plan)

    def _ask_bot(self) -> list[str]:
        from minigrid.utils.baby_ai_bot import BabyAIBot  # here, because only the oracle needs it

        level = copy.deepcopy(self.state)
        plan: list[str] = []
        try:
            bot = BabyAIBot(level)
            while len(plan) < self.max_turns - self._turn:
                action = bot.replan()
                plan.append(action.name)
                _, reward, terminated, _, _ = level.step(action)
                if terminated:
                    return plan if reward > 0 and set(plan) <= set(self._actions) else []
        except Exception:  # the bot asserts, or worse, in situations that its own plans do not lead to
            return []
        return []

    def snapshot(self) -> Snapshot[str, Any]:
        """Return a copy of the running episode."""
        return dataclasses.replace(super().snapshot(), state=copy.deepcopy(self.state))

    def restore(self, snapshot: Snapshot[str, Any]) -> tuple[str, dict[str, Any]]:
        """Continue from ``snapshot``; return the state's text (without the mission) and info."""
        level = copy.deepcopy(snapshot.state)
        self._image = level.gen_obs()["image"].tolist()
        self._solved = None
        self._kept_plan = []
        return super().restore(dataclasses.replace(snapshot, state=level))


def describe(image: list[list[list[int]]]) -> str:
    """Put MiniGrid's view into words.

    Args:
        image: (view, view, 3) object, colour and state of each cell; the agent stands in the middle of the last row
            of the second axis and looks towards the first.

    Returns:
        One sentence for each object, nearest first, and one for the wall straight ahead.
    """
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT

    middle, last = len(image) // 2, len(image) - 1
    things = []
    walls = []
    for across, column in enumerate(image):
        for down, (kind, color, state) in enumerate(column):
            ahead, right = last - down, across - middle
            if kind == 2 and right == 0:
                walls.append(ahead)
            if kind < 4 or (ahead, right) == (0, 0):  # unseen, empty, wall or floor; what the agent carries
                continue
            door = DOOR_STATES[state] if IDX_TO_OBJECT[kind] == "door" else ""
            name = f"A {door}{IDX_TO_COLOR[color]} {IDX_TO_OBJECT[kind]}"
            things.append((ahead + abs(right), right, f"{name} is {_where(ahead, right)}."))
    sentences = [sentence for _, _, sentence in sorted(things)] or ["You see no object."]
    if walls:
        sentences.append(f"A wall is {min(walls)} ahead.")
    return " ".join(sentences)


def _where(ahead: int, right: int) -> str:
    parts = [f"{ahead} ahead"] if ahead else []
    if right:
        parts.append(f"{abs(right)} {'right' if right > 0 else 'left'}")
    return ", ".join(parts)


def _digest(level: Any) -> str:
    """Name the places and states of all objects, so that equal anchors mean equal states."""
    objects = [(place, *thing.encode()) for place, thing in enumerate(level.grid.grid) if thing is not None]
    return hashlib.blake2b(repr(objects).encode(), digest_size=6).hexdigest()


def _make_level(level: str) -> Any:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # MiniGrid imports pygame, which prints a greeting
    try:
        import minigrid  # noqa: F401  (registers the levels)
        from minigrid.envs.babyai.core import roomgrid_level
    except ImportError as error:
        raise ImportError("BabyAI levels need MiniGrid: pip install 'agentgrpo[babyai]'") from error
    # MiniGrid prints each mission that it draws and rejects; a name in its module hides the built-in from it alone.
    roomgrid_level.print = lambda *args, **kwargs: None
    ids = {match[1]: env_id for env_id in sorted(gym.registry) if (match := re.fullmatch(r"BabyAI-(\w+)-v\d+", env_id))}
    if level not in ids:
        close = difflib.get_close_matches(str(level), ids, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"level {level!r} is not a BabyAI level.{hint} Names are as in BabyAI-GoToObj-v0: GoToObj.")
    return gym.make(ids[level], disable_env_checker=True).unwrapped
