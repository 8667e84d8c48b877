"""``export``: a run's policy as a plain Hugging Face folder, for transformers, peft and vLLM."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import GenerationConfig

from agentgrpo import checkpoint, lora, models
from agentgrpo.checks import one_of
from agentgrpo.config import TrainConfig, parse
from agentgrpo.context import ChatFormat
from agentgrpo.precision import PRECISIONS
from agentgrpo.run_folder import RunFolder
from agentgrpo.setup import make_policy
from agentgrpo.weights import causal_model

FORMS = ("merged", "adapter")
_OWN_KEYS = ("out", "checkpoint_name", "form", "precision")


def export_command(config: DictConfig) -> int:
    """Writes the folder and says how to load it.

    Raises:
        ValueError: no such run or checkpoint, a folder that is not empty, or a form that the run does not have.
    """
    plain: Any = OmegaConf.to_container(config)
    own = {key: plain.pop(key) for key in _OWN_KEYS}
    if not plain["run_dir"]:
        raise ValueError("export needs a run: run_dir=...")
    c = parse(OmegaConf.create(plain))
    one_of("form", own["form"], FORMS)
    one_of("precision", own["precision"], tuple(PRECISIONS))
    if own["form"] == "adapter" and not c.model.lora.rank:
        raise ValueError(
            f"form=adapter: the run in {c.run_dir} trained all weights (model.lora.rank=0), so it has no adapter. "
            "Leave form out."
        )
    out = _free(own["out"])
    folder = RunFolder(c.run_dir)
    if not folder.holds_run():
        raise ValueError(f"run_dir={c.run_dir} holds no run. `train` makes one.")
    found = checkpoint.find(folder.checkpoints, str(own["checkpoint_name"]))
    if c.model.lora.rank:
        models.check(c.model)  # the run's base must still be there
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    _write(c, found.folder, part, str(own["form"]), PRECISIONS[own["precision"]])
    if out.is_dir():
        out.rmdir()  # empty, or it would have been refused
    part.rename(out)
    print(f"{found.folder} (update {found.update}) -> {out}")
    print(_advice(c, out, str(own["form"])))
    return 0


def _free(given: str | None) -> Path:
    if not given:
        raise ValueError("export needs a folder to write to: out=...")
    out = Path(given)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"out={given} is already there, and nothing is overwritten. Choose another folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _write(c: TrainConfig, source: Path, folder: Path, form: str, dtype: torch.dtype) -> None:
    # Adapters are added in fp32 to the base in fp32, whatever the run held it in: that rounds once, at the end.
    c.model.precision, c.model.device, c.model.lora.base_bits = "fp32", "cpu", None
    made = make_policy(c, source)
    generation = _generation(c, made.chat, causal_model(made.model).generation_config)
    if form == "adapter":
        assert c.model.path is not None
        base = Path(c.model.path)
        lora.save(made.model.to(dtype), folder, str(base.resolve()) if base.is_dir() else c.model.path)
        generation.save_pretrained(folder)
    else:
        model = lora.merged(made.model) if lora.adapted(made.model) else made.model
        model.generation_config = generation
        model.to(dtype).save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)


def _generation(c: TrainConfig, chat: ChatFormat, before: GenerationConfig) -> GenerationConfig:
    """Drawn as in training, ended by what ends a turn."""
    ends = before.eos_token_id
    others = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return GenerationConfig(
        do_sample=True,
        temperature=c.rollout.temperature,
        top_p=c.rollout.top_p,
        top_k=0,
        eos_token_id=[chat.end_id, *(i for i in others if i != chat.end_id)],
        pad_token_id=before.pad_token_id if before.pad_token_id is not None else chat.end_id,
        bos_token_id=before.bos_token_id,
    )


def _advice(c: TrainConfig, out: Path, form: str) -> str:
    if form == "merged":
        return f"Load it: AutoModelForCausalLM.from_pretrained({str(out)!r}), or: vllm serve {out}"
    rank = c.model.lora.rank
    return (
        f"Load it: AutoPeftModelForCausalLM.from_pretrained({str(out)!r}), or: vllm serve {c.model.path} "
        f"--enable-lora --max-lora-rank {rank} --lora-modules agent={out}"
    )
