"""Strings that end a turn: found at the token that completes them, in both samplers' ways of asking."""

import pytest
import torch
from helpers import tiny_llama, tiny_tokenizer

from agentgrpo.composing import compose_config
from agentgrpo.config import parse
from agentgrpo.context import ChatFormat, Transcript
from agentgrpo.samplers.base import SamplingParams
from agentgrpo.samplers.stopping import StopStrings, cut_text
from agentgrpo.samplers.transformers import TransformersSampler
from agentgrpo.types import StopReason

BYTES = StopStrings(("</a>", "é"), lambda ids: bytes(ids).decode(errors="replace"))


def test_a_string_is_complete_with_its_last_token() -> None:
    ids = list(b"go <a>x</a> and")
    assert next(n for n in range(1, len(ids) + 1) if BYTES.complete(ids[:n])) == len("go <a>x</a>")
    assert BYTES.cut(ids) == len("go <a>x</a>")
    assert BYTES.cut(list(b"go <a>x</a")) is None


def test_a_character_of_several_tokens() -> None:
    ids = list("caféine".encode())
    assert BYTES.cut(ids) == 5  # c a f and two bytes


def test_what_is_known_is_not_looked_at_again() -> None:
    asked: list[int] = []
    strings = StopStrings(("zz",), lambda ids: asked.append(len(ids)) or "")  # type: ignore[func-returns-value]
    assert strings.cut([1, 2, 3, 4], known=3) is None
    assert len(asked) == 1


def test_only_the_end_of_a_long_text_is_read() -> None:
    lengths: list[int] = []

    def decode(ids: tuple[int, ...]) -> str:
        lengths.append(len(ids))
        return bytes(ids).decode()

    StopStrings(("</a>",), decode).complete(list(b"x" * 1000))
    assert lengths == [8]


@pytest.mark.parametrize(("text", "cut"), [("a</a>b</a>", "a</a>"), ("no end", "no end"), ("x|y</a>", "x|")])
def test_text_is_cut_at_the_first_string(text: str, cut: str) -> None:
    assert cut_text(text, ["</a>", "|"]) == cut


def test_the_sampler_ends_where_the_string_does() -> None:
    model = tiny_llama()
    params = SamplingParams(12, 1.0, noise_key=5)
    (free,) = TransformersSampler(model, [], cache_gb=0.1).generate([[3, 4, 5]], [params])
    # Every token is a letter; the string is what the model wrote as its fourth and fifth tokens.
    wanted = "".join(chr(65 + t) for t in free.token_ids[3:5])
    strings = StopStrings((wanted,), lambda ids: "".join(chr(65 + t) for t in ids))
    (cut,) = TransformersSampler(model, [], cache_gb=0.1, stop_strings=strings).generate([[3, 4, 5]], [params])
    length = strings.cut(free.token_ids)
    assert length is not None
    assert length <= 5
    assert cut.token_ids == free.token_ids[:length]
    torch.testing.assert_close(torch.tensor(cut.logprobs), torch.tensor(free.logprobs[:length]))
    assert (free.stop_reason, cut.stop_reason) == (StopReason.LENGTH, StopReason.STOP)


def test_the_next_turn_supplies_the_end_of_turn_token() -> None:
    chat = ChatFormat(tiny_tokenizer())
    talk = Transcript(chat)
    talk.observe("go")
    talk.answer(chat.encode("ab"), "ab")
    ids, _ = talk.observe("on")
    assert ids[0] == chat.end_id


def test_an_empty_string_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rollout\.stop has an empty string"):
        parse(compose_config("train", ["rollout.stop=['']"]))
