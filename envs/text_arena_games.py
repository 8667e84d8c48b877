"""TextArena's games for one player: what can be answered, what a state is, and the way to win."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agentgrpo.envs import text_arena_moves as moves
from agentgrpo.envs.text_arena_moves import Game


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What TextArena does not tell about a game."""

    goal: str
    """The task in a sentence, instead of TextArena's page."""
    example: str
    """Completes "Answer with ...": TextArena's squared brackets are added for the agent."""
    moves: Callable[[Game], Iterable[str]]
    """What can be answered now, in lower case."""
    state: Callable[[Game], object]
    """What tells one situation of a task from another; without counters and history."""
    solve: Callable[[Game], list[str]] | None = None
    """Moves that win from here; [] where the game is lost."""
    max_turns: Callable[[Game], int] = lambda game: int(game.max_turns)
    success_at: float = 1.0
    """Reward at the end from which on an episode is a success."""


RULES = {
    "GuessTheNumberEnv": Rules(
        goal="Goal: guess the number.",
        example="a number",
        moves=lambda g: [str(n) for n in range(g.min_number, g.max_number + 1) if n not in g.guessed_numbers],
        state=moves.interval,
        solve=moves.bisect,
    ),
    "FrozenLakeEnv": Rules(
        goal="Goal: walk from P to G, avoid H.",
        example="up, down, left or right",
        moves=lambda g: [word for word, _ in moves.lake_moves(g, g.state.game_state["player_pos"])],
        state=lambda g: g.state.game_state["player_pos"],
        solve=moves.cross_lake,
        max_turns=lambda g: 3 * g.size,
    ),
    "TowerOfHanoiEnv": Rules(
        goal="Goal: move all disks from tower A to tower C; never put a disk on a smaller one.",
        example="two towers such as a c",
        moves=lambda g: [word for word, _ in moves.disk_moves(moves.towers(g))],
        state=moves.towers,
        solve=moves.carry_towers,
    ),
    "LightsOutEnv": Rules(
        goal="Goal: switch off all lights O. A press switches a light and its neighbours.",
        example="row and column such as 0 3",
        moves=lambda g: moves.grid(g.size, g.size),
        state=lambda g: g.state.game_state["grid"],
        solve=moves.switch_off,
    ),
    "MastermindEnv": Rules(
        goal="Goal: find the code. Black pegs: right digit and place; white pegs: right digit only.",
        example="a code such as 2 1 4 5",
        moves=moves.code_words,
        state=lambda g: sorted((e["guess"], e["black"], e["white"]) for e in g.state.game_state["history"]),
        solve=moves.break_code,
    ),
    "ThreeCardMonteEnv": Rules(
        goal="Goal: say which cup the ball X is under at the end.",
        example="the number of a cup",
        moves=lambda g: [str(cup) for cup in range(g.num_cups)],
        state=lambda g: g.state.done,
        solve=lambda g: [str(g.ball_pos)],
        max_turns=lambda g: 1,
    ),
    "RushHourEnv": Rules(
        goal="Goal: drive car X out to the right. + moves a car right or down, - left or up.",
        example="a car and a direction such as a+",
        moves=lambda g: [word for word, _ in moves.car_moves(g, *moves.cars(g))],
        state=lambda g: moves.cars(g)[1],
        solve=moves.free_the_car,
        max_turns=lambda g: 60,
    ),
    "PegJumpEnv": Rules(
        goal="Goal: jump pegs over pegs into empty holes until one is left.",
        example="two holes such as 4 1",
        moves=lambda g: [word for word, _ in moves.jumps(g, moves.pegs_left(g))],
        state=moves.pegs_left,
        solve=moves.leave_one_peg,
        max_turns=lambda g: 13,
    ),
    "SudokuEnv": Rules(
        goal="Goal: fill the grid: 1 to 9 once in each row, column and block. Two wrong digits in a row lose.",
        example="row, column and digit such as 1 2 3",
        moves=moves.sudoku_moves,
        state=lambda g: g.state.game_state["board"],
        solve=moves.fill_sudoku,
    ),
    "CrosswordsEnv": Rules(
        goal="Goal: fill in the words, letter by letter. Two wrong letters in a row lose.",
        example="row, column and letter such as 0 3 d",
        moves=lambda g: [
            f"{r} {c} {letter}" for r, c in moves.open_cells(g) for letter in "abcdefghijklmnopqrstuvwxyz"
        ],
        state=lambda g: g.state.game_state["board"],
        solve=moves.fill_crossword,
    ),
    "SlitherlinkEnv": Rules(
        goal="Goal: draw one closed loop. A number tells how many edges of its cell the loop has.",
        example="an edge such as h 0 1 or v 0 1",
        moves=moves.edge_words,
        state=lambda g: sorted(moves.edges(g)),
        solve=moves.draw_loop,
    ),
    "CryptarithmEnv": Rules(
        goal="Goal: give each letter a different digit so that the sum is right.",
        example="a letter and a digit such as s 9",
        moves=moves.letter_digits,
        state=lambda g: sorted(g.mapping.items()),
    ),
    "CountdownEnv": Rules(
        goal="Goal: combine the numbers, by their places, until one is the target.",
        example="two places and one of + - * / such as 0 2 *",
        moves=moves.operations,
        state=lambda g: g.numbers,
    ),
    "MinesweeperEnv": Rules(
        goal="Goal: open all cells without a mine. Two mines in a row lose.",
        example="row and column such as 3 2",
        moves=moves.hidden_cells,
        state=lambda g: (g.grid, g.revealed),
    ),
    "Game2048Env": Rules(
        goal="Goal: slide equal tiles together until one is large enough.",
        example="up, down, left or right",
        moves=moves.shifts,
        state=lambda g: g.state.game_state["board"],
        max_turns=lambda g: g.target_tile,
    ),
    "BlackjackEnv": Rules(
        goal="Goal: win at least half of the hands.",
        example="hit or stand",
        moves=lambda g: ["hit", "stand"],
        state=moves.hands,
        max_turns=lambda g: 10 * g.num_hands,
        success_at=0.5,
    ),
    "SecretaryEnv": Rules(
        goal="Goal: accept the highest of all values; one that you let pass is gone.",
        example="accept or continue",
        moves=lambda g: ["accept", "continue"],
        state=lambda g: g.state.game_state["current_idx"],
        solve=moves.accept_the_best,
        max_turns=lambda g: g.N,
    ),
}
"""By class. TextArena's games for one player that work without network, keys and data of others; the rest is played in
free text."""

BROKEN = {
    "BanditEnv": "TextArena 0.7.4 gives the best button the lowest reward, and nobody can win",
    "FifteenPuzzleEnv": "TextArena 0.7.4 raises an error when it is won, and every second board cannot be",
}
