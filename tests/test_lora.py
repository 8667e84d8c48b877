"""Adapters: what they share, what is trained, what they refuse, and what comes out of a run with them."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import default_algorithm, optim_config, tiny_llama, tiny_tokenizer
from transformers import PreTrainedModel

from agentgrpo import lora, models, policy
from agentgrpo.algorithms.grpo import GRPO
from agentgrpo.config import LoraConfig, ModelConfig
from agentgrpo.critic import Critic
from agentgrpo.learner import Learner
from agentgrpo.packing import pack
from agentgrpo.precision import converted
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.transformers import TransformersSampler
from agentgrpo.types import Batch, Sequence

LAYERS = 2
LINEAR = 7  # per layer of a Llama: q, k, v, o, gate, up, down


def adapted(rank: int = 4, *, dtype: torch.dtype = torch.float32, trained: bool = False) -> PreTrainedModel:
    """The tiny Llama with adapters: new ones, or with a product that is far from 0."""
    model = lora.attach(converted(tiny_llama(), dtype), LoraConfig(rank=rank), seed=3)
    if trained:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if ".lora_B." in name:
                    p.copy_(torch.linspace(-0.5, 0.5, p.numel()).view(p.shape))
    return model


def items() -> list[Sequence]:
    return [Sequence((1, 40, 41, 15, token), (3, 4), (-3.0, -3.0), (-3.0, -3.0), (1.0, -0.5)) for token in (2, 3, 4)]


def batch() -> Batch:
    (made,) = pack(items(), 100)
    return made


def learner(model: PreTrainedModel, precision: str = "fp32", lr: float = 1e-2, recompute: bool = False) -> Learner:
    optim = optim_config(lr=lr)
    optim.recompute = recompute
    return Learner(model, optim, precision=precision, temperature=1.0, max_length=8)


def trained(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def frozen(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if not p.requires_grad}


def test_new_adapters_are_small_fp32_and_change_nothing() -> None:
    model = adapted(rank=4, dtype=torch.bfloat16)
    # Per linear layer rank x (in + out): q 32+32, k and v 32+16, o 32+32, gate and up 32+48, down 48+32.
    expected = LAYERS * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
    assert sum(p.numel() for p in trained(model).values()) == expected
    assert {p.dtype for p in trained(model).values()} == {torch.float32}
    assert {p.dtype for p in frozen(model).values()} == {torch.bfloat16}
    assert lora.untouched(model)
    assert not lora.untouched(adapted(trained=True))
    plain, new = tiny_llama(), adapted()
    one, other = (learner(m).logprobs(batch()).detach() for m in (plain, new))
    assert torch.equal(one, other)


def test_the_seed_decides_the_first_matrices() -> None:
    one, same = (trained(adapted()) for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    other = trained(lora.attach(tiny_llama(), LoraConfig(rank=4), seed=4))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_an_update_moves_adapters_only_and_the_optimizer_holds_nothing_else() -> None:
    model = adapted()
    before = {name: p.clone() for name, p in frozen(model).items()}
    one = learner(model)
    assert sum(p.numel() for g in one.optimizer.param_groups for p in g["params"]) == sum(
        p.numel() for p in trained(model).values()
    )
    one.update(items(), GRPO(), (0,))
    assert not lora.untouched(model)
    assert all(torch.equal(before[name], p) for name, p in frozen(model).items())
    assert not any(p.requires_grad for p in frozen(model).values())


def test_half_precision_keeps_one_base_and_fp32_adapters() -> None:
    model = adapted(dtype=torch.bfloat16)
    one = learner(model, "bf16")
    assert one.shares_prefixes
    assert {p.dtype for p in one.computing.parameters()} == {torch.bfloat16}
    here, there = frozen(model), frozen(one.computing)
    assert here.keys() == there.keys()
    assert all(here[name] is there[name] for name in here)
    one.update(items(), GRPO(), (0,))
    assert {p.dtype for p in trained(model).values()} == {torch.float32}
    for name, p in trained(one.computing).items():
        assert torch.equal(p, trained(model)[name].bfloat16())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reference_is_the_base_itself_with_adapters_off(precision: str) -> None:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = adapted(dtype=dtype)
    one = learner(model, precision)
    one.freeze_reference()
    assert one.reference is not None
    one.update(items(), GRPO(), (0,))
    base = learner(tiny_llama(), precision).logprobs(batch()).detach()
    assert torch.equal(one.logprobs(batch(), one.reference).detach(), base)
    assert not torch.equal(one.logprobs(batch()).detach(), base)
    here, there = frozen(model), dict(one.reference.named_parameters())
    assert all(here[name] is there[name] for name in here)
    # The policy still learns: switching the reference's adapters off does not reach its own.
    assert trained(model)
    assert all(p.requires_grad for p in trained(one.computing).values())


def test_after_a_warm_start_the_reference_is_the_base_with_the_adapters_of_then() -> None:
    one = learner(adapted())
    one.imitate(items(), 1e-2)
    then = one.logprobs(batch()).detach().clone()
    one.freeze_reference()
    one.update(items(), GRPO(), (0,))
    assert one.reference is not None
    assert torch.equal(one.logprobs(batch(), one.reference).detach(), then)
    assert not torch.equal(one.logprobs(batch()).detach(), then)
    one.move_reference(1.0)
    assert torch.equal(one.logprobs(batch(), one.reference).detach(), one.logprobs(batch()).detach())


def test_a_critic_shares_the_base_and_learns_adapters_of_its_own(tmp_path: Path) -> None:
    model = adapted(trained=True)
    critic = Critic(model)
    shared = {id(p) for p in frozen(model).values()}
    names = {name for name, p in critic.named_parameters() if id(p) not in shared}
    assert names == {name for name, p in critic.named_parameters() if p.requires_grad}
    assert names == {n.replace("base_model.model.model", "backbone") for n in trained(model)} | {
        "head.weight",
        "head.bias",
    }
    with torch.no_grad():
        critic.head.weight.fill_(0.1)
    critic(batch(), share_prefixes=True).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    critic.save(tmp_path)
    again = Critic(model)
    again.load(tmp_path)
    assert torch.equal(again(batch(), share_prefixes=True), critic(batch(), share_prefixes=True))
    assert (tmp_path / "critic.safetensors").stat().st_size < 4 * sum(p.numel() for p in frozen(model).values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_sampler_samples_with_the_adapters(precision: str) -> None:
    one = learner(adapted(dtype=torch.bfloat16 if precision == "bf16" else torch.float32, trained=True), precision)
    sampler = TransformersSampler(one.computing, [1], precision=precision, cache_gb=0.1)
    assert sampler._model is one.computing
    one.update(items(), GRPO(), (0,))
    sampler.sync(one.computing)
    prompt = (1, 40, 41)
    (answer,) = sampler.generate([prompt], [SamplingParams(4, 1.0, noise_key=0)])
    ids, sampled = (*prompt, *answer.token_ids), answer.logprobs
    (made,) = pack([Sequence(ids, tuple(range(3, len(ids))), sampled, sampled, (1.0,) * len(sampled))], 100)
    with torch.no_grad():
        gap = (one.logprobs(made)[0] - torch.tensor(sampled)).abs()
    assert float(gap.max()) < (1e-4 if precision == "fp32" else 0.2)


def test_adapters_survive_a_folder(tmp_path: Path) -> None:
    model = adapted(trained=True)
    lora.save(model, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    other = lora.restore(adapted(), tmp_path)
    for name, p in trained(model).items():
        assert torch.equal(p, trained(other)[name])
    text = (tmp_path / "adapter_config.json").read_text()
    lora.save(other, tmp_path)
    assert (tmp_path / "adapter_config.json").read_text() == text
    with pytest.raises(ValueError, match="another shape than"):
        lora.restore(adapted(rank=8), tmp_path)
    fewer = lora.attach(tiny_llama(), LoraConfig(rank=4, target_modules=["q_proj", "v_proj"]), seed=0)
    with pytest.raises(ValueError, match="are too many"):
        lora.restore(fewer, tmp_path)


def test_a_merged_model_is_an_ordinary_one_with_the_same_log_probabilities() -> None:
    model = adapted(trained=True)
    expected = learner(model).logprobs(batch()).detach()
    plain = lora.merged(model)
    assert type(plain) is type(tiny_llama())
    assert plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    assert not any("lora" in name for name in plain.state_dict())
    torch.testing.assert_close(learner(plain).logprobs(batch()).detach(), expected, atol=1e-4, rtol=0)


def test_copies_share_what_is_frozen_and_nothing_else() -> None:
    model = adapted(trained=True)
    same = converted(model, None)
    for (name, p), q in zip(model.named_parameters(), same.parameters(), strict=True):
        assert (p is q) == (not p.requires_grad), name
    half = converted(model, torch.bfloat16)  # the base is fp32, so it has to be copied
    assert all(p is not q for p, q in zip(model.parameters(), half.parameters(), strict=True))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("with_adapters", [False, True])
def test_recomputed_layers_give_the_same_gradient(with_adapters: bool) -> None:
    found, kept = [], []
    for recompute in (False, True):
        one = learner(adapted(trained=True) if with_adapters else tiny_llama(), recompute=recompute)
        count = 0

        def pack_hook(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda t: t):
            loss = one.logprobs(batch()).sum()
        kept.append(count)
        loss.backward()
        found.append([p.grad.clone() for p in one.model.parameters() if p.grad is not None])
        assert not any(module.training for module in one.model.modules())
        with torch.no_grad():  # a pass without gradients keeps nothing in any case, and the sampler keeps its cache
            TransformersSampler(one.computing, [1], cache_gb=0.1).generate([(1, 2)], [SamplingParams(3, 1.0)])
    assert len(found[0]) == len(found[1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept[1] < kept[0] / 2


def test_half_precision_tells_a_leak_from_rounding() -> None:
    model = tiny_llama().bfloat16()
    assert policy.can_share_prefixes(model)
    model.set_attn_implementation("eager")
    assert not policy.can_share_prefixes(model)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rank": -1}, r"model\.lora\.rank must be at least 0"),
        ({"rank": 8, "alpha": 0}, r"model\.lora\.alpha must be above 0"),
        ({"rank": 8, "dropout": 0.1}, r"dropout must be 0, got 0\.1: .*another policy"),
        ({"rank": 8, "target_modules": "q_proj"}, r"all-linear or a list of names such as \[q_proj,v_proj\]"),
        ({"rank": 8, "target_modules": []}, r"all-linear or a list"),
        ({"rank": 8, "base_bits": 8}, r"base_bits must be null or 4, got 8"),
        ({"base_bits": 4}, r"leaves nothing to train.*model\.lora\.rank=16"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        LoraConfig(**options)


def test_a_nano_model_has_no_base() -> None:
    with pytest.raises(ValueError, match=r"random weights.*model\.path=RUN/checkpoints/best"):
        ModelConfig("nano", lora=LoraConfig(rank=8))


@pytest.mark.parametrize("name", ["q_prj", "lm_head", "embed_tokens"])
def test_names_that_are_no_linear_layers_of_the_blocks(name: str) -> None:
    with pytest.raises(ValueError, match=rf"target_modules={name}: no linear layer.*There are: down_proj, gate_proj"):
        lora.attach(tiny_llama(), LoraConfig(rank=4, target_modules=["q_proj", name]), seed=0)


def test_a_reference_that_moves_half_way_is_refused() -> None:
    config = ModelConfig("hf", "a/b", lora=LoraConfig(rank=8))
    halfway = default_algorithm("grpo", kl_coef=0.1, reference_every=5, reference_mix=0.6)
    with pytest.raises(ValueError, match=r"reference_mix=0\.6.*product of two matrices.*reference_mix=1"):
        lora.check_algorithm(config, halfway)
    lora.check_algorithm(config, default_algorithm("grpo", kl_coef=0.1, reference_every=5))
    lora.check_algorithm(ModelConfig("hf", "a/b"), halfway)


def packages(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, missing: str = "") -> None:
    """A machine with or without a GPU, without one package."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(lora, "find_spec", lambda name: None if name == missing else builtins.object())


def test_four_bits_need_a_gpu_and_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def config() -> ModelConfig:
        return ModelConfig("hf", precision="bf16", lora=LoraConfig(rank=8, base_bits=4))

    packages(monkeypatch, gpu=False)
    with pytest.raises(ValueError, match=r"base_bits=4 needs an NVIDIA GPU, and there is none here.*base_bits=null"):
        models.check(config())
    packages(monkeypatch, gpu=True, missing="bitsandbytes")
    with pytest.raises(ValueError, match=r"needs bitsandbytes: pip install 'agentgrpo\[lora-4bit\]'"):
        models.check(config())
    packages(monkeypatch, gpu=True)
    models.check(config())
    on_cpu = ModelConfig("hf", precision="bf16", device="cpu", lora=LoraConfig(rank=8, base_bits=4))
    with pytest.raises(ValueError, match=r"needs an NVIDIA GPU, and model\.device=cpu"):
        models.check(on_cpu)


def test_four_bits_are_asked_for_as_nf4(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def from_pretrained(path: str, **options: Any) -> PreTrainedModel:
        asked.update(options)
        return tiny_llama()

    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", lambda path: tiny_tokenizer())
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    models.load("a/b", device="cuda", dtype=torch.bfloat16, bits=4)
    settings = asked["quantization_config"]
    assert asked["device_map"] == {"": "cuda"}
    assert asked["dtype"] == settings.bnb_4bit_compute_dtype == torch.bfloat16
    assert settings.load_in_4bit
    assert settings.bnb_4bit_quant_type == "nf4"


def test_packages_and_devices_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    packages(monkeypatch, gpu=False, missing="peft")
    with pytest.raises(ValueError, match=r"needs peft: pip install 'agentgrpo\[lora\]'"):
        models.check(ModelConfig("hf", lora=LoraConfig(rank=8)))
    with pytest.raises(ValueError, match=r"model\.device=cuda, but PyTorch finds no NVIDIA GPU"):
        models.check(ModelConfig("hf", device="cuda"))
    assert ModelConfig("hf").device == "cpu"
    packages(monkeypatch, gpu=True)
    assert ModelConfig("hf").device == "cuda"
    assert ModelConfig("hf", device="cpu").device == "cpu"


def test_a_folder_of_adapters_is_no_model(tmp_path: Path) -> None:
    lora.save(adapted(), tmp_path)
    with pytest.raises(ValueError, match=r"holds adapters, not a model.*agentgrpo export"):
        models.check_folder("model.path", str(tmp_path))
