"""Commands and bad input: each error names the thing, what is allowed and the next step, before a model loads."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from agentgrpo import models
from agentgrpo.cli import main
from agentgrpo.registry import algorithm_names

BROKEN_ENVS = {
    "NoText": ("return 7, {}", "return 'x', 0.0, True, False, {}", "returned a int as observation"),
    "Raises": ("raise RuntimeError('no maze today')", "return 'x', 0.0, True, False, {}", "no maze today"),
    "Endless": ("return 'on', {}", "return 'on', 0.0, False, False, {}", "did not end within rollout.max_turns=64"),
    "Sleeps": ("import time; time.sleep(60)", "return 'x', 0.0, True, False, {}", "No answer within"),
}


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The error of a command that must fail with exit status 2, without a traceback."""
    assert main(list(args)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error.split("\n")[0]
    return error


@pytest.fixture(autouse=True)
def _no_model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every error here must come before a model loads."""

    def refuse(*args: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load", refuse)
    monkeypatch.setattr(models, "build_nano", refuse)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("env=key_mase", r"env=key_mase: there is no such env\. Did you mean 'key_maze'\?.*sokoban.*env\.id=my_module"),
        ("algorithm=gigp", r"algorithm=gigp: .*Did you mean 'gigpo'\?.*grpo.*algorithm\.name=my_module:Mine"),
        ("algorithm.name=gigp", r"Algorithm 'gigp' is not registered\. Did you mean 'gigpo'\?"),
        ("algorithm.name=grpo", r"algorithm\.[a-z_]+ is no field of 'grpo'\..*algorithm=NAME"),
        ("env.id=agentgrpo/KeyMase-v0", r"is not registered.*Did you mean 'agentgrpo/KeyMaze-v0'\?"),
        ("model=smolm2", r"Did you mean 'smollm2'\?"),
        ("optim.learning_rate=1", r"'optim\.learning_rate' is not a setting\."),
        ("group_sise=4", r"'group_sise' is not a setting\. Did you mean 'group_size'\?"),
        ("algorithm.gama=0.9", r"'algorithm\.gama' is not a setting\. Did you mean 'algorithm\.gamma'"),
        ("group_size=1", r"group_size=1 gives no signal with GiGPO.*2 or more"),
        ("algorithm.gamma=1.5", r"algorithm\.gamma must be in \(0, 1\], got 1\.5"),
        ("algorithm.aggregation=mean", r"algorithm\.aggregation must be one of token-mean"),
        ("optim.lr=fast", r"optim\.lr.*fast"),
        ("optim.lr=0", r"optim\.lr must be above 0, got 0"),
        (
            "context.kind=windows",
            r"context\.kind must be one of transcript, window; got 'windows'\. Did you mean 'window'",
        ),
        ("rollout.temperature=0", r"rollout\.temperature must be above 0"),
        ("model.precision=fp16", r"model\.precision must be one of auto, fp32, bf16"),
        ("model.hidden_size=30", r"multiple of 2 \* model\.num_heads"),
        ("env.kwargs.rooms=2", r"rooms"),
        ("+env.kwargs.doors=2", r"doors"),
        ("env.action_pattern=go", r"has no group"),
        ("algorithm=_base", r"algorithm=_base: there is no such algorithm"),
        ("reward=fromat", r"reward=fromat: there is no such reward\. Did you mean 'format'\?.*unit_test"),
        ("reward=[environment,fromat]", r"reward=fromat: there is no such reward"),
        ("reward.environment.wieght=2", r"'reward\.environment\.wieght' is not a setting\. Did you mean"),
        ("reward=[]", r"No reward term is chosen"),
        ("reward=exact_answer", r"reward\.exact_answer: it judges by info\['answer'\], which .* does not give"),
        ("reward=unit_test", r"reward\.unit_test: it judges by info\['tests'\]"),
        ("reward=reward_model", r"reward\.reward_model: path is not set"),
        ("seed", r"key=value"),
    ],
)
def test_bad_settings(override: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(expected, fails(capsys, "train", override), re.DOTALL)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["algorithm=guided", "algorithm.guided_share=1"],
            r"guided_share must be in \(0, 1\), got 1: all members",
        ),
        (["algorithm.gamma=abc"], r"algorithm\.gamma must be a number, got 'abc'"),
        (["algorithm.gamma=null"], r"algorithm\.gamma must be a number, got None"),
        (["algorithm.reference_every=1.5"], r"algorithm\.reference_every must be a whole number, got 1\.5"),
        (["algorithm.train_truncated=perhaps"], r"algorithm\.train_truncated must be true or false, got 'perhaps'"),
        (["rollout.top_p=0"], r"rollout\.top_p must be in \(0, 1\], got 0"),
        (["memory_gb=0"], r"memory_gb must be above 0, got 0"),
        (["profile=true", "num_updates=2"], r"profile=true traces update 3, and num_updates=2\. Set it to 3 or more"),
        (["algorithm=gspo", "algorithm.aggregation=token-mean"], r"Set algorithm\.aggregation=seq-mean-token-mean"),
        (["algorithm=ppo", "algorithm.critic_lr=null"], r"ppo trains a critic, and algorithm\.critic_lr is not set"),
        (
            ["algorithm=grpo", "algorithm.correction=token", "algorithm.old_logprobs=sampler"],
            r"count the gap .* twice.*old_logprobs=recompute",
        ),
        (["algorithm=dapo", "algorithm.group_filter=none"], r"algorithm\.resample_rounds is set, but"),
    ],
)
def test_combinations_that_make_no_sense(
    overrides: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(expected, fails(capsys, "train", *overrides), re.DOTALL)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("ngrpo", r"which is not known here.*Give the environment an attribute max_return"),
        ("guided", r"guided needs an expert.*oracle_actions\(\).*info\['reference'\].*algorithm=grpo"),
    ],
)
def test_environments_that_an_algorithm_cannot_work_in(
    algorithm: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plain.py").write_text(
        "import gymnasium as gym\nclass Plain(gym.Env):\n"
        "    def reset(self, *, seed=None, options=None):\n        return 'Go.', {}\n"
        "    def step(self, action):\n        return 'End.', 1.0, True, False, {}\n"
        "gym.register('Plain-v0', entry_point=Plain)\n"
    )
    error = fails(capsys, "train", "env.id=plain:Plain-v0", f"algorithm={algorithm}")
    assert re.search(expected, error, re.DOTALL)


def test_missing_model_folder_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "python scripts/fetch_smollm2.py" in fails(capsys, "train", "model=smollm2")
    assert "no such folder" in fails(capsys, "train", "model=hf", "model.path=/nowhere/at/all")


def test_model_folder_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no config.json" in fails(capsys, "train", "model=hf", f"model.path={tmp_path}")


def test_missing_reward_model(capsys: pytest.CaptureFixture[str]) -> None:
    error = fails(capsys, "train", "reward=reward_model", "reward.reward_model.path=/nowhere/at/all")
    assert "reward.reward_model: path=/nowhere/at/all: no such folder" in error


def test_hf_without_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert "model.path" in fails(capsys, "train", "model=hf")


@pytest.mark.parametrize("name", BROKEN_ENVS)
def test_broken_environments_are_found_first(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reset, step, expected = BROKEN_ENVS[name]
    module = f"broken_{name.lower()}"
    (tmp_path / f"{module}.py").write_text(
        f"import gymnasium as gym\nclass {name}(gym.Env):\n"
        f"    def reset(self, *, seed=None, options=None):\n        {reset}\n"
        f"    def step(self, action):\n        {step}\n"
        f"gym.register('{name}-v0', entry_point={name})\n"
    )
    error = fails(capsys, "train", f"env.id={module}:{name}-v0", "rollout.step_timeout=0.01")
    assert expected in error
    assert "check-env" in error


def test_run_folder_that_holds_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 3\n")
    error = fails(capsys, "train", f"run_dir={folder}")
    assert "already holds a run" in error
    assert "resume=true" in error


def test_run_folder_with_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("")
    assert "is not empty" in fails(capsys, "train", f"run_dir={tmp_path}")


def test_resume_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no run" in fails(capsys, "train", f"run_dir={tmp_path / 'none'}", "resume=true")


def test_resume_with_a_changed_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from agentgrpo.composing import compose_config
    from agentgrpo.run_folder import RunFolder

    RunFolder(tmp_path / "run").create(compose_config("train", [f"run_dir={tmp_path / 'run'}"]))
    error = fails(capsys, "train", f"run_dir={tmp_path / 'run'}", "resume=true", "optim.lr=0.1", "algorithm=grpo")
    assert "optim.lr: 0.001 -> 0.1" in error
    assert "algorithm.name: gigpo -> grpo" in error


def test_eval_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    error = fails(capsys, "eval", "run_dir=runs/demos")
    assert "holds no run" in error
    assert "Did you mean 'runs/demo'?" in error
    assert "run_dir=" in fails(capsys, "eval")


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "train" in capsys.readouterr().err


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "check-env" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "setting"), [("eval", "checkpoint_name"), ("play", "episodes")])
def test_help_of_a_command_shows_its_settings(command: str, setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"\n{setting}:" in capsys.readouterr().out


def test_algorithms_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["algorithms"]) == 0
    out = capsys.readouterr().out
    for name in algorithm_names():
        assert re.search(rf"\b{name}\b", out)
    assert "arXiv:2505.10978" in out
    assert "num_virtual=1" in out
    assert main(["algorithms", "x=1"]) == 2
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    assert main(["algorithms"]) == 0
    assert "…" not in capsys.readouterr().out  # nothing is cut off in a narrow terminal


def test_options_without_effect_are_reported() -> None:
    from agentgrpo.composing import compose_config
    from agentgrpo.config import build_algorithm, parse

    _, ignored = build_algorithm(parse(compose_config("train", ["algorithm=cispo", "algorithm.dual_clip=3"])))
    assert ignored == ["dual_clip"]


def test_a_person_can_play(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # ? asks the oracle, an empty line lists what can be done, 7 is out of range; then one of 1 and 2 is right.
    monkeypatch.setattr("sys.stdin", io.StringIO("?\n\n7\n1\n2\n"))
    assert main(["play", "env=number_guess", "env.kwargs.low=1", "env.kwargs.high=2", "task=1"]) == 0
    out = capsys.readouterr().out
    assert "oracle:" in out
    assert "possible: 1, 2" in out
    assert "The episode is over: return 1, success: True." in out
