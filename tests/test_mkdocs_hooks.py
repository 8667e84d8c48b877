"""scripts/mkdocs_hooks.py: links out of docs/, and what pages would fetch."""

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def hooks() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("mkdocs_hooks")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").touch()
    (tmp_path / "docs" / "results").mkdir(parents=True)
    return tmp_path / "docs"


def test_links_out_of_docs_become_text_and_others_stay(
    hooks: ModuleType, docs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = (
        "[conf](../../conf/train.yaml#x), [`conf/`](../../conf), [suite](suite.md), [view](../view.md#a),\n"
        "![a picture](../images/a.png), [out](https://example.org/../x)\n"
        "```\n[conf](../../conf/train.yaml)\n```\n[end](../../conf/train.yaml)"
    )
    with caplog.at_level(logging.WARNING):
        found = hooks.without_outside_links(page, docs / "results" / "index.md", docs)
    assert found == (
        "conf, `conf/`, [suite](suite.md), [view](../view.md#a),\n"
        "![a picture](../images/a.png), [out](https://example.org/../x)\n"
        "```\n[conf](../../conf/train.yaml)\n```\nend"
    )
    assert caplog.text == ""


def test_a_link_to_a_file_that_is_not_there_is_a_warning(
    hooks: ModuleType, docs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert hooks.without_outside_links("[it](../conf/trian.yaml)", docs / "a.md", docs) == "it"
    assert "a.md links to ../conf/trian.yaml, which does not exist" in caplog.text


@pytest.mark.parametrize(
    ("html", "count"),
    [
        ('<script src="https://example.org/x.js"></script>', 1),
        ('<link rel="stylesheet" href="//fonts.example.org/css">', 1),
        ("<img alt='' src=http://example.org/x.png>", 1),
        ('<script src="assets/x.js"></script><link href="assets/x.css"><img src="images/x.png">', 0),
        ('<a href="https://example.org">read</a>', 0),
    ],
)
def test_what_a_browser_would_fetch_from_elsewhere(hooks: ModuleType, html: str, count: int) -> None:
    assert len(hooks.fetched_from_elsewhere(html)) == count
