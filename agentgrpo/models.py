"""Models and their tokenizers: a nano Llama made here, or any causal LM from a folder or the hub."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from agentgrpo import attention, lora, policy
from agentgrpo.allocator import give_back_freed_memory
from agentgrpo.config import ModelConfig
from agentgrpo.precision import PRECISIONS
from agentgrpo.seeding import derive

NANO_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_NANO_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]

_FETCHED = {"models/smollm2-135m-instruct": "python scripts/fetch_smollm2.py"}


def check(config: ModelConfig) -> None:
    """Refuses a model that cannot be had here, before anything is loaded.

    Raises:
        ValueError: the path looks like a folder and is missing or incomplete; a package or a device is missing.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("model.device=cuda, but PyTorch finds no NVIDIA GPU here. Set model.device=cpu.")
    lora.check(config)
    if config.kind == "hf" and config.path is not None:
        check_folder("model.path", config.path)


def check_folder(setting: str, path: str) -> None:
    """Refuses a path that looks like a folder and is missing or holds no model.

    Args:
        setting: what the path was given as, for the error.
        path: a folder, or the name of a hub model.
    """
    folder = Path(path)
    if folder.is_dir():
        if (folder / lora.SETTINGS).is_file() and not (folder / "config.json").is_file():
            raise ValueError(
                f"{setting}={path}: the folder holds adapters, not a model. Make one of them and their base: "
                "python -m agentgrpo export run_dir=RUN out=FOLDER"
            )
        if not (folder / "config.json").is_file():
            raise ValueError(f"{setting}={path}: the folder has no config.json, so it holds no model.")
        return
    if path in _FETCHED:
        raise ValueError(f"{setting}={path}: no such folder. Make it with: {_FETCHED[path]}")
    # 'owner/name' without a dot or a third part may be a model of the hub; anything else must be a folder.
    if len(folder.parts) != 2 or path.startswith((".", "/", "~")) or folder.parent.is_dir():
        raise ValueError(
            f"{setting}={path}: no such folder (looked in {Path.cwd()}). Name a folder that holds config.json and "
            "model.safetensors, or a hub model as 'owner/name'."
        )


def load(
    path: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32, bits: int | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM and its tokenizer, from a folder or the hub.

    Args:
        dtype: of the weights: fp32 for those that are trained.
        bits: 4 holds linear layers as NF4 (bitsandbytes); products are still computed in ``dtype``.
    Raises:
        ValueError: it cannot be read, or its logits are more than its head applied to its backbone.
    """
    attention.register()
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention.NAME}
    if bits is not None:
        options |= {"quantization_config": _four_bits(dtype), "device_map": {"": device}}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"model.path={path} cannot be loaded: {error}") from error
    if bits is None:
        take_own_memory(model)
        give_back_freed_memory()
        model.to(device)
    # Dropout would make the learner's log-probabilities differ from the sampler's, so the model stays in eval mode.
    model.eval()
    policy.check_head(model)
    return model, tokenizer


def _four_bits(dtype: torch.dtype) -> Any:
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def skeleton(config: ModelConfig, seed: int) -> PreTrainedModel:
    """The model of a configuration without memory for its weights, so that it costs nothing, whatever its size.

    Raises:
        ValueError: its configuration cannot be read.
    """
    attention.register()
    if config.kind == "nano":
        # Its tokenizer may come to have fewer words, since texts have only so many.
        shape: PretrainedConfig = nano_shape(config, config.vocab_size)
    else:
        try:
            shape = AutoConfig.from_pretrained(config.path)
        except (OSError, ValueError) as error:
            raise ValueError(f"model.path={config.path} cannot be loaded: {error}") from error
    dtype = PRECISIONS[config.precision] if config.lora.rank else torch.float32
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shape, attn_implementation=attention.NAME, dtype=dtype
        )
        return lora.attach(model, config.lora, seed) if config.lora.rank else model.eval()


def take_own_memory(module: nn.Module) -> None:
    """Moves weights that lie in a mapped file to memory of PyTorch's own.

    There they start at a multiple of 64 bytes. On some processors a product of few rows rounds differently where they
    do not, and a resumed run would drift from an uninterrupted one.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()


def build_nano(config: ModelConfig, texts: Sequence[str], seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A small Llama with random weights, and a byte-level BPE tokenizer trained on the given texts.

    Frequent words become one token each; every other text still round-trips, byte by byte.
    """
    attention.register()
    tokenizer = _nano_tokenizer(config.vocab_size, texts)
    llama = nano_shape(config, len(tokenizer))
    llama.eos_token_id, llama.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights") % 2**32)
        model = LlamaForCausalLM._from_config(llama, attn_implementation=attention.NAME, dtype=torch.float32)
    return model.eval(), tokenizer


def nano_shape(config: ModelConfig, vocab_size: int) -> LlamaConfig:
    """Widths and depth of a nano model."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=2 * config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=True,
        # transformers' 0.02 is meant for widths in the thousands; at 64 it makes the first hundred steps idle.
        initializer_range=config.hidden_size**-0.5,
        bos_token_id=None,
    )


def _nano_tokenizer(vocab_size: int, texts: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_NANO_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        extra_special_tokens=_NANO_TOKENS[2:],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = NANO_TEMPLATE
    fast.name_or_path = "nano"
    return fast


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes an ordinary model folder (safetensors, config, tokenizer), replacing what is there.

    Of a model with adapters only these are written, as peft does.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if lora.adapted(model):
        lora.save(model, folder)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
