"""Every block of README.md and docs/ is run, composed or looked up; and what is wrong in one is found."""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import doc_blocks
import pytest
from doc_blocks import PAGES, ROOT, Wrong, blocks, check, script_parser, settings_in_sentences

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    doc_blocks.forget(tmp_path)


RUNS_OF_ITS_OWN = ("docs/compare.md", "docs/results/sparse_reward.md", "docs/results/suite.md")
"""Pages with many commands to compose, or with runs to train."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in RUNS_OF_ITS_OWN)) for n in NAMES])
def test_every_block_can_be_done(name: str, folder: Path) -> None:
    check(blocks((ROOT / name).read_text(), name), folder)


@pytest.mark.parametrize("name", NAMES)
def test_settings_named_in_sentences_exist(name: str) -> None:
    reference = (ROOT / "docs" / "configuration.md").read_text()
    known = set(re.findall(r"^\| `([\w.]+)` \|", reference, re.MULTILINE))
    theirs = re.compile(r"(study\..*|env\.id|algorithm\.name|env\.kwargs\..*|envs\..*|reward\.\w+\.kind|hydra\..*)$")
    named = settings_in_sentences((ROOT / name).read_text(), name)
    assert [f"{where}: {key}" for where, key in named if key not in known and not theirs.match(key)] == []


@pytest.mark.parametrize("name", NAMES)
def test_links_and_pictures_lead_to_files_and_headings(name: str) -> None:
    page = ROOT / name
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file.read_text())):
            broken.append(target)
    assert broken == []


def _anchors(text: str) -> set[str]:
    """What headings are called, on a code host as on the site."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_every_page_is_in_the_navigation_or_linked_from_another() -> None:
    docs = ROOT / "docs"
    nav = {docs / f for f in re.findall(r": (\S+\.md)", (ROOT / "mkdocs.yml").read_text())}
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text())
        if (page.parent / target).resolve() != page
    }
    assert [str(page) for page in PAGES[1:] if page not in nav | linked] == []
    assert [str(page) for page in nav if not page.is_file()] == []


FENCE = "```"


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("", "python -m agentgrpo train optim.lrr=1", r"page\.md:4: .*\n.*'optim.lrr' is not a setting.*'optim.lr'"),
        ("", "echo\n\npython -m agentgrpo train algorithm=gigp", r"page\.md:6: .*\n.*there is no such algorithm"),
        ("", "python -m agentgrpo train -m algorithm=grpo,rlo seed=0,1", r"page\.md:4: .*\n.*algorithm=rlo"),
        ("", "for a in grpo rlo; do\n  python -m agentgrpo train algorithm=$a\ndone", r"page\.md:5: .*algorithm=rlo"),
        ("", "python -m agentgrpo train algorithm.gamma=2", r"algorithm\.gamma must be in \(0, 1\]"),
        ("", "python -m agentgrpo train env.id=nowhere:Maze-v0", "nowhere"),
        ("", "python -m agentgrpo eval run_dir=runs/demo episode=2", "'episode' is not a setting"),
        ("", "python -m agentgrpo view run_dir=runs/demo --open", "view has no options"),
        ("", "python -m agentgrpo trian", "agentgrpo has no such command"),
        ("", "python -m agentgrpo check-env agentgrpo/KeyMaze-v0 --tasks 3", "unrecognized arguments: --tasks"),
        ("bash", "python scripts/bench.py --onyl W1", "unrecognized arguments: --onyl"),
        ("bash", "python scripts/scaling.py", "required: out"),
        ("bash", "python scripts/no_such.py", "there is no scripts/no_such.py"),
        ("bash", "make demmo", "the Makefile has no target demmo"),
        ("bash", "pip install 'agentgrpo[vlm]'", "pyproject.toml has no extra vlm"),
        ("bash", "pip install torch==1.0", "not what constraints.txt has"),
        ("bash", "curl example.org", r"page\.md:4: curl example.org\n.*no check knows this command"),
        ("bash", "if true", "bash says"),
        ("python", "x = 1\nassert x == 2", r"page\.md:4: AssertionError"),
        ("python", "from agentgrpo.types import Stepp", "cannot import name 'Stepp'"),
        ("yaml", "a: [1", r"page\.md:4: .*"),
        ("json", "{'a': 1}", r"page\.md:4: .*"),
        ("console", "$ ls", r"page\.md:3: nobody checks a block of 'console'"),
    ],
)
def test_what_cannot_be_done_is_found(language: str, text: str, message: str, folder: Path) -> None:
    page = f"# A page\n\n{FENCE}{language}\n{text}\n{FENCE}\n"
    with pytest.raises(Wrong, match=message):
        check(blocks(page, "page.md"), folder)


def test_a_block_that_is_never_closed_is_found() -> None:
    with pytest.raises(Wrong, match=r"page\.md: a block that is not closed"):
        blocks(f"{FENCE}bash\nmake demo\n", "page.md")


def test_commands_in_sentences_are_found() -> None:
    text = "One.\n\nTwo, `make demo` and\n`python -m agentgrpo algorithms`.\n"
    assert [(b.line, b.text) for b in blocks(text, "p")] == [(3, "make demo"), (4, "python -m agentgrpo algorithms")]


def test_settings_in_sentences_are_found() -> None:
    text = f"Say `optim.lr=1`,\nor `a=1 rollout.mode=async +env.kwargs.x=2`.\n{FENCE}\nnot.this=1\n{FENCE}\n"
    found = list(settings_in_sentences(text, "p"))
    assert found == [("p:1", "optim.lr"), ("p:2", "rollout.mode"), ("p:2", "env.kwargs.x")]


def test_files_of_a_page_are_there_for_its_other_blocks(folder: Path) -> None:
    page = (
        f"`own_page.py`:\n\n{FENCE}python\nONE = 1\n{FENCE}\n\n"
        f"`conf/experiment/short.yaml`:\n\n{FENCE}yaml\n# @package _global_\nnum_updates: 2\n{FENCE}\n\n"
        f"{FENCE}python\nfrom own_page import ONE\nassert ONE == 1\n{FENCE}\n\n"
        f"{FENCE}\npython -m agentgrpo train experiment=short\n{FENCE}\n"
    )
    check(blocks(page, "page.md"), folder)


def test_a_scripts_parser_is_read_from_its_code() -> None:
    parser = script_parser("p.add_argument('out', type=Path)\np.add_argument('--rank', '-r', type=int, nargs='+')\n")
    assert parser is not None
    assert parser.parse_args(["x", "-r", "1", "2"]) == argparse.Namespace(out="x", rank=["1", "2"])
    assert script_parser("print(1)") is None
