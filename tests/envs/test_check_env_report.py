"""check-env as a command: what is printed, on a terminal and elsewhere, and the exit status."""

import io
import textwrap
from pathlib import Path

import broken_envs as broken
import gymnasium as gym
import pytest
from rich.console import Console

from agentgrpo.env_check import Finding, Report, check_env, main, print_report

REPORT = Report(
    "maze:Maze-v0",
    {"rooms": 4},
    (
        Finding("ok", "text", "reset and step take and return str"),
        Finding("ok", "hostile text", "survives empty, 100 kB, control characters, non-ASCII, markup"),
        Finding("advice", "oracle", "makes warm starts possible", "oracle_actions(): a plan", optional=True),
        Finding("advice", "speed", "100 steps/s: 10 ms a step", "set env.execution=process"),
        Finding("problem", "turn limit", "an episode took 12 steps, although max_turns is 10; it should not", "stop"),
    ),
)


def printed(report: Report, *, terminal: bool, width: int = 80) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, highlight=False, color_system=None)
    print_report(report, console)
    return out.getvalue()


def test_a_terminal_gets_paragraphs_of_80_columns_with_the_worst_first() -> None:
    assert printed(REPORT, terminal=True) == textwrap.dedent(
        """\
        maze:Maze-v0 rooms=4

        problem  turn limit
                 An episode took 12 steps, although max_turns is 10; it should not.
                 -> Stop.

        advice   speed
                 100 steps/s: 10 ms a step.
                 -> Set env.execution=process.

        ok  text                       reset and step take and return str
        ok  hostile text               survives empty, 100 kB, control characters,
                                       non-ASCII, markup

        It could also offer:
          oracle: oracle_actions(): a plan
            Makes warm starts possible.

        1 problem, 1 piece of advice.
        Problems break a run or spoil its results: solve them before training.
        """
    )


def test_real_reports_fit_into_80_columns() -> None:
    for cls in (broken.Good, broken.BadInfo, broken.SeedsGlobally, broken.Sleeps, broken.SingleTurn, broken.Unseeded):
        env_id = f"check_env_report/{cls.__name__}-v0"
        gym.register(env_id, entry_point=cls)
        text = printed(check_env(env_id, num_tasks=4), terminal=True)
        assert max(map(len, text.splitlines())) <= 80, text


def test_elsewhere_each_finding_is_one_line() -> None:
    lines = printed(REPORT, terminal=False).splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["problem", "advice", "ok", "ok", "advice"]
    assert lines[2].endswith("100 steps/s: 10 ms a step -> set env.execution=process")


def test_a_good_report_of_ones_own_environment_ends_with_the_command_to_train() -> None:
    report = Report("maze:Maze-v0", {"rooms": 4}, REPORT.findings[:3])
    assert printed(report, terminal=False).splitlines()[-2:] == [
        "No problems, no advice.",
        "Train: python -m agentgrpo train env.id=maze:Maze-v0 +env.kwargs.rooms=4",
    ]


def test_markup_in_findings_is_shown_and_not_obeyed() -> None:
    report = Report("x", {}, (Finding("problem", "text", "[red]odd[/red]", "look"),))
    assert "[red]odd[/red] -> look" in printed(report, terminal=False)
    assert "[red]odd[/red]." in printed(report, terminal=True)


def test_command_reads_yaml_values_and_prints_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agentgrpo/FrozenLake-v0", "slip=0.2", "size=3", "--num-tasks", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "agentgrpo/FrozenLake-v0 slip=0.2 size=3"
    assert f"{'ok':8}{'text':28}reset and step take and return str" in lines
    assert lines[-1].startswith("No problems")
    assert any("the dynamics are noisy" in line for line in lines)


def test_command_fails_on_problems_and_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agentgrpo/KeyMaze-v0", "rooms=99"]) == 1
    assert main(["agentgrpo/KeyMaze-v0", "rooms"]) == 1
    assert "expected key=value, got 'rooms'" in capsys.readouterr().err
    assert main(["agentgrpo/Nothing-v0"]) == 1
    assert "is not registered" in capsys.readouterr().err


def test_a_users_module_is_imported_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_check_env_task.py").write_text(
        "import gymnasium as gym\nfrom agentgrpo.envs.key_maze import KeyMazeEnv\n"
        "class Mine(KeyMazeEnv):\n    pass\n"
        "gym.register('Mine-v0', entry_point=Mine, disable_env_checker=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["my_check_env_task:Mine-v0", "rooms=4", "--num-tasks=3"]) == 0
    assert "No problems" in capsys.readouterr().out
