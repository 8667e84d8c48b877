"""Alignment of tokens, positions and log-probabilities, by hand and against sampler and a full forward pass."""

import dataclasses
import math
from collections.abc import Sequence as Seq

import pytest
import torch
from helpers import CHATML, optim_config, reference_logprobs, tiny_llama, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.context import ChatFormat, make_conversation
from agentgrpo.learner import Learner
from agentgrpo.packing import count, pack, sequences, tree
from agentgrpo.policy import can_share_prefixes, layout_states, row_states, tree_states
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.transformers import TransformersSampler
from agentgrpo.seeding import derive
from agentgrpo.types import Credit, Denominators, RolloutStatus, Sequence, Step, StopReason, Trajectory

EXAMPLE = Trajectory(
    (
        Step("a", prompt_ids=(1, 40, 41), action_ids=(15, 2), logprobs=(-1.2, -0.1)),
        Step("b", prompt_ids=(3, 42), starts_sequence=False, action_ids=(17,), logprobs=(-0.7,)),
    )
)
WINDOWS = Trajectory(
    (
        Step("a", prompt_ids=(1, 40), action_ids=(15, 2), logprobs=(-1.2, -0.1)),
        Step("b", prompt_ids=(1, 40, 15, 42), action_ids=(17,), logprobs=(-0.7,)),
    )
)
CREDIT = Credit(torch.tensor([0.5, 0.5, -1.0]))


def made_up(length: int, actions: int) -> Sequence:
    """A sequence whose last tokens are the policy's."""
    index = tuple(range(length - actions, length))
    logprobs = (-0.5,) * actions
    return Sequence(tuple(range(length)), index, logprobs, logprobs, (1.0,) * actions)


def test_transcript_by_hand() -> None:
    #           position  0   1   2   3  4  5   6   7
    assert sequences(EXAMPLE, CREDIT) == [
        Sequence((1, 40, 41, 15, 2, 3, 42, 17), (3, 4, 7), (-1.2, -0.1, -0.7), (-1.2, -0.1, -0.7), (0.5, 0.5, -1.0))
    ]


def test_window_gives_a_sequence_per_turn() -> None:
    assert sequences(WINDOWS, CREDIT) == [
        Sequence((1, 40, 15, 2), (2, 3), (-1.2, -0.1), (-1.2, -0.1), (0.5, 0.5)),
        Sequence((1, 40, 15, 42, 17), (4,), (-0.7,), (-0.7,), (-1.0,)),
    ]


def test_what_an_expert_gave_is_read_but_no_policy_token() -> None:
    led = Trajectory(
        (
            Step("a", prompt_ids=(1, 40), action_ids=(15, 2), num_guided=2),
            Step(
                "b",
                prompt_ids=(3, 42),
                starts_sequence=False,
                action_ids=(16, 17, 2),
                num_guided=1,
                logprobs=(-0.7, -0.2),
            ),
        )
    )
    #                                   position  0   1   2   3  4  5   6   7   8
    (found,) = sequences(led, Credit(torch.tensor([0.5, -1.0])))
    assert found == Sequence((1, 40, 15, 2, 3, 42, 16, 17, 2), (7, 8), (-0.7, -0.2), (-0.7, -0.2), (0.5, -1.0))


def test_a_window_that_an_expert_filled_is_no_sequence() -> None:
    led = Trajectory(
        (
            Step("a", prompt_ids=(1, 40), action_ids=(15, 2), num_guided=2),
            Step("b", prompt_ids=(1, 41), action_ids=(17,), logprobs=(-0.7,)),
        )
    )
    (found,) = sequences(led, Credit(torch.tensor([0.5])))
    assert found.token_ids == (1, 41, 17)


def test_columns_follow_their_tokens() -> None:
    steps = tuple(
        dataclasses.replace(
            s, old_logprobs=tuple(x - 1 for x in s.logprobs), ref_logprobs=s.logprobs, values=s.logprobs
        )
        for s in WINDOWS.steps
    )
    credit = Credit(torch.tensor([0.5, 0.5, -1.0]), returns=torch.tensor([3.0, 4.0, 5.0]))
    first, second = sequences(Trajectory(steps), credit)
    assert (first.old_logprobs, second.old_logprobs) == ((-2.2, -1.1), (-1.7,))
    assert (first.ref_logprobs, second.values) == ((-1.2, -0.1), (-0.7,))
    assert (first.returns, second.returns) == ((3.0, 4.0), (5.0,))
    (batch,) = pack([second, first], 100)
    assert batch.rows == (1, 0)
    assert batch.returns is not None
    assert batch.returns.tolist() == [[3.0, 4.0], [5.0, 0.0]]


def test_an_episode_without_steps_gives_none() -> None:
    assert sequences(Trajectory((), RolloutStatus.CONTEXT_LIMIT), Credit(torch.zeros(0))) == []


def test_advantages_must_match_the_steps() -> None:
    with pytest.raises(ValueError, match="Got 1 advantages for 3 policy tokens"):
        sequences(EXAMPLE, Credit(torch.zeros(1)))


def test_a_token_is_predicted_from_the_position_before_it() -> None:
    (batch,) = pack(sequences(EXAMPLE, CREDIT), 100)
    assert batch.predictor.tolist() == [[2, 3, 6]]
    assert batch.targets.tolist() == [[15, 2, 17]]


def test_batch_of_two_sequences_by_hand() -> None:
    (batch,) = pack(sequences(WINDOWS, CREDIT), 100)  # 1 40 15 2 and 1 40 15 42 17, in this order
    assert batch.layout.token_ids.tolist() == [1, 40, 15, 2, 42, 17]
    assert batch.layout.positions.tolist() == [0, 1, 2, 3, 3, 4]
    assert batch.layout.paths.tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 4, 5]]
    assert batch.layout.homes.tolist() == [0, 1, 2, 3, 8, 9]
    assert batch.layout.ends.tolist() == [6, 6, 6, 4, 6, 6]
    assert batch.predictor[batch.action_mask].tolist() == [1, 2, 4]
    assert batch.targets[batch.action_mask].tolist() == [15, 2, 17]
    assert batch.action_mask.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(batch.old_logprobs, torch.tensor([[-1.2, -0.1], [-0.7, 0.0]]))
    assert batch.advantages.tolist() == [[0.5, 0.5], [-1.0, 0.0]]


def test_denominators() -> None:
    items = [made_up(5, 2), made_up(9, 3), made_up(4, 0)]
    assert count(items, 7) == Denominators(sequences=2, tokens=5, max_length=7)


def test_a_budget_below_the_longest_episode_names_the_smallest_that_works() -> None:
    items = [made_up(5, 2), made_up(9, 3)]
    with pytest.raises(ValueError, match=r"optim.micro_batch_tokens=8 .* 9 tokens. Set it to 9 or more"):
        pack(items, 8)
    assert len(pack(items, 9, share_prefixes=False)) == 2


def test_nothing_gives_no_batches() -> None:
    assert pack([], 10) == []


@given(st.lists(st.integers(2, 20), min_size=1, max_size=12), st.integers(20, 80))
@settings(max_examples=20, deadline=None)
def test_cost_stays_within_the_budget_and_nothing_is_lost(lengths: list[int], budget: int) -> None:
    items = [made_up(length, 1 + length % 2) for length in lengths]
    whole = pack(items, budget, share_prefixes=False)
    shared = pack(items, budget)
    assert all(batch.layout.paths.numel() <= budget for batch in whole)
    assert all(len(batch.layout.token_ids) <= budget for batch in shared)
    assert len(shared) <= len(whole)
    for batches in (whole, shared):
        assert sum(int(b.action_mask.sum()) for b in batches) == sum(1 + length % 2 for length in lengths)


# --- prefix tree ------------------------------------------------------------------------------------------------------


SMALL_TREES = st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=9).map(tuple), min_size=1, max_size=9)


@given(SMALL_TREES)
@settings(max_examples=60, deadline=None)
def test_a_tree_holds_every_distinct_prefix_once(items: list[tuple[int, ...]]) -> None:
    layout = tree(sorted(items))
    prefixes = {item[:k] for item in items for k in range(1, len(item) + 1)}
    assert len(layout.token_ids) == len(prefixes)
    walked = [
        tuple(layout.token_ids[path[: len(item)]].tolist())
        for path, item in zip(layout.paths, sorted(items), strict=True)
    ]
    assert walked == sorted(items)
    at_home = layout.paths.flatten()[layout.homes]
    assert at_home.tolist() == list(range(len(layout.token_ids)))
    assert (layout.homes % layout.paths.shape[1]).tolist() == layout.positions.tolist()
    nodes = range(len(layout.token_ids))
    for item, path in zip(sorted(items), layout.paths.tolist(), strict=True):
        for at, node in enumerate(path[: len(item)]):
            assert [k for k in nodes if k <= node < layout.ends[k]] == path[: at + 1]


TREE = sorted([(1, 5, 7, 9), (1, 5, 7, 9), (1, 5, 8), (1, 5, 7, 2, 3, 4), (2, 5, 7), (1, 5)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shared_prefixes_change_no_state_and_no_gradient(dtype: torch.dtype) -> None:
    model = tiny_llama(60).to(dtype)
    assert can_share_prefixes(model)
    layout = tree(TREE)
    weights = torch.randn(len(layout.token_ids), model.config.hidden_size, dtype=dtype)
    found = []
    for states in (tree_states, row_states):
        model.zero_grad()
        out = states(model, layout)
        (out * weights).sum().backward()
        found.append((out.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (shared, shared_gradient), (plain, plain_gradient) = found
    limit = 1e-5 if dtype == torch.float32 else 1e-6  # Llama norms in float32 whatever the dtype
    assert float((shared - plain).abs().max()) < limit
    assert float((shared_gradient - plain_gradient).norm() / plain_gradient.norm()) < limit


def test_a_model_with_other_attention_falls_back_to_whole_sequences() -> None:
    model = tiny_llama(60)
    model.set_attn_implementation("eager")
    assert not can_share_prefixes(model)
    layout = tree(TREE)
    learner = Learner(model, optim_config(), precision="fp32", temperature=1.0, max_length=4)
    assert not learner.shares_prefixes
    torch.testing.assert_close(layout_states(model, layout, share_prefixes=False), row_states(model, layout))


@pytest.mark.parametrize("name", ["sliding_window", "attention_chunk_size"])
def test_a_model_that_looks_back_a_limited_way_computes_sequences_whole(name: str) -> None:
    model = tiny_llama(60)
    setattr(model.config, name, 4096)
    assert not can_share_prefixes(model)


# --- the same log-probabilities everywhere ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(tiny_tokenizer(CHATML))


def play(chat: ChatFormat, kind: str, temperature: float, model: torch.nn.Module) -> Trajectory:
    """Two turns of a random policy, whose text is no text that the tokenizer would write."""
    sampler = TransformersSampler(model, [chat.end_id], cache_gb=0.1)
    talk = make_conversation(chat, kind, 2)  # type: ignore[arg-type]
    steps = []
    for turn, observation in enumerate(["You see a wall.", "You see a door."]):
        prompt_ids, starts = talk.observe(observation)
        (answer,) = sampler.generate([talk.prompt], [SamplingParams(6, temperature, noise_key=derive(turn))])
        action = chat.decode(answer.token_ids)
        talk.answer(answer.token_ids, action)
        steps.append(
            Step(
                observation,
                action=action,
                prompt_ids=prompt_ids,
                starts_sequence=starts,
                action_ids=answer.token_ids,
                logprobs=answer.logprobs,
                stop_reason=answer.stop_reason,
            )
        )
    assert any(chat.encode(s.action) != s.action_ids for s in steps)
    assert any(s.stop_reason is StopReason.LENGTH for s in steps)
    return Trajectory(tuple(steps))


def flat(items: Seq[Sequence], model: torch.nn.Module, temperature: float) -> torch.Tensor:
    """(N,) the learner's log-probabilities of sorted items, one batch for all."""
    learner = Learner(model, optim_config(), precision="fp32", temperature=temperature, max_length=1)
    (batch,) = pack(items, 10_000)
    with torch.no_grad():
        return learner.logprobs(batch)[batch.action_mask].double()


@pytest.mark.parametrize("kind", ["transcript", "window"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_learner_sampler_and_full_forward_pass_agree(chat: ChatFormat, kind: str, temperature: float) -> None:
    model = tiny_llama(len(chat.tokenizer))
    episode = play(chat, kind, temperature, model)
    items = sequences(episode, Credit(torch.ones(episode.num_policy_tokens)))
    assert len(items) == (1 if kind == "transcript" else 2)
    items.sort(key=lambda s: s.token_ids)
    expected = torch.cat([reference_logprobs(model, s.token_ids, s.action_index, temperature) for s in items])
    learnt = flat(items, model, temperature)
    sampled = torch.tensor([value for s in items for value in s.sampler_logprobs], dtype=torch.float64)
    torch.testing.assert_close(learnt, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(sampled, expected, atol=1e-4, rtol=0)


def test_padding_is_zero_in_the_learners_logprobs() -> None:
    model = tiny_llama()
    learner = Learner(model, optim_config(), precision="fp32", temperature=1.0, max_length=1)
    (batch,) = pack([made_up(9, 3), made_up(5, 1)], 100)
    values = learner.logprobs(batch).detach()
    assert values.shape == (2, 3)
    assert values[0, 1:].tolist() == [0.0, 0.0]
    assert math.isfinite(float(values.sum()))
