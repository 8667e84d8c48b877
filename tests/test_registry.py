"""Names -> classes, and what is said when there is none."""

from pathlib import Path

import pytest

from agentgrpo.algorithms.gigpo import GiGPO
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.registry import algorithm_class, algorithm_names, did_you_mean, register_algorithm
from agentgrpo.seeding import derive

MINE = """
from dataclasses import dataclass
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.registry import register_algorithm

@register_algorithm("{name}")
@dataclass(frozen=True)
class Mine(GRPO):
    bonus: float = 1.5

not_a_class = 3
class NotAnAlgorithm: ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A user's file with an algorithm, under a name of its own for each test."""
    name = f"user_{derive(request.node.name)}"
    (tmp_path / f"{name}.py").write_text(MINE.format(name=f"{name}_registered"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("agentgrpo.registry._ALGORITHMS", {"grpo": GRPO, "gigpo": GiGPO})
    return name


def test_registered_name() -> None:
    assert algorithm_class("gigpo") is GiGPO


def test_names_are_sorted() -> None:
    assert algorithm_names() == sorted(algorithm_names())


def test_misspelt_name_is_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(ValueError, match=r"'gigp' is not registered. Did you mean 'gigpo'\? Registered: .*grpo"):
        algorithm_class("gigp")


def test_error_says_how_to_name_an_own_algorithm() -> None:
    with pytest.raises(ValueError, match=r"'module:name', e.g. algorithm.name=my_module:Mine"):
        algorithm_class("zzzzzzzz")


def test_did_you_mean_is_silent_when_nothing_is_near() -> None:
    assert did_you_mean("zzzzzzzz", ["grpo", "gigpo"]) == ""


def test_class_from_a_users_file(module: str) -> None:
    cls = algorithm_class(f"{module}:Mine")
    assert (cls.__name__, cls.__module__, cls().bonus) == ("Mine", module, 1.5)  # type: ignore[attr-defined]


def test_registered_name_from_a_users_file(module: str) -> None:
    assert algorithm_class(f"{module}:{module}_registered").__name__ == "Mine"


def test_wrong_attribute_lists_the_algorithms_of_the_file(module: str) -> None:
    with pytest.raises(ValueError, match=r"has no algorithm class 'Mien'. Did you mean 'Mine'\?.*Mine"):
        algorithm_class(f"{module}:Mien")


@pytest.mark.parametrize("attribute", ["not_a_class", "NotAnAlgorithm"])
def test_attribute_that_is_no_algorithm(module: str, attribute: str) -> None:
    with pytest.raises(ValueError, match=f"no algorithm class '{attribute}'"):
        algorithm_class(f"{module}:{attribute}")


def test_a_name_that_another_module_registered_is_not_in_this_one(module: str) -> None:
    with pytest.raises(ValueError, match="no algorithm class 'grpo'"):
        algorithm_class(f"{module}:grpo")


def test_missing_module_says_where_it_is_looked_for() -> None:
    with pytest.raises(ValueError, match=r"cannot import module 'no_such_module'.*PYTHONPATH"):
        algorithm_class("no_such_module:Mine")


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(ValueError, match=r"'grpo' is registered already, by agentgrpo.algorithms.grpo.GRPO"):
        register_algorithm("grpo")(GiGPO)


def test_registering_the_same_class_again_is_fine() -> None:
    assert register_algorithm("grpo")(GRPO) is GRPO
