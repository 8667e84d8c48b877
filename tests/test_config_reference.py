"""scripts/config_reference.py: comments and ranges by hand, and the page in docs is what it makes."""

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from agentgrpo.checks import above, at_least, within
from agentgrpo.composing import GROUPS, choices, compose_config

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SEVERAL = """\
# What the file is for.
lr: 1.0e-3  # a rate
word: "a # b"   # not the end: a # b
kwargs:        # a block
  deep: null          # first line
                      # second line
  # a line for the reader of the file alone
  last: 3
"""


@dataclass
class Below:
    one: int = 1

    def __post_init__(self) -> None:
        at_least("x.one", self.one, 1)


@dataclass
class Above(Below):
    two: float = 2.0
    kind: Literal["a", "b"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        above("x.two", self.two, self.one)
        within("x.other", 0.5, f"[0, {self.one}]")


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("config_reference")
    sys.path.remove(str(SCRIPTS))
    sys.modules.pop("config_reference", None)


@pytest.fixture(scope="module")
def page(reference: ModuleType) -> str:
    return str(reference.PAGE.read_text())


def test_the_page_in_docs_is_what_conf_says(reference: ModuleType, page: str) -> None:
    assert page == reference.page(), "run python scripts/config_reference.py again"


def test_check_tells_a_page_that_is_not(
    reference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "page", lambda: "as it should be\n")
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    monkeypatch.setattr(reference, "PAGE", tmp_path / "configuration.md")
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().err == "configuration.md is not what conf/ says: python scripts/config_reference.py\n"
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


@pytest.mark.parametrize("group", [g for g in GROUPS if g != "experiment"])
def test_every_setting_of_every_choice_is_on_the_page(group: str, page: str) -> None:
    written = set(re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE))
    # What names the kind of a thing goes with the choice; reward terms and games have keys of the user's own.
    with_the_choice = re.compile(r"(algorithm\.name|.*\.kind|env\.kwargs\.\w+\..*)$")
    for choice in choices(group):
        if choice in ("custom", "mix"):
            continue
        composed = compose_config("train", [f"{group}={choice}", *(["model.path=x"] if choice == "hf" else [])])
        keys = set(_leaves(OmegaConf.to_container(composed)))
        assert {k for k in keys - written if not with_the_choice.match(k)} == set(), f"{group}={choice}"


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_comments_stand_beside_their_settings(reference: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "several.yaml"
    path.write_text(SEVERAL)
    found = {s.key: (s.default, s.comment) for s in reference.read(path)}
    assert found == {
        "lr": ("1.0e-3", "a rate"),
        "word": ('"a # b"', "not the end: a # b"),
        "kwargs": ("", "a block"),
        "kwargs.deep": ("null", "first line second line"),
        "kwargs.last": ("3", ""),
    }
    assert reference.heading(path) == "What the file is for."


def test_ranges_are_those_of_the_checks(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "PACKAGES", (__name__,))
    assert reference.ranges(Above) == {"one": "≥ 1", "two": "> one", "other": "[0, one]", "kind": "a | b"}


@pytest.mark.parametrize(
    ("comment", "limits", "left"),
    [
        ("a | b: which", "a | b", "which"),
        ("which: a | b", "a | b", "which"),
        ("a: one thing | b: another", "a | b", "a: one thing | b: another"),
        ("discount, in (0, 1]", "(0, 1]", "discount"),
        ("steepness, > 0", "> 0", "steepness"),
        ("> 0; of the token", "> 0", "of the token"),
        ("anything", "", "anything"),
    ],
)
def test_a_range_is_said_once(reference: ModuleType, comment: str, limits: str, left: str) -> None:
    assert reference.without_range(comment, limits) == left
