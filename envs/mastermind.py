"""Mastermind: find a hidden code of colours from black and white pegs."""

from functools import cache, lru_cache
from hashlib import blake2b
from itertools import permutations, product
from typing import NamedTuple

import numpy as np

from agentgrpo.envs.base import TextEnv, View, in_range

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple")
MAX_PEGS = 4
LISTED = 8
"""Up to this many codes are named where the text or the anchor says which ones are left."""

Codes = tuple[int, ...]
"""Some of a game's codes, by number, in ascending order."""


class Knowledge(NamedTuple):
    """What the answers so far say."""

    possible: Codes
    """The codes that would have given the same answers."""
    last: int | None
    """The latest guess."""


class MastermindEnv(TextEnv[int, Knowledge]):
    """Find a hidden code. Each guess is answered by its number of black and white pegs.

    Black: right colour in the right place. White: right colour in another place. Actions are the codes that can be
    hidden, as ``red blue``; each can be guessed at any time.

    The oracle knows no more than the answers tell: it plays Knuth's strategy, which keeps the largest number of codes
    that can be left as small as possible. Its plan is what that strategy plays against the hidden code.

    Args:
        pegs: length of the code, 1..4.
        colours: number of colours, 2..6.
        repeats: whether a colour can occur twice in a code; false needs as many colours as pegs.
        show_left: whether the text also tells which codes are left, so that nothing needs to be worked out.
        max_turns: guesses per episode. Without repeats, 3 are always enough for 2 pegs and 4 colours.
    """

    def __init__(
        self, pegs: int = 2, colours: int = 4, repeats: bool = False, show_left: bool = False, max_turns: int = 3
    ) -> None:
        super().__init__(max_turns)
        flags: dict[str, object] = {"repeats": repeats, "show_left": show_left}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, got {value!r}.")
        self.pegs = in_range("pegs", pegs, 1, MAX_PEGS)
        self.colours = in_range("colours", colours, 2 if repeats else max(2, pegs), len(COLOURS))
        self.repeats, self.show_left = repeats, show_left
        self._game = _game(pegs, colours, repeats)

    def _new_task(self) -> str:
        self.task = int(self.np_random.integers(len(self._game.names)))
        self.state = Knowledge(tuple(range(len(self._game.names))), None)
        return "Goal: guess the code."

    def _view(self) -> View:
        game, (possible, last) = self._game, self.state
        if last is None:
            text = f"It is {self._expected()}."
            return View(text, text, game.admissible)
        if last == self.task:
            return View("Correct.", "Correct.", game.admissible)
        black, white = divmod(game.answers[last][self.task], self.pegs + 1)
        text = f"{game.names[last]}: {black} black, {white} white."
        if self.show_left:
            text += f" {_left(game, possible)}"
        # The anchor is what is known, not the guess that led there: two ways to the same codes are one state.
        digest = "" if len(possible) <= LISTED else f" {blake2b(repr(possible).encode(), digest_size=8).hexdigest()}"
        return View(text, f"{_left(game, possible)}{digest}", game.admissible)

    def _advance(self, action: str) -> None:
        guess = self._game.numbers[action]
        self.state = Knowledge(self._game.consistent(self.state.possible, guess, self.task), guess)

    def _outcome(self) -> bool | None:
        return True if self.state.last == self.task else None

    def _plan(self) -> list[str]:
        possible, plan = self.state.possible, []
        while True:
            guess = self._game.guess(possible)
            plan.append(self._game.names[guess])
            if guess == self.task:
                return plan
            possible = self._game.consistent(possible, guess, self.task)

    def _expected(self) -> str:
        kind = "different colours" if self.pegs > 1 and not self.repeats else "colours" if self.pegs > 1 else "colour"
        return f"{self.pegs} {kind} of {', '.join(COLOURS[: self.colours])}"


class _Game:
    """The codes of a game, by number, and what each answers to each."""

    def __init__(self, pegs: int, colours: int, repeats: bool) -> None:
        codes = list(product(range(colours), repeat=pegs) if repeats else permutations(range(colours), pegs))
        self.names = [" ".join(COLOURS[colour] for colour in code) for code in codes]
        self.numbers = {name: number for number, name in enumerate(self.names)}
        self.admissible = sorted(self.names)
        table = np.array(codes, dtype=np.int8)
        black = (table[:, None] == table[None]).sum(-1, dtype=np.int8)
        counts = (table[:, :, None] == np.arange(colours)).sum(1, dtype=np.int8)
        common = np.minimum(counts[:, None], counts[None]).sum(-1, dtype=np.int8)
        self._table = (black * (pegs + 1) + common - black).astype(np.uint8)
        self.answers = [row.tobytes() for row in self._table]
        """By guess and hidden code: black * (pegs + 1) + white."""
        self.guess = lru_cache(maxsize=4096)(self._guess)

    def consistent(self, possible: Codes, guess: int, hidden: int) -> Codes:
        """Which of ``possible`` answer ``guess`` as ``hidden`` does."""
        answers = self.answers[guess]
        return tuple(code for code in possible if answers[code] == answers[hidden])

    def _guess(self, possible: Codes) -> int:
        """Knuth, The computer as Master Mind, 1977: the guess whose largest class of equal answers is smallest.

        Of several, one that can be the code itself; of several, the first.
        """
        answers = self._table[:, possible]
        largest = np.max([(answers == answer).sum(1) for answer in np.unique(answers)], axis=0)
        best = np.flatnonzero(largest == largest.min()).tolist()
        return next((guess for guess in best if guess in possible), best[0])


@cache
def _game(pegs: int, colours: int, repeats: bool) -> _Game:
    return _Game(pegs, colours, repeats)


def _left(game: _Game, possible: Codes) -> str:
    if len(possible) > LISTED:
        return f"{len(possible)} codes are left."
    return f"Left: {', '.join(game.names[code] for code in possible)}."
