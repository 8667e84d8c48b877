"""What `mkdocs build` does besides (mkdocs.yml names this file): links from docs/ to the repository's other files.

On a code host `[conf/train.yaml](../conf/train.yaml)` leads to the file. The site has pages only, so there such a link
becomes its text. A link to a file that does not exist is a warning, which --strict turns into a failure.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\.?/[^)#\s]*)(?:#[^)\s]*)?\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

log = logging.getLogger("mkdocs.hooks.outside_links")


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
