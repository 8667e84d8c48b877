"""Messages -> token ids. Policy text is never decoded and encoded again: it stays the ids that were sampled.

Two contexts give the same ``Step``s. ``transcript``: one growing sequence per episode. ``window``: each turn is a fresh
prompt with the task and the last k (observation, action) pairs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

# Probes that templates are known to treat specially: reasoning is cut from earlier turns, white space is stripped.
_PROBES = ("ok", "<think>\nhm\n</think>\n\nok", " ok\n")
_MARK = "\u241f"


class ChatFormat:
    """A tokenizer's chat template, taken apart into a prompt and what stands between two turns of the policy.

    Raises:
        ValueError: the tokenizer has no chat template, or no end-of-turn token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, instructions: str = "") -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no chat template, so there is no way "
                f"to tell the turns "
                "of a conversation apart. Choose an instruction-tuned model, or set "
                "tokenizer.chat_template and save it "
                "to the model folder."
            )
        if tokenizer.eos_token_id is None:
            raise ValueError(f"The tokenizer of {tokenizer.name_or_path!r} has no eos token to end a turn with.")
        self.tokenizer = tokenizer
        self.end_id: int = tokenizer.eos_token_id
        self._system: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
        self.longest_token = max(map(len, tokenizer.get_vocab()))
        """Most characters that a token stands for."""
        self._special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
        self.encode = lru_cache(maxsize=2**16)(self._encode)
        self.prompt = lru_cache(maxsize=2**12)(self._prompt)

    def _prompt(self, text: str) -> tuple[int, ...]:
        """Token ids of a fresh conversation: system message, one user message, and the start of the answer."""
        return self.encode(self._render([self._user(text)]))

    def prefix_preserving(self) -> bool:
        """Whether adding turns leaves the text of the earlier ones as it was."""
        for answer in _PROBES:
            first = self._render([self._user("a")])
            turns = [self._user("a"), {"role": "assistant", "content": answer}, self._user("b")]
            if not self._render(turns).startswith(first + answer):
                return False
        return True

    def turn_suffix(self) -> str:
        """What the template puts between an answer's text and the next answer, with a mark for the observation.

        Starts with the end-of-turn token in every common template; what follows it (often a newline) belongs to the
        environment's text.
        """
        first = self._render([self._user("a")])
        turns = [self._user("a"), {"role": "assistant", "content": "ok"}, self._user(_MARK)]
        return self._render(turns).removeprefix(first + "ok")

    def clean(self, text: str) -> str:
        """Environment text with special tokens broken up, so that it cannot end a turn or open another."""
        for token in self._special:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _user(self, text: str) -> Message:
        return {"role": "user", "content": self.clean(text)}

    def _render(self, messages: list[Message]) -> str:
        text = self.tokenizer.apply_chat_template(self._system + messages, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: tuple[int, ...]) -> str:
        """The text of an answer, without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))


class TextReader(Protocol):
    """Reads what was written, ids by ids."""

    longest_token: int
    """Most characters that a token stands for."""

    def decode(self, token_ids: tuple[int, ...]) -> str:
        """The text of an answer."""


class Conversation(ABC):
    """One episode's token ids. Call :meth:`observe`, sample after :attr:`prompt`, then :meth:`answer`; repeat."""

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat
        self.prompt: list[int] = []
        """Token ids that the policy has to continue."""

    @abstractmethod
    def observe(self, observation: str) -> tuple[tuple[int, ...], bool]:
        """Takes the environment's text.

        Returns:
            the token ids that this added, and True when they start a sequence of their own.
        """

    @abstractmethod
    def answer(self, action_ids: tuple[int, ...], action: str) -> None:
        """Takes what the policy wrote and the action that was read from it."""


class Transcript(Conversation):
    """One growing sequence. Environment text is encoded once and appended.

    Raises:
        ValueError: the chat template rewrites earlier turns.
    """

    def __init__(self, chat: ChatFormat) -> None:
        super().__init__(chat)
        self._between = _between(chat)

    def observe(self, observation: str) -> tuple[tuple[int, ...], bool]:
        starts = not self.prompt
        if starts:
            new = self._chat.prompt(observation)
        else:
            # An answer that was cut off has no end-of-turn token: the environment's part supplies it.
            text = self._between if self.prompt[-1] == self._chat.end_id else self._end_text() + self._between
            new = self._chat.encode(text.replace(_MARK, self._chat.clean(observation)))
        self.prompt.extend(new)
        return new, starts

    def answer(self, action_ids: tuple[int, ...], action: str) -> None:
        self.prompt.extend(action_ids)

    def _end_text(self) -> str:
        return str(self._chat.tokenizer.eos_token)


@lru_cache(maxsize=16)
def _between(chat: ChatFormat) -> str:
    """Text between an end-of-turn token and the next answer, with a mark for the observation."""
    if not chat.prefix_preserving():
        raise ValueError(
            f"The chat template of {chat.tokenizer.name_or_path!r} is not prefix-preserving: it rewrites "
            f"earlier turns when "
            "later ones are added, so one growing transcript would not be what the model is prompted with. "
            "Use context.kind=window, where every turn is a fresh prompt."
        )
    suffix, end = chat.turn_suffix(), str(chat.tokenizer.eos_token)
    if not suffix.startswith(end):
        raise ValueError(
            f"The chat template of {chat.tokenizer.name_or_path!r} closes an answer with "
            f"{suffix[:20]!r}, not with its eos "
            f"token {end!r}, so the policy could not end its turn. Set eos_token to the token that ends a turn, or use "
            "context.kind=window."
        )
    return suffix.removeprefix(end)


class Window(Conversation):
    """Each turn a fresh prompt: the task, the last ``turns`` pairs of observation and action, and what is seen now."""

    def __init__(self, chat: ChatFormat, turns: int) -> None:
        super().__init__(chat)
        self._turns = turns
        self._observations: list[str] = []
        self._actions: list[str] = []

    def observe(self, observation: str) -> tuple[tuple[int, ...], bool]:
        self._observations.append(observation)
        new = self._chat.prompt(window_text(self._observations, self._actions, self._turns))
        self.prompt = list(new)
        return new, True

    def answer(self, action_ids: tuple[int, ...], action: str) -> None:
        self._actions.append(action)


def window_text(observations: Sequence[str], actions: Sequence[str], turns: int) -> str:
    """The text of a fresh prompt: the first observation, the last ``turns`` turns, and what is seen now."""
    first, now = observations[0], len(observations) - 1
    if now == 0:
        return first
    lines = [first]
    start = max(now - turns, 0)
    if start > 0:
        lines.append("...")
    for t in range(start, now):
        # The first observation stands at the top already.
        lines += ([observations[t]] if t > 0 else []) + [f"> {actions[t]}"]
    return "\n".join([*lines, observations[now]])


def make_conversation(chat: ChatFormat, kind: str, window_turns: int) -> Conversation:
    """A conversation for one episode, of a kind that the configuration allows: ``transcript`` or ``window``."""
    return Transcript(chat) if kind == "transcript" else Window(chat, window_turns)
