"""SQLite for hostile queries: nothing is written, nothing leaves the database, and nothing takes long."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentgrpo.envs import read_only_sql
from agentgrpo.envs.read_only_sql import MAX_ROWS, QueryRefused, ReadOnlyDatabase, Table

PEOPLE = Table("people", ("name", "team", "age"), (("ann", "red", 30), ("bob", "blue", 41), ("cy", "red", 25)))
TEAMS = Table("teams", ("team", "city"), (("red", "rome"), ("blue", "oslo")))


@pytest.fixture
def database() -> Iterator[ReadOnlyDatabase]:
    database = ReadOnlyDatabase([PEOPLE, TEAMS])
    yield database
    database.close()


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("select age from people where name='bob'", [(41,)]),
        ("SELECT count(*), sum(age), avg(age) FROM people WHERE team='red'", [(2, 55, 27.5)]),
        ("select name from people order by age desc limit 1", [("bob",)]),
        ("select city from teams join people using (team) where name='ann'", [("rome",)]),
        ("select team, max(age) from people group by team having count(*) > 1", [("red", 30)]),
        ("with old as (select * from people where age > 26) select name from old", [("ann",), ("bob",)]),
        ("select upper(name) from people where name like 'a%' and age in (select max(30, 1))", [("ANN",)]),
        ("with recursive t(n) as (select 1 union all select n+1 from t where n<4) select sum(n) from t", [(10,)]),
    ],
)
def test_reading_by_hand(database: ReadOnlyDatabase, sql: str, rows: list[tuple[object, ...]]) -> None:
    assert database.query(sql) == (rows, False)


WRITES = [
    "insert into people values ('eve', 'red', 1)",
    "update people set age = 0",
    "delete from people",
    "drop table people",
    "create table loot (x)",
    "create temp table loot (x)",
    "with t as (select 1) delete from people",
    "with t(a, b, c) as (select 1, 2, 3) insert into people select * from t",
    "create table people(name, team, age)",  # word for word as the table was made
    "attach 'PATH' as other",
    "vacuum into 'PATH'",
    "pragma query_only=off",
    "pragma writable_schema=on",
    "begin",
    "analyze",
]


@pytest.mark.parametrize("sql", WRITES)
@pytest.mark.parametrize("only_the_authorizer", [False, True])
def test_nothing_but_reading(
    database: ReadOnlyDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str, only_the_authorizer: bool
) -> None:
    if only_the_authorizer:
        monkeypatch.setattr(read_only_sql, "_BEGINNING", re.compile(""))
    path = tmp_path / "loot.db"
    with pytest.raises(QueryRefused, match=r"^only SELECT is allowed$|already exists"):
        database.query(sql.replace("PATH", str(path)))
    assert not path.exists()
    assert database.query("select * from people") == (list(PEOPLE.rows), False)


def test_without_the_authorizer_the_connection_still_refuses_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_only_sql, "_BEGINNING", re.compile(""))
    monkeypatch.setattr(read_only_sql, "_authorize", lambda *args: 0)
    with pytest.raises(QueryRefused, match="attempt to write a readonly database"):
        ReadOnlyDatabase([PEOPLE]).query("delete from people")


@pytest.mark.parametrize(
    "call",
    [
        "load_extension('x')",
        "random()",
        "randomblob(9)",
        "zeroblob(1000000000)",
        "printf('%999999999d', 1)",
        "replace(name, 'a', 'aaaaaaaa')",
        "hex(name)",
        "current_timestamp",
        "date('now')",
        "sqlite_version()",
    ],
)
def test_functions_that_are_random_look_elsewhere_or_blow_up_are_not_there(
    database: ReadOnlyDatabase, call: str
) -> None:
    with pytest.raises(QueryRefused, match="not authorized to use function"):
        database.query(f"select {call} from people")


@pytest.mark.parametrize("table", ["pragma_table_info('people')", "pragma_database_list", "json_each('[1]')", "dbstat"])
def test_virtual_tables_are_not_there(database: ReadOnlyDatabase, table: str) -> None:
    with pytest.raises(QueryRefused):
        database.query(f"select * from {table}")


COUNT_FOR_EVER = "with recursive t(n) as (select 1 union all select n+1 from t)"


@pytest.mark.parametrize(
    "sql",
    [
        f"{COUNT_FOR_EVER} select count(*) from t",
        f"{COUNT_FOR_EVER} select n from t order by n",
        f"{COUNT_FOR_EVER} select n from t where n < 0",
        "with recursive t(s) as (select 'a' union all select s||'b' from t union all select s||'c' from t) "
        "select max(length(s)) from t",
        "select count(*) from " + ", ".join(f"people p{i}" for i in range(30)),
        "select p0.age from " + ", ".join(f"people p{i}" for i in range(12)) + " order by p0.age + p1.age + p2.age",
    ],
)
def test_endless_queries_are_stopped_at_the_same_place_every_time(database: ReadOnlyDatabase, sql: str) -> None:
    start = time.perf_counter()
    with pytest.raises(QueryRefused, match="the query takes too long"):
        database.query(sql)
    assert time.perf_counter() - start < 5.0  # some milliseconds on an idle machine
    assert database.query("select count(*) from people") == ([(3,)], False)  # and the next one has its own limit


def test_only_the_first_rows_are_handed_out(database: ReadOnlyDatabase) -> None:
    rows, more = database.query(f"{COUNT_FOR_EVER} select n from t")
    assert (rows, more) == ([(n,) for n in range(1, MAX_ROWS + 1)], True)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("", "only SELECT"),
        ("-- nothing", "only SELECT"),
        ("selection", "only SELECT"),
        ("explain select 1", "only SELECT"),
        ("select", "incomplete input"),
        ("select nope from people", "no such column: nope"),
        ("select * from nope", "no such table: nope"),
        ("select 1; select 2", "one statement at a time"),
        ("select ?", "bindings"),
        ("select 'a\x00b'", "null character"),
        ("select '\ud800'", "cannot be read"),
        ("select cast(x'ff' as text)", "decode"),
        ("select " + "(" * 400 + "1" + ")" * 400, "parser stack overflow|depth"),
        ("select 1" + "+1" * 400, "maximum depth"),
        ("select " + ", ".join("1" * 40), "too many columns"),
        ("select 1" + " union all select 1" * 20, "compound SELECT"),
        ("select 1" + " " * 1000, "at most 1000 characters"),
        ("select group_concat(p.name) from people p, people q, people r, people s, people t, people u", "too big"),
        ("with recursive t(s) as (select 'abcdefgh' union all select s||s from t) select s from t", "too big"),
    ],
)
def test_refusals_say_why(database: ReadOnlyDatabase, sql: str, message: str) -> None:
    with pytest.raises(QueryRefused, match=message):
        database.query(sql)
