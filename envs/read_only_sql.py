"""SQLite for queries that nobody has looked at: in memory, for reading only, and with limits on all that they cost."""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Row = tuple[str | int, ...]

MAX_SQL = 1000
"""Characters of a query."""
MAX_ROWS = 10
"""Rows of a result that are handed out."""
MAX_STEPS = 100_000
"""Steps of SQLite's virtual machine for one query, some milliseconds. Time would be another count at every run."""

_STEPS_BETWEEN_CALLS = 1000
_BEGINNING = re.compile(r"\s*(select|with)\b", re.IGNORECASE)
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
# None that is random, looks at the clock or at files, or makes long texts from short ones.
_FUNCTIONS = frozenset(
    (
        "abs",
        "avg",
        "coalesce",
        "count",
        "dense_rank",
        "glob",
        "group_concat",
        "ifnull",
        "iif",
        "instr",
        "length",
        "like",
        "lower",
        "ltrim",
        "max",
        "min",
        "nullif",
        "rank",
        "round",
        "row_number",
        "rtrim",
        "substr",
        "substring",
        "sum",
        "total",
        "trim",
        "upper",
    )
)
_LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: MAX_SQL,
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_SQL,  # bytes of any text or row on the way
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 50,
    sqlite3.SQLITE_LIMIT_COLUMN: 32,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 8,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 10_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 8,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}


class QueryRefused(ValueError):
    """A query without a result; the message is for whoever wrote it."""


class Table(NamedTuple):
    """A table's name, columns and rows. Names are trusted: they are written into SQL as they are."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.columns)})"


class ReadOnlyDatabase:
    """Tables that can be queried and never changed.

    Several things stand before a write: a query must begin with SELECT or WITH, an authorizer lets SQLite compile
    nothing but reading, and the connection is set to query_only. There is no ATTACH, no PRAGMA and no extension.

    Calls may come from different threads, one at a time.

    Args:
        tables: what it holds.
    """

    def __init__(self, tables: Iterable[Table]) -> None:
        # No cache of statements: what was compiled before the authorizer came must not be found again.
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, cached_statements=0
        )
        for table in tables:
            self._connection.execute(f"CREATE TABLE {table}")
            places = ", ".join("?" * len(table.columns))
            self._connection.executemany(f"INSERT INTO {table.name} VALUES ({places})", table.rows)
        self._connection.execute("PRAGMA temp_store=MEMORY")
        self._connection.execute("PRAGMA query_only=ON")
        for limit, value in _LIMITS.items():
            self._connection.setlimit(limit, value)
        self._connection.set_authorizer(_authorize)
        self._connection.set_progress_handler(self._count, _STEPS_BETWEEN_CALLS)
        self._steps = 0

    def query(self, sql: str) -> tuple[list[Sequence[object]], bool]:
        """Run a query.

        Returns:
            the first rows of the result, and whether there are more.

        Raises:
            QueryRefused: it is wrong, wants more than to read, or goes beyond a limit.
        """
        if not _BEGINNING.match(sql):
            raise QueryRefused("only SELECT is allowed")
        if len(sql) > MAX_SQL:
            raise QueryRefused(f"a query has at most {MAX_SQL} characters")
        self._steps = 0
        try:
            cursor = self._connection.execute(sql)
            rows = cursor.fetchmany(MAX_ROWS + 1)
            cursor.close()
        except sqlite3.Error as error:
            raise QueryRefused(_in_words(error)) from error
        except (ValueError, OverflowError, MemoryError) as error:  # characters that no SQL text can hold; a huge result
            raise QueryRefused("the query cannot be read") from error
        return rows[:MAX_ROWS], len(rows) > MAX_ROWS

    def close(self) -> None:
        """Give the memory back."""
        self._connection.close()

    def _count(self) -> int:
        self._steps += _STEPS_BETWEEN_CALLS
        return int(self._steps >= MAX_STEPS)  # anything but 0 interrupts


def _authorize(action: int, first: str | None, second: str | None, database: str | None, cause: str | None) -> int:
    """SQLite asks this for everything that it compiles; ``second`` is a function's name."""
    known_function = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS
    return sqlite3.SQLITE_OK if known_function or action in _READING else sqlite3.SQLITE_DENY


def _in_words(error: sqlite3.Error) -> str:
    message = str(error)
    if message == "interrupted":
        return "the query takes too long"
    if message in ("not authorized", "authorization denied"):
        return "only SELECT is allowed"
    return message
