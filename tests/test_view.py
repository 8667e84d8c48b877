"""The trajectory browser's file: what is read from a run folder, whole or damaged, and what the page holds."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from view_runs import NASTY, TOKENIZER, ids, make_run, rewrite, small_run

from agentgrpo.cli import main
from agentgrpo.view import collect
from agentgrpo.view.compact import PageData, Spread
from agentgrpo.view.page import SCRIPTS, pieces
from agentgrpo.view.reading import rounded
from agentgrpo.view.tokens import TokenTexts

PAGE = Path(__file__).resolve().parents[1] / "agentgrpo" / "view" / "page"


def unpack(block: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(block)))


def first_group(data: PageData) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    chunk = unpack(data.blocks["chunk-0"])
    return chunk, chunk["groups"][0]


class Elements(HTMLParser):
    """Tags, attributes and the contents of scripts and styles, as a browser would find them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.inside:
            self.inside[self._open].append(data)


# --- what is read -------------------------------------------------------------------------------------------------


def test_the_index_tells_groups_and_members(tmp_path: Path) -> None:
    index = unpack(collect(small_run(tmp_path / "run").path).blocks["index"])
    assert index["run"] == {
        "name": "run",
        "env": "maze",
        "algorithm": "gigpo",
        "gamma": 0.5,
        "similarity": None,
        "updates": 2,
        "finished": True,
    }
    assert (index["notes"], index["envs"]) == ([], ["maze", "shop"])
    maze, shop = index["groups"]
    # The seed does not fit into JavaScript's numbers, so it is a text.
    assert (maze["update"], maze["seed"], maze["max_return"]) == (1, "1152921504606846977", 1)
    assert (maze["return"], maze["success"], maze["turns"], maze["tokens"]) == ([1, -1], [1, 0], [2, 2], [10, 10])
    assert [index["statuses"][s] for s in maze["status"]] == ["terminated", "turn_limit"]
    # The return of an episode that crashed is unknown; three of the eight tokens of "buy tea" are an expert's.
    assert (shop["return"], shop["guided"], shop["tokens"][0]) == ([0.5, None], [3, 0], 5)


def test_steps_hold_texts_tokens_and_figures(tmp_path: Path) -> None:
    chunk, (won, lost) = first_group(collect(small_run(tmp_path / "run").path))
    texts, sequences = chunk["texts"], chunk["sequences"]
    assert [texts[i] for i in won["observation"]] == ["hall", "door"]
    assert texts[won["final"]] == "treasure"
    assert json.loads(texts[won["info"]]) == {"answer": 42}
    assert sequences[won["tokens"][0]] == [*ids("left"), 0]
    assert sequences[won["prompt"][1]] == list(ids("door"))
    assert won["advantage"] == [2, 2]
    assert lost["advantage"] == [-1, -1]
    assert won["logprob"][0] == [-0.5] * 5
    # Recomputed -0.25 and -0.5 against the sampler's -0.5; the other member has none.
    assert won["gap"] == [[0.25] * 5, [0] * 5]
    assert "gap" not in lost
    assert (lost["valid"], lost["reward"]) == ([0, 1], [0, -1])


def test_steps_of_one_state_share_a_number(tmp_path: Path) -> None:
    _, (won, lost) = first_group(collect(small_run(tmp_path / "run").path))
    # Both begin in H, though the observations differ; D and P are visited once.
    assert (won["state"], lost["state"]) == ([0, -1], [0, -1])


def test_colour_scales_pass_over_outliers_and_rounding(tmp_path: Path) -> None:
    spread = Spread()
    for value in [*range(1, 100), -100_000]:
        spread.add(value)
    assert spread.scale == 98
    thinned = Spread(limit=100)
    for value in range(1, 1001):
        thinned.add(value)
    assert 900 <= thinned.scale <= 1000
    index = unpack(collect(small_run(tmp_path / "run").path).blocks["index"])
    assert index["scales"]["gap"] == 0.25
    assert index["columns"] == ["advantage", "gap"]


@pytest.mark.parametrize(
    ("value", "expected"), [(0.123456, 0.1235), (3.0, 3), (-1e-7, -1e-7), (float("nan"), None), (None, None)]
)
def test_rounding(value: float | None, expected: float | None) -> None:
    assert rounded(value) == expected


def test_token_texts() -> None:
    texts = TokenTexts.of(TOKENIZER)
    assert texts.special == {0}
    a, space = ids("a ")
    # A byte of a character that has three is no character.
    first = ids("\u20ac")[0]
    assert texts.texts([a, space, 0, first, 9999]) == {
        a: "a",
        space: " ",
        0: "<|end|>",
        first: "<0xE2>",
        9999: "<id 9999>",
    }


def test_words_keep_their_leading_space() -> None:
    from tokenizers import Tokenizer, decoders, models

    words = Tokenizer(models.BPE(vocab={"\u2581go": 0, "ing": 1}, merges=[]))
    words.decoder = decoders.Metaspace()
    assert TokenTexts.of(words).texts([0, 1]) == {0: " go", 1: "ing"}


# --- the page -----------------------------------------------------------------------------------------------------


def test_hostile_texts_stay_data(tmp_path: Path) -> None:
    data = collect(small_run(tmp_path / "</title><script>alert(1)</script>").path)
    page = "".join(pieces(data))
    found = Elements(page)
    scripts = [attributes for tag, attributes in found.tags if tag == "script"]
    assert len([a for a in scripts if "type" not in a]) == len(SCRIPTS)
    assert {a["type"] for a in scripts if "type" in a} == {"application/gzip"}
    assert not any(name.startswith("on") or name == "src" for _, attributes in found.tags for name in attributes)
    assert "owned" not in page
    assert "img" not in {tag for tag, _ in found.tags}
    chunk = unpack(data.blocks["chunk-0"])
    assert NASTY in chunk["texts"]


def test_only_the_pages_own_scripts_may_run_and_nothing_is_fetched(tmp_path: Path) -> None:
    found = Elements("".join(pieces(collect(small_run(tmp_path / "run").path))))
    policy = next(a["content"] for tag, a in found.tags if tag == "meta" and "content" in a and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    digest = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()  # noqa: E731
    own = [text for text in found.inside["script"] if text.startswith('"use strict"')]
    assert len(own) == len(SCRIPTS)
    assert all(f"'sha256-{digest(text)}'" in policy for text in [*own, *found.inside["style"]])


def test_scripts_never_parse_markup() -> None:
    assert {p.name for p in PAGE.glob("*.js")} == set(SCRIPTS)
    for name in SCRIPTS:
        source = (PAGE / name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|</script", source), name


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    path = small_run(tmp_path / "run").path
    assert "".join(pieces(collect(path))) == "".join(pieces(collect(path)))


# --- the command, and bad input -----------------------------------------------------------------------------------


def output(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["view", *args]) == 0
    return capsys.readouterr().out


def error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["view", *args]) == 2
    return capsys.readouterr().err


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "run").path
    said = output(capsys, f"run_dir={run}")
    assert said.startswith(f"{run}/trajectories.html: 4 trajectories in 2 groups, 0.")
    assert "note" not in said
    output(capsys, f"run_dir={run}", f"out={tmp_path}/new/page.html")
    assert (tmp_path / "new" / "page.html").read_bytes() == (run / "trajectories.html").read_bytes()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["page.html"]


def test_a_run_still_going(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "run", finished=False).path
    said = output(capsys, f"run_dir={run}")
    assert "note: The run is not finished: it is still going, or was stopped." in said
    assert "4 trajectories" in said
    assert unpack(collect(run).blocks["index"])["run"]["finished"] is False


def test_a_finished_run_that_goes_on(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    folder.append("metrics", {"update": 3})
    data = collect(folder.path)
    assert (data.run.finished, data.run.updates) == (False, 3)


def test_a_file_cut_in_the_middle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "run").path
    whole = run / "trajectories" / "update_000001.jsonl.gz"
    packed = whole.read_bytes()
    plain = gzip.decompress(packed)
    # Uncompressed blocks, so that half of the bytes is half of the text: the first line and part of the second.
    stored = gzip.compress(plain, 0)
    whole.write_bytes(stored[: 15 + plain.index(b"\n") + 100])
    said = output(capsys, f"run_dir={run}")
    assert "note: update_000001.jsonl.gz is cut short: 1 whole trajectories of it are shown." in said
    assert "3 trajectories in 2 groups" in said
    whole.write_bytes(packed[:5])
    assert "2 trajectories in 1 group," in output(capsys, f"run_dir={run}")


def test_damaged_and_foreign_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "run").path
    folder = run / "trajectories"
    (folder / "update_000003.jsonl.gz").write_bytes(b"no gzip at all")
    (folder / "update_000004.jsonl.gz").write_bytes(gzip.compress(b'{"update": 4}\nnot json\n[]\n'))
    (folder / "update_000005.jsonl.gz").mkdir()
    said = output(capsys, f"run_dir={run}")
    assert "update_000003.jsonl.gz is damaged: 0 whole" in said
    assert "update_000004.jsonl.gz: 3 of 3 lines are no trajectories" in said
    assert "update_000005.jsonl.gz cannot be read (Is a directory)" in said
    assert "4 trajectories in 2 groups" in said


@pytest.mark.parametrize(
    "change",
    [
        {"advantages": [1.0]},
        {"advantages": "many"},
        {"steps": [{"observation": "x"}]},
        {"status": None},
        {"return": "high"},
        {"task_seed": "7"},
    ],
)
def test_records_that_do_not_add_up_are_left_out(change: dict[str, object], tmp_path: Path) -> None:
    run = small_run(tmp_path / "run").path
    rewrite(run / "trajectories" / "update_000001.jsonl.gz", change)
    data = collect(run)
    assert data.num_trajectories == 3
    assert data.notes == ["update_000001.jsonl.gz: 1 of 2 lines are no trajectories and are left out."]


def test_rewards_that_are_no_numbers(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run").path
    path = run / "trajectories" / "update_000001.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"reward": 1.0', b'"reward": NaN')))
    assert first_group(collect(run))[1][0]["reward"] == [0, None]


def test_without_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "run", with_tokenizer=False).path
    assert "note: No tokenizer.json can be read" in output(capsys, f"run_dir={run}")
    (run / "checkpoints" / "best").mkdir(parents=True)
    (run / "checkpoints" / "best" / "tokenizer.json").write_text('{"half')
    assert "note: No tokenizer.json can be read" in output(capsys, f"run_dir={run}")
    assert unpack(collect(run).blocks["vocabulary"]) == {"texts": {}, "special": []}


def test_bad_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "view needs a run: python -m agentgrpo view run_dir=runs/demo" in error(capsys)
    assert "no folder" in error(capsys, f"run_dir={tmp_path}/none")
    assert "holds no run: " in error(capsys, f"run_dir={tmp_path}")
    assert "Did you mean 'out'? `python -m agentgrpo view --help`" in error(capsys, f"run_dir={tmp_path}", "ou=x")
    run = make_run(tmp_path / "run").path
    assert "has no trajectories yet" in error(capsys, f"run_dir={run}")
    (run / "trajectories").mkdir()
    (run / "trajectories" / "update_000001.jsonl.gz").write_bytes(b"")
    assert "None of the 1 trajectory files" in error(capsys, f"run_dir={run}")
    (run / "config.yaml").write_text("a: [1")
    assert "config.yaml cannot be read" in error(capsys, f"run_dir={run}")
    (run / "config.yaml").write_text("- 1")
    assert "config.yaml cannot be read" in error(capsys, f"run_dir={run}")


def test_bad_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "run").path
    assert "cannot be written: it is a folder. Name another file" in error(capsys, f"run_dir={run}", f"out={tmp_path}")
    (tmp_path / "file").touch()
    assert "cannot be written" in error(capsys, f"run_dir={run}", f"out={tmp_path}/file/page.html")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "out: null" in output(capsys, "--help")
