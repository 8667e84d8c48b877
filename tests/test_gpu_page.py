"""docs/gpu.md: its table is what the script computes, and its commands compose although there is no GPU here."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from agentgrpo.composing import compose_config
from agentgrpo.config import parse

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "gpu.md").read_text()


def test_the_table_is_what_the_script_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = importlib.import_module("gpu_memory")
    monkeypatch.delitem(sys.modules, "gpu_memory")
    assert script.row("0.5B", "LoRA, rank 32", []) in PAGE


COMMANDS = re.findall(r"^python -m agentgrpo (train|eval|export) ([^#\n]*)", PAGE, re.MULTILINE)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize(("command", "rest"), COMMANDS)
def test_commands_compose(command: str, rest: str) -> None:
    config = compose_config(command, rest.split())
    if command == "train":
        parsed = parse(config)
        assert parsed.sampler["kind"] == "vllm"
        assert parsed.model.lora.rank == 32
