"""scripts/env_card.py: figures by hand, and a page that is complete and comes out the same again."""

import dataclasses
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import pytest

from agentgrpo.environments import make
from agentgrpo.envs import ENV_IDS, EXTRAS

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


class TwoDoors(gym.Env[str, str]):
    """The left door leads to a corridor of one step, the right one out of the game; only the corridor wins."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.inside = False
        return "Two doors.", {"anchor": "doors", "admissible_actions": ["left", "right"]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.inside:
            return "Out.", 1.0, True, False, {"success": True}
        self.inside = True
        info = {"anchor": "corridor", "admissible_actions": ["on"], "success": False}
        return "A corridor.", 0.0, action == "right", False, info


class Essay(TwoDoors):
    """Names no actions, has no oracle."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return super().reset(seed=seed)[0], {}


class OracleAtTheStart(TwoDoors):
    """An oracle as engines have it: a walkthrough from the first state only."""

    def oracle_actions(self) -> list[str]:
        return [] if self.inside else ["left", "on"]


for _cls in (TwoDoors, Essay, OracleAtTheStart):
    gym.register(f"EnvCard/{_cls.__name__}-v0", entry_point=_cls)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from _script("env_figures", monkeypatch)


@pytest.fixture
def env_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from _script("env_card", monkeypatch)


def _script(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module(name)
    for module in ("env_card", "env_figures"):
        sys.modules.pop(module, None)


def test_mixed_and_shared_by_hand(figures: ModuleType) -> None:
    assert figures.mixed_share([[True, False], [True, True], [False, False], [False, True]]) == 0.5
    # Later steps: b, c | b | none. b is met by both of the first two; c by nobody; the first steps do not count.
    assert figures.shared_share([[["a", "b", "c"], ["a", "b"], ["a"]]]) == pytest.approx(2 / 3)
    # Coming back to where the others started counts, meeting oneself does not, nor do other groups.
    assert figures.shared_share([[["a", "a", "d", "d"], ["a"]], [["d"], ["e", "d"]]]) == pytest.approx(2 / 4)
    assert figures.mixed_share([]) is None
    assert figures.shared_share([[["a"], ["a"]]]) is None


def test_figures_of_a_task_that_is_known_by_heart(figures: ModuleType) -> None:
    found = figures.measure(make("EnvCard/TwoDoors-v0", {}), num_tasks=40, num_rollouts=16, seconds=60)
    # A fair coin decides: 640 of them, in 80 groups of 8, of which 2 in 256 are all alike.
    assert 0.42 < found.success < 0.58
    assert 0.9 < found.mixed <= 1
    assert found.shared > 0.95  # the corridor is met by others, unless one goes left alone
    assert (found.oracle_success, found.oracle_steps) == (None, None)
    assert (found.first, found.length_max, found.num_tasks) == ("Two doors.", 11, 40)
    assert found.steps_per_second > 0


def test_free_text_has_no_random_player_and_a_walkthrough_is_followed_to_its_end(figures: ModuleType) -> None:
    essay = figures.measure(make("EnvCard/Essay-v0", {}), num_tasks=2, num_rollouts=8, seconds=60)
    assert (essay.success, essay.mixed, essay.shared) == (None, None, None)
    oracle = figures.measure(make("EnvCard/OracleAtTheStart-v0", {}), num_tasks=3, num_rollouts=8, seconds=60)
    assert (oracle.oracle_success, oracle.oracle_steps) == (1.0, 2.0)


def test_slow_environments_are_played_on_fewer_tasks(figures: ModuleType) -> None:
    found = figures.measure(make("EnvCard/TwoDoors-v0", {}), num_tasks=40, num_rollouts=1, seconds=0.0)
    assert (found.num_tasks, found.mixed) == (2, None)  # one episode is no group


def test_figures_are_the_same_again_but_for_the_clock(figures: ModuleType) -> None:
    one, other = (
        dataclasses.replace(
            figures.measure(make("agentgrpo/KeyMaze-v0", {}), num_tasks=3, num_rollouts=8, seconds=60),
            steps_per_second=0.0,
        )
        for _ in range(2)
    )
    assert one == other


def test_the_page_has_a_row_and_a_card_for_each(env_card: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    assert env_card.main(["--only", "key_maze", "agentgrpo/Sokoban-v0", "--tasks", "3", "--out", str(out)]) == 0
    page = out.read_text()
    assert f"Made by `python scripts/env_card.py --only key_maze agentgrpo/Sokoban-v0 --tasks 3 --out {out}` on" in page
    assert re.search(
        r"\| \[key_maze\]\(#key_maze\) \| 0\.\d{3} \| .* \| 1\.000 \(\d\.\d\) \| [\d,]+ \| \d+, \d+ \|", page
    )
    assert "\nmin_solution: 0                  # fewest actions to the treasure" in page
    assert "`agentgrpo/Sokoban-v0`, [envs/sokoban.py](../envs/sokoban.py)" in page
    assert "Goal: push the box $ to X. You are P.\n" in page
    assert "python -m agentgrpo train env=sokoban\n" in page
    assert "``" not in page.replace("```", "")
    assert re.findall(r"^## (\w+)", page, re.MULTILINE) == ["key_maze", "sokoban"]


def test_every_id_has_a_card_and_the_page_in_docs_has_them_all(env_card: ModuleType) -> None:
    assert {config["id"] for config in env_card.configurations().values()} == set(ENV_IDS)
    cards = re.findall(r"^## (\w+)", env_card.PAGE.read_text(), re.MULTILINE)
    assert cards == list(env_card.configurations()), "run python scripts/env_card.py again"


def test_what_cannot_be_made_here_is_listed_as_such(
    env_card: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(env_id: str, kwargs: dict[str, Any]) -> None:
        raise ValueError("Environment 'x' needs Java. Next: pip install 'agentgrpo[x]'")

    monkeypatch.setattr(env_card, "make", refuse)
    monkeypatch.setitem(EXTRAS, "agentgrpo/KeyMaze-v0", "keys")
    assert env_card.main(["--only", "key_maze"]) == 0
    page = capsys.readouterr().out
    assert "| [key_maze](#key_maze) | - | - | - | - | - | - |" in page
    assert "Needs `pip install 'agentgrpo[keys]'`." in page
    assert "No figures. It could not be made where this page was. Environment 'x' needs Java." in page


def test_an_environment_that_fails_does_not_stop_the_others(
    env_card: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the engine is gone")

    monkeypatch.setattr(env_card, "measure", fail)
    assert env_card.main(["--only", "key_maze", "sokoban"]) == 1
    assert capsys.readouterr().out.count("No figures. It failed with RuntimeError: the engine is gone") == 2


def test_an_unknown_name_is_refused(env_card: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        env_card.main(["--only", "key_mase"])
    assert "--only key_mase: no such environment. Did you mean 'key_maze'?" in capsys.readouterr().err
