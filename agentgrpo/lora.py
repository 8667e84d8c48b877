"""Low-rank adapters (peft): the base stays as it is, small matrices beside its linear layers learn.

A model with adapters is peft's own ``PeftModel`` around the causal LM. What is frozen is never copied: the
half-precision twin, the reference policy and a critic share the base (:func:`agentgrpo.precision.converted`).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from agentgrpo.algorithm import Algorithm
from agentgrpo.config import LoraConfig, ModelConfig
from agentgrpo.precision import converted
from agentgrpo.seeding import derive

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
_NAME = "default"  # peft's name for the only adapter


def check(config: ModelConfig) -> None:
    """Refuses what cannot be had here; called before a model loads.

    Raises:
        ValueError: a package or a device is missing.
    """
    if config.lora.rank and find_spec("peft") is None:
        raise ValueError(f"model.lora.rank={config.lora.rank} needs peft: pip install 'agentgrpo[lora]'.")
    if not config.lora.base_bits:
        return
    wanted = f"model.lora.base_bits={config.lora.base_bits}"
    if config.device != "cuda":
        found = "there is none here" if not torch.cuda.is_available() else f"model.device={config.device}"
        raise ValueError(f"{wanted} needs an NVIDIA GPU, and {found}. Set model.lora.base_bits=null.")
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"{wanted} needs bitsandbytes: pip install 'agentgrpo[lora-4bit]'.")


def check_algorithm(config: ModelConfig, algorithm: Algorithm) -> None:
    """Refuses an algorithm that asks for what adapters cannot do.

    Raises:
        ValueError: a reference that moves part of the way.
    """
    if config.lora.rank and algorithm.reference_every and algorithm.reference_mix != 1:
        raise ValueError(
            f"algorithm.reference_mix={algorithm.reference_mix:g} with model.lora.rank={config.lora.rank}: a mixture "
            "of two adapters is no adapter of this rank, because an adapter is a product of two matrices. Set "
            "algorithm.reference_mix=1, or algorithm.reference_every=0, or model.lora.rank=0."
        )


def adapted(model: PreTrainedModel) -> bool:
    """True for a model with adapters."""
    return hasattr(model, "get_base_model")


def attach(model: PreTrainedModel, config: LoraConfig, seed: int) -> PreTrainedModel:
    """Puts adapters beside the linear layers and freezes everything else. Their product starts at 0.

    Args:
        seed: of the adapters' first matrices.
    Raises:
        ValueError: names that are no linear layers of the model's blocks.
    """
    import peft

    names = config.target_modules
    if names != "all-linear":
        _check_names(model, names)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=names, task_type=peft.TaskType.CAUSAL_LM
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "adapters") % 2**32)
        made: PreTrainedModel = peft.get_peft_model(model, settings)
    return made.eval()


def _check_names(model: PreTrainedModel, names: list[str]) -> None:
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    inside = [(name, module) for name, module in model.named_modules() if module not in ends]
    linear = {name.rpartition(".")[2] for name, module in inside if "Linear" in type(module).__name__}
    unknown = [name for name in names if name not in linear]
    if unknown:
        raise ValueError(
            f"model.lora.target_modules={','.join(unknown)}: no linear layer in the blocks of "
            f"{type(model).__name__} has this name. There are: {', '.join(sorted(linear))}."
        )


def untouched(model: PreTrainedModel) -> bool:
    """True while the adapters' product is 0, as when they are new: the policy is its base."""
    return all(not bool(p.any()) for name, p in model.named_parameters() if ".lora_B." in name)


def switch_off(model: PreTrainedModel) -> None:
    """Has the model compute what its bare base does."""
    model.base_model.disable_adapter_layers()


def save(model: PreTrainedModel, folder: Path, base: str | None = None) -> None:
    """Writes the adapters as peft does.

    Args:
        base: folder or hub name that the adapters belong to, where it is not the one that was loaded.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS, {"format": "pt"})
    held: Any = model.peft_config
    settings = held[_NAME]
    before = settings.inference_mode, settings.target_modules, settings.base_model_name_or_path
    settings.inference_mode = True
    if not isinstance(settings.target_modules, str):
        settings.target_modules = sorted(settings.target_modules)  # a set: its order changes from process to process
    settings.base_model_name_or_path = base or settings.base_model_name_or_path
    try:
        settings.save_pretrained(folder)
    finally:
        settings.inference_mode, settings.target_modules, settings.base_model_name_or_path = before


def restore(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Reads what :func:`save` wrote into the adapters of a model.

    Raises:
        ValueError: the adapters are not of the same shape.
    """
    from peft import set_peft_model_state_dict

    saved = load_file(folder / WEIGHTS)
    try:
        result = set_peft_model_state_dict(model, saved, adapter_name=_NAME)
    except RuntimeError as error:
        raise ValueError(f"{folder} holds adapters of another shape than model.lora.* says: {error}") from error
    missing = [name for name in result.missing_keys if ".lora_" in name]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"{folder} holds adapters for other layers than model.lora.target_modules says: "
            f"{len(missing)} are missing, {len(result.unexpected_keys)} are too many."
        )
    return model


def beside(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A second policy on the same base, with the adapters that a folder holds."""
    return restore(converted(model, None), folder)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The causal LM with the adapters added to its weights; the model itself is used up."""
    made: PreTrainedModel = model.base_model.merge_and_unload().requires_grad_(True)
    return made
