"""SqlTools: a question about a small database, SQL to look into it, and one answer."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from agentgrpo.envs.base import View, in_range
from agentgrpo.envs.read_only_sql import QueryRefused, ReadOnlyDatabase, Table
from agentgrpo.envs.tools import Tool, ToolEnv, printable, same_answer

MAX_RESULT = 250
"""Characters of a result."""
MAX_VALUE = 30
"""Characters of a value that is listed as an answer."""
_MAX_ANSWERS = 6
"""Values of a result that are listed as answers."""
_NUM_DISTRACTORS = 2
"""Names, and groups, that are listed besides those of the question."""

NAMES = (
    "ann",
    "ben",
    "cara",
    "dan",
    "eve",
    "finn",
    "gus",
    "hana",
    "ivan",
    "jo",
    "kim",
    "leo",
    "mia",
    "ned",
    "olga",
    "pam",
    "quinn",
    "rosa",
    "sam",
    "tess",
    "uma",
    "vera",
    "will",
    "zoe",
)


class Theme(NamedTuple):
    """Words for the same two tables: things with a name, a group and a number, and groups with a place."""

    things: str
    group: str
    number: str
    groups: str
    place: str
    group_names: tuple[str, ...]
    place_names: tuple[str, ...]


THEMES = (
    Theme(
        "people", "team", "age", "teams", "city", ("red", "blue", "gold", "green"), ("rome", "paris", "lima", "oslo")
    ),
    Theme(
        "ships",
        "port",
        "length",
        "ports",
        "country",
        ("kiel", "cork", "porto", "bergen"),
        ("peru", "chile", "italy", "japan"),
    ),
    Theme(
        "pets",
        "owner",
        "weight",
        "owners",
        "town",
        ("smith", "jones", "brown", "lee"),
        ("york", "bath", "derby", "ely"),
    ),
)


class Query(NamedTuple):
    """A question about one name or group, and the query that answers it."""

    question: str
    sql: str


class Problem(NamedTuple):
    """What is fixed in an episode."""

    tables: tuple[Table, ...]
    query: Query
    answer: str
    sensible: tuple[str, ...]
    """Queries that are listed: the right one among others."""
    answers: tuple[str, ...]
    """Answers that are always listed: words of the question and others of their kind."""


class Look(NamedTuple):
    """What the agent sees."""

    text: str = ""
    """What the last query gave; empty at first."""
    values: tuple[str, ...] = ()
    """Values of it that may be an answer."""
    correct: bool | None = None
    """Of the answer, once there is one."""


def _lookup(t: Theme, name: str, group: str) -> Query:
    return Query(f"What is the {t.number} of {name}?", f"select {t.number} from {t.things} where name='{name}'")


def _count(t: Theme, name: str, group: str) -> Query:
    return Query(
        f"How many {t.things} have {t.group} {group}?",
        f"select count(*) from {t.things} where {t.group}='{group}'",
    )


def _highest(t: Theme, name: str, group: str) -> Query:
    return Query(
        f"Which name has the highest {t.number}?", f"select name from {t.things} order by {t.number} desc limit 1"
    )


def _sum(t: Theme, name: str, group: str) -> Query:
    return Query(
        f"What is the sum of {t.number} for {t.group} {group}?",
        f"select sum({t.number}) from {t.things} where {t.group}='{group}'",
    )


def _join(t: Theme, name: str, group: str) -> Query:
    return Query(
        f"What is the {t.place} of {name}?",
        f"select {t.place} from {t.groups} join {t.things} using ({t.group}) where name='{name}'",
    )


QUESTIONS = {"lookup": _lookup, "count": _count, "highest": _highest, "sum": _sum, "join": _join}


class SqlToolsEnv(ToolEnv[Problem, Look]):
    """Tools: ``sql[select ..]`` shows the first rows of a result, ``answer[..]`` ends the episode.

    The database is SQLite's, in memory and for reading only. A query that is wrong, wants to write or takes too long
    shows an error. The listed actions are the queries of all kinds of questions about three names and three groups,
    and as answers these and the values that the last query showed.

    Args:
        tables: 1: things with a name, a group and a number | 2: also groups with a place.
        rows: things in the first table, 4..24.
        questions: kinds of questions, some of lookup, count, highest, sum, join; None: all. join needs 2 tables.
        themes: how many different sets of words for tables and columns there are, 1..3.
        max_turns: calls per episode, at least 2.
        tool_format: how calls are written, text | json.
    """

    tools: ClassVar[tuple[Tool, ...]] = (Tool("sql", "query"), Tool("answer", "value"))

    def __init__(
        self,
        tables: int = 1,
        rows: int = 6,
        questions: Sequence[str] | None = None,
        themes: int = 3,
        max_turns: int = 6,
        tool_format: str = "text",
    ) -> None:
        super().__init__(max_turns, tool_format)
        in_range("max_turns", max_turns, 2, 10_000)
        self.tables = in_range("tables", tables, 1, 2)
        self.rows = in_range("rows", rows, 4, len(NAMES))
        self.themes = in_range("themes", themes, 1, len(THEMES))
        possible = [kind for kind in QUESTIONS if kind != "join" or tables == 2]
        wrong = [kind for kind in questions or () if kind not in possible]
        if questions is not None and (isinstance(questions, str) or not questions or wrong):
            raise ValueError(
                f"questions must be a list of some of {', '.join(possible)} with tables={tables}, got {questions!r}."
            )
        self.questions = list(questions or possible)
        self._database: ReadOnlyDatabase | None = None
        self._loaded: tuple[Table, ...] = ()

    def _new_task(self) -> str:
        rng = self.np_random
        theme = THEMES[rng.integers(self.themes)]
        tables = _fill(theme, self.tables, self.rows, rng)
        names = _draw([str(row[0]) for row in tables[0].rows], rng)
        groups = _draw(sorted({str(row[1]) for row in tables[0].rows}), rng)
        query = QUESTIONS[self.questions[rng.integers(len(self.questions))]](theme, names[0], groups[0])
        possible = [QUESTIONS[kind] for kind in QUESTIONS if kind != "join" or self.tables == 2]
        sensible = {make(theme, name, groups[0]).sql for make in possible for name in names}
        sensible |= {make(theme, names[0], group).sql for make in possible for group in groups}
        (row,), _ = self._open(tables).query(query.sql)
        self.task = Problem(tables, query, str(row[0]), tuple(sorted(sensible)), tuple(names + groups))
        self.state = Look()
        return self._how_to_answer()

    def _view(self) -> View:
        text, values, correct = self.state
        if correct is not None:
            text = "Correct." if correct else "Wrong."
        elif not text:
            *first, last = map(str, self.task.tables)
            text = f"{' '.join([*(f'{table},' for table in first), f'{last}.'])} {self.task.query.question}"
        answers = {self._write("answer", value) for value in self.task.answers + values}
        return View(text, text, sorted(answers | {self._write("sql", sql) for sql in self.task.sensible}))

    def _use(self, name: str, argument: str) -> None:
        if name == "answer":
            self.state = self.state._replace(correct=same_answer(argument, self.task.answer))
            return
        try:
            rows, more = self._open(self.task.tables).query(argument)
        except QueryRefused as error:
            self.state = Look(printable(f"Error: {error}", MAX_RESULT))
            return
        shown = [[_shown(value) for value in row] for row in rows]
        text = "; ".join(", ".join(row) for row in shown) or "nothing"
        values = tuple(dict.fromkeys(value for row in shown for value in row if 0 < len(value) <= MAX_VALUE))
        self.state = Look(
            f"{printable(f'Result: {text}', MAX_RESULT)}{'; ...' if more else '.'}", values[:_MAX_ANSWERS]
        )

    def _outcome(self) -> bool | None:
        return self.state.correct

    def _plan(self) -> list[str]:
        answer = self._write("answer", self.task.answer)
        known = self.state.values == (self.task.answer,)
        return [answer] if known else [self._write("sql", self.task.query.sql), answer]

    def _open(self, tables: tuple[Table, ...]) -> ReadOnlyDatabase:
        """Return the database that holds ``tables``."""
        if self._database is None or self._loaded is not tables:
            self.close()
            self._database, self._loaded = ReadOnlyDatabase(tables), tables
        return self._database

    def close(self) -> None:
        """Give the database's memory back; it is made again when it is needed."""
        if self._database is not None:
            self._database.close()
            self._database = None


def _fill(theme: Theme, num_tables: int, num_rows: int, rng: np.random.Generator) -> tuple[Table, ...]:
    """Draw the rows. Numbers differ from each other, and every group has a member."""
    groups = _shuffled(theme.group_names, rng)[: min(len(theme.group_names), num_rows // 2)]
    members = groups + [groups[i] for i in rng.integers(len(groups), size=num_rows - len(groups))]
    numbers = (1 + rng.permutation(99)[:num_rows]).tolist()
    names = _shuffled(NAMES, rng)[:num_rows]
    rows = tuple(zip(names, _shuffled(members, rng), numbers, strict=True))
    things = Table(theme.things, ("name", theme.group, theme.number), rows)
    if num_tables == 1:
        return (things,)
    places = zip(groups, _shuffled(theme.place_names, rng)[: len(groups)], strict=True)
    return things, Table(theme.groups, (theme.group, theme.place), tuple(places))


def _shuffled(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [words[i] for i in rng.permutation(len(words))]


def _draw(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The word that a question is about, and others."""
    return _shuffled(words, rng)[: 1 + _NUM_DISTRACTORS]


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return printable(value.hex() if isinstance(value, bytes) else str(value), MAX_RESULT)
