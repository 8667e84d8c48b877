"""SqlTools: one database by hand, the dials, and results of every shape."""

import threading
from typing import Any

import pytest

from agentgrpo.envs.read_only_sql import Table
from agentgrpo.envs.sql_tools import MAX_RESULT, NAMES, QUESTIONS, Look, Problem, Query, SqlToolsEnv

PEOPLE = Table("people", ("name", "team", "age"), (("ann", "red", 30), ("leo", "blue", 41), ("cara", "red", 25)))
SUM = "select sum(age) from people where team='red'"
OLDEST = "select name from people order by age desc limit 1"
PROBLEM = Problem((PEOPLE,), Query("What is the sum?", SUM), "55", (OLDEST, SUM), ("ann", "red"))


def on_problem() -> SqlToolsEnv:
    env = SqlToolsEnv()
    env.reset(seed=0)
    snapshot = env.snapshot()
    env.restore(type(snapshot)(PROBLEM, Look(), "by hand", 0, 0, None))
    return env


def test_a_question_by_hand() -> None:
    env = on_problem()
    text, info = env.restore(env.snapshot())
    assert text == "people(name, team, age). What is the sum?"
    assert info["admissible_actions"] == ["answer[ann]", "answer[red]", f"sql[{OLDEST}]", f"sql[{SUM}]"]
    assert env.oracle_actions() == [f"sql[{SUM}]", "answer[55]"]
    text, _, _, _, info = env.step(f"sql[{SUM}]")
    assert text == info["anchor"] == "Result: 55."
    assert "answer[55]" in info["admissible_actions"]
    assert env.oracle_actions() == ["answer[55]"]
    text, reward, terminated, _, info = env.step("answer[55]")
    assert (text, reward, terminated, info["success"]) == ("Correct.", 1.0, True, True)


def test_a_wrong_answer_ends_the_episode() -> None:
    assert on_problem().step("answer[ann]")[:3] == ("Wrong.", 0.0, True)


def test_after_another_query_the_oracle_looks_again() -> None:
    env = on_problem()
    env.step(f"sql[{OLDEST}]")
    assert env.oracle_actions() == [f"sql[{SUM}]", "answer[55]"]


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("select name, age from people", "Result: ann, 30; leo, 41; cara, 25."),
        ("SELECT team FROM people WHERE name = 'Ann'", "Result: nothing."),
        ("select null, 1.0/3, 2.50, x'0aff'", "Result: null, 0.3333, 2.5, 0aff."),
        ("select 'a\x1b[2J\nb'", "Result: a [2J b."),
        (
            "with recursive t(n) as (select 1 union all select n+1 from t) select n from t",
            "Result: 1; 2; 3; 4; 5; 6; 7; 8; 9; 10; ...",
        ),
        (
            "with recursive t(n) as (select 1 union all select n+1 from t) select max(n) from t",
            "Error: the query takes too long",
        ),
        ("delete from people", "Error: only SELECT is allowed"),
        ("attach 'x.db' as x", "Error: only SELECT is allowed"),
        ("pragma query_only=0", "Error: only SELECT is allowed"),
        ("select nope from people", "Error: no such column: nope"),
    ],
)
def test_results_and_errors_are_text(sql: str, text: str) -> None:
    answer, reward, terminated, truncated, info = on_problem().step(f"sql[{sql}]")
    assert (answer, reward, terminated, truncated) == (text, 0.0, False, False)
    assert info["valid_action"] is True


def test_a_huge_result_is_cut() -> None:
    wide = "sql[select " + ", ".join([f"'{'x' * 90}'"] * 8) + " from people a, people b]"
    text, *_, info = on_problem().step(wide)
    assert len(text) <= MAX_RESULT + 5
    assert text.endswith("...")
    assert not any("xxx" in action for action in info["admissible_actions"])  # too long for an answer


def test_a_blank_query_is_no_action() -> None:
    text, *_, info = on_problem().step("sql[ ]")
    assert text.startswith("Not possible. Answer with sql[query] or answer[value].")
    assert info["valid_action"] is False


def worked_out(kind: str, asked: str, tables: tuple[Table, ...]) -> object:
    """The answer to a question about a name or a group, without SQL."""
    rows: list[Any] = list(tables[0].rows)
    members = [number for _, group, number in rows if group == asked]
    if kind in ("count", "sum"):
        return len(members) if kind == "count" else sum(members)
    if kind == "highest":
        return max(rows, key=lambda row: row[2])[0]
    (_, group, number) = next(row for row in rows if row[0] == asked)
    return number if kind == "lookup" else dict(tables[1].rows)[group]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", QUESTIONS)
def test_the_answer_follows_from_the_rows(kind: str) -> None:
    env = SqlToolsEnv(tables=2, rows=8, questions=[kind])
    for seed in range(30):
        _, info = env.reset(seed=seed)
        asked = env.task.query.question.rstrip("?").split()[-1]
        assert env.task.answer == str(worked_out(kind, asked, env.task.tables))
        assert env.oracle_actions()[0] in info["admissible_actions"]


@pytest.mark.parametrize(("tables", "rows"), [(1, 4), (1, 24), (2, 4), (2, 24)])
def test_tables_within_the_dials(tables: int, rows: int) -> None:
    env = SqlToolsEnv(tables=tables, rows=rows)
    names = set()
    for seed in range(40):
        text, _ = env.reset(seed=seed)
        assert len(env.task.tables) == tables
        assert all(str(table) in text for table in env.task.tables)
        things = env.task.tables[0]
        names.add(things.name)
        assert len({row[0] for row in things.rows}) == len({row[2] for row in things.rows}) == rows
        if tables == 2:
            assert {row[1] for row in things.rows} == {row[0] for row in env.task.tables[1].rows}
        results = [env.step(action) for action in env.oracle_actions()]
        assert [result[1] for result in results] == [0.0, 1.0]
    assert names == {"people", "ships", "pets"}


def test_a_closed_environment_opens_its_database_again() -> None:
    env = on_problem()
    env.close()
    assert env.step(f"sql[{SUM}]")[0] == "Result: 55."
    env.close()
    env.close()


def test_calls_may_come_from_different_threads() -> None:
    env = on_problem()
    env.step(f"sql[{OLDEST}]")
    heard: list[str] = []
    thread = threading.Thread(target=lambda: heard.append(env.step(f"sql[{SUM}]")[0]))
    thread.start()
    thread.join()
    assert heard == ["Result: 55."]


def test_dials() -> None:
    with pytest.raises(ValueError, match=r"tables must be an integer from 1 to 2, got 3\."):
        SqlToolsEnv(tables=3)
    with pytest.raises(ValueError, match=rf"rows must be an integer from 4 to {len(NAMES)}, got 3\."):
        SqlToolsEnv(rows=3)
    with pytest.raises(ValueError, match=r"themes must be an integer from 1 to 3, got 0\."):
        SqlToolsEnv(themes=0)
    with pytest.raises(ValueError, match=r"max_turns must be an integer from 2 to 10000, got 1\."):
        SqlToolsEnv(max_turns=1)
    for questions in ("count", [], ["join"], ["average"]):
        with pytest.raises(ValueError, match="questions must be a list of some of lookup, count, highest, sum with"):
            SqlToolsEnv(questions=questions)
