"""The child's side of :mod:`agentgrpo.remote_env`: ``python -m agentgrpo.env_process ID KWARGS``."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from agentgrpo.environments import Env, attribute, checked_reset_call, checked_step, make, plain_entries

METHODS = ("oracle_actions",)
"""Methods of the contract whose results are plain."""
VALUES = ("max_return", "seed_advice")


def main() -> None:
    """Answers questions until the other side closes the channel."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the environment prints must not stand between the answers
    try:
        env = make(sys.argv[1], json.loads(sys.argv[2]))
    except ValueError as error:
        _send(channel, {"refused": str(error)})
        return
    _send(
        channel,
        {
            "methods": [name for name in METHODS if attribute(env, name) is not None],
            "values": {name: value for name in VALUES if (value := attribute(env, name)) is not None},
        },
    )
    serve(env, sys.stdin, channel)
    env.close()


def serve(env: Env, questions: TextIO, channel: TextIO) -> None:
    """Answers each line of ``questions`` with a line."""
    answers: dict[str, Callable[..., Any]] = {
        "reset": lambda seed, options: _told(*checked_reset_call(env, seed, options)),
        "step": lambda action: _told(*checked_step(env, action)),
        "call": lambda name: attribute(env, name)(),
    }
    for line in questions:
        question = json.loads(line)
        what = question.pop("do")
        if what == "close":
            _send(channel, {"value": None})
            return
        try:
            answer = {"value": answers[what](**question)}
            text = json.dumps(answer)
        except Exception:
            text = json.dumps({"error": traceback.format_exc()})
        channel.write(text + "\n")
        channel.flush()


def _told(*parts: Any) -> list[Any]:
    """Parts of an answer with what of ``info`` can be told."""
    *rest, info = parts
    return [*rest, {k: v for k, v in plain_entries(info).items() if _is_json(v)}]


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _send(channel: TextIO, message: dict[str, Any]) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()


if __name__ == "__main__":
    main()
