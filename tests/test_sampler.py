"""The transformers sampler: right answers from its prefix cache, and each prompt token computed once."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from helpers import reference_logprobs, tiny_llama
from transformers import PreTrainedModel

from agentgrpo.samplers.base import Completion, SamplingParams
from agentgrpo.samplers.transformers import TransformersSampler
from agentgrpo.seeding import derive
from agentgrpo.types import StopReason

VOCAB = 50
STOP = 1
NO_STOP: tuple[int, ...] = ()
Turn = tuple[list[int], Completion]  # prompt and answer


def tokens(count: int, *coordinates: int | str) -> list[int]:
    """Token ids made up from coordinates, none of them the stop id."""
    return [2 + derive(*coordinates, i) % (VOCAB - 2) for i in range(count)]


def params(*coordinates: int | str, limit: int = 5, temperature: float = 1.0) -> SamplingParams:
    return SamplingParams(limit, temperature, noise_key=derive(*coordinates))


def sampler(
    model: PreTrainedModel | None = None, *, stop: tuple[int, ...] = (STOP,), gb: float = 0.1
) -> TransformersSampler:
    return TransformersSampler(model or tiny_llama(), stop, cache_gb=gb)


def converse(
    player: TransformersSampler, members: list[int], *, turns: int = 6, shared: int = 20, temperature: float = 1.0
) -> dict[int, list[Turn]]:
    """Conversations that start from one prompt; member m ends after 1 + m % turns turns."""
    prompts = {m: tokens(shared, "shared") for m in members}
    played: dict[int, list[Turn]] = {m: [] for m in members}
    for turn in range(turns):
        active = [m for m in members if m % turns >= turn]
        answers = player.generate(
            [prompts[m] for m in active], [params(m, turn, temperature=temperature) for m in active]
        )
        for m, answer in zip(active, answers, strict=True):
            played[m].append((prompts[m], answer))
            prompts[m] = [*prompts[m], *answer.token_ids, *tokens(3 + m % 2, "environment", m, turn)]
    return played


def new_tokens(played: list[Turn]) -> int:
    """Prompt tokens of a conversation that no earlier pass has computed: the last of an answer is one of them."""
    total, known = 0, 0
    for prompt, answer in played:
        total += len(prompt) - known
        known = len(prompt) + len(answer.token_ids) - 1
    return total


@contextmanager
def counting(model: PreTrainedModel) -> Iterator[list[int]]:
    """Collects how many tokens go through the model in each pass."""
    counts: list[int] = []
    handle = model.base_model.embed_tokens.register_forward_hook(
        lambda _m, inputs, _o: counts.append(inputs[0].numel())
    )
    yield counts
    handle.remove()


def assert_same(one: dict[int, list[Turn]], other: dict[int, list[Turn]]) -> None:
    for m in one.keys() & other.keys():
        assert [a.token_ids for _, a in one[m]] == [a.token_ids for _, a in other[m]]
        for (_, a), (_, b) in zip(one[m], other[m], strict=True):
            assert a.stop_reason == b.stop_reason
            torch.testing.assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-4, rtol=0)


# --- right answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_logprobs_equal_a_full_forward_pass_over_a_conversation(kv_heads: int) -> None:
    model = tiny_llama(VOCAB, kv_heads)
    for played in converse(sampler(model), list(range(12)), temperature=0.7).values():
        for prompt, answer in played[-1:]:
            ids = [*prompt, *answer.token_ids]
            index = range(len(prompt), len(ids))
            expected = reference_logprobs(model, ids, list(index), temperature=0.7)
            torch.testing.assert_close(torch.tensor(answer.logprobs).double(), expected, atol=1e-4, rtol=0)


def test_members_do_end_at_different_times() -> None:
    played = converse(sampler(), list(range(12)))
    assert [len(played[m]) for m in range(12)] == [1, 2, 3, 4, 5, 6] * 2
    assert {a.stop_reason for turns in played.values() for _, a in turns} == {StopReason.STOP, StopReason.LENGTH}


def test_alone_and_among_others_gives_the_same() -> None:
    model = tiny_llama()
    crowd = converse(sampler(model), list(range(65)))
    for m in (5, 33, 64):
        assert_same(converse(sampler(model), [m]), crowd)


def test_order_does_not_matter() -> None:
    model = tiny_llama()
    assert_same(
        converse(sampler(model), list(range(12))), converse(sampler(model), sorted(range(12), key=lambda m: derive(m)))
    )


def test_a_warm_cache_gives_the_same_as_a_cold_one() -> None:
    player = sampler()
    first = converse(player, list(range(8)))
    assert_same(converse(player, list(range(8))), first)


def test_prompts_that_share_parts_in_every_way() -> None:
    # Prefixes of each other, a common start, nothing in common; twice, so that the second meets the first's slots.
    base = tokens(40, "base")
    prompts = [base, base[:20], base[:39], base[:20] + tokens(30, "fork"), tokens(10, "other"), base, base[:1]]
    model = tiny_llama()
    player = sampler(model, stop=NO_STOP)
    for attempt in range(2):
        limits = [params(attempt, i) for i in range(len(prompts))]
        alone = [sampler(model, stop=NO_STOP).generate([p], [q])[0] for p, q in zip(prompts, limits, strict=True)]
        together = player.generate(prompts, limits)
        assert [c.token_ids for c in together] == [c.token_ids for c in alone]


@pytest.mark.parametrize("gb", [1e-9, 1e-4])
def test_a_cache_too_small_for_all_gives_the_same(gb: float) -> None:
    model = tiny_llama()
    small = sampler(model, gb=gb)
    large = sampler(model)
    for _ in range(2):
        assert_same(converse(small, list(range(8))), converse(large, list(range(8))))
    assert small.stats.prefilled_tokens > large.stats.prefilled_tokens


# --- work done --------------------------------------------------------------------------------------------------------


def test_one_conversation_computes_each_token_once() -> None:
    model = tiny_llama()
    player = sampler(model)
    with counting(model) as passed:
        played = converse(player, [5])[5]
    assert len(played) == 6
    drawn = sum(len(answer.token_ids) for _, answer in played)
    # All that was read but the last answer's last token, which nothing came after.
    assert sum(passed) == len(played[-1][0]) + len(played[-1][1].token_ids) - 1
    assert player.stats.prefilled_tokens == new_tokens(played) == sum(passed) - (drawn - len(played))


def test_a_group_computes_its_shared_prompt_once() -> None:
    model = tiny_llama()
    player = sampler(model)
    with counting(model) as passed:
        player.generate([tokens(20, "shared")] * 8, [params(m, limit=1) for m in range(8)])
    assert passed == [20]


def test_conversations_of_a_group_compute_each_token_once() -> None:
    player = sampler()
    played = converse(player, list(range(12)))
    shared = len(played[0][0][0])
    assert player.stats.prefilled_tokens == sum(map(new_tokens, played.values())) - 11 * shared


def test_a_prefix_common_to_all_groups_is_computed_once() -> None:
    system = tokens(30, "system")
    player = sampler()
    prompts = [[*system, *tokens(5, "task", m // 2)] for m in range(6)]  # three tasks, two members each
    player.generate(prompts, [params(m) for m in range(6)])
    assert player.stats.prefilled_tokens == 30 + 3 * 5


def test_a_prompt_that_is_cached_whole_costs_one_token() -> None:
    player = sampler()
    prompt = tokens(20, "shared")
    player.generate([prompt], [params(0)])
    before = player.stats.prefilled_tokens
    player.generate([prompt], [params(1)])
    assert player.stats.prefilled_tokens == before + 1  # its output predicts the first new token


def test_stats_count_prompts_and_samples() -> None:
    player = sampler(stop=NO_STOP)
    player.generate([tokens(7, "a"), tokens(9, "b")], [params(0, limit=3), params(1, limit=2)])
    assert dataclasses.asdict(player.stats) == {"prompt_tokens": 16, "prefilled_tokens": 16, "sampled_tokens": 5}


@pytest.mark.parametrize("last", [60, 64, 600])
def test_memory_stays_within_the_limit(last: int) -> None:
    # 256 bytes a token: room for ten prompts of up to 64, or for one that needs more.
    player = sampler(gb=10 * 64 * 256 / 1e9, stop=NO_STOP)
    cache = player._cache
    for m in range(12):
        player.generate([tokens(60, "prompt", m)], [params(m, limit=1)])
    player.generate([tokens(last, "long")], [params(0, limit=1)])
    slot = cache.bytes_per_column * cache.num_columns
    assert cache.num_slots * slot <= max(10 * 64 * 256, slot)


# --- weights ----------------------------------------------------------------------------------------------------------


def test_sync_forgets_what_was_computed_with_the_old_weights() -> None:
    model = tiny_llama()
    player = sampler(model)
    prompt, how = tokens(20, "shared"), params(0, limit=4)
    old = player.generate([prompt], [how])[0]
    model.load_state_dict(tiny_llama(seed=1).state_dict())
    player.sync(model)
    new = player.generate([prompt], [how])[0]
    assert new != old
    ids = [*prompt, *new.token_ids]
    expected = reference_logprobs(model, ids, range(20, len(ids)))
    torch.testing.assert_close(torch.tensor(new.logprobs).double(), expected, atol=1e-4, rtol=0)


def test_fp32_shares_the_weights_of_the_model() -> None:
    model = tiny_llama()
    assert sampler(model)._model is model


def bf16_gap(model: PreTrainedModel, player: TransformersSampler) -> float:
    """Mean distance (nats) of a bf16 sampler's log-probabilities from the fp32 model's."""
    prompt = tokens(20, "shared")
    answer = player.generate([prompt], [params("bf16", limit=20)])[0]
    ids = [*prompt, *answer.token_ids]
    expected = reference_logprobs(model, ids, range(20, len(ids)))
    return float((torch.tensor(answer.logprobs) - expected).abs().mean())


def test_bf16_stays_near_fp32_and_follows_sync() -> None:
    model = tiny_llama()
    player = TransformersSampler(model, NO_STOP, precision="bf16", cache_gb=0.1)
    assert bf16_gap(model, player) < 0.2
    model.load_state_dict(tiny_llama(seed=1).state_dict())
    assert bf16_gap(model, player) > 0.5  # still the old weights
    player.sync(model)
    assert bf16_gap(model, player) < 0.2


def test_bf16_leaves_the_rotary_frequencies_in_fp32() -> None:
    # Eight bits are off by up to 1 part in 512, which positions multiply; transformers itself keeps fp32 here.
    model = tiny_llama()
    player = TransformersSampler(model, NO_STOP, precision="bf16", cache_gb=0.1)
    assert torch.equal(player._model.base_model.rotary_emb.inv_freq, model.base_model.rotary_emb.inv_freq)


def test_bf16_leaves_the_learners_model_alone() -> None:
    model = tiny_llama()
    TransformersSampler(model, NO_STOP, precision="bf16")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# --- parameters -------------------------------------------------------------------------------------------------------


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        sampler().generate([[1], []], [params(0), params(1)])


def test_no_prompts() -> None:
    assert sampler().generate([], []) == []


def test_every_prompt_has_a_token_limit_of_its_own() -> None:
    limits = [1, 7, 3, 2]
    out = sampler(stop=NO_STOP).generate(
        [tokens(5, m) for m in range(4)], [params(m, limit=limits[m]) for m in range(4)]
    )
    assert [len(c.token_ids) for c in out] == [len(c.logprobs) for c in out] == limits
    assert {c.stop_reason for c in out} == {StopReason.LENGTH}


def test_a_stop_id_ends_the_answer_and_belongs_to_it() -> None:
    prompts, limits = [tokens(5, m) for m in range(8)], [params(m, limit=12) for m in range(8)]
    free = sampler(stop=NO_STOP).generate(prompts, limits)
    stops = (free[0].token_ids[3], free[1].token_ids[6])
    for whole, cut in zip(free, sampler(stop=stops).generate(prompts, limits), strict=True):
        end = next((i for i, token in enumerate(whole.token_ids) if token in stops), None)
        assert cut.token_ids == whole.token_ids[: None if end is None else end + 1]
        assert cut.stop_reason == (StopReason.LENGTH if end is None else StopReason.STOP)


def test_a_stop_id_at_the_token_limit_counts_as_a_stop() -> None:
    (free,) = sampler(stop=NO_STOP).generate([tokens(5, 0)], [params(0, limit=1)])
    (cut,) = sampler(stop=(free.token_ids[0],)).generate([tokens(5, 0)], [params(0, limit=1)])
    assert cut.stop_reason == StopReason.STOP


def test_greedy_takes_the_most_probable_token_with_logprobs_at_temperature_one() -> None:
    model = tiny_llama()
    prompt = tokens(10, "greedy")
    (answer,) = sampler(model, stop=NO_STOP).generate([prompt], [params(0, temperature=0.0)])
    ids = [*prompt, *answer.token_ids]
    with torch.no_grad():
        best = model(torch.tensor([ids]), use_cache=False).logits[0, len(prompt) - 1 : -1].argmax(dim=-1)
    assert list(answer.token_ids) == best.tolist()
    expected = reference_logprobs(model, ids, range(10, len(ids)))
    torch.testing.assert_close(torch.tensor(answer.logprobs).double(), expected, atol=1e-4, rtol=0)


def test_noise_key_decides_the_sample() -> None:
    prompt = tokens(10, "noise")
    out = sampler(stop=NO_STOP).generate(
        [prompt] * 3, [params("a", limit=12), params("b", limit=12), params("a", limit=12)]
    )
    assert out[0].token_ids == out[2].token_ids
    assert out[0].token_ids != out[1].token_ids


def test_weights_of_its_own_change_with_sync_only() -> None:
    model = tiny_llama()
    player = TransformersSampler(model, NO_STOP, cache_gb=0.1, own_weights=True)
    prompt, how = tokens(20, "shared"), params(0, limit=4)

    def gap() -> float:
        """From the log-probabilities of the model as it is now."""
        answer = player.generate([prompt], [how])[0]
        ids = [*prompt, *answer.token_ids]
        expected = reference_logprobs(model, ids, range(20, len(ids)))
        return float((torch.tensor(answer.logprobs).double() - expected).abs().max())

    assert gap() < 1e-4
    model.load_state_dict(tiny_llama(seed=1).state_dict())  # the model learns meanwhile
    assert gap() > 0.1
    player.sync(model)
    assert gap() < 1e-4
