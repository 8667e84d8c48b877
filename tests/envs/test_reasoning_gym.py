"""reasoning-gym: one question per episode, scored by its dataset; every dataset, and what a model may write."""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import trajectory
from test_guided import CHAT, play

from agentgrpo.composing import compose_config
from agentgrpo.config import parse
from agentgrpo.env_check import check_env
from agentgrpo.env_check.checks import HOSTILE_TEXTS
from agentgrpo.envs.reasoning_gym_tasks import HASH_DEPENDENT, ReasoningGymEnv
from agentgrpo.rewards.verifier import ExactAnswer
from agentgrpo.types import Trajectory

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_ANSWER = ("boxnet", "rush_hour")
SLOW = ("futoshiki", "intermediate_integration", "knight_swap", "quantum_lock", "word_ladder", "zebra_puzzles")
suites = pytest.mark.suites


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from reasoning_gym.factory import DATASETS

    monkeypatch.setenv("PYTHONHASHSEED", "0")  # admits those whose questions depend on it
    return sorted(set(DATASETS) - {"composite"})


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ImportError, match=r"pip install 'agentgrpo\[reasoning-gym\]'"):
        ReasoningGymEnv()


@suites
def test_one_question_one_answer() -> None:
    env = ReasoningGymEnv("chain_sum", config={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1})
    text, info = env.reset(seed=0)
    found = re.search(r"(\d) ([+-]) (\d) =", text)
    assert found is not None
    right = str(int(found[1]) + (1 if found[2] == "+" else -1) * int(found[3]))
    assert info["answer"] == right
    assert info["reference"] == f"<answer>{right}</answer>"
    assert info["admissible_actions"] == []
    assert env.oracle_actions() == [f"<answer>{right}</answer>"]
    for answer in (
        right,
        f"I add them up. <answer> {right} </answer>",
        f"<answer>-99</answer><answer>{right}</answer>",
    ):
        env.reset(seed=0)
        result, reward, terminated, truncated, info = env.step(answer)
        assert (result, reward, terminated, truncated) == ("Right.", 1.0, True, False)
        assert (info["success"], info["score"], info["valid_action"]) == (True, 1.0, True)
        assert env.oracle_actions() == []
    env.reset(seed=0)
    result, reward, terminated, _, info = env.step("<answer>-99</answer>")
    assert (result, reward, terminated, info["success"]) == ("Wrong.", 0.0, True, False)
    env.reset(seed=0)
    assert env.step("<answer> </answer>")[4]["valid_action"] is False


@suites
def test_partial_credit_and_threshold() -> None:
    # The scorer gives the share of the text that the answer takes up.
    results = {}
    for kwargs in ({}, {"partial_credit": False}, {"threshold": 0.1}):
        env = ReasoningGymEnv("chain_sum", **kwargs)
        _, info = env.reset(seed=0)
        right = info["answer"]
        _, reward, _, _, info = env.step(f"{right} is it")
        results[str(kwargs)] = (reward, info["success"], info["score"])
    share = len(right) / (len(right) + 6)
    assert 0.1 < share < 1
    assert list(results.values()) == [(share, False, share), (0.0, False, share), (1.0, True, share)]


@suites
def test_worked_solutions_lead_in_where_there_are_some() -> None:
    env = ReasoningGymEnv("gsm_symbolic")
    for seed in range(5):
        _, info = env.reset(seed=seed)
        assert info["reference"].endswith(f"<answer>{info['answer']}</answer>")
        assert len(info["reference"]) > 40
        assert env.step(info["reference"])[4]["success"]


@suites
def test_guided_rollouts_take_the_reference() -> None:
    _, info = ReasoningGymEnv().reset(seed=3)
    group, _ = play("agentgrpo/ReasoningGym-v0", [4, 0], "go north")
    led, free = group
    reference = CHAT.encode(info["reference"])
    num_led = min(4, len(reference) - 1)
    assert list(led.steps[0].action_ids[:num_led]) == list(reference[:num_led])
    assert (led.guided, free.guided) == (True, False)


@suites
def test_the_exact_answer_term_reads_what_the_yaml_takes_out_of_the_text() -> None:
    _, info = ReasoningGymEnv().reset(seed=3)
    pattern = parse(compose_config("train", ["env=reasoning_gym"])).env.action_pattern
    assert pattern is not None
    match = re.search(pattern, f"<answer>0</answer> No,\n<answer>{info['answer']}</answer>")
    assert match is not None
    term = ExactAnswer()
    term.check(frozenset(info))
    scores = []
    for action in (match[1], "0"):
        (step,) = trajectory(("question", 0.0)).steps
        episode = Trajectory((step.__class__(**{**_fields(step), "action": action}),), task_info=info)
        scores.append(term.score([episode]))
    assert scores == [[[1.0]], [[0.0]]]


def _fields(step: Any) -> dict[str, Any]:
    return {name: getattr(step, name) for name in step.__dataclass_fields__}


@suites
def test_every_dataset_asks_something_new_and_takes_its_own_answer(datasets: list[str]) -> None:
    assert len(datasets) == 105
    for name in datasets:
        env = ReasoningGymEnv(name)
        seeds = range(1 if name in SLOW else 3)
        questions = set()
        for seed in seeds:
            text, info = env.reset(seed=seed)
            questions.add(text)
            plan = env.oracle_actions()
            assert bool(plan) == ("answer" in info) == (name not in WITHOUT_ANSWER), name
            if plan:
                _, reward, terminated, _, info = env.step(plan[0])
                assert (reward, terminated, info["success"]) == (1.0, True, True), name
        assert len(questions) == len(seeds), name


@suites
def test_the_same_seed_asks_the_same_in_every_copy_and_leaves_the_global_random_numbers_alone(
    datasets: list[str],
) -> None:
    def state() -> tuple[Any, ...]:
        numpy_state: Any = np.random.get_state()
        return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:]

    for name in (n for n in datasets if n not in SLOW):
        random.seed(1)
        np.random.seed(1)
        first = ReasoningGymEnv(name).reset(seed=7)
        random.seed(2)
        np.random.seed(2)
        before = state()
        env = ReasoningGymEnv(name)
        assert env.reset(seed=7) == first, name
        env.step("7")
        assert state() == before, name


@suites
def test_questions_depend_on_string_hashes_only_where_it_is_said(datasets: list[str]) -> None:
    code = (
        "import hashlib, sys\n"
        "from agentgrpo.envs.reasoning_gym_tasks import ReasoningGymEnv\n"
        "for name in sys.argv[1:]:\n"
        "    env = ReasoningGymEnv(name)\n"
        "    text = repr([env.reset(seed=seed)[0] for seed in range(4)])\n"
        "    print(name, hashlib.md5(text.encode(errors='surrogatepass')).hexdigest())\n"
    )

    def ask(hash_seed: str) -> list[str]:
        command = [sys.executable, "-c", code, *(name for name in datasets if name not in SLOW)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True, text=True)
        return done.stdout.splitlines()

    one, other = ask("1"), ask("2")
    assert len(one) == len(datasets) - len(SLOW)
    differing = [line.split()[0] for line, again in zip(one, other, strict=True) if line != again]
    assert tuple(differing) == HASH_DEPENDENT


@suites
def test_hostile_text_survives_and_earns_nothing_worth_having(datasets: list[str]) -> None:
    for name in (n for n in datasets if n not in SLOW):
        env = ReasoningGymEnv(name)
        env.reset(seed=3)
        snapshot = env.snapshot()
        for text in [*HOSTILE_TEXTS.values(), "nan", "[[1, 2], [3, 'a']]", '{"a": [1, null]}', "1/0"]:
            env.restore(snapshot)
            result, reward, terminated, _, info = env.step(text)
            assert terminated
            assert result == "Wrong.", (name, text)
            assert 0 <= reward < 0.5, (name, text)
            assert info["success"] is False


@suites
@pytest.mark.parametrize("name", ["spiral_matrix", "n_queens", "binary_matrix", "string_insertion", "countdown"])
def test_answers_are_not_run(name: str, tmp_path: Path) -> None:
    env = ReasoningGymEnv(name)
    env.reset(seed=0)
    victim = tmp_path / "written"
    assert env.step(f"[open({str(victim)!r}, 'w')]")[1] < 0.1
    assert not victim.exists()


@suites
def test_a_list_still_earns_what_its_scorer_gives_for_one() -> None:
    env = ReasoningGymEnv("spiral_matrix")
    _, info = env.reset(seed=0)
    assert env.step(str([int(number) for number in info["answer"].split()]))[1] == 0.1


@suites
@pytest.mark.parametrize("name", ["countdown", "puzzle24", "simple_integration"])
def test_power_towers_do_not_hang(name: str) -> None:
    env = ReasoningGymEnv(name)
    env.reset(seed=0)
    start = time.monotonic()
    assert env.step("9**9**9**9")[1] == 0.0
    assert time.monotonic() - start < 5


@suites
def test_other_right_answers_are_right() -> None:
    env = ReasoningGymEnv("simple_integration")
    _, info = env.reset(seed=0)
    terms = info["answer"].removesuffix(" + C")
    assert env.step(f"C + 1 + {terms} - 1")[4]["success"]


@suites
@pytest.mark.parametrize("dataset", ["gsm_symbolic", "list_functions", "sudoku"])
def test_more_datasets_keep_the_contract(dataset: str) -> None:
    report = check_env("agentgrpo/ReasoningGym-v0", num_tasks=3, dataset=dataset)
    assert report.problems == (), str(report)


@suites
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dataset": "chain_sums"}, r"not one of reasoning-gym's\. Did you mean 'chain_sum'\? Names: ab, acre, "),
        ({"dataset": "composite"}, "dataset 'composite' is not one of reasoning-gym's"),
        ({"config": {"max_term": 3}}, r"config\.max_term is no field of 'chain_sum'\. Did you mean 'max_terms'\?"),
        ({"config": {"seed": 3}}, r"config\.seed is not yours to set: the seed of reset\(\) draws the question"),
        ({"config": {"min_terms": 9, "max_terms": 3}}, r"config=\{'min_terms': 9, 'max_terms': 3\} does not fit"),
        ({"config": {"max_terms": "many"}}, "config=.* does not fit dataset 'chain_sum'"),
        ({"threshold": 0.0}, r"threshold must be a number from 0\.01 to 1\.0, got 0\.0\."),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReasoningGymEnv(**kwargs)


@suites
@pytest.mark.parametrize("hash_seed", [None, "random"])
def test_questions_that_differ_between_processes_are_refused(
    hash_seed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hash_seed is None:
        monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    else:
        monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
    with pytest.raises(ValueError, match=r"'ransom_note' asks something else in every process.*PYTHONHASHSEED=0"):
        ReasoningGymEnv("ransom_note")
