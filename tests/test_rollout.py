"""Playing groups with a scripted sampler: every way an episode can end, and nothing that ends the run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
from helpers import tiny_tokenizer

from agentgrpo.config import EnvConfig, RolloutConfig
from agentgrpo.context import ChatFormat, Transcript, make_conversation
from agentgrpo.environments import make_env, probe
from agentgrpo.episode import Task
from agentgrpo.players import PolicyPlayer
from agentgrpo.rollout import RolloutRunner
from agentgrpo.samplers.base import Completion, SamplingParams
from agentgrpo.samplers.scripted import ScriptedSampler
from agentgrpo.types import Group, RolloutStatus, StopReason

TASK = Task(seed=3, coordinates=("test", 0))
TURNS = 4


class Obedient(gym.Env[str, str]):
    """Does what the action says, and ends after four turns."""

    def __init__(self, turns: int | None = TURNS, max_return: float | None = None, random_start: bool = False) -> None:
        self._turns = turns
        self.max_return = max_return
        self._random_start = random_start

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._turn = 0
        start = time.perf_counter_ns() if self._random_start else int(self.np_random.integers(10**6))
        return f"start {start}", {"anchor": "start"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._turn += 1
        cut = self._turns is not None and self._turn >= self._turns
        match action:
            case "crash":
                raise KeyError("no such room")
            case "hang":
                time.sleep(0.6)
            case "number":
                return 7, 0.0, False, cut, {}  # type: ignore[return-value]
            case "nan":
                return "x", float("nan"), False, cut, {}
            case "flood":
                return "x" * 1_000_000, 0.0, False, cut, {}
            case "four":
                return "x", 0.0, False, {}  # type: ignore[return-value]
            case "noinfo":
                return "x", 0.0, False, cut, None  # type: ignore[return-value]
            case "win":
                return "won", 1.0, True, False, {}
            case "lose":
                return "lost", 0.0, True, False, {}
            case "claim":
                return "claimed", 0.0, True, False, {"success": True}
            case "invalid":
                return "pardon?", -0.5, False, cut, {"valid_action": False}
        return f"turn {self._turn}", 0.25, False, cut, {}


class Broken(gym.Env[str, str]):
    """Fails at reset, in the way that it is told to."""

    def __init__(self, how: str) -> None:
        self._how = how

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        if self._how == "raises":
            raise KeyError("no such room")
        if self._how == "hangs":
            time.sleep(0.6)
        if self._how == "noinfo":
            return "start", None  # type: ignore[return-value]
        return 7, {}  # type: ignore[return-value]

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        raise AssertionError("never reached")


gym.register("RolloutTest/Obedient-v0", entry_point=lambda **kwargs: Obedient(**kwargs))
gym.register("RolloutTest/Broken-v0", entry_point=lambda **kwargs: Broken(**kwargs))

CHAT = ChatFormat(tiny_tokenizer())


def env_config(name: str = "Obedient", pattern: str | None = None, **kwargs: Any) -> EnvConfig:
    return EnvConfig(name=name, id=f"RolloutTest/{name}-v0", kwargs=kwargs, action_pattern=pattern)


def runner(
    env: EnvConfig | None = None, *, max_turns: int = 10, timeout: float = 5.0, context_length: int = 1000,
    kind: str = "transcript",
) -> RolloutRunner:  # fmt: skip
    return RolloutRunner(
        {"obedient": env or env_config()},
        RolloutConfig(temperature=1.0, top_p=1.0, max_new_tokens=20, max_turns=max_turns, step_timeout=timeout),
        lambda name: make_conversation(CHAT, kind, 2),
        CHAT,
        context_length,
    )


class Recording(ScriptedSampler):
    """Remembers every batch that it was asked for."""

    def __init__(self, answer: Callable[[list[int]], Sequence[int]]) -> None:
        super().__init__(answer)
        self.batches: list[list[list[int]]] = []
        self.keys: list[int] = []

    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        self.batches.append([list(p) for p in prompts])
        self.keys += [p.noise_key for p in params]
        return super().generate(prompts, params)


def saying(*actions: str) -> Recording:
    """Answers prompt after prompt with the given actions, then with "wait"."""
    script = iter(actions)
    return Recording(lambda prompt: (*CHAT.encode(next(script, "wait")), CHAT.end_id))


def play(actions: Sequence[str], size: int = 1, played_by: RolloutRunner | None = None, tasks: int = 1) -> list[Group]:
    player = PolicyPlayer(saying(*actions), SamplingParams(20))
    return (played_by or runner()).collect(player, [Task(s, ("test", s)) for s in range(tasks)], size)


def only(groups: Sequence[Group]) -> Any:
    (group,) = groups
    (trajectory,) = group.trajectories
    return trajectory


# --- one task per group -----------------------------------------------------------------------------------------------


def test_members_of_a_group_start_from_the_same_observation_and_groups_do_not() -> None:
    groups = play([], size=4, tasks=3)
    starts = [{t.steps[0].observation for t in group} for group in groups]
    assert [len(s) for s in starts] == [1, 1, 1]
    assert len(set.union(*starts)) == 3
    assert [group.task_seed for group in groups] == [0, 1, 2]


def test_an_environment_that_ignores_the_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"members of one group different tasks for seed 0.*np_random"):
        play([], size=2, played_by=runner(env_config(random_start=True)))


def test_every_draw_has_a_noise_key_of_its_own() -> None:
    sampler = saying()
    runner().collect(PolicyPlayer(sampler, SamplingParams(20)), [Task(3, ("a",)), Task(3, ("b",))], 3)
    assert len(set(sampler.keys)) == len(sampler.keys) == 2 * 3 * TURNS


def test_playing_twice_gives_the_same() -> None:
    one = runner()
    assert play(["a", "b"], 2, one) == play(["a", "b"], 2, one)


# --- how episodes end -------------------------------------------------------------------------------------------------


def test_an_episode_by_hand() -> None:
    trajectory = only(play(["wait", "invalid", "win"]))
    assert [s.action for s in trajectory.steps] == ["wait", "invalid", "win"]
    assert [s.reward for s in trajectory.steps] == [0.25, -0.5, 1.0]
    assert [s.valid_action for s in trajectory.steps] == [True, False, True]
    assert [s.observation for s in trajectory.steps][1:] == ["turn 1", "pardon?"]
    assert [s.state for s in trajectory.steps][:2] == ["start", "turn 1"]
    assert [s.starts_sequence for s in trajectory.steps] == [True, False, False]
    assert trajectory.final_observation == "won"
    assert trajectory.error == ""


def test_terminated() -> None:
    assert only(play(["win"])).status is RolloutStatus.TERMINATED


def test_truncated_by_the_environment() -> None:
    trajectory = only(play([]))
    assert trajectory.status is RolloutStatus.TURN_LIMIT
    assert len(trajectory.steps) == TURNS


def test_an_environment_that_never_ends_is_cut_at_max_turns() -> None:
    trajectory = only(play([], played_by=runner(env_config(turns=None), max_turns=6)))
    assert (trajectory.status, len(trajectory.steps)) == (RolloutStatus.TURN_LIMIT, 6)


def test_winning_in_the_last_turn_is_terminated() -> None:
    trajectory = only(play(["wait", "win"], played_by=runner(max_turns=2)))
    assert trajectory.status is RolloutStatus.TERMINATED


def test_text_that_cannot_fit_is_not_even_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = Transcript.observe
    monkeypatch.setattr(Transcript, "observe", lambda self, text: (seen.append(len(text)), original(self, text))[1])
    env = env_config("Obedient")
    [group] = runner(env).collect(PolicyPlayer(saying("flood"), SamplingParams(20)), [TASK], 1)
    [trajectory] = group
    assert (trajectory.status, len(trajectory.steps)) == (RolloutStatus.CONTEXT_LIMIT, 1)
    assert max(seen) < 100


def test_context_limit() -> None:
    start = len(only(play(["win"])).steps[0].prompt_ids)
    # The first prompt and its 20 new tokens fit, the second prompt no longer.
    trajectory = only(play([], played_by=runner(context_length=start + 21)))
    assert (trajectory.status, len(trajectory.steps)) == (RolloutStatus.CONTEXT_LIMIT, 1)


def test_a_first_prompt_that_does_not_fit_gives_an_episode_without_steps() -> None:
    trajectory = only(play([], played_by=runner(context_length=21)))
    assert (trajectory.status, trajectory.steps) == (RolloutStatus.CONTEXT_LIMIT, ())


def test_a_crash_ends_its_own_episode_with_its_traceback() -> None:
    (group,) = play(["wait", "crash", "wait"], size=3)
    statuses = [t.status for t in group]
    assert statuses == [RolloutStatus.TURN_LIMIT, RolloutStatus.ENV_ERROR, RolloutStatus.TURN_LIMIT]
    crashed = group.trajectories[1]
    assert "KeyError: 'no such room'" in crashed.error
    assert (crashed.steps[0].action, crashed.success) == ("crash", False)


def test_a_hang_ends_its_own_episode() -> None:
    (group,) = play(["wait", "hang", "wait"], size=3, played_by=runner(timeout=0.2))
    statuses = [t.status for t in group]
    assert statuses == [RolloutStatus.TURN_LIMIT, RolloutStatus.ENV_TIMEOUT, RolloutStatus.TURN_LIMIT]


@pytest.mark.parametrize(
    ("action", "error"),
    [("number", "returned a int as observation"), ("nan", "reward nan"), ("four", "step() returned tuple, not")],
)
def test_broken_contracts_are_errors_of_their_episode(action: str, error: str) -> None:
    (group,) = play([action, "wait"], size=2)
    assert [t.status for t in group] == [RolloutStatus.ENV_ERROR, RolloutStatus.TURN_LIMIT]
    assert error in group.trajectories[0].error


def test_an_info_that_is_no_dict_is_an_error_of_its_episode() -> None:
    (group,) = play(["noinfo", "wait"], size=2)
    assert [t.status for t in group] == [RolloutStatus.ENV_ERROR, RolloutStatus.TURN_LIMIT]


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("raises", RolloutStatus.ENV_ERROR),
        ("hangs", RolloutStatus.ENV_TIMEOUT),
        ("number", RolloutStatus.ENV_ERROR),
        ("noinfo", RolloutStatus.ENV_ERROR),
    ],
)
def test_failing_resets(how: str, status: RolloutStatus) -> None:
    trajectory = only(play([], played_by=runner(env_config("Broken", how=how), timeout=0.2 if how == "hangs" else 5.0)))
    assert (trajectory.status, trajectory.steps) == (status, ())


def test_an_environment_that_failed_is_not_used_again() -> None:
    one = runner()
    play(["crash", "wait"], 2, one)
    assert [t.status for t in play([], 2, one)[0]] == [RolloutStatus.TURN_LIMIT] * 2
    assert one.pools.num_free("obedient") == 2


# --- success ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "max_return", "success"),
    [
        (["claim"], 1.0, True),  # the environment's word counts
        (["win"], None, True),  # no maximum: any positive return
        (["lose"], None, False),
        (["win"], 1.0, True),  # a maximum: all of it
        (["win"], 2.0, False),
        (["wait", "crash"], None, False),
    ],
)
def test_success(actions: list[str], max_return: float | None, success: bool) -> None:
    groups = play(actions, played_by=runner(env_config(max_return=max_return)))
    assert only(groups).success is success
    assert groups[0].max_return == max_return


# --- batches ----------------------------------------------------------------------------------------------------------


def test_finished_episodes_leave_the_batch_at_once() -> None:
    sampler = saying("win", "crash", "wait", "wait", "win")
    runner().collect(PolicyPlayer(sampler, SamplingParams(20)), [TASK], 4)
    assert [len(batch) for batch in sampler.batches] == [4, 2, 1, 1]


def test_the_prompt_of_a_turn_is_all_that_was_appended_before() -> None:
    sampler = saying("wait", "wait", "win")
    trajectory = only(runner().collect(PolicyPlayer(sampler, SamplingParams(20)), [TASK], 1))
    ids: list[int] = []
    for step, batch in zip(trajectory.steps, sampler.batches, strict=True):
        ids += step.prompt_ids
        assert batch == [ids]
        ids += step.action_ids


def test_every_turn_starts_a_sequence_in_the_window() -> None:
    sampler = saying("wait", "win")
    trajectory = only(runner(kind="window").collect(PolicyPlayer(sampler, SamplingParams(20)), [TASK], 1))
    assert [s.starts_sequence for s in trajectory.steps] == [True, True]
    assert [[list(s.prompt_ids)] for s in trajectory.steps] == sampler.batches


def test_no_tasks() -> None:
    assert runner().collect(PolicyPlayer(saying(), SamplingParams(20)), [], 4) == []


# --- reading actions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "said", "action"),
    [
        (None, " win ", "win"),
        (r"<a>(.*?)</a>", "I say <a> win </a> now", "win"),
        (r"<a>(.*?)</a>", "no tags", "no tags"),
        (r"(?s)<a>(.*?)</a>", "<a>one</a><a>two</a>", "one"),
    ],
)
def test_action_pattern(pattern: str | None, said: str, action: str) -> None:
    assert only(play([said], played_by=runner(env_config(pattern=pattern)))).steps[0].action == action


@pytest.mark.parametrize("pattern", ["<a>.*</a>", "(<a>"])
def test_an_action_pattern_that_cannot_work_is_refused_before_the_run(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"env\.action_pattern"):
        play(["<a></a>"], played_by=runner(env_config(pattern=pattern)))


def test_a_group_of_the_action_pattern_that_takes_no_part_in_the_match_does_not_end_the_run() -> None:
    trajectory = only(play(["say win"], played_by=runner(env_config(pattern="do (.*)|say (.*)"))))
    assert trajectory.steps[0].action == "win"


# --- the scripted sampler ---------------------------------------------------------------------------------------------


def test_scripted_sampler_cuts_at_the_token_limit() -> None:
    sampler = ScriptedSampler(lambda prompt: prompt * 2)
    out = sampler.generate([[1, 2], [3]], [SamplingParams(3), SamplingParams(3)])
    assert out == [
        Completion((1, 2, 1), (0.0,) * 3, StopReason.LENGTH),
        Completion((3, 3), (0.0,) * 2, StopReason.STOP),
    ]
    assert sampler.stats.sampled_tokens == 5


# --- making and probing -----------------------------------------------------------------------------------------------


def test_unknown_id_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"'RolloutTest/Obedeint-v0' is not registered.*Did you mean 'RolloutTest/Obedient"
    ):
        make_env(EnvConfig("x", "RolloutTest/Obedeint-v0"))


def test_malformed_id_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="'number guess'"):
        make_env(EnvConfig("x", "number guess"))


def test_missing_module_says_how_to_name_an_own_environment() -> None:
    with pytest.raises(ValueError, match=r"env\.id=my_module:Maze-v0; run from the folder that holds the module"):
        make_env(EnvConfig("x", "no_such_module:Maze-v0"))


def test_wrong_keyword_argument_is_named() -> None:
    with pytest.raises(ValueError, match="unexpected keyword argument 'truns'"):
        make_env(env_config(truns=3))


def test_probe_is_silent_about_a_good_environment() -> None:
    facts = probe(env_config(max_return=2.0), max_turns=10, timeout=2.0)
    assert (facts.max_return, facts.has_expert, facts.info_keys) == (2.0, False, {"anchor"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (env_config("Broken", how="raises"), "KeyError: 'no such room'"),
        (env_config("Broken", how="number"), "it must return a str"),
        (env_config(turns=None), r"did not end within rollout.max_turns=3 actions.*max_episode_steps"),
        (env_config(random_start=True), "two resets with the same seed gave different observations"),
    ],
)
def test_probe_says_what_is_wrong(config: EnvConfig, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)does not keep the contract: .*{message}.*check-env"):
        probe(config, max_turns=3, timeout=0.2)


def test_probe_gives_up_on_an_environment_that_hangs() -> None:
    with pytest.raises(ValueError, match="No answer within"):
        probe(env_config("Broken", how="hangs"), max_turns=3, timeout=0.02)


# --- environments that take their time --------------------------------------------------------------------------------

COUNTDOWN = "unreliable_envs:TestEnvs/Countdown-v0"


def countdown(execution: str, workers: int = 16, timeout: float = 20.0, **kwargs: Any) -> RolloutRunner:
    return runner(EnvConfig("x", COUNTDOWN, kwargs, execution=execution, workers=workers), timeout=timeout)


@pytest.mark.parametrize("execution", ["thread", "process"])
def test_where_an_environment_runs_changes_nothing(execution: str) -> None:
    size = 4 if execution == "thread" else 2
    inline, elsewhere = (play([], size, countdown(e, 2), tasks=2) for e in ("inline", execution))
    plain = [[replace(t, task_info={}) for t in group] for group in inline]
    assert [[replace(t, task_info={}) for t in group] for group in elsewhere] == plain


class Meeting(Obedient):
    """Every step waits until eight are under way at once."""

    everybody = threading.Barrier(8, timeout=10.0)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.everybody.wait()
        return super().step(action)


gym.register("RolloutTest/Meeting-v0", entry_point=lambda **kwargs: Meeting(**kwargs))


def test_slow_environments_step_side_by_side() -> None:
    meeting = EnvConfig("x", "RolloutTest/Meeting-v0", execution="thread", workers=8)
    (group,) = play([], 8, runner(meeting, timeout=20.0))
    assert [t.status for t in group] == [RolloutStatus.TURN_LIMIT] * 8


def test_nobody_waits_for_the_slowest() -> None:
    sampler = saying()
    one = countdown("thread", workers=2)
    one.collect(PolicyPlayer(sampler, SamplingParams(20)), [TASK], 2)
    assert sum(map(len, sampler.batches)) == 2 * 3  # every turn answered once, in however many batches


@pytest.mark.parametrize("execution", ["thread", "process"])
def test_faults_end_their_own_episode(execution: str) -> None:
    one = countdown(execution, workers=3, timeout=1.0)
    player = PolicyPlayer(saying("raise", "hang", "wait"), SamplingParams(20))
    (group,) = one.collect(player, [TASK], 3)
    assert Counter(t.status for t in group) == {
        RolloutStatus.ENV_ERROR: 1,
        RolloutStatus.ENV_TIMEOUT: 1,
        RolloutStatus.TERMINATED: 1,
    }
    again = play([], 3, one)
    assert {t.status for t in again[0]} == {RolloutStatus.TERMINATED}
    one.close()


def test_a_process_that_dies_is_replaced() -> None:
    one = countdown("process", workers=1)
    groups = play(["die"], 3, one)
    assert [t.status for t in groups[0]] == [
        RolloutStatus.ENV_ERROR,
        RolloutStatus.TERMINATED,
        RolloutStatus.TERMINATED,
    ]
    assert "SIGKILL" in groups[0].trajectories[0].error
    one.close()


def test_no_more_processes_than_allowed() -> None:
    one = countdown("process", workers=2)
    groups = play([], 6, one)
    assert len({t.task_info["pid"] for t in groups[0]}) == 2
    one.close()


def test_several_environments_in_one_run() -> None:
    envs = {
        "short": env_config(turns=2, max_return=1.0),
        "slow": EnvConfig("slow", COUNTDOWN, {"seconds": 0.01}, execution="thread"),
    }
    limits = RolloutConfig(temperature=1.0, top_p=1.0, max_new_tokens=20, max_turns=10, step_timeout=5.0)
    one = RolloutRunner(envs, limits, lambda name: make_conversation(CHAT, "transcript", 2), CHAT, 1000)
    tasks = [Task(1, ("a",), "short"), Task(2, ("b",), "slow"), Task(3, ("c",), "short")]
    groups = one.collect(PolicyPlayer(saying(), SamplingParams(20)), tasks, 2)
    assert [g.env for g in groups] == ["short", "slow", "short"]
    assert [len(t.steps) for g in groups for t in g] == [2, 2, 3, 3, 2, 2]
    assert [g.task_seed for g in groups] == [1, 2, 3]
