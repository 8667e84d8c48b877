"""A report as it is read: in a terminal in short paragraphs, elsewhere one line per finding."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from agentgrpo.env_check.subject import Finding

STYLES = {"problem": "bold red", "advice": "yellow", "ok": "green"}
_INDENT = 9
_NAME = 31
"""Columns of the level and, in lines that need no more than it, of level and name."""


def print_findings(title: str, findings: Sequence[Finding], closing: Sequence[str], console: Console) -> None:
    """Problems first, then advice, then what is well, then what could be offered besides."""
    console.print(Text(title, style="bold"), soft_wrap=True)
    grouped = [f for level in STYLES for f in findings if f.level == level and not f.optional]
    optional = [f for f in findings if f.optional]
    if console.is_terminal:
        lines = [*_paragraphs(grouped, console.width), *_offers(optional, console.width), Text()]
    else:
        lines = [_line(f) for f in grouped + optional]
    for line in [*lines, *map(Text, closing)]:
        console.print(line, soft_wrap=True)


def _line(finding: Finding) -> Text:
    line = Text(f"{finding.level:8}", style=STYLES[finding.level])
    line.append(f"{finding.check:28}", style="default not bold").append(finding.found, style="default not bold")
    if finding.next_step:
        line.append(f" -> {finding.next_step}", style="italic not bold")
    return line


def _paragraphs(findings: Sequence[Finding], width: int) -> Iterator[Text]:
    quiet = False
    for finding in findings:
        style = STYLES[finding.level]
        if finding.level == "ok":
            if not quiet:
                yield Text()
            quiet = True
            first, *rest = _wrapped(finding.found, width, _NAME)
            yield Text("ok  ", style=style).append(f"{finding.check:{_NAME - 4}}{first}", style="default")
            yield from (Text(" " * _NAME + line) for line in rest)
            continue
        yield Text()
        yield Text(f"{finding.level:{_INDENT}}", style=style).append(finding.check, style="default bold")
        yield from (Text(" " * _INDENT + line) for line in _wrapped(_sentence(finding.found), width, _INDENT))
        for number, line in enumerate(_wrapped(_sentence(finding.next_step), width, _INDENT + 3)):
            yield Text(f"{' ' * _INDENT}{'   ' if number else '-> '}{line}", style="italic")


def _offers(findings: Sequence[Finding], width: int) -> Iterator[Text]:
    if not findings:
        return
    yield Text()
    yield Text("It could also offer:", style="bold")
    for finding in findings:
        yield Text(f"  {finding.check}: {finding.next_step}")
        yield from (Text(f"    {line}", style="dim") for line in _wrapped(_sentence(finding.found), width, 4))


def _wrapped(text: str, width: int, indent: int) -> list[str]:
    return textwrap.wrap(text, max(width - indent, 30), break_on_hyphens=False)


def _sentence(text: str) -> str:
    """``text`` with a capital, unless it begins with code, and a full stop."""
    if not text:
        return ""
    first = text.split()[0]
    capital = text[0].upper() + text[1:] if first.isalpha() else text
    return capital if capital.endswith((".", "!", "?")) else f"{capital}."
