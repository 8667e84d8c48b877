"""Texts of token ids, from the tokenizer that a run keeps beside its weights; no model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from agentgrpo.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class TokenTexts:
    """A tokenizer that says what single tokens stand for."""

    tokenizer: Any
    special: frozenset[int]
    """Ids of control tokens, such as the end of a turn."""

    @classmethod
    def of_run(cls, folder: RunFolder) -> TokenTexts | None:
        """The tokenizer of any of the run's checkpoints; None where none of them can be read."""
        for path in sorted(folder.checkpoints.glob("*/tokenizer.json"), reverse=True):
            try:
                return cls.of(Tokenizer.from_file(str(path)))
            except Exception:  # the library raises the bare class; another checkpoint has the same tokenizer
                continue
        return None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenTexts:
        """From a tokenizer in memory."""
        added = tokenizer.get_added_tokens_decoder()
        return cls(tokenizer, frozenset(i for i, token in added.items() if token.special))

    def texts(self, ids: Iterable[int]) -> dict[int, str]:
        """What each id adds to a text that is already begun."""
        wanted = sorted(set(ids))
        once = self._decode([[i] for i in wanted])
        # Alone, some tokenizers drop a word's leading space; after another word they write it.
        twice = self._decode([[i, i] for i in wanted])
        return {i: self._text(i, b[len(a) :]) for i, a, b in zip(wanted, once, twice, strict=True)}

    def _decode(self, batch: Sequence[Sequence[int]]) -> list[str]:
        return list(self.tokenizer.decode_batch(batch, skip_special_tokens=False))

    def _text(self, token_id: int, decoded: str) -> str:
        if decoded and "\ufffd" not in decoded:
            return decoded
        name = self.tokenizer.id_to_token(token_id)
        if name is None:
            return f"<id {token_id}>"
        # Part of a character: its bytes, in the notation of vocabularies that name them.
        known = all(c in _BYTES for c in name)
        return "".join(f"<0x{_BYTES[c]:02X}>" for c in name) if name and known else str(name)


def _byte_alphabet() -> dict[str, int]:
    """The character by which byte-level vocabularies (GPT-2's and its heirs') write each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _byte_alphabet()
