"""How gymnasium's toy-text games are told in words."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentgrpo.envs.value_iteration import Transitions

TAXI_STOPS = ("R", "G", "Y", "B")
TAXI_MOVES = ("south", "north", "east", "west")


@dataclass(frozen=True)
class Game:
    """How a game is told; the defaults serve one of which nothing is known."""

    words: tuple[str, ...] = ()
    """Actions in the game's order; (): their numbers."""
    goal: str = "Goal: end the game with a reward."
    tell: Callable[[Any, Any], str] | None = None
    """(game, observation) -> the state in words."""
    ending: Callable[[Any, float], str] | None = None
    """(game, last reward) -> what is said at the end."""
    events: Mapping[float, str] = field(default_factory=dict)
    """Reward of a step that goes on -> what is said about it."""
    win_above: float = 0.0
    transitions: Callable[[Any], Transitions | None] = lambda game: getattr(game, "P", None)
    state: Callable[[Any], int] = lambda observation: int(observation)
    """Number of an observation's state in ``transitions``."""
    max_turns: int = 100


def tell_taxi(game: Any, state: int) -> str:
    """Say where everything is as row,column, and which ways out are walled."""
    row, column, passenger, destination = game.decode(state)
    walls = [word for action, word in enumerate(TAXI_MOVES) if game.P[state][action][0][1] == state]
    waiting = "Passenger in taxi." if passenger == 4 else f"Passenger at {_stop(game, passenger)}."
    blocked = f" Walls: {', '.join(walls)}." if walls else ""
    return f"Taxi at {row},{column}. {waiting} Destination {_stop(game, destination)}.{blocked}"


def _stop(game: Any, number: int) -> str:
    row, column = game.locs[number]
    return f"{TAXI_STOPS[number]} {row},{column}"


def tell_cliff(game: Any, state: int) -> str:
    """Say where the player stands."""
    row, column = divmod(state, int(game.shape[1]))
    return f"You are at row {row}, column {column}."


def draw_lake(game: Any, state: int) -> str:
    """Draw the map with the player: P you, O hole, G goal."""
    letters = {b"H": "O", b"G": "G"}
    cells = [letters.get(bytes(cell), ".") for cell in game.desc.ravel()]
    cells[state] = "P"
    return "\n".join(" ".join(cells[start : start + game.ncol]) for start in range(0, len(cells), game.ncol))


def tell_blackjack(game: Any, state: tuple[int, int, int]) -> str:
    """Say what both hands show."""
    total, card, ace = state
    return f"You have {total}{' with a usable ace' if ace else ''}. The dealer shows {'an ace' if card == 1 else card}."


def end_of_blackjack(game: Any, reward: float) -> str:
    """Say both totals, or that the player has too much."""
    own, dealer = _total(game.player), _total(game.dealer)
    if own > 21:
        return f"You have {own}, too much. You lose."
    verdict = "You win." if reward > 0 else "You lose." if reward < 0 else "Nobody wins."
    return f"You have {own}, the dealer {dealer}. {verdict}"


# --- the table of transitions which gymnasium's Blackjack lacks -------------------------------------------------------

CARDS = {**dict.fromkeys(range(1, 10), 1 / 13), 10: 4 / 13}
"""Chance of each card; the deck never runs out, and 1 is an ace."""
BLACKJACK_STATES = [(total, card, ace) for total in range(4, 22) for card in CARDS for ace in (0, 1)]
"""What gymnasium shows: the player's total, the dealer's card, whether an ace counts 11."""


def _draw(total: int, ace: int, card: int) -> tuple[int, int]:
    """Add a card to a hand; return its total and whether an ace counts 11."""
    if card == 1 and total + 11 <= 21:
        return total + 11, 1
    total += card
    return (total - 10, 0) if total > 21 and ace else (total, ace)


@functools.cache
def _dealer(total: int, ace: int) -> dict[int, float]:
    """Chance of each of the dealer's final totals; above 21 all are 22."""
    if total >= 17:
        return {min(total, 22): 1.0}
    ends: dict[int, float] = {}
    for card, chance in CARDS.items():
        for end, share in _dealer(*_draw(total, ace, card)).items():
            ends[end] = ends.get(end, 0.0) + chance * share
    return ends


@functools.cache
def blackjack_transitions() -> Transitions:
    """Tell what sticking (0) and hitting (1) lead to; the states are numbered as in ``BLACKJACK_STATES``.

    A win with the first two cards under the rule ``sab`` is left out: one sticks with 21 in any case.
    """
    numbers = {state: i for i, state in enumerate(BLACKJACK_STATES)}
    table: dict[int, dict[int, list[tuple[float, int, float, bool]]]] = {}
    for (total, card, ace), number in numbers.items():
        ends = _dealer(*_draw(0, 0, card))
        wins = sum(chance for end, chance in ends.items() if end > 21 or end < total)
        hit = []
        for drawn, chance in CARDS.items():
            after, ace_after = _draw(total, ace, drawn)
            bust = after > 21
            hit.append((chance, number if bust else numbers[after, card, ace_after], -float(bust), bust))
        table[number] = {0: [(wins, number, 1.0, True), (1 - wins, number, -1.0, True)], 1: hit}
    return table


def _total(hand: list[int]) -> int:
    total, ace = 0, 0
    for card in hand:
        total, ace = _draw(total, ace, card)
    return total


GAMES = {
    "TaxiEnv": Game(
        words=(*TAXI_MOVES, "pickup", "dropoff"),
        goal="Goal: pick up the passenger, drop off at the destination. Places are row,column; 0,0 is north-west.",
        tell=tell_taxi,
        ending=lambda game, reward: "The passenger is at the destination.",
        events={-10: "That is not allowed here."},
        max_turns=25,
    ),
    "CliffWalkingEnv": Game(
        words=("up", "right", "down", "left"),
        goal="Goal: reach row 3, column 11. Row 3, columns 1 to 10 are a cliff: who falls is back at row 3, column 0.",
        tell=tell_cliff,
        ending=lambda game, reward: "You reach the goal.",
        events={-100: "You fell off the cliff."},
        win_above=-2.0,  # each step costs 1, the last one too; a fall costs 100
        max_turns=25,
    ),
    "FrozenLakeEnv": Game(
        words=("left", "down", "right", "up"),
        goal="Goal: walk to G, avoid O. You are P.",
        tell=draw_lake,
        ending=lambda game, reward: "You reach the goal." if reward > 0 else "You fall into a hole.",
        max_turns=40,
    ),
    "BlackjackEnv": Game(
        words=("stick", "hit"),
        goal="Goal: get closer to 21 than the dealer, but not above.",
        tell=tell_blackjack,
        ending=end_of_blackjack,
        transitions=lambda game: blackjack_transitions(),
        state=lambda observation: BLACKJACK_STATES.index(observation),
        max_turns=10,
    ),
}
"""By the name of the class in ``gymnasium.envs.toy_text``."""
