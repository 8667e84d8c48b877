"""The HTML file: markup, style and scripts from ``page/``, with the data beside them."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

from agentgrpo.view.compact import PageData

SCRIPTS = ("data.js", "text.js", "colour.js", "filters.js", "list.js", "board.js", "states.js", "keys.js", "main.js")
"""In this order: a script may use at once what an earlier one defines."""


def write_page(data: PageData, path: Path) -> int:
    """Writes the page whole or not at all, and returns its size in bytes.

    Raises:
        ValueError: the file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.writelines(pieces(data))
        part.rename(path)
    except OSError as error:
        raise ValueError(f"out={path} cannot be written: {error.strerror}. Name another file: out=view.html") from error
    return path.stat().st_size


def pieces(data: PageData) -> Iterator[str]:
    """The page from its start to its end."""
    style = _source("style.css")
    scripts = [_source(name) for name in SCRIPTS]
    run = data.run
    filled = {
        "title": html.escape(" · ".join(part for part in (run.name, run.env, run.algorithm) if part)),
        # Nothing is fetched, and no script runs but these, whatever stands in the data.
        "policy": f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes([style])}; img-src data:",
        "style": f"<style>{style}</style>",
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    before, after = _source("page.html").split("{{data}}")
    yield _fill(before, filled)
    for name, block in data.blocks.items():
        yield f'<script type="application/gzip" id="{name}">{block}</script>\n'
    yield _fill(after, filled)


def _fill(template: str, values: dict[str, str]) -> str:
    """One pass, so that a value may hold what looks like a placeholder."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _source(name: str) -> str:
    return resources.files("agentgrpo.view").joinpath("page", name).read_text(encoding="utf-8")


def _hashes(sources: Iterable[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in sources)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
