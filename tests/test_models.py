"""Loading models: where their weights lie."""

from pathlib import Path

import torch
from helpers import tiny_llama

from agentgrpo.config import ModelConfig
from agentgrpo.models import build_nano, load, save, take_own_memory


def test_weights_that_lie_askew_move_to_the_start_of_a_cache_line() -> None:
    model = tiny_llama()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        # As in a safetensors file behind a header of any length: four bytes past a multiple of 64.
        askew = torch.empty(parameter.numel() + 1)[1:].view_as(parameter)
        parameter.data = askew.copy_(parameter)
    assert any(p.data_ptr() % 64 for p in model.parameters())
    take_own_memory(model)
    assert all(p.data_ptr() % 64 == 0 for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    # Tied weights are one parameter still.
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_loaded_model_has_its_own_memory(tmp_path: Path) -> None:

    model, tokenizer = build_nano(ModelConfig("nano", None, "fp32", 32, 1, 2, 300, 64), ["go north"], seed=0)
    save(model, tokenizer, tmp_path / "model")
    loaded, _ = load(str(tmp_path / "model"))
    assert all(p.data_ptr() % 64 == 0 for p in loaded.parameters())
