"""NumberGuess: find a hidden number from higher/lower hints."""

from typing import NamedTuple

from agentgrpo.envs.base import TextEnv, View, in_range


class Hints(NamedTuple):
    """What the hints so far say: the number lies in [low, high]; ``last`` is the latest guess."""

    low: int
    high: int
    last: int | None


class NumberGuessEnv(TextEnv[int, Hints]):
    """Find a hidden integer in [low, high]. Every number of the range can be guessed at any time.

    Args:
        low: smallest number, 0..999.
        high: largest number, above ``low`` and at most 1000.
        max_turns: guesses per episode. 1..16 needs at most 5.
        show_range: whether a hint also says which numbers are left, so that nothing needs to be remembered.
    """

    def __init__(self, low: int = 1, high: int = 16, max_turns: int = 5, show_range: bool = True) -> None:
        super().__init__(max_turns)
        self.low = in_range("low", low, 0, 999)
        self.high = in_range("high", high, low + 1, 1000)
        self.show_range = show_range
        self._guesses = sorted(str(number) for number in range(low, high + 1))

    def _new_task(self) -> str:
        self.task = int(self.np_random.integers(self.low, self.high + 1))
        self.state = Hints(self.low, self.high, None)
        return "Goal: guess the number."

    def _view(self) -> View:
        low, high, last = self.state
        left = f"It is between {low} and {high}."
        if last is None:
            return View(left, left, self._guesses)
        if last == self.task:
            return View("Correct.", "Correct.", self._guesses)
        hint = f"The number is {'higher' if last < self.task else 'lower'} than {last}."
        # The anchor is what is known, not the guess that led there: two ways to the same range are one state.
        return View(f"{hint} {left}" if self.show_range else hint, left, self._guesses)

    def _advance(self, action: str) -> None:
        guess = int(action)
        low, high, _ = self.state
        if guess < self.task:
            low = max(low, guess + 1)
        elif guess > self.task:
            high = min(high, guess - 1)
        self.state = Hints(low, high, guess)

    def _outcome(self) -> bool | None:
        return True if self.state.last == self.task else None

    def _plan(self) -> list[str]:
        """Bisection: the best that a player who does not know the number can do."""
        low, high, _ = self.state
        guesses = []
        while True:
            guess = (low + high) // 2
            guesses.append(str(guess))
            if guess == self.task:
                return guesses
            low, high = (guess + 1, high) if guess < self.task else (low, guess - 1)

    def _expected(self) -> str:
        return f"a number from {self.low} to {self.high}"
