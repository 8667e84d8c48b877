"""``compare``: what it reads and refuses, what makes a variant, and what it writes."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compare_runs import UPDATES, rising, study, write_run
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from agentgrpo import compare
from agentgrpo.cli import main
from agentgrpo.compare import tables
from agentgrpo.compare.comparison import Comparison, Environment, Settings, build
from agentgrpo.compare.notes import notes
from agentgrpo.compare.reading import passing, read, read_all
from agentgrpo.compare.variants import name_variants
from agentgrpo.compare.writing import escaped, fitting, markdown, show

FAST = Settings(resamples=200)


def compared(folder: Path, **settings: object) -> Comparison:
    runs, left_out = read_all([folder])
    return build(runs, replace(FAST, **settings), left_out)  # type: ignore[arg-type]


def only(study: Comparison) -> Environment:
    (env,) = study.environments
    return env


def first_row(study: Comparison) -> dict[str, str]:
    table = tables.environment(only(study), study)
    return dict(zip(table.columns, table.rows[0], strict=True))


def left_out(study: Comparison) -> dict[str, str]:
    return {item.path.name: item.reason for item in study.left_out}


def shown(study: Comparison, *, width: int = 60, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal)
    show(study, notes(study), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- reading ------------------------------------------------------------------------------------------------------


def test_a_run_as_it_was_written(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [[0, 0], [1, 0], [1, 1]], seed=3, lr=3e-4, algorithm="gigpo")
    run = read(path)
    assert (run.env, run.algorithm, run.seed, run.lr, run.panel) == ("maze", "gigpo", 3, 3e-4, "panel-of-maze")
    assert run.updates == UPDATES
    assert run.outcomes.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert run.returns.tolist() == [0, 1, 2]
    assert run.episodes.tolist() == [0, 80, 160]
    assert run.finished


def test_episodes_of_evaluations_that_do_not_say(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [[0, 0], [1, 0], [1, 1]])
    file = path / "evaluations.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({k: v for k, v in r.items() if k != "episodes"}) + "\n" for r in records))
    assert read(path).episodes.tolist() == [0, 80, 160]  # 2 groups of 4 per update


def test_a_last_line_that_is_just_being_written(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [[0, 0], [1, 0], [1, 1]], finished=False)
    file = path / "evaluations.jsonl"
    file.write_text(file.read_text()[:-20])
    run = read(path)
    assert run.updates == (0, 10)
    assert not run.finished


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.yaml", "learning_rate: 3\n", "it is no run: config.yaml has no env.name, algorithm.name, seed"),
        ("config.yaml", "- a\n- b\n", "it is no run: config.yaml is no mapping"),
        ("config.yaml", "a: [1\n", "config.yaml cannot be read: "),
        ("evaluations.jsonl", "", "half-written: it has no evaluation yet"),
        ("evaluations.jsonl", '{"update": 0}\n', "evaluations.jsonl cannot be read: 'panel' is missing"),
        (
            "evaluations.jsonl",
            '{"update": 0, "panel": "p", "outcomes": [2], "return_mean": 0}\n',
            "something else than outcomes of 0 and 1",
        ),
        (
            "evaluations.jsonl",
            '{"update": 0, "panel": "p", "outcomes": [1], "return_mean": NaN}\n',
            "something else than outcomes of 0 and 1",
        ),
        (
            "evaluations.jsonl",
            '{"update": 0, "panel": "p", "outcomes": [1], "return_mean": 0}\n' * 2,
            "the same update twice",
        ),
    ],
)
def test_folders_that_are_no_whole_run_are_named(tmp_path: Path, name: str, content: str, reason: str) -> None:
    write_run(tmp_path / "good", rising(0))
    bad = write_run(tmp_path / "bad", rising(1), seed=1)
    (bad / name).write_text(content)
    found = compared(tmp_path)
    assert [run.path.name for run in found.runs] == ["good"]
    assert reason in left_out(found)["bad"]


def test_folders_without_a_run(tmp_path: Path) -> None:
    write_run(tmp_path / "good", rising(0))
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "versions.json").write_text("{}")
    (tmp_path / "file").write_text("")
    given = [tmp_path / name for name in ("good", "empty", "half", "file", "missing")]
    runs, refused = read_all(given)
    assert [run.path.name for run in runs] == ["good"]
    assert {item.path.name: item.reason for item in refused} == {
        "empty": "there is no run in it or below: no config.yaml",
        "half": "half-written: it has no config.yaml",
        "file": "it is no folder",
        "missing": "there is no such folder",
    }


def test_a_folder_given_twice_counts_once_and_a_copy_is_named(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", rising(0))
    write_run(tmp_path / "b", rising(0))
    runs, refused = read_all([first, tmp_path, tmp_path / "b" / ".." / "a"])
    assert [run.path.name for run in runs] == ["a"]
    assert [(x.path.name, x.reason) for x in refused] == [("b", f"the same configuration and seed as {first}")]


def test_checkpoints_are_not_searched(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rising(0))
    write_run(path / "checkpoints" / "old", rising(0), seed=9)
    assert [run.seed for run in read_all([tmp_path])[0]] == [0]


def test_another_panel_is_refused(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"seed{seed}", rising(seed), seed=seed)
    changes = {"env.kwargs.rooms": 8}
    write_run(tmp_path / "larger", rising(2), seed=2, panel="0123456789abcdef", changes=changes)
    write_run(tmp_path / "fewer", rising(3, tasks=8), seed=3)
    found = compared(tmp_path)
    assert {run.path.name for run in found.runs} == {"seed0", "seed1"}
    assert left_out(found)["larger"] == (
        "evaluated on another panel, 01234567, than 2 of the 4 runs in maze, panel-of (env.kwargs.rooms 3 -> 8); "
        "compare it apart"
    )
    assert "another panel" in left_out(found)["fewer"]


def test_runs_of_another_release_are_refused_and_of_other_packages_warned_of(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"seed{seed}", rising(seed), seed=seed)
    write_run(tmp_path / "patch", rising(2), seed=2, versions={"agentgrpo": "0.1.7", "torch": "2.14.0"})
    write_run(tmp_path / "later", rising(3), seed=3, versions={"agentgrpo": "0.2.0", "torch": "2.13.0"})
    unknown = write_run(tmp_path / "unknown", rising(4), seed=4)
    (unknown / "versions.json").unlink()
    found = compared(tmp_path)
    assert {run.path.name for run in found.runs} == {"seed0", "seed1", "patch", "unknown"}
    assert left_out(found)["later"].startswith("agentgrpo 0.2.0 wrote it, and 0.1 most of the others")
    said = notes(found)
    assert (
        "Runs come from different versions: agentgrpo 0.1.0 (2 runs), 0.1.7 (1 run); torch 2.13.0 (2 runs)" in said[-1]
    )
    assert f"versions.json is missing: {unknown}." in said[-2]


# --- variants ------------------------------------------------------------------------------------------------------


def names(tmp_path: Path, *runs: dict[str, Any], ignore: tuple[str, ...] = ()) -> list[str]:
    read_ones = []
    for i, settings in enumerate(runs):
        changes = {k: v for k, v in settings.items() if "." in k or k == "group_size"}
        plain = {k: v for k, v in settings.items() if k not in changes}
        read_ones.append(read(write_run(tmp_path / str(i), rising(0), changes=changes, **plain)))
    return name_variants(read_ones, ignore)


def test_a_variant_is_its_algorithm(tmp_path: Path) -> None:
    made = names(
        tmp_path,
        {"algorithm": "grpo", "seed": 0, "lr": 1e-3, "log.every": 1},
        {"algorithm": "grpo", "seed": 1, "lr": 1e-4, "checkpoint.every": 7, "num_updates": 40},
        # That another algorithm has other settings of its own is what makes it another algorithm.
        {"algorithm": "gigpo", "algorithm.gamma": 0.9, "algorithm.kl_coef": 0.5},
    )
    assert made == ["grpo", "grpo", "gigpo"]


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    made = names(
        tmp_path,
        {"algorithm": "grpo", "algorithm.kl_coef": 0.01},
        {"algorithm": "grpo"},
        {"algorithm": "gigpo", "group_size": 8, "algorithm.kl_coef": 0.5},
    )
    assert made == ["grpo, group_size=4, kl_coef=0.01", "grpo, group_size=4, kl_coef=0", "gigpo, group_size=8"]


def test_settings_that_differ_between_environments_alone_are_not(tmp_path: Path) -> None:
    made = names(
        tmp_path,
        {"env": "maze", "warm_start.episodes": 256, "algorithm.kl_coef": 0.01},
        {"env": "lake", "warm_start.episodes": 1024},
    )
    assert made == ["grpo", "grpo"]


def test_settings_that_change_together_are_named_once(tmp_path: Path) -> None:
    large = {"model.kind": "hf", "model.path": "big", "model.hidden_size": 512}
    small = {"model.kind": "nano", "model.path": "none", "model.hidden_size": 64}
    assert names(tmp_path, large, small) == ["grpo, model.kind=hf", "grpo, model.kind=nano"]


def test_settings_can_be_ignored(tmp_path: Path) -> None:
    runs: list[dict[str, Any]] = [{"seed": s, "model.path": f"start/{s}"} for s in (0, 1)]
    assert names(tmp_path, *runs, ignore=("model.path",)) == ["grpo", "grpo"]


def test_a_start_for_each_seed_is_no_variant(tmp_path: Path) -> None:
    runs: list[dict[str, Any]] = [{"seed": s, "model.path": f"start/seed{s}/last"} for s in (1, 10)]
    assert names(tmp_path / "own", *runs) == ["grpo", "grpo"]
    runs += [{"seed": 2, "model.path": "start/seed1/last"}]  # another seed's start is another start
    assert names(tmp_path / "others", *runs)[2] == "grpo, model.path=start/seed1/last"


# --- what is reported ----------------------------------------------------------------------------------------------


def test_figures_by_hand(tmp_path: Path) -> None:
    ends = {"grpo": [[1, 0, 0, 0], [1, 1, 0, 0]], "gigpo": [[1, 1, 1, 1], [1, 1, 0, 1]]}
    for algorithm, (first, second) in ends.items():
        for seed, end in enumerate((first, second)):
            outcomes = [[0, 0, 0, 0], [1, 0, 0, 0], end]
            write_run(tmp_path / f"{algorithm}{seed}", outcomes, algorithm=algorithm, seed=seed)
    env = only(compared(tmp_path, last=2, target=0.75))
    grpo, gigpo = env.variants
    assert (grpo.name, gigpo.name, env.num_last, env.num_tasks) == ("grpo", "gigpo", 2, 4)
    # Updates 10 and 20: (1/4 + 1/4) / 2 and (1/4 + 2/4) / 2; gigpo (1/4 + 1) / 2 and (1/4 + 3/4) / 2.
    assert grpo.success.value == pytest.approx((0.25 + 0.375) / 2)
    assert gigpo.success.value == pytest.approx((0.625 + 0.5) / 2)
    assert (gigpo.success.low, gigpo.success.high) == (0.5, 0.625)
    assert gigpo.returns.value == pytest.approx(2 * gigpo.success.value)
    assert gigpo.best.best.tolist() == [1, 0.75]
    assert gigpo.best.episodes_to == (160, 160)
    assert grpo.best.episodes_to == (float("inf"), float("inf"))
    (pair,) = env.against_baseline
    assert (pair.ours, pair.theirs, pair.seeds) == ("gigpo", "grpo", (0, 1))
    assert pair.difference.value == pytest.approx(0.25)
    assert pair.better.value == 1
    row = first_row(compared(tmp_path, last=2))
    assert (row["episodes to 0.8"], row["reached"], row["seeds"]) == ("over 160", "0 of 2", "2")


def test_pairs_from_the_other_side(tmp_path: Path) -> None:
    study(tmp_path, ["maze"], ["grpo", "gigpo"], [1e-3], 3)
    (ours,) = only(compared(tmp_path)).against_baseline
    (theirs,) = only(compared(tmp_path, baseline="gigpo")).against_baseline
    assert (theirs.ours, theirs.theirs) == ("grpo", "gigpo")
    assert theirs.difference.value == -ours.difference.value
    assert (theirs.difference.low, theirs.difference.high) == (-ours.difference.high, -ours.difference.low)  # type: ignore[operator]
    assert theirs.better.value == pytest.approx(1 - ours.better.value)


def test_the_best_learning_rate_is_shown_and_how_many_were_tried(tmp_path: Path) -> None:
    study(tmp_path, ["maze"], ["grpo"], [1e-4, 1e-3, 1e-2], 3)
    found = compared(tmp_path)
    (variant,) = only(found).variants
    assert variant.best.lr == 1e-3
    assert variant.held_out is not None
    assert first_row(found)["tried"] == "3"
    rates = tables.rates(only(found))
    assert rates is not None
    assert rates.columns == ("variant", "0.0001", "0.001", "0.01")
    assert ["best" in cell for cell in rates.rows[0]] == [False, False, True, False]
    assert not any("not swept" in note for note in notes(found))


def test_rates_are_picked_on_the_seeds_that_all_have(tmp_path: Path) -> None:
    # The higher rate looks worse over its three seeds, and is better on the one that both were tried on.
    for seed, solved in enumerate(([1, 1, 1, 0], [0] * 4, [0] * 4)):
        write_run(tmp_path / f"high{seed}", [[0] * 4, solved, solved], lr=1e-2, seed=seed)
    write_run(tmp_path / "low0", [[0] * 4, [1, 1, 0, 0], [1, 1, 0, 0]], lr=1e-3)
    found = compared(tmp_path)
    assert only(found).variants[0].best.lr == 1e-2
    assert any("tried on different seeds: all variants in maze" in n for n in notes(found))


def test_what_was_not_tried_is_said(tmp_path: Path) -> None:
    study(tmp_path, ["maze", "lake"], ["grpo", "gigpo"], [1e-3], 2)
    write_run(tmp_path / "one", rising(0), algorithm="rloo")
    said = "\n".join(notes(compared(tmp_path)))
    assert "One seed: rloo in maze. There is no interval over seeds" in said
    assert "Fewer than 3 seeds: all variants in lake; grpo, gigpo in maze" in said
    assert "Learning rate not swept: all variants." in said


def test_one_seed_has_an_interval_over_tasks(tmp_path: Path) -> None:
    write_run(tmp_path / "a", rising(0))
    write_run(tmp_path / "b", rising(1), algorithm="gigpo")
    found = compared(tmp_path)
    grpo, _ = only(found).variants
    assert grpo.success.low is not None
    assert grpo.success.low < grpo.success.value < (grpo.success.high or 0)
    assert grpo.returns.low is None
    assert (grpo.curve.low <= grpo.curve.success).all()
    (pair,) = only(found).against_baseline
    assert pair.difference.low is not None
    assert pair.better.low is None
    assert "] tasks" in shown(found, width=80)


def test_variants_without_a_common_seed_are_not_paired(tmp_path: Path) -> None:
    write_run(tmp_path / "a", rising(0), seed=0)
    write_run(tmp_path / "b", rising(1), algorithm="gigpo", seed=1)
    found = compared(tmp_path)
    assert only(found).pairs == ()
    assert any("gigpo and grpo have different seeds" in n for n in notes(found))


def test_a_run_still_going_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"seed{seed}", rising(seed), seed=seed)
    write_run(tmp_path / "going", rising(2)[:2], updates=UPDATES[:2], seed=2, finished=False)
    write_run(tmp_path / "begun", rising(3)[:1], updates=UPDATES[:1], seed=3, finished=False)
    found = compared(tmp_path)
    assert only(found).updates == (0, 10)
    assert left_out(found) == {"begun": "it has no evaluation after its first update yet"}
    said = "\n".join(notes(found))
    assert f"Not finished, still going or stopped: {tmp_path / 'going'}." in said
    assert "Compared up to update 10 of 20, as far as all runs are: maze." in said
    whole = compared(tmp_path, unfinished="leave_out")
    assert only(whole).updates == UPDATES
    assert set(left_out(whole)) == {"going", "begun"}


def test_evaluations_at_other_updates_than_the_others(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"seed{seed}", rising(seed), seed=seed)
    write_run(tmp_path / "odd", rising(2), updates=(0, 3, 6), seed=2, finished=False)
    assert "no evaluation at an update that the others have" in left_out(compared(tmp_path))["odd"]
    write_run(tmp_path / "other", rising(3), updates=(0, 7, 14), seed=3)
    found = compared(tmp_path)
    assert found.environments == ()
    assert "evaluated at different updates (eval.every, num_updates)" in left_out(found)["other"]


def test_a_resumed_run_has_an_old_summary(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rising(0))
    (path / "summary.json").write_text(json.dumps({"status": "finished", "updates": 10}))
    assert not read(path).finished


def test_all_environments_together(tmp_path: Path) -> None:
    study(tmp_path, ["maze", "lake"], ["grpo", "gigpo"], [1e-3], 3)
    write_run(tmp_path / "extra", rising(0), algorithm="rloo")
    found = compared(tmp_path)
    assert [o.name for o in found.overall] == ["grpo", "gigpo"]
    _, gigpo = found.overall
    differences = [env.against_baseline[0].difference.value for env in found.environments]
    assert gigpo.difference is not None
    assert gigpo.difference.value == pytest.approx(sum(differences) / 2)
    table = tables.summary(found)
    assert table is not None
    assert table.columns == ("variant", "lake", "maze", "all", "less grpo", "better")
    assert [row[0] for row in table.rows] == ["grpo", "gigpo", "rloo"]
    assert (table.rows[2][1], table.rows[2][3]) == ("-", "-")


# --- how it is shown -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 200])
def test_it_fits_and_nothing_is_cut_off(tmp_path: Path, width: int) -> None:
    study(tmp_path, ["maze", "lake"], ["grpo", "gigpo"], [1e-3, 1e-2], 3)
    text = shown(compared(tmp_path), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text  # no colours where there is no terminal
    assert "…" not in text
    for column in (
        "rate",
        "tried",
        "seeds",
        "success",
        "return",
        "best",
        "held-out pick",
        "episodes to 0.8",
        "reached",
    ):
        assert column in text
    assert "lake: against grpo" in text
    assert "\x1b" in shown(compared(tmp_path), terminal=True)


def test_wide_tables_are_cut_into_parts_that_name_their_rows() -> None:
    table = tables.Table("t", ("variant", "a", "b", "c"), (("x", "1" * 20, "2" * 20, "3" * 20),))
    parts = fitting(table, 60)
    assert [part.columns for part in parts] == [("variant", "a", "b"), ("variant", "c")]
    assert [part.rows for part in parts] == [(("x", "1" * 20, "2" * 20),), (("x", "3" * 20),)]


NASTY = "[red]x[/red]<script>|`*_[a](b)_$y$\x1b[2J\n# z"


def test_names_are_only_ever_text(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", rising(seed), env=NASTY, algorithm=NASTY, seed=seed)
        write_run(tmp_path / f"b{seed}", rising(seed), env=NASTY, algorithm="_grpo", seed=seed)
    (tmp_path / "[bold]empty\x1b[2J").mkdir()
    runs, refused = read_all([tmp_path, tmp_path / "[bold]empty\x1b[2J"])
    found = build(runs, FAST, refused)
    text = shown(found, width=200, terminal=True)
    assert "[red]x[/red]<script>" in text
    assert "[bold]empty" in text
    assert "\x1b[2J" not in text
    page = markdown(found, notes(found), "command", None)
    assert "<script>" not in page
    assert "\x1b" not in page
    assert "[a](b)" not in page.replace("\\[a](b)", "")
    head = next(line for line in page.splitlines() if line.startswith("| variant"))
    row = next(line for line in page.splitlines() if line.startswith("|") and "red" in line)
    assert row.replace("\\|", "").count("|") == head.count("|")
    written = compare.write(found, [], "command", tmp_path / "out")
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    assert written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dr_grpo 0.9 [0.85, 0.95]", "dr_grpo 0.9 [0.85, 0.95]"),
        ("_x_ a|b <i>", "\\_x\\_ a\\|b &lt;i&gt;"),
        ("[a](http://b)", "\\[a](http&#58;//b)"),
    ],
)
def test_escapes(text: str, expected: str) -> None:
    assert escaped(text) == expected


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_writes_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study(tmp_path / "runs", ["maze", "lake"], ["grpo", "gigpo"], [1e-3, 1e-2], 3)
    assert main(["compare", "last=1", "runs/maze", "resamples=200", "runs/lake"]) == 0
    out = tmp_path / "runs" / "comparison"
    printed = capsys.readouterr().out
    assert "24 runs, 2 environments, 2 variants" in printed
    assert "tensorboard --logdir runs/comparison/tensorboard" in printed
    page = (out / "comparison.md").read_text()
    assert "python -m agentgrpo compare last=1 runs/maze resamples=200 runs/lake" in page
    assert "![Held-out success against episodes, with 95% intervals](curves.png)" in page
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    runs = rows_of(out / "runs.csv")
    assert len(runs) == 24
    assert {r["run_dir"] for r in runs} >= {"runs/lake/grpo/lr0.001/seed0"}
    variants = rows_of(out / "variants.csv")
    assert len(variants) == 8
    assert sum(int(r["is_best_lr"]) for r in variants) == 4
    assert [(r["variant"], r["other"]) for r in rows_of(out / "pairs.csv")] == [("gigpo", "grpo")] * 2
    assert len(rows_of(out / "curves.csv")) == 2 * 2 * len(UPDATES)
    # Neither a run, nor in the way of another comparison.
    assert main(["compare", "runs", "resamples=200"]) == 0
    assert "24 runs" in capsys.readouterr().out
    assert rows_of(out / "left_out.csv") == []


def test_tensorboard_lays_variants_over_each_other(tmp_path: Path) -> None:
    study(tmp_path / "runs", ["maze"], ["grpo", "gigpo"], [1e-3], 3)
    for _ in range(2):  # the second time replaces what the first one wrote
        found = compared(tmp_path / "runs")
        compare.write(found, [], "command", tmp_path / "out")
    board = tmp_path / "out" / "tensorboard"
    assert len(list(board.rglob("events.out.tfevents.*"))) == 3
    for variant in only(found).variants:
        events = EventAccumulator(str(board / variant.name)).Reload()
        points = {e.step: e.value for e in events.Scalars("maze/success")}
        assert points == pytest.approx(dict(zip(UPDATES, variant.curve.success, strict=True)))
        assert events.Scalars("maze/final_success")[0].value == pytest.approx(variant.success.value)
        assert {"maze/success_low", "maze/success_high", "maze/return"} <= set(events.Tags()["scalars"])
        assert "_hparams_/session_start_info" in events.summary_metadata
    events = EventAccumulator(str(board)).Reload()
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    (category,) = layout.category
    assert category.title == "maze"
    margin = category.chart[0].margin.series[0]
    assert (margin.value, margin.lower, margin.upper) == ("maze/success", "maze/success_low", "maze/success_high")
    assert category.chart[1].multiline.tag == ["^maze/return$"]


def test_without_matplotlib_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    write_run(tmp_path / "run", rising(0))
    lines = compare.write(compared(tmp_path), [], "command", tmp_path / "out")
    assert any("python -m pip install 'agentgrpo[plot]'" in line for line in lines)
    assert "curves.png" not in (tmp_path / "out" / "comparison.md").read_text()
    assert not (tmp_path / "out" / "curves.png").exists()
    assert (tmp_path / "out" / "runs.csv").is_file()


def test_the_default_folder_is_never_inside_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = read(write_run(Path("runs/demo"), rising(0)))
    two = read(write_run(Path("runs/deep/er/run"), rising(1), seed=1))
    assert compare.default_out([one]) == Path("runs/comparison")
    assert compare.default_out([one, two]) == Path("runs/comparison")
    assert compare.default_out([two]) == Path("runs/deep/er/comparison")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "compare needs folders of runs"),
        (["run", "lst=2"], "'lst' is not a setting. Did you mean 'last'? `python -m agentgrpo compare --help`"),
        (["run", "lr=3"], "A folder of that name is written ./lr=..."),
        (["run", "last=0"], "last must be at least 1, got 0"),
        (["run", "last=x"], "last: "),
        (["run", "target=1.5"], "target must be in [0, 1], got 1.5"),
        (["run", "unfinished=drop"], "unfinished must be one of compare, leave_out"),
        (["run", "baseline=grpq"], "baseline=grpq is none of the variants. Did you mean 'grpo'? They are: grpo."),
        (["run", "-v"], "compare has no option -v"),
        (["run", "out=run"], "out=run holds a run"),
        (["run", "out=other"], "out=other is not empty and holds no earlier comparison"),
        (["run", "out=file"], "out=file is a file"),
        (["other"], "There is nothing to compare:\n  other: there is no run in it or below"),
    ],
)
def test_bad_input(
    args: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("run"), rising(0))
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("")
    Path("file").write_text("")
    assert main(["compare", *args]) == 2
    assert expected in capsys.readouterr().err


def test_help_is_the_file_of_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    assert "everything else a folder" in capsys.readouterr().out


def test_the_settings_are_those_of_the_file() -> None:
    from agentgrpo.composing import compose_config

    assert dict(compose_config("compare", [])) == {**vars(Settings()), "ignore": []}


def test_two_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = ["model.hidden_size=32", "model.num_layers=1", "warm_start.episodes=16", "eval.num_tasks=4", "eval.every=1"]
    for algorithm in ("grpo", "dapo"):
        short = [
            f"algorithm={algorithm}",
            "num_updates=2",
            "groups_per_update=2",
            "group_size=3",
            "env.kwargs.max_turns=4",
        ]
        assert main(["train", *tiny, *short]) == 0
    assert main(["compare", "runs", "resamples=200"]) == 0
    assert "2 runs, 1 environment, 2 variants" in capsys.readouterr().out
    curves = rows_of(Path("runs/key_maze/comparison/curves.csv"))
    assert [float(r["episodes"]) for r in curves if r["variant"] == "grpo"] == [0, 6, 12]
    summary = json.loads(Path("runs/key_maze/dapo/seed0/summary.json").read_text())
    end = [r for r in curves if r["variant"] == "dapo"][-1]
    assert float(end["success"]) == pytest.approx(summary["after"]["success"])
    # Groups that were played in place of dropped ones count too.
    assert float(end["episodes"]) == summary["episodes"] > 12


def test_a_baseline_that_an_environment_lacks(tmp_path: Path) -> None:
    study(tmp_path, ["maze"], ["grpo", "gigpo"], [1e-3], 2)
    study(tmp_path, ["lake"], ["rloo", "gigpo"], [1e-3], 2)
    found = compared(tmp_path, baseline="grpo")
    assert "There are no runs of grpo to hold others against: lake." in notes(found)
    assert [len(env.against_baseline) for env in found.environments] == [0, 1]


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("run"), rising(0))
    Path("file").write_text("")
    assert main(["compare", "run", "out=file/below", "resamples=200"]) == 2
    assert "file/below cannot be written: Not a directory. Name another folder" in capsys.readouterr().err


def test_where_a_run_was_computed_and_who_watched_it_make_no_variant() -> None:
    assert all(passing(key) for key in ("doctor", "cluster.kind", "cluster.samplers", "checkpoint.every"))
    assert not any(passing(key) for key in ("group_size", "rollout.mode", "optim.epochs"))
