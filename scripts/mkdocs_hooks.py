"""What `mkdocs build` does besides (mkdocs.yml names this file).

Links from docs/ to the repository's other files: on a code host `[conf/train.yaml](../conf/train.yaml)` leads to the
file. The site has pages only, so there such a link becomes its text. A link to a file that does not exist is a warning,
and so is anything that a browser would fetch from another server; --strict turns warnings into a failure.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\.?/[^)#\s]*)(?:#[^)\s]*)?\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>"
)

log = logging.getLogger("mkdocs.hooks")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """MkDocs' hook: the page's text before it is rendered."""
    return without_outside_links(markdown, Path(page.file.abs_src_path), Path(config.docs_dir))


def without_outside_links(markdown: str, page: Path, docs: Path) -> str:
    """The page with links to files outside ``docs`` replaced by their texts; code blocks stay as they are."""

    def replaced(link: re.Match[str]) -> str:
        target = (page.parent / link[2]).resolve()
        if target.is_relative_to(docs.resolve()):
            return link[0]
        if not target.exists():
            log.warning("%s links to %s, which does not exist", page.name, link[2])
        return link[1]

    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(replaced, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(replaced, markdown[end:])])


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """MkDocs' hook: a page as it is written. What a browser would fetch from elsewhere is a warning."""
    for element in fetched_from_elsewhere(output):
        log.warning("%s would fetch from elsewhere: %s", page.file.src_uri, element)
    return output


def fetched_from_elsewhere(html: str) -> list[str]:
    """Elements for which a browser asks another server; links that a reader may follow are none."""
    return _FETCHED.findall(html)
