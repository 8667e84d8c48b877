"""A model behind a server plays: it sees what a policy would be shown, many episodes at a time, on the same panel."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_chat_server import Answer, Server, saying

from agentgrpo.chat_player import messages_of
from agentgrpo.cli import main
from agentgrpo.context import ChatFormat, make_conversation
from agentgrpo.episode import Episode, Task
from agentgrpo.types import Step

GUESS = [
    "env=number_guess",
    "env.kwargs.high=4",
    "env.kwargs.max_turns=3",
    "env.instructions=Guess.",
    "eval.num_tasks=12",
]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(**kwargs: Any) -> Server:
        made.append(Server(**kwargs))
        return made[-1]

    yield start
    for server in made:
        server.close()


def episode() -> Episode:
    steps = [Step("You see a door.", text=" open it ", action="open it"), Step("It is open.", text="go", action="go")]
    made = Episode(None, Task(1, ()), 0, steps=steps)  # type: ignore[arg-type]
    made.observation = "A wall."
    return made


def test_a_transcript_is_all_turns() -> None:
    assert messages_of(episode(), "Be quick.", "transcript", 2) == [
        {"role": "system", "content": "Be quick."},
        {"role": "user", "content": "You see a door."},
        {"role": "assistant", "content": " open it "},
        {"role": "user", "content": "It is open."},
        {"role": "assistant", "content": "go"},
        {"role": "user", "content": "A wall."},
    ]
    assert messages_of(episode(), "", "transcript", 2)[0]["role"] == "user"


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_a_window_is_what_a_policy_is_prompted_with(turns: int) -> None:
    from helpers import tiny_tokenizer

    chat = ChatFormat(tiny_tokenizer(), "Be quick.")
    talk = make_conversation(chat, "window", turns)
    for step in episode().steps:
        talk.observe(step.observation)
        talk.answer((5,), step.action)
    prompt, _ = talk.observe("A wall.")
    system, user = messages_of(episode(), "Be quick.", "window", turns)
    assert chat.decode(prompt) == system["content"] + user["content"]


def lowest_left(body: dict[str, Any]) -> Answer:
    """Guesses 1, 2, 3, ... by the number of answers that it has given."""
    return saying(str(1 + sum(m["role"] == "assistant" for m in body["messages"])))


def evaluated(capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[int, str, str]:
    status = main(["eval", *overrides])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_eval_plays_the_panel_of_the_run(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    small = [
        "model.hidden_size=32",
        "model.num_layers=1",
        "model.num_heads=2",
        "warm_start.episodes=32",
        "group_size=2",
    ]
    assert main(["train", *GUESS, *small, "num_updates=0", f"run_dir={run}"]) == 0
    server = serve(act=lowest_left)
    openai = ["sampler=openai", f"sampler.base_url={server.url}", "sampler.model=small"]
    capsys.readouterr()
    status, out, _ = evaluated(capsys, f"run_dir={run}", *openai)
    assert status == 0
    assert f"policy    small at {server.url}" in out
    # Three guesses from below find 1, 2 and 3 of 1..4. The panel is the run's own.
    panel = json.loads((run / "summary.json").read_text())["panel"]
    assert f"12 tasks, hash {panel['hash'][:16]}" in out
    _, by_policy, _ = evaluated(capsys, f"run_dir={run}")
    assert f"hash {panel['hash'][:16]}" in by_policy
    success = float(re.search(r"success   ([\d.]+)", out)[1])  # type: ignore[index]
    assert 0.5 < success < 1.0
    turns = float(re.search(r"turns ([\d.]+)", out)[1])  # type: ignore[index]
    assert len(server.requests) == round(12 * turns)
    assert {r["messages"][0]["content"] for r in server.requests} == {"Guess."}
    assert {r["max_tokens"] for r in server.requests} == {8}


def test_eval_without_a_run(serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(act=lowest_left)
    openai = ["sampler=openai", f"sampler.base_url={server.url}", "sampler.model=small", "eval.temperature=0"]
    status, out, _ = evaluated(capsys, *GUESS, *openai)
    assert (status, "temperature 0" in out) == (0, True)
    assert {r["temperature"] for r in server.requests} == {0}


def test_requests_are_under_way_together(serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]) -> None:
    together = threading.Barrier(4, timeout=10.0)

    def act(body: dict[str, Any]) -> Answer:
        together.wait()  # breaks where fewer than four are asked at a time
        return saying("1")

    openai = [
        "sampler=openai",
        f"sampler.base_url={serve(act=act).url}",
        "sampler.model=small",
        "sampler.concurrency=4",
    ]
    status, _, err = evaluated(capsys, *GUESS, "env.kwargs.max_turns=1", *openai)
    assert (status, err) == (0, "")


def test_play_shows_what_the_server_does(serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(act=lowest_left)
    assert main(["play", *GUESS, "sampler=openai", f"sampler.base_url={server.url}", "sampler.model=small"]) == 0
    out = capsys.readouterr().out
    assert f"small at {server.url} plays" in out
    assert '> "1"' not in out
    assert "> 1" in out


def test_an_error_of_the_server_ends_the_evaluation(
    serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(act=lambda body: (401, {}, b"no"))
    openai = ["sampler=openai", f"sampler.base_url={server.url}", "sampler.model=small"]
    status, _, err = evaluated(capsys, *GUESS, *openai)
    assert status == 2
    assert err.startswith(f"error: {server.url} refuses requests without a key")


def test_text_of_any_kind_is_an_answer(serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(act=lambda body: saying("\ud800 ☃ \x00"))
    status, _, err = evaluated(
        capsys, *GUESS, "sampler=openai", f"sampler.base_url={server.url}", "sampler.model=small"
    )
    assert (status, err) == (0, "")


def test_training_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    openai = ["sampler=openai", "sampler.base_url=http://localhost:9/v1", "sampler.model=small"]
    assert main(["train", *GUESS, *openai, f"run_dir={tmp_path / 'run'}"]) == 2
    assert "no token ids, and no log-probabilities of them, to train with" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_settings_that_are_missing_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = evaluated(capsys, *GUESS, "sampler=openai")
    assert status == 2
    assert "sampler.base_url is not set" in err
