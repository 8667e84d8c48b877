"""ScienceWorld: school experiments in a house with a garden. Needs ``pip install 'agentgrpo[scienceworld]'``."""

from typing import Any, NamedTuple

from agentgrpo.checks import did_you_mean
from agentgrpo.envs.base import Snapshot, TextEnv, View, in_range
from agentgrpo.envs.jvm import JavaEngine, JavaGame

FOLDS = ("train", "dev", "test")
FREE = {"inventory", "look around"}
"""What takes no time in the engine: a gold path still holds after it."""

MEMORY_MB = 1024
# The engine walks through sets of objects, in the order of hash codes that Java draws at random: what a room lists
# first and how heat spreads would differ between two resets. With equal codes the order is that of insertion.
JAVA_OPTIONS = ("-XX:+IgnoreUnrecognizedVMOptions", "-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2")
UNKNOWN = "No known action matches that input."
"""What the engine says to text that it cannot read; nothing has changed then."""
MISUNDERSTOOD = (UNKNOWN, "Unknown action.")
CLUTTER = {"the agent", "a substance called air"}
"""Seen everywhere."""
LONGEST_ACTION = 256
HINT = (
    "Not possible. Answer with one action, such as: look around, go to kitchen, open cupboard, pick up cup, "
    "move cup to sink, activate sink, pour cup in pot, use thermometer on cup, focus on cup, wait."
)


class Answer(NamedTuple):
    """What the engine says about a state."""

    text: str
    anchor: str
    score: float
    """Share of the task that is done, 0..1; 0 on failure."""
    won: bool
    lost: bool
    understood: bool
    """Whether the engine could read the last action."""


class ScienceWorldEnv(TextEnv[int, tuple[str, ...]]):
    """One of ScienceWorld's 30 tasks, such as boiling water or finding an animal. For evaluation: it is slow.

    The task is one of the variations of a fold. The engine reads many ways to say an action, more than it lists, and
    asks back when an object is ambiguous; then a number answers. The reward is the increase of the engine's score, so
    that a return is the final score in [0, 1]. Some wrong actions, such as focusing on a wrong thing, fail the task for
    good and take back what was earned. Success is the full score.

    The anchor is what is in view and in the inventory; temperatures, for one, are not among it. A snapshot is replayed
    when it is restored. The oracle is the engine's gold path, which is not the shortest one; there is none once the
    actions, looking apart, have left it.

    Args:
        task: name, such as boil, find-animal, use-thermometer; a wrong one is answered with all.
        fold: train, dev or test.
        simplification: easy, or a comma-separated choice of teleportAction, openDoors, openContainers,
            selfWateringFlowerPots and noElectricalAction, or "" for none.
        max_turns: actions per episode, 1..10000.
        list_actions: whether info has ``admissible_actions``: several hundred, which take most of a step's time.
    """

    def __init__(
        self,
        task: str = "find-animal",
        fold: str = "test",
        simplification: str = "easy",
        max_turns: int = 100,
        list_actions: bool = True,
    ) -> None:
        super().__init__(in_range("max_turns", max_turns, 1, 10_000))
        if fold not in FOLDS:
            raise ValueError(f"fold must be one of {', '.join(FOLDS)}, got {fold!r}.")
        self.task_name, self.fold, self.simplification, self.list_actions = task, fold, simplification, list_actions
        self.task = -1  # none yet
        self._gold: list[str] | None = None
        self._engine = JavaEngine(_jar(), MEMORY_MB, JAVA_OPTIONS)
        try:
            self._game = Game(self._engine, task, simplification)
            self._variations = self._game.variations(fold)
        except ValueError:
            self._engine.close()
            raise

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    # --- the game -------------------------------------------------------------------------------------------------

    def _new_task(self) -> str:
        self.task = self._variations[int(self.np_random.integers(len(self._variations)))]
        self.state = ()
        self._gold = None
        self._answer = self._game.start(self.task)
        return f"Task: {self._game.goal().removeprefix('Your task is to ')}"

    def _view(self) -> View:
        actions = self._game.actions() if self.list_actions else []
        return View(self._answer.text, self._answer.anchor, actions)

    def _advance(self, action: str) -> None:
        self._game.go_to(self.task, self.state)  # the oracle may have been elsewhere
        self._answer = self._game.step(action)
        if self._answer.text != UNKNOWN:
            self.state = (*self.state, action)

    def _outcome(self) -> bool | None:
        return True if self._answer.won else False if self._answer.lost else None

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one turn. Text that the engine cannot read uses the turn up."""
        if not self._running:
            raise RuntimeError("step() needs a running episode: call reset() first.")
        self._turn += 1
        # What the engine gives for the start alone comes with the first action: a return is the final score.
        paid = self._answer.score if self.state else 0.0
        reward, valid = 0.0, False
        readable = " ".join(action.lower().split()) if len(action) <= LONGEST_ACTION else ""
        if readable and readable.isprintable():
            self._advance(readable)
            valid = self._answer.understood
            if self._answer.text != UNKNOWN:
                self._now = self._view()
                reward = self._answer.score - paid
        outcome = self._outcome()
        terminated = outcome is not None
        truncated = not terminated and self._turn >= self.max_turns
        self._running = not (terminated or truncated)
        info = self._info(valid=valid, success=outcome is True)
        return self._now.text if valid else HINT, reward, terminated, truncated, info

    def _info(self, *, valid: bool, success: bool) -> dict[str, Any]:
        info = super()._info(valid=valid, success=success)
        if not self.list_actions:
            del info["admissible_actions"]
        return info

    def restore(self, snapshot: Snapshot[int, tuple[str, ...]]) -> tuple[str, dict[str, Any]]:
        """Play the snapshot's actions again; return the state's text (without the task) and info."""
        self._answer = self._game.go_to(snapshot.task, snapshot.state)
        if snapshot.task != self.task:
            self._gold = None
        return super().restore(snapshot)

    def _plan(self) -> list[str]:
        if self._gold is None:
            self._gold = self._game.gold_path(self.task)
        played = [action for action in self.state if action not in FREE]
        return self._gold[len(played) :] if self._gold[: len(played)] == played else []


class Game(JavaGame[Answer]):
    """A task in the engine. Raises ValueError where the engine has no such task or simplification."""

    def __init__(self, engine: JavaEngine, task: str, simplification: str) -> None:
        super().__init__(engine, "scienceworld.runtime.pythonapi.PythonInterface")
        self._task = task
        self._simplification = simplification
        names = [str(name) for name in engine.ask(lambda: list(self._java.getTaskNames()))]
        if task not in names:
            raise ValueError(
                f"task {task!r} is not a ScienceWorld task.{did_you_mean(task, names)} There are: {', '.join(names)}."
            )
        allowed = str(engine.ask(self._java.getPossibleSimplifications)).split(", ")
        chosen = simplification.split(",") if simplification not in ("", "easy") else []
        if unknown := [name for name in chosen if name not in allowed]:
            raise ValueError(
                f"simplification must be easy, empty, or made of {', '.join(allowed)} with commas between; "
                f"got {unknown[0]!r}."
            )
        if "noElectricalAction" in chosen and ("power-component" in task or "conductivity" in task):
            raise ValueError(f"simplification noElectricalAction makes the task {task} impossible.")

    def variations(self, fold: str) -> list[int]:
        """The numbers of the fold's tasks."""
        self.start(0)
        found = {"train": self._java.getVariationsTrain, "dev": self._java.getVariationsDev}
        numbers = [int(n) for n in self._engine.ask(lambda: list(found.get(fold, self._java.getVariationsTest)()))]
        if not numbers:
            raise ValueError(f"fold {fold!r} of the task {self._task} is empty; take another.")
        return numbers

    def _start(self, number: int, *, gold: bool) -> Answer:
        error = self._engine.ask(self._java.load, self._task, number, self._simplification, gold)
        assert not error, f"the arguments were checked, but the engine says: {error}"
        return self._step("look around")

    def _step(self, action: str) -> Answer:
        ask, java = self._engine.ask, self._java
        text = tidy(str(ask(java.step, action)))
        score = round(float(ask(java.getScore)), 4)
        seen = f"{tidy(str(ask(java.freeActionLook)))} {tidy(str(ask(java.freeActionInventory)))}"
        lost = score < 0 or (bool(ask(java.getCompleted)) and score < 1)
        # Ambiguity is a state of its own: what counts then is what was asked back.
        anchor = f"{seen} {text}" if text.startswith("Ambiguous request") else seen
        return Answer(text, anchor, max(score, 0.0), score >= 1, lost, not text.startswith(MISUNDERSTOOD))

    def _changed(self) -> bool:
        return self.now.text != UNKNOWN

    def actions(self) -> list[str]:
        """What can be done now, in one of the ways to say it; sorted."""
        return sorted({str(a) for a in self._engine.ask(lambda: list(self._java.getValidActionObjectCombinations()))})

    def goal(self) -> str:
        """What to do, in the engine's words."""
        return tidy(str(self._engine.ask(self._java.getTaskDescription)))

    def gold_path(self, number: int) -> list[str]:
        """What the engine's own player does, up to success and without looking; [] if that does not lead there."""
        self.start(number, gold=True)
        path = []
        for action in [str(a) for a in self._engine.ask(lambda: list(self._java.getGoldActionSequence()))]:
            if action in FREE:
                continue
            path.append(action)
            answer = self.step(action)
            if answer.won:
                return path
            if answer.lost or not answer.understood:
                break
        return []


def tidy(text: str) -> str:
    """Leave out indents, empty lines, and what is seen everywhere."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return "\n".join([line for line in lines if line and line not in CLUTTER])


def _jar() -> str:
    try:
        from scienceworld.constants import JAR_PATH
    except ImportError as error:
        raise ImportError("ScienceWorld is missing: pip install 'agentgrpo[scienceworld]'") from error
    return str(JAR_PATH)
