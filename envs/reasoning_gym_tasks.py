"""reasoning-gym: questions with a scorer, one turn each. Needs ``pip install 'agentgrpo[reasoning-gym]'``."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agentgrpo.checks import did_you_mean
from agentgrpo.envs.base import TextEnv, View, share
from agentgrpo.envs.global_random import seeded_global_random
from agentgrpo.envs.reasoning_gym_answers import LONGEST_ANSWER, answer_in, score

HASH_DEPENDENT = ("isomorphic_strings", "polynomial_multiplication", "ransom_note")
"""Datasets that draw from sets of str, whose order differs from process to process."""
EXAMPLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "graph_color": lambda about: json.dumps(about["possible_answer"]),
    "propositional_logic": lambda about: about["example_answer"],
    "rubiks_cube": lambda about: about["example_correct_answer"],
}
"""A right answer, where there are many and the dataset keeps one beside the question."""


class Answered(NamedTuple):
    """What became of the question."""

    score: float | None = None
    """None: not yet answered."""
    legible: bool = True
    """Whether there was an answer of a length that is scored."""


class ReasoningGymEnv(TextEnv[dict[str, Any], Answered]):
    """One question per episode: the setting of verifiable rewards, as in DeepSeek-R1.

    The answer is what stands in ``<answer>...</answer>``, or else the whole text. It is scored by the dataset itself;
    the score is in ``info["score"]``. ``info["answer"]`` is a right answer, for the reward term ``exact_answer``, and
    ``info["reference"]`` a solution to lead in with, for guided GRPO: the worked one of ``gsm_symbolic``, elsewhere the
    answer in its tags. ``boxnet`` and ``rush_hour`` have neither, nor a plan of the oracle.

    There are 105 datasets, from ``ab`` to ``zebra_puzzles``, all of reasoning-gym's but ``composite``: to mix some,
    name several environments in one run. Three of them, isomorphic_strings, polynomial_multiplication and ransom_note,
    ask the same in every process only where the environment variable ``PYTHONHASHSEED`` is set, and are refused
    elsewhere. Most questions are made in a millisecond; futoshiki, knight_swap, intermediate_integration,
    zebra_puzzles and word_ladder take half a second or more.

    Args:
        dataset: name in reasoning-gym.
        threshold: score from which on an answer is a success, above 0..1.
        partial_credit: reward answers below the threshold with their score; else with 0.
        config: fields of the dataset's configuration, such as ``{"max_terms": 3}``; ``seed`` and ``size`` are not among
            them, as the seed of ``reset`` draws the question.
    """

    def __init__(
        self,
        dataset: str = "chain_sum",
        threshold: float = 1.0,
        partial_credit: bool = True,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(max_turns=1)
        self.threshold = share("threshold", threshold, 0.01, 1.0)
        self.partial_credit = partial_credit
        self.dataset, self._config = dataset, dict(config or {})
        if given := sorted({"seed", "size"} & set(self._config)):
            raise ValueError(f"config.{given[0]} is not yours to set: the seed of reset() draws the question.")
        self._data = make_dataset(dataset, self._config)

    def _new_task(self) -> str:
        index = int(self.np_random.integers(2**31))
        with seeded_global_random(index):
            try:
                self.task = self._data[index]
            except IndexError:  # the few that draw up a list first: a list of one
                self.task = make_dataset(self.dataset, {**self._config, "seed": index, "size": 1})[0]
        self.state = Answered()
        return ""

    def _view(self) -> View:
        place = f"{self.dataset} {self.task['metadata'].get('source_index', '')}"
        if self.state.score is None:
            return View(self.task["question"], place, [])
        text = "Right." if self.state.score >= self.threshold else "Wrong."
        return View(text, f"{place} {text}", [])

    def _read(self, action: str) -> str:
        return answer_in(action)

    def _advance(self, action: str) -> None:
        with seeded_global_random(0):
            found = score(self._data, self.dataset, action, self.task)
        self.state = Answered(found, legible=0 < len(action) <= LONGEST_ANSWER)

    def _outcome(self) -> bool | None:
        return None if self.state.score is None else self.state.score >= self.threshold

    def _reward(self, outcome: bool | None) -> float:
        return 1.0 if outcome else self._score() if self.partial_credit else 0.0

    def _score(self) -> float:
        return self.state.score or 0.0

    def _info(self, *, valid: bool, success: bool) -> dict[str, Any]:
        info = {**super()._info(valid=valid and self.state.legible, success=success), "score": self._score()}
        answer = self._right_answer()
        if answer is None:
            return info
        worked = self.task["metadata"].get("answer_cot")
        tagged = f"<answer>{answer}</answer>"
        return info | {"answer": answer, "reference": f"{worked}\n{tagged}" if worked else tagged}

    def _right_answer(self) -> str | None:
        answer = self.task["answer"]
        if answer is None and self.dataset in EXAMPLES:
            answer = EXAMPLES[self.dataset](self.task["metadata"])
        return None if answer is None else str(answer)

    def _plan(self) -> list[str]:
        answer = self._right_answer()
        return [] if answer is None else [f"<answer>{answer}</answer>"]


def make_dataset(dataset: str, config: Mapping[str, Any]) -> Any:
    """Make a dataset of reasoning-gym.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: there is no such dataset, its questions would differ between processes, or its configuration does
            not fit.
    """
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise ImportError("These questions need reasoning-gym: pip install 'agentgrpo[reasoning-gym]'") from error
    known = sorted(set(DATASETS) - {"composite"})
    if dataset not in known:
        hint = did_you_mean(dataset, known)
        raise ValueError(f"dataset {dataset!r} is not one of reasoning-gym's.{hint} Names: {', '.join(known)}.")
    if dataset in HASH_DEPENDENT and os.environ.get("PYTHONHASHSEED", "random") == "random":
        raise ValueError(
            f"dataset {dataset!r} asks something else in every process, because of Python's random string hashes. Set "
            "the environment variable PYTHONHASHSEED=0, or choose another dataset."
        )
    fields = [field.name for field in dataclasses.fields(DATASETS[dataset][1])]
    allowed = [name for name in fields if name not in ("seed", "size")]
    for name in config:
        if name not in fields:
            raise ValueError(
                f"config.{name} is no field of {dataset!r}.{did_you_mean(name, allowed)} Fields: {', '.join(allowed)}."
            )
    try:
        with seeded_global_random(0):
            made = create_dataset(dataset, **{"seed": 0, **config})
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"config={dict(config)} does not fit dataset {dataset!r}: {error}") from error
    for name, module in list(sys.modules.items()):  # some print; a name in their module hides the built-in from them
        if name.startswith("reasoning_gym."):
            vars(module)["print"] = lambda *args, **kwargs: None
    return made
