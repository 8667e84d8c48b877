"""NumberGuess: hints and bisection by hand."""

import pytest

from agentgrpo.envs.number_guess import Hints, NumberGuessEnv


def hiding(number: int, show_range: bool = True) -> NumberGuessEnv:
    env = NumberGuessEnv(show_range=show_range)
    env.reset(seed=0)
    snapshot = env.snapshot()
    env.restore(type(snapshot)(number, Hints(1, 16, None), "by hand", 0, 0, None))
    return env


def test_hints_by_hand() -> None:
    env = hiding(6)
    assert env.step("9")[0] == "The number is lower than 9. It is between 1 and 8."
    assert env.step("3")[0] == "The number is higher than 3. It is between 4 and 8."
    assert env.step("12")[0] == "The number is lower than 12. It is between 4 and 8."  # nothing is forgotten
    text, reward, terminated, truncated, _ = env.step(" 6 ")
    assert (text, reward, terminated, truncated) == ("Correct.", 1.0, True, False)


def test_anchor_is_what_is_known_not_how_it_was_found() -> None:
    one, other = hiding(6, show_range=False), hiding(6, show_range=False)
    one.step("9")
    text, _, _, _, info = one.step("3")
    other.step("3")
    other_text, _, _, _, other_info = other.step("9")
    assert (text, other_text) == ("The number is higher than 3.", "The number is lower than 9.")
    assert info["anchor"] == other_info["anchor"] == "It is between 4 and 8."


def test_oracle_bisects_and_does_not_peek() -> None:
    # 1..16: 8; then 12 for 9..16; 14; 15; 16 takes the fifth guess.
    assert hiding(16).oracle_actions() == ["8", "12", "14", "15", "16"]
    assert hiding(8).oracle_actions() == ["8"]
    lengths = [len(hiding(number).oracle_actions()) for number in range(1, 17)]
    assert sum(lengths) / 16 == 3.375  # 1*1 + 2*2 + 4*3 + 8*4 + 1*5 = 54


@pytest.mark.parametrize("text", ["17", "0", "-3", "3.0", "03", "three", "²"])
def test_other_numbers_are_invalid(text: str) -> None:
    answer, _, _, _, info = hiding(6).step(text)
    assert answer.startswith("Not possible. Answer with a number from 1 to 16.")
    assert info["valid_action"] is False


def test_every_number_is_drawn() -> None:
    env = NumberGuessEnv(1, 4)
    drawn = set()
    for seed in range(100):
        env.reset(seed=seed)
        drawn.add(env.task)
    assert drawn == {1, 2, 3, 4}


def test_dials() -> None:
    with pytest.raises(ValueError, match=r"high must be an integer from 6 to 1000, got 5\."):
        NumberGuessEnv(low=5, high=5)
