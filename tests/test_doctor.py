"""The doctor on made-up metrics: each finding at its threshold, on healthy figures, and over a run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import default_algorithm
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from agentgrpo.cli import main
from agentgrpo.composing import compose_config
from agentgrpo.doctor.findings import FEW, RECENT, Facts, Severity, facts_of
from agentgrpo.doctor.history import CHECKS, Doctor, closing_words
from agentgrpo.run_folder import RunFolder

HEALTHY: dict[str, float] = {
    "rollout/success": 0.5,
    "rollout/return_mean": 0.5,
    "rollout/return_std": 0.5,
    "rollout/group_return_std_mean": 0.4,
    "rollout/turns_max": 10.0,
    "rollout/valid_action_share": 0.9,
    "rollout/action_tokens_mean": 4.0,
    "rollout/cut_off_action_share": 0.02,
    "rollout/surprise_mean": 0.5,
    "rollout/turn_limit_share": 0.4,
    "rollout/context_limit_share": 0.0,
    "rollout/env_error_share": 0.0,
    "rollout/env_timeout_share": 0.0,
    "rollout/zero_variance_share": 0.2,
    "rollout/zero_variance_all_success_share": 0.1,
    "rollout/zero_variance_all_failure_share": 0.1,
    "rollout/repeated_episode_share": 0.1,
    "rollout/shared_state_share": 0.9,
    "rollout/staleness_mean": 0.0,
    "loss/clip_fraction": 0.05,
    "loss/grad_norm": 0.5,
    "loss/skipped": 0.0,
    "sampler/logprob_gap_mean": 1e-7,
}
"""The figures of a policy that is learning."""

R = "rollout/"
ALL_RIGHT = {R + "zero_variance_all_success_share": 0.9, R + "zero_variance_share": 0.9, R + "success": 0.98}


def examine(*parts: tuple[int, Mapping[str, float]], **facts: Any) -> Doctor:
    """A doctor after so many updates with each of the given figures, the rest healthy."""
    doctor = Doctor(Facts(**facts))
    update = 0
    for count, figures in parts:
        for _ in range(count):
            update += 1
            doctor.look({"update": update, **HEALTHY, **figures})
    return doctor


def names(doctor: Doctor) -> list[str]:
    return [finding.name for finding in doctor.standing]


def test_healthy_figures_give_nothing() -> None:
    doctor = examine((60, {}), compares_states=True)
    assert doctor.found == {}
    assert doctor.scalars() == {"doctor/num_alarms": 0.0}
    assert closing_words(doctor, "runs/demo") == ""


NO_SUCCESS = {R + "success": 0.0, R + "return_mean": 0.0, R + "zero_variance_share": 1.0}

THRESHOLDS: list[tuple[str, dict[str, float], dict[str, float], dict[str, Any]]] = [
    # name, figures that fire, figures that just do not, facts
    ("solved", {**ALL_RIGHT, R + "zero_variance_all_success_share": 0.8}, {**ALL_RIGHT, R + "success": 0.949}, {}),
    (
        "all_failure",
        {**NO_SUCCESS, R + "zero_variance_all_failure_share": 0.9},
        {R + "zero_variance_all_failure_share": 0.89},
        {},
    ),
    (
        "all_failure",
        {**NO_SUCCESS, R + "zero_variance_all_failure_share": 0.99},
        {R + "zero_variance_all_failure_share": 0.98},
        {"group_size": 1},
    ),
    ("no_signal", {R + "zero_variance_share": 0.9}, {R + "zero_variance_share": 0.89}, {}),
    ("turn_limit", {R + "turn_limit_share": 0.5, R + "turns_max": 64.0}, {R + "turn_limit_share": 0.94}, {}),
    ("turn_limit", {R + "turn_limit_share": 0.95}, {R + "turn_limit_share": 0.49, R + "turns_max": 64.0}, {}),
    ("context_limit", {R + "context_limit_share": 0.05}, {R + "context_limit_share": 0.049}, {}),
    ("cut_off_actions", {R + "cut_off_action_share": 0.1}, {R + "cut_off_action_share": 0.099}, {}),
    ("invalid_actions", {R + "valid_action_share": 0.49}, {R + "valid_action_share": 0.5}, {}),
    ("repeated_episodes", {R + "repeated_episode_share": 0.79}, {R + "repeated_episode_share": 0.78}, {}),
    ("entropy_collapse", {R + "surprise_mean": 0.019}, {R + "surprise_mean": 0.02}, {}),
    ("clip_share", {"loss/clip_fraction": 0.3}, {"loss/clip_fraction": 0.29}, {}),
    ("clip_share", {"loss/clip_fraction": 0.8}, {"loss/clip_fraction": 0.79}, {"clip_width": 4e-4}),
    ("logprob_gap", {"sampler/logprob_gap_mean": 1e-3}, {"sampler/logprob_gap_mean": 9e-4}, {}),
    (
        "logprob_gap",
        {"sampler/logprob_gap_mean": 0.1},
        {"sampler/logprob_gap_mean": 0.09},
        {"exact_sampler": False},
    ),
    (
        "logprob_gap",
        {"sampler/logprob_gap_mean": 0.5},
        {"sampler/logprob_gap_mean": 0.49},
        {"exact_sampler": False, "max_staleness": 2},
    ),
    ("staleness", {R + "staleness_mean": 1.5}, {R + "staleness_mean": 1.4}, {"max_staleness": 4}),
    (
        "staleness",
        {R + "staleness_mean": 8.0},
        {R + "staleness_mean": 7.9},
        {"max_staleness": 16, "corrected": True},
    ),
    ("step_groups", {R + "shared_state_share": 0.04}, {R + "shared_state_share": 0.05}, {"compares_states": True}),
    ("env_failures", {R + "env_error_share": 0.005}, {R + "env_error_share": 0.004}, {}),
    (
        "skipped_updates",
        {"loss/skipped": 1.0},
        {"loss/skipped": 1.0, R + "zero_variance_share": 1.0, R + "zero_variance_all_success_share": 1.0},
        {},
    ),
]


@pytest.mark.parametrize(("name", "fires", "healthy", "facts"), THRESHOLDS)
def test_thresholds(name: str, fires: dict[str, float], healthy: dict[str, float], facts: dict[str, Any]) -> None:
    assert name not in examine((FEW - 1, fires), **facts).found or name == "logprob_gap"
    doctor = examine((FEW, fires), **facts)
    assert name in names(doctor)
    assert doctor.found[name].first_update == (1 if name == "logprob_gap" else FEW)
    assert name not in examine((2 * FEW, healthy), **facts).found


def test_every_check_is_shown_to_fire_here() -> None:
    elsewhere = {"one_env_fails", "length_explosion", "reward_spread_cliff", "gradient_spike", "not_finite"}
    assert {name for name, *_ in THRESHOLDS} | elsewhere == set(CHECKS)


def test_what_success_looks_like_is_no_alarm() -> None:
    sure = {
        R + "zero_variance_share": 1.0,
        R + "surprise_mean": 0.01,
        R + "repeated_episode_share": 0.86,
        R + "group_return_std_mean": 0.0,
    }
    doctor = examine((20, {}), (20, {**ALL_RIGHT, **sure, "loss/skipped": 1.0, R + "return_mean": 1.0}))
    assert list(doctor.found) == ["solved"]
    assert doctor.num_alarms == 0


def test_an_algorithm_that_does_not_compare_members_needs_no_spread() -> None:
    assert examine((9, {R + "zero_variance_share": 1.0}), compares_members=False).found == {}
    assert examine((9, {R + "zero_variance_share": 1.0}), group_size=1).found == {}


def test_no_signal_is_a_note_where_most_groups_succeed() -> None:
    mostly = {R + "zero_variance_share": 0.95, R + "zero_variance_all_success_share": 0.7}
    assert examine((9, mostly)).found["no_signal"].symptom.severity is Severity.NOTE
    assert examine((9, {R + "zero_variance_share": 0.95})).found["no_signal"].symptom.severity is Severity.ALARM


def test_success_that_was_lost_has_another_cause() -> None:
    lost = {**NO_SUCCESS, R + "zero_variance_all_failure_share": 1.0}
    assert "never found" in examine((6, lost)).found["all_failure"].text
    assert "success 0.05" in examine((1, {**lost, R + "success": 0.05}), (5, lost)).found["all_failure"].text


def test_actions_that_were_valid_once_have_another_cause() -> None:
    assert "does not know" in examine((6, {R + "valid_action_share": 0.4})).found["invalid_actions"].text
    assert (
        "At the start 10% were not"
        in examine((1, {}), (6, {R + "valid_action_share": 0.1})).found["invalid_actions"].text
    )


def test_an_environment_that_the_means_hide() -> None:
    def mixed(success: float, share: float) -> dict[str, float]:
        other = {R + "good/success": 1.0, R + "good/zero_variance_share": 1.0}
        return {**other, R + "bad/success": success, R + "bad/zero_variance_share": share}

    doctor = examine((FEW, mixed(0.0, 0.9)))
    assert names(doctor) == ["one_env_fails"]
    assert doctor.found["one_env_fails"].text.startswith("alarm: one_env_fails: In bad no episode succeeds")
    assert examine((FEW, mixed(0.0, 0.89))).found == {}
    assert examine((FEW, mixed(0.01, 1.0))).found == {}
    # It counts the updates that played it.
    assert names(examine((3, mixed(0.0, 1.0)), (4, {}), (1, mixed(0.0, 1.0)))) == []
    assert names(examine((3, mixed(0.0, 1.0)), (4, {}), (2, mixed(0.0, 1.0)))) == ["one_env_fails"]


def test_what_total_failure_explains_is_not_said_again() -> None:
    failing = {**NO_SUCCESS, R + "zero_variance_all_failure_share": 1.0, R + "group_return_std_mean": 0.0}
    assert names(examine((1, {}), (12, {**failing, R + "turn_limit_share": 1.0}))) == ["all_failure"]


def test_clipping_is_judged_by_the_updates_that_were_not_skipped() -> None:
    doctor = Doctor(Facts())
    for update in range(1, 8):
        loss = {"loss/clip_fraction": 0.4} if update % 2 else {"loss/skipped": 1.0}
        doctor.look({"update": update, **{k: v for k, v in HEALTHY.items() if "loss/" not in k}, **loss})
    assert doctor.found["clip_share"].first_update == 5
    assert doctor.found["clip_share"].last_update == 7


def test_solutions_may_repeat() -> None:
    repeats = {R + "repeated_episode_share": 0.85}
    assert names(examine((FEW, {**repeats, R + "success": 0.59}))) == ["repeated_episodes"]
    assert names(examine((FEW, {**repeats, R + "success": 0.6}))) == []
    assert names(examine((FEW, repeats), group_size=1)) == []


def test_states_matter_only_where_they_are_compared() -> None:
    assert examine((9, {R + "shared_state_share": 0.0})).found == {}
    assert examine((9, {R + "shared_state_share": 0.0}), compares_states=True).num_alarms == 0


def test_episodes_of_one_turn_have_one_state() -> None:
    figures = {R + "shared_state_share": 0.0, R + "turns_max": 1.0}
    doctor = examine((FEW, figures), compares_states=True)
    assert doctor.found["step_groups"].symptom.what.startswith("Episodes have one turn")
    doctor = examine((FEW, figures | {R + "turns_max": 2.0}), compares_states=True)
    assert doctor.found["step_groups"].symptom.what.startswith("After the first turn 0%")


def test_length_explosion() -> None:
    longer = {R + "action_tokens_mean": 8.0}
    assert names(examine((1, {}), (FEW, longer))) == ["length_explosion"]
    assert examine((FEW, {}), (FEW, {R + "action_tokens_mean": 7.9})).found == {}
    # By more than a tenth of the spread that returns had at the start: then the length was worth it.
    assert examine((FEW, {}), (FEW, {**longer, R + "return_mean": 0.56})).found == {}
    assert names(examine((FEW, {}), (FEW, {**longer, R + "return_mean": 0.55}))) == ["length_explosion"]
    short = {R + "action_tokens_mean": 1.0}
    assert examine((FEW, short), (FEW, {R + "action_tokens_mean": 4.9})).found == {}


def test_entropy_that_fell_to_a_tenth_without_gain() -> None:
    start, low = {R + "surprise_mean": 2.0}, {R + "surprise_mean": 0.19}
    assert names(examine((FEW, start), (FEW, low))) == ["entropy_collapse"]
    assert examine((FEW, start), (FEW, {**low, R + "return_mean": 0.6})).found == {}
    assert examine((FEW, start), (FEW, {R + "surprise_mean": 0.2})).found == {}


def test_reward_spread_cliff() -> None:
    alike = {R + "group_return_std_mean": 0.079}
    assert names(examine((FEW, {}), (FEW, alike))) == ["reward_spread_cliff"]
    assert examine((FEW, {}), (FEW, {R + "group_return_std_mean": 0.081})).found == {}
    assert examine((FEW, {}), (FEW, {**alike, R + "return_mean": 0.51})).found == {}
    assert "reward_spread_cliff" not in names(examine((FEW, {}), (RECENT, alike)))  # by then it is how the run is


def test_gradient_spike() -> None:
    assert names(examine((9, {}), (1, {"loss/grad_norm": 10.0}))) == ["gradient_spike"]
    assert examine((8, {}), (1, {"loss/grad_norm": 10.0})).found == {}  # too little to say what is usual
    assert examine((9, {}), (1, {"loss/grad_norm": 9.9})).found == {}
    assert examine((9, {"loss/grad_norm": 1.1}), (1, {"loss/grad_norm": 10.9})).found == {}
    assert names(examine((9, {}), (1, {"loss/grad_norm": 10.0}), (FEW, {}))) == []


def test_numbers_that_are_none() -> None:
    doctor = examine((1, {"loss/policy": math.nan, "loss/grad_norm": math.inf}))
    assert names(doctor) == ["not_finite"]
    assert "loss/grad_norm, loss/policy" in doctor.found["not_finite"].text


def test_environment_failures_get_worse() -> None:
    doctor = Doctor(Facts())
    told = []
    for update in range(1, 21):
        share = 0.01 if update < 10 else 0.06
        told += [
            (update, f.name, f.symptom.severity.name) for f in doctor.look({**HEALTHY, R + "env_timeout_share": share})
        ]
    # Told once as a note, and once more when the mean over five updates reaches 0.05.
    assert told == [(5, "env_failures", "NOTE"), (13, "env_failures", "ALARM")]
    assert doctor.found["env_failures"].first_update == 5


def test_a_finding_that_goes_away_is_past() -> None:
    doctor = examine((FEW, {R + "valid_action_share": 0.1}), (FEW, {}))
    assert names(doctor) == []
    (past,) = doctor.past
    assert (past.name, past.first_update, past.last_update) == ("invalid_actions", 5, 7)
    assert doctor.scalars() == {"doctor/num_alarms": 0.0, "doctor/invalid_actions": 0.0}
    (entry,) = doctor.summary()
    assert entry["standing"] is False
    assert entry["severity"] == "alarm"


def test_alarms_come_before_notes() -> None:
    doctor = examine((FEW, {R + "shared_state_share": 0.0, R + "cut_off_action_share": 0.5}), compares_states=True)
    assert names(doctor) == ["cut_off_actions", "step_groups"]
    assert doctor.scalars() == {"doctor/num_alarms": 1.0, "doctor/cut_off_actions": 2.0, "doctor/step_groups": 1.0}
    words = closing_words(doctor, "runs/demo").splitlines()
    assert words[0].startswith("doctor: alarm: cut_off_actions: 50% of the actions are cut off")
    assert words[-1] == "What to change: python -m agentgrpo doctor run_dir=runs/demo"


FIGURES = st.dictionaries(
    st.sampled_from(sorted(HEALTHY)),
    st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=3)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(FIGURES, max_size=30))
def test_it_never_raises(records: list[dict[str, Any]]) -> None:
    doctor = Doctor(Facts(compares_states=True))
    for update, record in enumerate(records, 1):
        doctor.look({"update": update, **HEALTHY, **record})
    json.dumps([doctor.summary(), doctor.scalars()])


def test_facts_of_configurations() -> None:
    config = compose_config("train", [])
    facts = facts_of(config, default_algorithm("gigpo").settled(exact_sampler=True))
    assert facts == Facts(compares_states=True)
    other = compose_config("train", ["sampler.precision=bf16", "algorithm=ppo", "algorithm.critic_lr=1e-3"])
    facts = facts_of(other, default_algorithm("grpo").settled(exact_sampler=False))
    assert not facts.exact_sampler
    assert facts.corrected
    ahead = facts_of(compose_config("train", ["rollout.mode=async"]), default_algorithm("rloo"))
    assert ahead.max_staleness == 1
    assert not ahead.exact_sampler


@pytest.mark.parametrize(
    ("name", "options", "compares"),
    [
        ("gigpo", {}, True),
        ("gigpo", {"step_weight": 0.0}, False),
        ("gigpo", {"similarity": 0.9}, False),  # states that are alike count as one, and no metric counts those
        ("hgpo", {}, True),
        ("graph_gpo", {}, True),
        ("grpo", {}, False),
    ],
)
def test_which_algorithms_compare_states(name: str, options: dict[str, Any], compares: bool) -> None:
    assert default_algorithm(name, **options).compares_states is compares


# --- the command ------------------------------------------------------------------------------------------------------


def make_run(path: Path, records: int, figures: Mapping[str, float], *, finished: bool = True) -> Path:
    folder = RunFolder(path)
    folder.create(compose_config("train", [f"run_dir={path}"]))
    for update in range(1, records + 1):
        folder.append("metrics", {"update": update, **HEALTHY, **figures})
    if finished:
        folder.write_summary({"status": "finished", "updates": records})
    return path


def output(capsys: pytest.CaptureFixture[str], path: Path, status: int) -> str:
    assert main(["doctor", f"run_dir={path}"]) == status
    captured = capsys.readouterr()
    return captured.err if status == 2 else captured.out


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, make_run(tmp_path / "sick", 8, {R + "cut_off_action_share": 1.0}), 1)
    assert "key_maze, gigpo, 8 updates" in text
    assert "alarm  cut_off_actions, since update 5" in text
    assert "Set rollout.max_new_tokens above 8" in " ".join(text.split())
    assert text.splitlines()[-1] == f"1 alarm, no notes in {len(CHECKS)} checks."
    text = output(capsys, make_run(tmp_path / "well", 8, {}), 0)
    assert text.splitlines()[-1] == f"Nothing stands out in {len(CHECKS)} checks."


def test_notes_alone_are_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no alarms, 1 note" in output(capsys, make_run(tmp_path / "run", 8, ALL_RIGHT), 0)


@pytest.mark.parametrize("columns", ["60", "200"])
def test_it_fits_the_terminal(
    columns: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", columns)
    sick = {R + "cut_off_action_share": 1.0, R + "valid_action_share": 0.0, "loss/clip_fraction": 0.9}
    text = output(capsys, make_run(Path("run"), 8, sick), 1)
    assert max(map(len, text.splitlines())) <= int(columns)


def test_a_run_still_going(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run(tmp_path / "run", 3, {R + "cut_off_action_share": 1.0}, finished=False)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 4, "rollout/succ')
    text = " ".join(output(capsys, path, 0).split())
    assert "The run is not finished" in text
    assert "line 4 of 4 is damaged or half-written" in text
    assert "Most checks look at 5 updates" in text


def test_names_of_metrics_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "reward/[red]x[/red]" in output(capsys, make_run(tmp_path / "run", 1, {"reward/[red]x[/red]": math.nan}), 1)


def test_bad_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 2
    assert "doctor needs a run" in capsys.readouterr().err
    assert "is no folder" in output(capsys, tmp_path / "nowhere", 2)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no run" in output(capsys, empty, 2)
    assert "has no metrics yet" in output(capsys, make_run(tmp_path / "new", 0, {}), 2)
    foreign = make_run(tmp_path / "foreign", 0, {})
    (foreign / "metrics.jsonl").write_text('[1, 2]\n"text"\n')
    assert "has no metrics yet" in output(capsys, foreign, 2)
    (foreign / "metrics.jsonl").write_bytes(b"\x1f\x8b\x00\xff\n")
    assert "has no metrics yet" in output(capsys, foreign, 2)
    other = make_run(tmp_path / "other", 1, {})
    OmegaConf.save(OmegaConf.create({"algorithm": {"name": "gigpo"}}), other / "config.yaml")
    assert "config.yaml is not that of a run of this version" in output(capsys, other, 2)
    (other / "config.yaml").write_text("{")
    assert "config.yaml cannot be read" in output(capsys, other, 2)


def test_help_and_unknown_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--help"]) == 0
    assert "run_dir: null" in capsys.readouterr().out
    assert main(["doctor", "run=x"]) == 2
    assert "`python -m agentgrpo doctor --help` prints all of them." in capsys.readouterr().err


def test_every_finding_has_its_row_in_the_docs() -> None:
    text = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text()
    assert [name for name in CHECKS if f"| `{name}` |" not in text] == []
