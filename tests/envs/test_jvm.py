"""What the adapters of Java engines share: finding Java, and knowing where a game stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentgrpo.envs.jvm import JavaGame, java_path


def test_missing_java_names_the_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(FileNotFoundError, match=r"needs Java 8 or newer.*apt-get install default-jre-headless"):
        java_path()


def test_java_home_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = [tmp_path / "home" / "bin", tmp_path / "path"]
    for folder in homes:
        folder.mkdir(parents=True)
        (folder / "java").write_text("")
        (folder / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(homes[1]))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert java_path() == str(homes[1] / "java")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert java_path() == str(homes[0] / "java")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    assert java_path() == str(homes[1] / "java")


class Counting(JavaGame[str]):
    """Says what was done, and notes it."""

    def __init__(self) -> None:
        class Engine:
            def make(self, java_class: str) -> Any:
                return java_class

        super().__init__(Engine(), "some.Class")  # type: ignore[arg-type]
        self.done: list[str] = []

    def _start(self, number: int, *, gold: bool) -> str:
        self.done.append(f"start {number}")
        return f"{number}:"

    def _changed(self) -> bool:
        return not self.now.endswith("look")

    def _step(self, action: str) -> str:
        if action == "raise":
            raise RuntimeError("the engine's own")
        self.done.append(action)
        return f"{self.now}{action}"


def test_a_game_is_played_again_only_where_it_stands_elsewhere() -> None:
    game = Counting()
    assert game.go_to(7, ("a", "b")) == "7:ab"
    assert game.go_to(7, ("a", "b")) == "7:ab"
    assert game.step("c") == "7:abc"
    assert game.go_to(7, ("a", "b", "c")) == "7:abc"
    assert game.done == ["start 7", "a", "b", "c"]
    game.done.clear()
    assert game.go_to(7, ("a",)) == "7:a"
    assert game.go_to(8, ("a",)) == "8:a"
    assert game.done == ["start 7", "a", "start 8", "a"]


def test_what_changes_nothing_does_not_count() -> None:
    game = Counting()
    game.go_to(7, ("a",))
    game.step("look")
    game.go_to(7, ("a",))
    assert game.done == ["start 7", "a", "look"]


def test_after_an_exception_a_game_stands_nowhere() -> None:
    game = Counting()
    game.start(7)
    with pytest.raises(RuntimeError):
        game.step("raise")
    game.done.clear()
    assert game.go_to(7, ()) == "7:"
    assert game.done == ["start 7"]
