"""Mastermind: answers by hand, what is known, and a strategy that does not peek."""

from collections import defaultdict
from functools import cache
from itertools import permutations, product

import pytest

from agentgrpo.envs.mastermind import Knowledge, MastermindEnv


def names(env: MastermindEnv) -> list[str]:
    """Return all codes; code number i of the game is the i-th of them."""
    env.reset(seed=0)
    return [env._game.names[code] for code in env.state.possible]


def hide(env: MastermindEnv, code: str) -> MastermindEnv:
    everything = names(env)
    snapshot = env.snapshot()
    knowledge = Knowledge(tuple(range(len(everything))), None)
    env.restore(type(snapshot)(everything.index(code), knowledge, "by hand", 0, 0, None))
    return env


def lengths(env: MastermindEnv) -> list[int]:
    return [len(hide(env, code).oracle_actions()) for code in names(env)]


def test_answers_by_hand() -> None:
    env = hide(MastermindEnv(max_turns=5), "red blue")
    assert env.step("green yellow")[0] == "green yellow: 0 black, 0 white."
    assert env.step("red green")[0] == "red green: 1 black, 0 white."
    assert env.step("green red")[0] == "green red: 0 black, 1 white."
    assert env.step("blue red")[0] == "blue red: 0 black, 2 white."
    text, reward, terminated, truncated, _ = env.step("Red  blue")
    assert (text, reward, terminated, truncated) == ("Correct.", 1.0, True, False)


def test_a_colour_counts_once_however_often_it_is_guessed() -> None:
    env = hide(MastermindEnv(pegs=3, colours=3, repeats=True), "red green red")
    # The first red is right; of the other two guessed pegs only the second red meets a red elsewhere.
    assert env.step("red red blue")[0] == "red red blue: 1 black, 1 white."
    assert env.step("blue blue blue")[0] == "blue blue blue: 0 black, 0 white."


def test_what_is_left_by_hand() -> None:
    env = hide(MastermindEnv(show_left=True, max_turns=6), "red blue")
    # One black: the first colour is red, or the second green, and the other peg is blue or yellow.
    left = "Left: red blue, red yellow, blue green, yellow green."
    text, _, _, _, info = env.step("red green")
    assert text == f"red green: 1 black, 0 white. {left}"
    assert info["anchor"] == left
    assert env.step("blue green")[0] == "blue green: 0 black, 1 white. Left: red blue."
    assert env.step("red yellow")[0] == "red yellow: 1 black, 0 white. Left: red blue."  # nothing is forgotten


def test_anchor_is_what_is_known_not_how_it_was_found() -> None:
    one, other = (hide(MastermindEnv(pegs=4, colours=6, repeats=True), "red red green blue") for _ in range(2))
    guesses = ["red orange orange purple", "green green yellow yellow"]
    anchors = []
    for env, order in ((one, guesses), (other, guesses[::-1])):
        anchors.append([env.step(guess)[4]["anchor"] for guess in order])
    assert anchors[0][1] == anchors[1][1] != anchors[0][0] != anchors[1][0]
    assert anchors[0][1].split()[1:4] == ["codes", "are", "left."]  # too many to be named: a digest follows


def test_what_can_be_guessed() -> None:
    assert len(names(MastermindEnv())) == 12  # 4 * 3
    assert len(names(MastermindEnv(repeats=True))) == 16
    assert names(MastermindEnv(pegs=1, colours=2)) == ["red", "green"]
    env = hide(MastermindEnv(), "red blue")
    text, _, _, _, info = env.step("red red")
    start = "Not possible. Answer with 2 different colours of red, green, blue, yellow."
    assert text == f"{start} It is 2 different colours of red, green, blue, yellow."
    assert info["valid_action"] is False
    assert hide(MastermindEnv(repeats=True), "red blue").step("red red")[4]["valid_action"] is True


def test_the_oracle_does_not_peek() -> None:
    env = MastermindEnv(pegs=3, colours=5, max_turns=9)
    plans: dict[str, list[str]] = {code: hide(env, code).oracle_actions() for code in names(env)}
    assert all(plan[-1] == code for code, plan in plans.items())
    seen: dict[tuple[str, ...], str] = {}  # what has been guessed and answered -> the next guess, whatever is hidden
    for code, plan in plans.items():
        hide(env, code)
        history: tuple[str, ...] = ()
        for guess in plan:
            assert seen.setdefault(history, guess) == guess
            history = (*history, env.step(guess)[0])


@pytest.mark.parametrize(
    ("pegs", "colours", "repeats"),
    [(1, 4, False), (2, 3, False), (2, 4, False), (2, 5, False), (3, 3, False), (3, 4, False)],
)
def test_no_strategy_needs_fewer_guesses_on_average(pegs: int, colours: int, repeats: bool) -> None:
    pool = range(colours)
    codes = list(product(pool, repeat=pegs) if repeats else permutations(pool, pegs))

    def answer(guess: tuple[int, ...], code: tuple[int, ...]) -> tuple[int, int]:
        black = sum(g == c for g, c in zip(guess, code, strict=True))
        return black, sum(min(guess.count(c), code.count(c)) for c in pool) - black

    @cache
    def fewest(possible: frozenset[tuple[int, ...]]) -> int:
        """Guesses summed over all hidden codes in ``possible``, of the best strategy."""
        best = 10**6
        for guess in codes:
            classes = defaultdict(set)
            for code in possible:
                classes[answer(guess, code)].add(code)
            if len(classes) > 1 or possible == {guess}:
                rest = (fewest(frozenset(c)) for a, c in classes.items() if a != (pegs, 0))
                best = min(best, len(possible) + sum(rest))
        return best

    env = MastermindEnv(pegs, colours, repeats, max_turns=9)
    assert sum(lengths(env)) == fewest(frozenset(codes))
    # And whatever has been guessed first.
    for guess, text in zip(codes, names(env), strict=True):
        total = 0
        for code in names(env):
            hide(env, code).step(text)
            total += len(env.oracle_actions())
        left = defaultdict(set)
        for hidden in set(codes) - {guess}:
            left[answer(guess, hidden)].add(hidden)
        assert total == sum(fewest(frozenset(possible)) for possible in left.values())


def test_three_guesses_are_always_enough_by_default() -> None:
    # The first is right once, its reverse the second time once; of the rest 5 more codes are met at the second guess.
    assert sorted(lengths(MastermindEnv())) == [1] + [2] * 4 + [3] * 7


def test_five_guesses_are_always_enough_for_the_game_in_the_shops() -> None:
    # Knuth, 1977: 5801 guesses for all 1296 codes of 4 pegs in 6 colours.
    found = lengths(MastermindEnv(pegs=4, colours=6, repeats=True, max_turns=9))
    assert (len(found), max(found), sum(found)) == (1296, 5, 5801)


def test_the_oracle_claims_nothing_where_the_strategy_takes_too_long() -> None:
    env = MastermindEnv(repeats=True)  # no strategy finds each of 16 codes in 3 guesses
    plans = [hide(env, code).oracle_actions() for code in names(env)]
    assert [] in plans
    for code, plan in zip(names(env), plans, strict=True):
        hide(env, code)
        assert not plan or [env.step(guess)[1] for guess in plan][-1] == 1.0


def test_dials() -> None:
    with pytest.raises(ValueError, match=r"pegs must be an integer from 1 to 4, got 5\."):
        MastermindEnv(pegs=5)
    with pytest.raises(ValueError, match=r"colours must be an integer from 4 to 6, got 3\."):
        MastermindEnv(pegs=4, colours=3)
    with pytest.raises(ValueError, match=r"colours must be an integer from 2 to 6, got 7\."):
        MastermindEnv(repeats=True, colours=7)
    with pytest.raises(ValueError, match=r"repeats must be true or false, got 'no'\."):
        MastermindEnv(repeats="no")  # type: ignore[arg-type]
