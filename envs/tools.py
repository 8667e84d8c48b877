"""Tools as agents call them: ``name[argument]``, or the JSON object of chat models, with or without its tags."""

import json
import re
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from agentgrpo.checks import one_of
from agentgrpo.envs.base import State, Task, TextEnv

MAX_CALL = 2000
"""Characters of a call. A longer one is none."""

FORMATS = ("text", "json")

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_TEXT_CALL = re.compile(r"([A-Za-z_]+)\s*(?:\[(.*)\])?", re.DOTALL)
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that can be called.

    Attributes:
        name: in lower case.
        argument: what the only argument is, and its key in a JSON call; empty for a tool that takes none.
    """

    name: str
    argument: str = ""

    def call(self, value: str, tool_format: str) -> str:
        """Return the text of a call with ``value`` as the argument, in one of ``FORMATS``."""
        if tool_format == "json":
            arguments = {self.argument: value} if self.argument else {}
            return json.dumps({"name": self.name, "arguments": arguments}, ensure_ascii=False)
        return f"{self.name}[{value}]" if self.argument else self.name

    def sketch(self, tool_format: str) -> str:
        """Return what a call looks like."""
        return self.call("..." if tool_format == "json" else self.argument, tool_format)


class ToolEnv(TextEnv[Task, State]):
    """A task that is worked on by calling tools. A tool takes one text, or nothing.

    A call is understood in either format, whatever ``tool_format`` says: ``calculate[12*7]``, or
    ``{"name": "calculate", "arguments": {"expression": "12*7"}}``, which may stand between ``<tool_call>`` and
    ``</tool_call>`` and behind some other text. A call that a tool answers with an error is a valid action, as it was
    understood; text that is no call, or one of an unknown tool, is not.

    A task writes ``tools`` and ``_use``, and ``_possible`` where not every argument means something.

    Args:
        max_turns: calls per episode.
        tool_format: how observations, ``admissible_actions`` and the oracle write calls; text | json.
    """

    tools: ClassVar[tuple[Tool, ...]]

    def __init__(self, max_turns: int, tool_format: str) -> None:
        super().__init__(max_turns)
        one_of("tool_format", tool_format, FORMATS)
        self.tool_format = tool_format
        self._by_name = {tool.name: tool for tool in self.tools}
        *first, last = (tool.sketch(tool_format) for tool in self.tools)
        self._sketches = f"{', '.join(first)} or {last}" if first else last

    @abstractmethod
    def _use(self, name: str, argument: str) -> None:
        """Apply a call of the tool ``name``, which is possible, to ``self.state``."""

    def _possible(self, name: str, argument: str) -> bool:
        """Whether a call of a known tool means something in the current state."""
        return True

    def _write(self, name: str, argument: str = "") -> str:
        """Return the text of a call in the format of this environment."""
        return self._by_name[name].call(argument, self.tool_format)

    def _expected(self) -> str:
        return self._sketches

    def _how_to_answer(self) -> str:
        """Say what calls look like, as the first sentence of a task."""
        return f"Answer with {self._sketches}."

    def _read(self, action: str) -> str | None:
        call = read_call(action, self._by_name.values())
        if call is None or not self._possible(*call):
            return None
        name, argument = call
        return self._by_name[name].call(argument, "text")

    def _advance(self, action: str) -> None:
        name, _, rest = action.partition("[")
        self._use(name, rest.removesuffix("]"))


def read_call(text: str, tools: Iterable[Tool]) -> tuple[str, str] | None:
    """Read a call.

    Args:
        text: anything that a model may have written.
        tools: those that there are.

    Returns:
        The tool's name and the argument, without blanks around it; None if the text is no complete call of one of the
        tools. An argument is empty only where the tool takes none.
    """
    body = _without_tags(text)
    if body is None or len(body) > MAX_CALL:
        return None
    by_name = {tool.name: tool for tool in tools}
    call = _read_json(body, by_name) if body.startswith("{") else _read_text(body)
    if call is None or call[0] not in by_name or bool(call[1]) != bool(by_name[call[0]].argument):
        return None
    return call


def _without_tags(text: str) -> str | None:
    """Return what stands between the tags, or all where there are none; None if they do not enclose one last call."""
    _, tag, rest = text.partition(_OPEN)
    if not tag:
        return text.strip()
    body, tag, after = rest.partition(_CLOSE)
    return body.strip() if tag and not after.strip() else None


def _read_text(body: str) -> tuple[str, str] | None:
    match = _TEXT_CALL.fullmatch(body)
    return (match[1].lower(), (match[2] or "").strip()) if match else None


def _read_json(body: str, tools: dict[str, Tool]) -> tuple[str, str] | None:
    call = _json_object(body)
    name, arguments = call.get("name"), call.get("arguments", {})
    if isinstance(arguments, str):  # some models write the arguments as a text that holds JSON
        arguments = _json_object(arguments)
    tool = tools.get(name.lower()) if isinstance(name, str) else None
    if tool is None or not isinstance(arguments, dict) or set(arguments) != ({tool.argument} - {""}):
        return None
    value = arguments.get(tool.argument, "")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return tool.name, str(value).strip()


def _json_object(text: str) -> dict[str, Any]:
    """Return the JSON object that a text holds; {} if it holds none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def same_answer(given: str, expected: str) -> bool:
    """Whether two answers are the same number, or else the same text but for case, blanks, quotes and a full stop."""
    one, other = _bare(given), _bare(expected)
    if _NUMBER.fullmatch(one) and _NUMBER.fullmatch(other):
        return Fraction(one) == Fraction(other)
    return one == other


def _bare(answer: str) -> str:
    return " ".join(answer.lower().split()).removesuffix(".").strip("'\" ")


def printable(text: str, max_length: int) -> str:
    """Return a tool's text in one line, without control characters, cut to ``max_length`` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * max_length]).split())
    return line if len(line) <= max_length else f"{line[: max_length - 3]}..."
