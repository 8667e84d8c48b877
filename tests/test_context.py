"""Messages -> token ids: what the policy wrote stays the ids that it sampled."""

import pytest
from helpers import CHATML, THINK_STRIPPING, tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from agentgrpo.context import ChatFormat, Conversation, Transcript, Window, make_conversation

SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>"]


def chat(template: str | None = CHATML, instructions: str = "") -> ChatFormat:
    return ChatFormat(tiny_tokenizer(template), instructions)


def text(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    return str(tokenizer.decode(token_ids, skip_special_tokens=False))


def spelt(form: ChatFormat, word: str) -> tuple[int, ...]:
    """The word as ids of single bytes, which is not how it is encoded."""
    ids = tuple(form.encode(letter)[0] for letter in word)
    assert form.decode(ids) == word
    assert form.encode(word) != ids
    return ids


def test_transcript_by_hand() -> None:
    form = chat(instructions="Be brief.")
    talk = Transcript(form)
    _, starts = talk.observe("You see a wall.")
    assert starts
    assert text(form.tokenizer, talk.prompt) == (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nYou see a wall.<|end|>\n<|assistant|>\n"
    )
    talk.answer((*form.encode("go north"), form.end_id), "go north")
    _, starts = talk.observe("You see a door.")
    assert not starts
    assert text(form.tokenizer, talk.prompt).endswith(
        "<|assistant|>\ngo north<|end|>\n<|user|>\nYou see a door.<|end|>\n<|assistant|>\n"
    )


def test_transcript_without_instructions_has_no_system_message() -> None:
    talk = Transcript(chat())
    talk.observe("You see a wall.")
    assert text(talk._chat.tokenizer, talk.prompt).startswith("<|user|>")


def test_transcript_equals_the_template_applied_to_the_whole_conversation() -> None:
    form = chat(template=None)
    talk = Transcript(form)
    messages = []
    for turn, action in enumerate(["go north", "open the door", "go south"]):
        talk.observe(f"You see {turn} walls.")
        messages.append({"role": "user", "content": f"You see {turn} walls."})
        expected = form.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert text(form.tokenizer, talk.prompt) == expected
        talk.answer((*form.encode(action), form.end_id), action)
        messages.append({"role": "assistant", "content": action})


def test_observe_returns_what_it_added() -> None:
    form = chat()
    talk = Transcript(form)
    first, _ = talk.observe("You see a wall.")
    action = (*form.encode("go north"), form.end_id)
    talk.answer(action, "go north")
    second, _ = talk.observe("You see a door.")
    assert talk.prompt == [*first, *action, *second]


@pytest.mark.parametrize("word", ["go north", "open the door"])
def test_text_that_does_not_survive_decode_and_encode_stays_as_sampled(word: str) -> None:
    form = chat()
    talk = Transcript(form)
    first, _ = talk.observe("You see a wall.")
    action = (*spelt(form, word), form.end_id)
    talk.answer(action, word)
    talk.observe("You see a door.")
    assert tuple(talk.prompt[len(first) : len(first) + len(action)]) == action


def test_bytes_that_are_no_text_stay_as_sampled() -> None:
    form = chat()
    half = form.encode("é")[:1]
    assert form.encode(form.decode(half)) != half
    talk = Transcript(form)
    first, _ = talk.observe("You see a wall.")
    talk.answer((*half, form.end_id), form.decode(half))
    talk.observe("You see a door.")
    assert tuple(talk.prompt[len(first) : len(first) + 2]) == (*half, form.end_id)


def test_an_answer_that_was_cut_off_is_closed_by_the_environments_part() -> None:
    form = chat()
    talk = Transcript(form)
    talk.observe("You see a wall.")
    talk.answer(form.encode("go north"), "go north")
    added, _ = talk.observe("You see a door.")
    assert text(form.tokenizer, list(added)) == "<|end|>\n<|user|>\nYou see a door.<|end|>\n<|assistant|>\n"
    assert added[0] == form.end_id


def test_an_answer_that_ended_itself_keeps_the_separator() -> None:
    form = chat()
    talk = Transcript(form)
    talk.observe("You see a wall.")
    talk.answer((*form.encode("go north"), form.end_id), "go north")
    added, _ = talk.observe("You see a door.")
    assert text(form.tokenizer, list(added)) == "\n<|user|>\nYou see a door.<|end|>\n<|assistant|>\n"


def test_transcript_refuses_a_template_that_rewrites_earlier_turns() -> None:
    with pytest.raises(ValueError, match=r"chat template of 'nano' is not prefix-preserving.*context.kind=window"):
        Transcript(chat(THINK_STRIPPING))


def test_transcript_refuses_a_template_that_strips_white_space_from_answers() -> None:
    template = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")
    with pytest.raises(ValueError, match="not prefix-preserving"):
        Transcript(chat(template))


def test_transcript_refuses_a_template_that_does_not_close_answers_with_the_eos_token() -> None:
    with pytest.raises(ValueError, match=r"closes an answer with '\[/\]"):
        Transcript(chat(CHATML.replace("<|end|>", "[/]")))


def test_window_takes_a_template_that_rewrites_earlier_turns() -> None:
    form = chat(THINK_STRIPPING)
    talk = Window(form, turns=2)
    talk.observe("You see a wall.")
    talk.answer(form.encode("<think>hm</think>go north"), "go north")
    talk.observe("You see a door.")
    assert text(form.tokenizer, talk.prompt) == (
        "<|user|>\nYou see a wall.\n> go north\nYou see a door.<|end|>\n<|assistant|>\n"
    )


def test_no_chat_template_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        ChatFormat(tokenizer)


def test_no_eos_token_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no eos token"):
        ChatFormat(tokenizer)


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("kind", ["transcript", "window"])
def test_special_tokens_in_observations_are_broken_up(special: str, kind: str) -> None:
    form = chat()
    special_id = form.tokenizer.convert_tokens_to_ids(special)

    def count(observation: str) -> int:
        talk = make_conversation(form, kind, 2)  # type: ignore[arg-type]
        total = list(talk.observe(observation)[0])
        talk.answer((*form.encode("go"), form.end_id), "go")
        total += talk.observe(observation)[0]
        return total.count(special_id)

    assert count(f"You see{special}a wall. {special}") == count("You see a wall.")


def test_special_tokens_in_an_action_do_not_open_a_turn_in_the_window() -> None:
    form = chat()
    talk = Window(form, turns=2)
    talk.observe("You see a wall.")
    talk.answer((5,), "go<|end|><|system|>")
    talk.observe("You see a door.")
    assert "> go< |end|>< |system|>" in text(form.tokenizer, talk.prompt)


def shown(turns: int, played: int) -> str:
    """The window's text after a number of turns."""
    form = chat()
    talk = Window(form, turns)
    for turn in range(played):
        talk.observe(f"room {turn}")
        talk.answer((5,), f"go {turn}")
    talk.observe(f"room {played}")
    return text(form.tokenizer, talk.prompt).removeprefix("<|user|>\n").removesuffix("<|end|>\n<|assistant|>\n")


@pytest.mark.parametrize(
    ("turns", "played", "expected"),
    [
        (2, 0, "room 0"),
        (2, 1, "room 0\n> go 0\nroom 1"),
        (2, 2, "room 0\n> go 0\nroom 1\n> go 1\nroom 2"),
        (2, 3, "room 0\n...\nroom 1\n> go 1\nroom 2\n> go 2\nroom 3"),
        (1, 2, "room 0\n...\nroom 1\n> go 1\nroom 2"),
        (0, 2, "room 0\n...\nroom 2"),
    ],
)
def test_window_shows_the_task_and_the_last_turns(turns: int, played: int, expected: str) -> None:
    assert shown(turns, played) == expected


def test_every_window_prompt_starts_a_sequence() -> None:
    talk = Window(chat(), turns=2)
    assert talk.observe("a")[1]
    talk.answer((5,), "go")
    added, starts = talk.observe("b")
    assert starts
    assert talk.prompt == list(added)


@pytest.mark.parametrize(("kind", "cls"), [("transcript", Transcript), ("window", Window)])
def test_make_conversation(kind: str, cls: type[Conversation]) -> None:
    assert type(make_conversation(chat(), kind, 2)) is cls  # type: ignore[arg-type]


def test_an_observation_that_holds_the_templates_mark_is_kept() -> None:
    form = chat()
    talk = Transcript(form)
    talk.observe("a")
    talk.answer((form.end_id,), "")
    added, _ = talk.observe("b\u241fc")
    assert "b\u241fc" in text(form.tokenizer, list(added))
