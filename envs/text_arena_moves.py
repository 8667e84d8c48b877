"""Moves and solutions of TextArena's games, read off the games themselves."""

import itertools
from collections.abc import Iterable
from typing import Any

from agentgrpo.envs.base import shortest_path

Game = Any
"""An unwrapped TextArena environment after its reset."""

WALKS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
MOST_CODES = 20_000
"""Codes that the Mastermind oracle goes through; beyond that it has no plan."""


def grid(rows: int, columns: int) -> list[str]:
    return [f"{row} {column}" for row in range(rows) for column in range(columns)]


# --- GuessTheNumber -------------------------------------------------------------------------------------------------


def interval(game: Game) -> tuple[int, int]:
    low, high = game.min_number, game.max_number
    for guess, hint in game.state.game_state["guess_history"]:
        low, high = (max(low, guess + 1), high) if hint == "higher" else (low, min(high, guess - 1))
    return low, high


def bisect(game: Game) -> list[str]:
    low, high = interval(game)
    plan = []
    while True:
        guess = (low + high) // 2
        plan.append(str(guess))
        if guess == game.game_number:
            return plan
        low, high = (guess + 1, high) if guess < game.game_number else (low, guess - 1)


# --- FrozenLake, TowerOfHanoi, PegJump, RushHour --------------------------------------------------------------------


def lake_moves(game: Game, place: tuple[int, int]) -> Iterable[tuple[str, tuple[int, int]]]:
    for word, (down, right) in WALKS.items():
        row, column = place[0] + down, place[1] + right
        if 0 <= row < game.size and 0 <= column < game.size:
            yield word, (row, column)


def cross_lake(game: Game) -> list[str]:
    grid = game.state.game_state["grid"]

    def dry(place: tuple[int, int]) -> Iterable[tuple[str, tuple[int, int]]]:
        return [(word, to) for word, to in lake_moves(game, place) if grid[to[0]][to[1]] != "H"]

    goal = tuple(game.state.game_state["goal_pos"])
    return shortest_path(tuple(game.state.game_state["player_pos"]), dry, lambda place: place == goal) or []


Towers = tuple[tuple[int, ...], ...]


def towers(game: Game) -> Towers:
    return tuple(tuple(disks) for disks in game.state.game_state["towers"].values())


def disk_moves(towers: Towers) -> Iterable[tuple[str, Towers]]:
    for source, target in itertools.permutations(range(3), 2):
        if towers[source] and (not towers[target] or towers[target][-1] > towers[source][-1]):
            moved = list(towers)
            moved[source], moved[target] = towers[source][:-1], (*towers[target], towers[source][-1])
            yield f"{'abc'[source]} {'abc'[target]}", tuple(moved)


def carry_towers(game: Game) -> list[str]:
    return shortest_path(towers(game), disk_moves, lambda towers: not towers[0] and not towers[1]) or []


def pegs_left(game: Game) -> tuple[bool, ...]:
    return tuple(game.state.game_state["board"])


def jumps(game: Game, pegs: tuple[bool, ...]) -> Iterable[tuple[str, tuple[bool, ...]]]:
    for source, over, target in game.ALLOWED_MOVES:
        if pegs[source] and pegs[over] and not pegs[target]:
            after = list(pegs)
            after[source] = after[over] = False
            after[target] = True
            yield f"{source} {target}", tuple(after)


def leave_one_peg(game: Game) -> list[str]:
    """Search depth first: every way to one peg takes the same number of jumps."""
    dead: set[tuple[bool, ...]] = set()

    def search(pegs: tuple[bool, ...]) -> list[str] | None:
        if sum(pegs) == 1:
            return []
        if pegs in dead:
            return None
        for word, after in jumps(game, pegs):
            if (rest := search(after)) is not None:
                return [word, *rest]
        dead.add(pegs)
        return None

    return search(pegs_left(game)) or []


Cars = tuple[int, ...]


def cars(game: Game) -> tuple[list[Any], Cars]:
    """The vehicles in a fixed order, and where along its line each stands."""
    vehicles = [car for _, car in sorted(game.state.game_state["vehicles"].items())]
    return vehicles, tuple(car.col if car.horizontal else car.row for car in vehicles)


def car_moves(game: Game, vehicles: list[Any], places: Cars) -> Iterable[tuple[str, Cars]]:
    taken = set()
    for car, place in zip(vehicles, places, strict=True):
        line = range(place, place + car.length)
        taken |= {(car.row, i) if car.horizontal else (i, car.col) for i in line}
    for i, (car, place) in enumerate(zip(vehicles, places, strict=True)):
        for sign, ahead, moved in (("+", place + car.length, place + 1), ("-", place - 1, place - 1)):
            cell = (car.row, ahead) if car.horizontal else (ahead, car.col)
            if 0 <= ahead < game.BOARD_SIZE and cell not in taken:
                yield f"{car.vid.lower()}{sign}", (*places[:i], moved, *places[i + 1 :])


def free_the_car(game: Game) -> list[str]:
    vehicles, places = cars(game)
    red = next(i for i, car in enumerate(vehicles) if car.vid == "X")
    exit_at = game.BOARD_SIZE - vehicles[red].length
    return shortest_path(places, lambda p: car_moves(game, vehicles, p), lambda p: p[red] >= exit_at) or []


# --- LightsOut ------------------------------------------------------------------------------------------------------


def switch_off(game: Game) -> list[str]:
    """Solve the linear system over {0, 1} with rows as bits of an int, and take the solution with fewest presses."""
    size, grid = game.size, game.state.game_state["grid"]
    rows = []
    for row, column in itertools.product(range(size), repeat=2):
        presses = [(row, column), *((row + down, column + right) for down, right in WALKS.values())]
        bits = sum(1 << (r * size + c) for r, c in presses if 0 <= r < size and 0 <= c < size)
        rows.append(bits | grid[row][column] << size * size)
    pivots: dict[int, int] = {}
    for bits in rows:
        for bit, other in pivots.items():
            if bits >> bit & 1:
                bits ^= other
        lowest = next((bit for bit in range(size * size) if bits >> bit & 1), None)
        if lowest is None:
            if bits:  # no light but one that no press reaches: cannot be switched off
                return []
            continue
        pivots = {bit: other ^ bits if other >> lowest & 1 else other for bit, other in pivots.items()}
        pivots[lowest] = bits
    free = [bit for bit in range(size * size) if bit not in pivots]
    best: list[int] | None = None
    for chosen in itertools.product((0, 1), repeat=len(free)):
        pressed = [bit for bit, on in zip(free, chosen, strict=True) if on]
        mask = sum(1 << bit for bit in pressed)
        pressed += [bit for bit, bits in pivots.items() if ((bits & mask).bit_count() + (bits >> size * size)) & 1]
        if best is None or len(pressed) < len(best):
            best = pressed
    return [f"{bit // size} {bit % size}" for bit in sorted(best or [])]


# --- Mastermind -----------------------------------------------------------------------------------------------------


def codes(game: Game) -> Iterable[tuple[int, ...]]:
    digits = range(1, game.num_numbers + 1)
    if game.duplicate_numbers:
        return itertools.product(digits, repeat=game.code_length)
    return itertools.permutations(digits, game.code_length)


def num_codes(game: Game) -> int:
    count = 1
    for i in range(game.code_length):
        count *= game.num_numbers - (0 if game.duplicate_numbers else i)
    return count


def code_words(game: Game) -> list[str]:
    if num_codes(game) > MOST_CODES:
        raise ValueError(f"game_kwargs make {num_codes(game):,} codes; at most {MOST_CODES:,} can be listed.")
    tried = {tuple(entry["guess"]) for entry in game.state.game_state["history"]}
    return [" ".join(map(str, code)) for code in codes(game) if code not in tried]


def count_pegs(guess: tuple[int, ...], code: tuple[int, ...]) -> tuple[int, int]:
    black = sum(g == c for g, c in zip(guess, code, strict=True))
    common = sum(min(guess.count(digit), code.count(digit)) for digit in set(guess))
    return black, common - black


def break_code(game: Game) -> list[str]:
    """Always guess the first code that fits all answers so far."""
    secret = tuple(game.state.game_state["secret_code"])
    answers = [(tuple(entry["guess"]), (entry["black"], entry["white"])) for entry in game.state.game_state["history"]]
    fitting = [code for code in codes(game) if all(count_pegs(guess, code) == pegs for guess, pegs in answers)]
    plan = []
    while True:
        guess = fitting[0]
        plan.append(" ".join(map(str, guess)))
        if guess == secret:
            return plan
        pegs = count_pegs(guess, secret)
        fitting = [code for code in fitting if code != guess and count_pegs(guess, code) == pegs]


# --- puzzles with a known solution ----------------------------------------------------------------------------------


def sudoku_moves(game: Game) -> list[str]:
    board = game.state.game_state["board"]
    empty = [(row, column) for row, column in itertools.product(range(9), repeat=2) if not board[row][column]]
    return [f"{row + 1} {column + 1} {digit}" for row, column in empty for digit in range(1, 10)]


def fill_sudoku(game: Game) -> list[str]:
    return [word for word in sudoku_moves(game) if fits_sudoku(game, word)]


def fits_sudoku(game: Game, word: str) -> bool:
    row, column, digit = map(int, word.split())
    return bool(game.full_grid[row - 1][column - 1] == digit)


def open_cells(game: Game) -> list[tuple[int, int]]:
    board = game.state.game_state["board"]
    return [(r, c) for r, row in enumerate(board) for c, letter in enumerate(row) if letter == "_"]


def fill_crossword(game: Game) -> list[str]:
    solution = game.state.game_state["solution"]
    return [f"{row} {column} {solution[row][column].lower()}" for row, column in open_cells(game)]


Edges = frozenset[tuple[str, int, int]]


def edges(game: Game) -> Edges:
    return frozenset({("h", *edge) for edge in game.h_edges} | {("v", *edge) for edge in game.v_edges})


def edge_words(game: Game) -> list[str]:
    return [f"h {word}" for word in grid(game.R + 1, game.C)] + [f"v {word}" for word in grid(game.R, game.C + 1)]


def draw_loop(game: Game) -> list[str]:
    """TextArena hides a rectangle: take one that fits all clues and is nearest to what is drawn."""
    here = edges(game)
    found = []
    for top, bottom in itertools.combinations(range(game.R + 1), 2):
        for left, right in itertools.combinations(range(game.C + 1), 2):
            loop = {("h", row, column) for row in (top, bottom) for column in range(left, right)}
            loop |= {("v", row, column) for row in range(top, bottom) for column in (left, right)}
            if all(loop_fits(loop, game.clues[r][c], r, c) for r in range(game.R) for c in range(game.C)):
                found.append(sorted(here ^ loop))
    return [" ".join(map(str, edge)) for edge in min(found, key=len)] if found else []


def loop_fits(loop: set[tuple[str, int, int]], clue: int | None, row: int, column: int) -> bool:
    around = {("h", row, column), ("h", row + 1, column), ("v", row, column), ("v", row, column + 1)}
    return clue is None or len(loop & around) == clue


def letter_digits(game: Game) -> list[str]:
    """A digit must be free, and none that starts a word is 0."""
    return [
        f"{letter.lower()} {digit}"
        for letter in sorted(game.letters)
        for digit in range(10)
        if game.digit_used.get(digit, letter) == letter and not (digit == 0 and letter in game.first_letters)
    ]


def operations(game: Game) -> list[str]:
    return [
        f"{i} {j} {sign}"
        for i, j in itertools.permutations(range(len(game.numbers)), 2)
        for sign in "+-*/"
        if game._execute_operation(i, j, sign) is not None
    ]


# --- games of chance ------------------------------------------------------------------------------------------------


def shifts(game: Game) -> list[str]:
    """Directions of 2048 in which some row or column gives way."""
    board = game.state.game_state["board"]
    lines = {
        "up": [list(column) for column in zip(*board, strict=True)],
        "left": [list(row) for row in board],
    }
    lines["down"] = [line[::-1] for line in lines["up"]]
    lines["right"] = [line[::-1] for line in lines["left"]]
    return [word for word, rows in lines.items() if any(game._compress_and_merge(row)[0] != row for row in rows)]


def accept_the_best(game: Game) -> list[str]:
    draws, shown = game.state.game_state["draws"], game.state.game_state["current_idx"]
    ahead = draws.index(max(draws)) - (shown - 1)
    return [*["continue"] * ahead, "accept"] if ahead >= 0 else []


def hands(game: Game) -> tuple[object, ...]:
    table = game.state.game_state
    return (
        table["hand_number"],
        table["player_hand"],
        table["dealer_hand"][:1],
        sorted(table["results_summary"].items()),
    )


def hidden_cells(game: Game) -> list[str]:
    cells = itertools.product(range(game.rows), range(game.cols))
    return [f"{row} {column}" for row, column in cells if not game.revealed[row][column]]
