"""Models of several families on prefix trees: log-probabilities and gradients as of padded rows."""

import pytest
import torch
from helpers import optim_config
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from agentgrpo import attention, packing, policy
from agentgrpo.learner import Learner
from agentgrpo.types import Sequence

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=12),
    "gpt_neox": GPTNeoXConfig(**SHAPE, use_parallel_residual=True),
}
DTYPES = [(torch.float32, 1e-4), (torch.float64, 1e-9)]


def make(name: str, dtype: torch.dtype) -> PreTrainedModel:
    attention.register()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(FAMILIES[name], attn_implementation=attention.NAME)
    return model.to(dtype).eval()


@pytest.fixture(autouse=True)
def norms_in_the_models_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families with RMSNorm take it in float32 whatever the dtype, which would hide everything below 1e-7."""

    def norm(self: nn.Module, states: Tensor) -> Tensor:
        return self.weight * states * (states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()  # type: ignore[operator,no-any-return]

    for name in FAMILIES:
        for module in make(name, torch.float32).modules():
            if type(module).__name__.endswith("RMSNorm"):
                monkeypatch.setattr(type(module), "forward", norm)


def transcripts() -> list[Sequence]:
    """Two groups of episodes: a shared prompt, then turns that part at different places."""
    generator = torch.Generator().manual_seed(0)

    def text(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(40, (length,), generator=generator).tolist())

    out: list[Sequence] = []
    for _ in range(2):
        prompt, turn = text(9), text(4)
        for shared in (prompt, prompt + turn, prompt + turn):
            ids = shared + text(7)
            index = tuple(range(len(ids) - 5, len(ids)))
            out.append(
                Sequence(ids, index, (-1.0,) * 5, (-1.0,) * 5, tuple(torch.randn(5, generator=generator).tolist()))
            )
    return out


def windows() -> list[Sequence]:
    """The same prompts with a fresh one per turn: short sequences that share a beginning."""
    return [
        Sequence(
            s.token_ids[:start] + s.token_ids[-4:],
            tuple(range(start, start + 4)),
            *([(-1.0,) * 4] * 2),
            s.advantages[:4],
        )
        for s in transcripts()
        for start in (6, 9)
    ]


def logprobs_and_gradient(
    model: PreTrainedModel, items: list[Sequence], *, share_prefixes: bool, budget: int
) -> tuple[Tensor, Tensor]:
    model.zero_grad()
    found: dict[int, Tensor] = {}
    for batch in packing.pack(items, budget, share_prefixes=share_prefixes):
        states = policy.layout_states(model, batch.layout, share_prefixes=share_prefixes)
        at, targets = batch.predictor[batch.action_mask], batch.targets[batch.action_mask]
        logprobs, _ = policy.token_logprobs(model, states[at], targets, 0.8)
        (logprobs * batch.advantages[batch.action_mask]).sum().backward()
        parts = logprobs.detach().split(batch.action_mask.sum(dim=1).tolist())
        found |= dict(zip(batch.rows, parts, strict=True))
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return torch.cat([found[i] for i in range(len(items))]), gradient


@pytest.mark.parametrize(("dtype", "limit"), DTYPES, ids=["fp32", "fp64"])
@pytest.mark.parametrize("context", [transcripts, windows])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_tree_gives_the_gradient_of_padded_rows(name: str, context, dtype: torch.dtype, limit: float) -> None:  # type: ignore[no-untyped-def]
    model = make(name, dtype)
    assert policy.can_share_prefixes(model)
    expected, expected_gradient = logprobs_and_gradient(model, context(), share_prefixes=False, budget=10_000)
    for budget in (10_000, 30):
        found, gradient = logprobs_and_gradient(model, context(), share_prefixes=True, budget=budget)
        assert float((found - expected).abs().max()) < limit
        assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < limit


@pytest.mark.parametrize(("dtype", "limit"), DTYPES, ids=["fp32", "fp64"])
def test_low_rank_adapters_get_the_gradient_of_padded_rows(dtype: torch.dtype, limit: float) -> None:
    peft = pytest.importorskip("peft")
    model = make("llama", dtype)
    model = peft.inject_adapter_in_model(
        peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False), model
    )
    model.to(dtype)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)
    assert policy.can_share_prefixes(model)
    expected, expected_gradient = logprobs_and_gradient(model, transcripts(), share_prefixes=False, budget=10_000)
    found, gradient = logprobs_and_gradient(model, transcripts(), share_prefixes=True, budget=10_000)
    assert float((found - expected).abs().max()) < limit
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < limit


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_shares_prefixes_too(name: str) -> None:
    learner = Learner(make(name, torch.float32), optim_config(), precision="bf16", temperature=1.0, max_length=5)
    assert learner.shares_prefixes


def test_a_tree_computes_what_is_shared_once() -> None:
    learner = Learner(make("llama", torch.float32), optim_config(), precision="fp32", temperature=1.0, max_length=5)
    assert learner.shares_prefixes
    (batch,) = learner.pack(transcripts())
    # Per group 9 of the prompt and 4 of the turn that two members share, then 7 of each member.
    assert len(batch.layout.token_ids) == 2 * (9 + 4 + 3 * 7)
    assert batch.layout.paths.numel() == 6 * 20
