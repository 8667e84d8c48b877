"""vLLM for real, with models of a few thousand weights: what it samples, and that it follows the trainer's weights."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from agentgrpo import attention
from agentgrpo.distribution import log_distribution
from agentgrpo.samplers.base import Completion, SamplerError, SamplingParams
from agentgrpo.samplers.settings import VllmSettings
from agentgrpo.samplers.stopping import StopStrings
from agentgrpo.samplers.vllm import VllmSampler
from agentgrpo.samplers.vllm_engine import VllmEngine
from agentgrpo.seeding import derive
from agentgrpo.types import StopReason

pytestmark = pytest.mark.vllm

VOCABULARY = 300
STOP = 1


def llama(*, tied: bool = True, heads: int = 2, context: int = 512, seed: int = 0) -> PreTrainedModel:
    """A random Llama whose heads are large enough for vLLM's kernels."""
    attention.register()
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=STOP,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = LlamaForCausalLM._from_config(
            config, attn_implementation=attention.NAME, dtype=torch.float32
        )
    return model.eval()


def settings(**changed: Any) -> VllmSettings:
    values: dict[str, Any] = {
        "precision": "fp32",
        "gpu_memory_share": 0.4,
        "kv_cache_gb": 0.05,
        "tensor_parallel": 1,
        "max_model_len": None,
        "max_num_seqs": 64,
        "enforce_eager": True,
    }
    return VllmSettings("vllm", **(values | changed))


def prompts(count: int, length: int = 40, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCABULARY, (count, length), generator=generator).tolist()


def params(index: int, tokens: int = 8, temperature: float = 1.0, top_p: float = 1.0) -> SamplingParams:
    return SamplingParams(tokens, temperature, top_p, noise_key=derive("test", index))


def moved(model: PreTrainedModel, seed: int, size: float = 0.02) -> None:
    """As after a large optimiser step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def expected(model: PreTrainedModel, prompt: list[int], answer: Completion, limits: SamplingParams) -> Tensor:
    """(T,) log-probabilities of an answer by one plain pass, of the distribution that it was drawn from."""
    ids = torch.tensor([[*prompt, *answer.token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    greedy = limits.temperature == 0
    logprobs = log_distribution(logits, 1.0 if greedy else limits.temperature, 1.0 if greedy else limits.top_p)
    return logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0]


def gaps_of(
    sampler: VllmSampler, model: PreTrainedModel, asked: list[list[int]], limits: list[SamplingParams]
) -> Tensor:
    """(all tokens,) how far the sampler's log-probabilities are from the model's own."""
    answers = sampler.generate(asked, limits)
    return torch.cat(
        [
            (expected(model, p, a, limit) - torch.tensor(a.logprobs)).abs()
            for p, a, limit in zip(asked, answers, limits, strict=True)
        ]
    )


def worst_gap(
    sampler: VllmSampler, model: PreTrainedModel, asked: list[list[int]], limits: list[SamplingParams]
) -> float:
    return float(gaps_of(sampler, model, asked, limits).max())


@pytest.fixture(scope="module")
def tied() -> tuple[VllmSampler, PreTrainedModel]:
    model = llama()
    return VllmSampler(model, [STOP], settings()), model


@pytest.fixture(scope="module")
def untied() -> tuple[VllmSampler, PreTrainedModel]:
    model = llama(tied=False)
    return VllmSampler(model, [STOP], settings()), model


@pytest.fixture(params=["tied", "untied"])
def pair(request: pytest.FixtureRequest) -> tuple[VllmSampler, PreTrainedModel]:
    found: tuple[VllmSampler, PreTrainedModel] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def sampler(tied: tuple[VllmSampler, PreTrainedModel]) -> VllmSampler:
    return tied[0]


# --- what is sampled --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_log_probabilities_are_those_of_the_distribution_that_is_drawn_from(
    pair: tuple[VllmSampler, PreTrainedModel], temperature: float
) -> None:
    limits = [params(i, temperature=temperature, top_p=0.5 if temperature == 0 else 1.0) for i in range(16)]
    assert worst_gap(*pair, prompts(16), limits) < 1e-3


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.8), (0.7, 0.5)])
def test_log_probabilities_after_top_p_are_of_the_same_set(
    tied: tuple[VllmSampler, PreTrainedModel], temperature: float, top_p: float
) -> None:
    gaps = gaps_of(*tied, prompts(16), [params(i, temperature=temperature, top_p=top_p) for i in range(16)])
    # Where the sum reaches top_p almost exactly, rounding decides whether one more token is in; nearly all agree.
    assert float(gaps.quantile(0.98)) < 1e-4
    assert float(gaps.max()) < 0.1


def test_requests_of_one_batch_have_parameters_of_their_own(tied: tuple[VllmSampler, PreTrainedModel]) -> None:
    limits = [params(i, temperature=[0.0, 1.0, 0.5][i % 3], top_p=[1.0, 0.6][i % 2]) for i in range(12)]
    assert float(gaps_of(*tied, prompts(12), limits).quantile(0.98)) < 1e-4


def test_a_noise_key_gives_the_same_tokens_again(sampler: VllmSampler) -> None:
    asked = [prompts(1)[0]] * 4
    first = sampler.generate(asked, [params(i) for i in range(4)])
    assert len({a.token_ids for a in first}) > 1
    assert [a.token_ids for a in sampler.generate(asked, [params(i) for i in range(4)])] == [a.token_ids for a in first]


def test_tokens_come_as_often_as_the_model_says(tied: tuple[VllmSampler, PreTrainedModel]) -> None:
    sampler, model = tied
    prompt = prompts(1)[0]
    count = 600
    answers = sampler.generate([prompt] * count, [params(i, 1) for i in range(count)])
    with torch.no_grad():
        probabilities = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1].softmax(0)
    drawn = torch.bincount(torch.tensor([a.token_ids[0] for a in answers]), minlength=VOCABULARY) / count
    # The distance that sampling alone makes is about sqrt(sum of p (1 - p) / n), 0.04 here.
    assert float((drawn - probabilities).norm()) < 0.08


def test_a_stop_token_ends_a_completion_and_is_part_of_it(sampler: VllmSampler) -> None:
    answers = sampler.generate(prompts(1) * 200, [params(i, 20) for i in range(200)])
    stopped = [a for a in answers if a.stop_reason is StopReason.STOP]
    assert stopped
    assert all(a.token_ids[-1] == STOP and STOP not in a.token_ids[:-1] for a in stopped)
    assert all(len(a.token_ids) == 20 and STOP not in a.token_ids for a in answers if a not in stopped)
    assert all(len(a.logprobs) == len(a.token_ids) for a in answers)


def test_a_string_ends_a_completion_at_the_token_that_completes_it(
    sampler: VllmSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.sampling_params import RequestOutputKind

    asked, limits = prompts(4, seed=3), [params(i, tokens=24) for i in range(4)]
    whole = sampler.generate(asked, limits)

    def letters(ids: tuple[int, ...]) -> str:
        return "".join(chr(0x4E00 + token) for token in ids)

    strings = StopStrings(tuple(letters(answer.token_ids[9:11]) for answer in whole), letters)
    # A second engine in this process would take the first one's state with it when it goes.
    monkeypatch.setattr(sampler._engine, "_stop_strings", strings)
    monkeypatch.setattr(sampler._engine, "_shown", RequestOutputKind.CUMULATIVE)
    for found, answer in zip(sampler.generate(asked, limits), whole, strict=True):
        length = strings.cut(answer.token_ids)
        assert length is not None
        assert found.token_ids == answer.token_ids[:length]
        assert found.stop_reason is StopReason.STOP
        assert found.logprobs == pytest.approx(answer.logprobs[:length], abs=1e-3)
    # Nothing of what was cut short is still under way.
    assert len(sampler.generate(prompts(4, seed=4), limits)) == 4
    assert sampler._engine._looked_at == {}


def test_a_later_turn_pays_for_what_is_new(sampler: VllmSampler) -> None:
    (first,) = prompts(1, length=128, seed=5)
    before = (sampler.stats.prompt_tokens, sampler.stats.prefilled_tokens)
    (answer,) = sampler.generate([first], [params(0)])
    assert (sampler.stats.prompt_tokens - before[0], sampler.stats.prefilled_tokens - before[1]) == (128, 128)
    later = [*first, *answer.token_ids, *prompts(1, length=10, seed=6)[0]]
    before = (sampler.stats.prompt_tokens, sampler.stats.prefilled_tokens)
    sampler.generate([later], [params(1)])
    # Whole blocks of 32 tokens come from the cache: four of them.
    assert sampler.stats.prefilled_tokens - before[1] == len(later) - 128
    assert sampler.stats.prompt_tokens - before[0] == len(later)


# --- at any time ------------------------------------------------------------------------------------------------------


def test_hundreds_are_under_way_and_each_is_handed_out_when_it_is_done(sampler: VllmSampler) -> None:
    lengths = {index: 2 + index % 7 for index in range(300)}
    for index, prompt in enumerate(prompts(300)):
        sampler.submit(index, prompt, params(index, lengths[index]))
    order: list[Any] = []
    while len(order) < 300:
        order += sampler.poll()
    assert sorted(key for key, _ in order) == sorted(lengths)
    assert all(len(a.token_ids) == lengths[key] or a.token_ids[-1] == STOP for key, a in order)
    assert [key for key, _ in order] != sorted(lengths)  # the short ones of the first 64 left before the long ones
    assert sampler.poll() == []


def test_more_prompt_tokens_than_a_pass_takes(sampler: VllmSampler) -> None:
    # vLLM would cut the prompt that does not fit into the pass, and cannot then rewind its noise on a CPU.
    asked = prompts(64, length=400, seed=9)
    answers = sampler.generate(asked, [params(i, tokens=2) for i in range(64)])
    assert all(answer.token_ids for answer in answers)
    (alone,) = sampler.generate(asked[-1:], [params(63, tokens=2)])
    assert alone.token_ids == answers[-1].token_ids


def test_a_batch_leaves_what_others_submitted_alone(sampler: VllmSampler) -> None:
    sampler.submit("mine", prompts(1)[0], params(0, 2))
    assert len(sampler.generate(prompts(3, seed=1), [params(i, 12) for i in range(3)])) == 3
    ((key, answer),) = sampler.poll()
    assert key == "mine"
    assert len(answer.token_ids) <= 2


def test_cancelled_requests_are_gone(sampler: VllmSampler) -> None:
    sampler.submit("a", prompts(1)[0], params(0, 50))
    sampler.submit("b", prompts(1)[0], params(1, 3))
    sampler.poll()
    sampler.cancel(["a"])
    kept: list[Any] = []
    while not kept:
        kept = sampler.poll()
    assert [key for key, _ in kept] == ["b"]
    assert sampler.poll() == []
    assert len(sampler.generate(prompts(2), [params(i) for i in range(2)])) == 2


def test_requests_under_way_go_on_with_new_weights(tied: tuple[VllmSampler, PreTrainedModel]) -> None:
    sampler, model = tied
    (prompt,) = prompts(1, length=64, seed=9)
    limits = params(3, 40)
    sampler.submit("long", prompt, limits)
    for _ in range(4):
        assert sampler.poll() == []
    moved(model, seed=100)
    sampler.sync(model)
    found: list[Any] = []
    while not found:
        found = sampler.poll()
    ((_, answer),) = found
    gaps = (expected(model, prompt, answer, limits) - torch.tensor(answer.logprobs)).abs()
    # The first tokens are the old weights' own; the later ones are conditioned on nothing that those computed.
    assert float(gaps[:3].max()) > 1e-3
    assert float(gaps[5:].max()) < 1e-3


# --- weights ----------------------------------------------------------------------------------------------------------


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def test_fifty_updates_without_drift_or_growth(pair: tuple[VllmSampler, PreTrainedModel]) -> None:
    sampler, model = pair
    gaps, memory = [], []
    for update in range(50):
        moved(model, seed=update, size=0.01)
        sampler.sync(model)
        limits = [params(i, temperature=0.7) for i in range(4)]
        gaps.append(worst_gap(sampler, model, prompts(4), limits))  # the same prompts: whatever is stale shows
        memory.append(resident_mb())
    assert max(gaps) < 1e-3
    assert memory[-1] < 1.1 * memory[4]


Change = Callable[[Iterator[tuple[str, Tensor]]], Iterator[tuple[str, Tensor]]]


def changing(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    load = VllmEngine.load
    monkeypatch.setattr(VllmEngine, "load", lambda self, weights: load(self, change(iter(weights))))


def test_a_prefix_cache_that_was_not_reset_is_noticed(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[VllmSampler, PreTrainedModel]
) -> None:
    sampler, model = pair
    sampler.generate(prompts(4), [params(i) for i in range(4)])
    moved(model, seed=200)
    with monkeypatch.context() as patch:
        patch.setattr(sampler._engine._llm, "reset_prefix_cache", lambda **kwargs: True)
        with pytest.raises(
            SamplerError, match=r"differ from the trainer's by \d\.\d+ nats .*at most 0\.001 is rounding"
        ):
            sampler.sync(model)
    sampler.sync(model)


def test_weights_that_arrive_changed_are_noticed(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[VllmSampler, PreTrainedModel]
) -> None:
    sampler, model = pair
    with monkeypatch.context() as patch:
        changing(patch, lambda weights: ((n, 1.01 * t if "layers.1.mlp.up" in n else t) for n, t in weights))
        with pytest.raises(SamplerError, match="does not compute with the weights"):
            sampler.sync(model)
    sampler.sync(model)


def test_a_tied_head_that_keeps_old_weights_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tied: tuple[VllmSampler, PreTrainedModel]
) -> None:
    sampler, model = tied
    moved(model, seed=201)
    with monkeypatch.context() as patch:
        patch.setattr("agentgrpo.samplers.vllm_engine.pack_tied_head", lambda model: None)
        with pytest.raises(SamplerError, match="does not compute with the weights"):
            sampler.sync(model)
    sampler.sync(model)


def test_weights_that_are_no_numbers_are_noticed(tied: tuple[VllmSampler, PreTrainedModel]) -> None:
    sampler, model = tied
    broken = llama()
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    with pytest.raises(SamplerError):
        sampler.sync(broken)
    sampler.sync(model)


def test_adapters_arrive_merged(tied: tuple[VllmSampler, PreTrainedModel]) -> None:
    from peft import LoraConfig, get_peft_model

    sampler, model = tied
    copy = llama()
    copy.load_state_dict(model.state_dict())
    wrapped: nn.Module = get_peft_model(copy, LoraConfig(r=4, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    sampler.sync(wrapped)
    limits = [params(i) for i in range(4)]
    assert worst_gap(sampler, wrapped.get_base_model(), prompts(4), limits) < 1e-3
    assert worst_gap(sampler, model, prompts(4), limits) > 1e-2
    sampler.sync(model)


# --- what cannot work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "tokens", "message"),
    [
        ([], 1, "at least one token"),
        ([5] * 500, 20, r"500 tokens and 20 new ones are more than the 512 of the engine's context"),
        ([5, VOCABULARY], 1, "outside the model's vocabulary of 300"),
    ],
)
def test_prompts_that_do_not_fit(sampler: VllmSampler, prompt: list[int], tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler.generate([prompt], [params(0, tokens)])
    assert len(sampler.generate(prompts(1), [params(0)])) == 1


def test_a_context_longer_than_the_models_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sampler\.max_model_len=1000 is more than the 512 tokens"):
        VllmSampler(llama(), [STOP], settings(max_model_len=1000))


def test_a_shorter_context_is_the_engines() -> None:
    sampler = VllmSampler(llama(), [STOP], settings(max_model_len=64))
    assert len(sampler.generate([[5] * 60], [params(0, 4)])) == 1
    with pytest.raises(ValueError, match=r"61 tokens and 4 new ones are more than the 64"):
        sampler.generate([[5] * 61], [params(0, 4)])


def test_heads_that_the_kernels_do_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"heads of this model have 16 numbers each, and vLLM on a CPU takes 32, 64"):
        VllmSampler(llama(heads=4), [STOP], settings())


def test_a_model_that_vllm_does_not_know_is_refused() -> None:
    class InventedForCausalLM(LlamaForCausalLM):
        pass

    model = llama()
    invented = InventedForCausalLM(model.config).eval()
    with pytest.raises(ValueError, match=r"vLLM cannot run this model with these settings: .*InventedForCausalLM"):
        VllmSampler(invented, [STOP], settings())


def test_a_cache_without_room_for_one_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vLLM cannot run this model with these settings: .*KV cache"):
        VllmSampler(llama(context=100_000), [STOP], settings(kv_cache_gb=0.01))


def test_half_precision_passes_its_own_check() -> None:
    model = llama()
    sampler = VllmSampler(model, [STOP], settings(precision="bf16"))
    moved(model, seed=1)
    sampler.sync(model)
    moved(model, seed=2, size=0.1)
    with pytest.raises(SamplerError, match=r"on average 0\.15 is rounding"):
        sampler._check_against(model)
