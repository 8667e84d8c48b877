"""Whole runs with adapters, and what ``export`` makes of runs: loaded with transformers and peft alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CHATML, tiny_llama, tiny_tokenizer
from safetensors.torch import load_file
from test_training import TINY, lines, without_clock
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from agentgrpo import models
from agentgrpo.cli import main
from agentgrpo.composing import config_for_run
from agentgrpo.config import TrainConfig, parse
from agentgrpo.learner import Learner
from agentgrpo.packing import pack
from agentgrpo.setup import make_policy
from agentgrpo.types import Sequence

ADAPTER = "adapter_model.safetensors"
SMALL = [o for o in TINY if not o.startswith("model.")]
IDS = (5, 60, 61, 62, 15, 80, 90, 33)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as from the hub."""
    folder = tmp_path_factory.mktemp("base") / "model"
    tokenizer = tiny_tokenizer(CHATML)
    models.save(tiny_llama(vocab=len(tokenizer)), tokenizer, folder)
    return folder


def with_lora(base: Path) -> list[str]:
    return ["model=hf", f"model.path={base}", "model.precision=fp32", "model.lora.rank=4", *SMALL, "warm_start.lr=1e-2"]


def config_of(run: Path) -> TrainConfig:
    return parse(config_for_run("train", [f"run_dir={run}"])[0])


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "lora"
    options = ["algorithm=grpo", "algorithm.kl_coef=0.1", "num_updates=6", "optim.epochs=1"]
    options += ["checkpoint.every=3", "checkpoint.keep=5"]
    assert main(["train", *with_lora(base), *options, f"run_dir={folder}"]) == 0
    return folder


def test_a_run_folder_holds_adapters_and_no_second_base(run: Path, base: Path) -> None:
    for checkpoint in ("update_000000", "update_000003", "update_000006", "best"):
        names = {p.name for p in (run / "checkpoints" / checkpoint).iterdir()}
        assert {ADAPTER, "adapter_config.json", "state.json", "tokenizer.json"} <= names
        assert "model.safetensors" not in names
    weights = (base / "model.safetensors").stat().st_size
    kept = [p for p in run.rglob("*.safetensors") if p.stat().st_size > weights]
    assert [p.name for p in kept if p.name != "optimizer.safetensors"] == []
    start, last = (load_file(p / ADAPTER) for p in (run / "reference", run / "checkpoints" / "update_000006"))
    assert any(bool(v.any()) for name, v in start.items() if "lora_B" in name)  # the warm start trained it
    assert any(not torch.equal(start[name], last[name]) for name in start)
    first = lines(run / "metrics.jsonl")[0]
    assert first["loss/ref_kl"] == pytest.approx(0.0, abs=1e-6)  # the reference is the policy after the warm start
    assert first["sampler/logprob_gap_max"] < 1e-4


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["algorithm=grpo", "algorithm.kl_coef=0.1"], id="reference"),
        pytest.param(
            ["algorithm=grpo", "algorithm.kl_coef=0.1", "warm_start.episodes=0", "model.precision=bf16"],
            id="half precision",
        ),
        pytest.param(
            ["algorithm=grpo", "algorithm.kl_coef=0.1", "algorithm.reference_every=2"],
            id="moving reference",
            marks=pytest.mark.slow,
        ),
        pytest.param(["algorithm=ppo", "optim.recompute=true"], id="critic", marks=pytest.mark.slow),
        pytest.param(["algorithm=ppo", "model.precision=bf16"], id="half-precision critic", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_an_uninterrupted_one(overrides: list[str], base: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    for folder, updates in ((whole, 6), (part, 3)):
        options = [f"num_updates={updates}", "checkpoint.every=3", "checkpoint.keep=5", f"run_dir={folder}"]
        assert main(["train", *with_lora(base), *overrides, *options]) == 0
    assert main(["train", f"run_dir={part}", "resume=true", "num_updates=6"]) == 0
    assert without_clock(lines(part / "metrics.jsonl")) == without_clock(lines(whole / "metrics.jsonl"))
    for file in (ADAPTER, "optimizer.safetensors", "critic.safetensors", f"reference/{ADAPTER}"):
        one, other = (folder / "checkpoints" / "update_000006" / file for folder in (whole, part))
        assert one.is_file() == other.is_file()
        if one.is_file():
            found, expected = load_file(other), load_file(one)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in found)


def test_eval_and_play_look_at_a_run_with_adapters(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", f"run_dir={run}", "checkpoint_name=last"]) == 0
    after = json.loads((run / "summary.json").read_text())["after"]
    assert f"success   {after['success']:.3f}" in capsys.readouterr().out
    assert main(["play", f"run_dir={run}"]) == 0


def test_a_run_whose_base_is_gone_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["eval"], ["export", "out=/nowhere/at/all"]):
        assert main([*command, f"run_dir={run}", "model.path=/no/such/base"]) == 2
        assert "model.path=/no/such/base: no such folder" in capsys.readouterr().err


# --- export -----------------------------------------------------------------------------------------------------------

OUTSIDE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, form, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if form == "adapter":
    from peft import AutoPeftModelForCausalLM
    model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
else:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    logits = model.eval()(input_ids=torch.tensor([ids])).logits[0]
logprobs = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
text = tokenizer.apply_chat_template([{"role": "user", "content": "go"}], tokenize=False, add_generation_prompt=True)
assert not any(name.startswith("agentgrpo") for name in sys.modules)
print(json.dumps([logprobs.tolist(), text]))
"""


def outside(folder: Path, form: str) -> tuple[list[float], str]:
    """Log-probabilities and a prompt, in a process that knows transformers and peft only."""
    command = [sys.executable, "-c", OUTSIDE, str(folder), form, json.dumps(IDS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=False)
    assert done.returncode == 0, done.stderr
    found: tuple[list[float], str] = json.loads(done.stdout.splitlines()[-1])
    return found


def inside(run: Path, checkpoint: str) -> list[float]:
    """Log-probabilities of the run's own policy."""
    c = config_of(run)
    made = make_policy(c, run / "checkpoints" / checkpoint)
    learner = Learner(made.model, c.optim, precision="fp32", temperature=1.0, max_length=8)
    zeros = (0.0,) * (len(IDS) - 1)
    (batch,) = pack([Sequence(IDS, tuple(range(1, len(IDS))), zeros, zeros, zeros)], 100)
    found: list[float] = learner.logprobs(batch)[0].tolist()
    return found


@pytest.mark.slow
def test_the_policy_comes_out_whichever_way_it_is_exported(run: Path, tmp_path: Path, base: Path) -> None:
    expected = inside(run, "update_000006")
    unlike = outside(base, "merged")[0]
    assert max(abs(a - b) for a, b in zip(unlike, expected, strict=True)) > 0.01  # the adapters say something
    for form in ("merged", "adapter"):
        out = tmp_path / form
        assert main(["export", f"run_dir={run}", f"out={out}", f"form={form}", "checkpoint_name=last"]) == 0
        found, text = outside(out, form)
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-4, rtol=0)
        assert text == "<|user|>\ngo<|end|>\n<|assistant|>\n"
    names = {p.name for p in (tmp_path / "adapter").iterdir()}
    assert {ADAPTER, "adapter_config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= names
    assert "model.safetensors" not in names
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        base
    )
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged.keys() == load_file(base / "model.safetensors").keys()


def test_generation_is_set_to_what_was_trained(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    assert main(["export", f"run_dir={run}", f"out={out}", "precision=bf16", "rollout.temperature=0.7"]) == 0
    settings = GenerationConfig.from_pretrained(out)
    end = AutoTokenizer.from_pretrained(out).convert_tokens_to_ids("<|end|>")
    assert settings.eos_token_id[0] == end
    assert settings.do_sample
    assert settings.temperature == 0.7
    assert settings.top_k == 0
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    drawn = model.generate(torch.tensor([IDS]), attention_mask=torch.ones(1, len(IDS)), max_new_tokens=4)
    assert drawn.shape[1] > len(IDS)


@pytest.mark.slow
def test_a_run_of_all_weights_is_exported_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "deep" / "out"
    assert main(["train", *TINY, "num_updates=1", f"run_dir={run}"]) == 0
    assert main(["export", f"run_dir={run}", f"out={out}", "form=adapter"]) == 2
    assert "has no adapter" in capsys.readouterr().err
    out.mkdir(parents=True)  # an empty folder is free
    assert main(["export", f"run_dir={run}", f"out={out}", "checkpoint_name=last"]) == 0
    assert f"vllm serve {out}" in capsys.readouterr().out
    torch.testing.assert_close(
        torch.tensor(outside(out, "merged")[0]), torch.tensor(inside(run, "update_000001")), atol=1e-4, rtol=0
    )
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert main(["export", f"run_dir={run}", f"out={out}"]) == 2
    assert f"out={out} is already there, and nothing is overwritten" in capsys.readouterr().err
    assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "needs a run: run_dir="),
        (["run_dir=nothing"], "needs a folder to write to: out="),
        (["run_dir=nothing", "out=new"], "run_dir=nothing holds no run"),
        (["run_dir=nothing", "out=new", "form=gguf"], "form must be one of merged, adapter; got 'gguf'"),
        (["run_dir=nothing", "out=new", "precision=int8"], "precision must be one of fp32, bf16"),
    ],
)
def test_export_says_what_it_needs(
    options: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *options]) == 2
    assert expected in capsys.readouterr().err
