"""What an environment may offer besides, and whether what it offers is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from agentgrpo.env_check.subject import MAX_STEPS, BrokenEnv, Episode, Finding, Subject, explain, one_line

Fits = Callable[[Any], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_truth_value(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_sorted_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value) and list(value) == sorted(value)


INFO_FIELDS: dict[str, tuple[str, Fits, str]] = {
    "anchor": (
        "a str without history or counters",
        _is_text,
        "step advantages (GiGPO) then compare states; without it texts, which must repeat word for word",
    ),
    "admissible_actions": (
        "a sorted list of str",
        _is_sorted_texts,
        "makes a random player and warm starts by a mixed player possible",
    ),
    "valid_action": ("a bool", _is_truth_value, "counts the actions that it could not use"),
    "success": ("a bool", _is_truth_value, "says when a task is solved; without it, when the return is above 0"),
    "task_id": ("a str or int", lambda value: isinstance(value, str | int), "names tasks; without it their seed does"),
}
"""Field of info: what it must be, the check of that, and what it is good for."""


def check_info(subject: Subject) -> Iterator[Finding]:
    """The fields of info: right where they are given, and given wherever they are of use, or nowhere."""
    episodes = [subject.play(seed, subject.random_player, limit=50) for seed in range(min(subject.num_tasks, 5))]
    to_act_on = [info for e in episodes for info in (e.all_infos[:-1] if e.ended else e.all_infos)]
    after_steps = [info for e in episodes for info in e.infos]
    places = {
        "anchor": (to_act_on, "after reset and after every step"),
        "admissible_actions": (to_act_on, "after reset and after every step"),
        "valid_action": (after_steps, "after every step"),
        "success": (after_steps, "after every step"),
        "task_id": ([e.info for e in episodes], "after reset"),
    }
    for name, (expected, fits, use) in INFO_FIELDS.items():
        check = f"info[{name!r}]"
        infos, where = places[name]
        wrong = [info[name] for e in episodes for info in e.all_infos if name in info and not fits(info[name])]
        num_given = sum(name in info for info in infos)
        if wrong:
            found = f"expected {expected}, got {one_line(repr(wrong[0]), 60)}"
            yield Finding("problem", check, found, "correct it or leave it out")
        elif num_given == 0:
            if not (subject.single_turn and name in ("anchor", "admissible_actions")):  # of no use to those
                yield Finding("advice", check, use, expected, optional=True)
        elif num_given < len(infos):
            yield Finding("advice", check, f"in {num_given} of {len(infos)} infos", f"supply it {where}")
        else:
            yield Finding("ok", check, expected)
    yield from _admissible_are_valid(episodes)


def _admissible_are_valid(episodes: list[Episode]) -> Iterator[Finding]:
    for episode in episodes:
        for before, action, after in zip(episode.all_infos, episode.actions, episode.infos, strict=False):
            if action in (before.get("admissible_actions") or ()) and after.get("valid_action", True) is False:
                found = f"{one_line(repr(action), 40)} was listed as admissible, but then called invalid"
                yield Finding("problem", "admissible actions", found, "list what step() accepts, word for word")
                return


def check_oracle(subject: Subject) -> Iterator[Finding]:
    """Plans must end in success. In single-turn tasks a written solution does as well."""
    if not callable(subject.attribute("oracle_actions")):
        if subject.reset(0)[1].get("reference") is not None:
            yield Finding("ok", "oracle", "none, but info['reference'] gives a solution to imitate")
            return
        use = "makes warm starts by imitation and guided rollouts possible"
        yield Finding("advice", "oracle", use, "oracle_actions(): a plan from the current state", optional=True)
        return
    noisy = _is_noisy(subject)
    claimed = solved = num_steps = 0
    for seed in range(subject.num_tasks):
        subject.reset(seed)
        plan = list(_call(subject, "oracle_actions"))
        if plan:
            won, taken = _follow_oracle(subject, plan, ask_each_step=noisy)
            claimed, solved, num_steps = claimed + 1, solved + won, num_steps + taken
    found = f"solved {solved} of {claimed} tasks it had a plan for ({subject.num_tasks} asked)"
    if solved < claimed and not noisy:
        yield Finding("problem", "oracle", found, "a plan must end in success; return [] where there is none")
    elif 2 * solved < claimed:
        yield Finding("advice", "oracle", f"{found}; the dynamics are noisy", "it should plan for what is most likely")
    elif claimed == 0:
        yield Finding("advice", "oracle", "it had a plan for no task", "it should have plans for most tasks")
    else:
        average = f"{num_steps / claimed:.1f} steps on average"
        yield Finding("ok", "oracle", f"{found}, {average}{'; the dynamics are noisy' if noisy else ''}")


def _follow_oracle(subject: Subject, plan: list[str], *, ask_each_step: bool) -> tuple[bool, int]:
    """Play a plan, or, where noise can spoil it, the first step of ever new plans; return success and steps taken."""
    total = 0.0
    num_steps = 0
    while plan and num_steps < MAX_STEPS:
        _, reward, terminated, truncated, info = subject.step(plan[0])
        num_steps += 1
        total += reward
        if terminated or truncated:
            return bool(info.get("success", total > 0)), num_steps
        plan = list(_call(subject, "oracle_actions")) if ask_each_step else plan[1:]
    return False, num_steps


def _is_noisy(subject: Subject) -> bool:
    """Whether members of a group, who share the seed and the actions, can see different episodes."""
    for seed in range(min(subject.num_tasks, 4)):
        actions = subject.play(seed, subject.random_player, limit=50).actions
        episodes = set()
        for noise_seed in range(4):
            try:
                subject.env.reset(seed=seed, options={"noise_seed": noise_seed})
            except Exception:
                return False
            episodes.add(tuple(_replay(subject, actions)))
        if len(episodes) > 1:
            return True
    return False


def check_snapshot(subject: Subject) -> Iterator[Finding]:
    """A restored snapshot goes on exactly as before, noise and turns included."""
    if not (callable(subject.attribute("snapshot")) and callable(subject.attribute("restore"))):
        if not subject.single_turn:
            use = "lets a search branch in the middle of an episode; training works without"
            yield Finding("advice", "snapshot", use, "snapshot() and restore(), if a copy is cheap", optional=True)
        return
    for seed in range(min(subject.num_tasks, 5)):
        actions = subject.play(seed, subject.random_player, limit=50).actions
        half = len(actions) // 2
        subject.reset(seed)
        for action in actions[:half]:
            subject.step(action)
        snapshot = _call(subject, "snapshot")
        expected = list(_replay(subject, actions[half:]))
        for attempt in ("first", "second"):
            subject.reset(seed + 1)
            _call(subject, "restore", snapshot)
            if list(_replay(subject, actions[half:])) != expected:
                found = f"after the {attempt} restore the same actions gave something else (seed {seed})"
                yield Finding("problem", "snapshot", found, "copy all that changes, noise and turn counter included")
                return
    yield Finding("ok", "snapshot", "restores to exactly the same episode, twice")


def check_max_return(subject: Subject) -> Iterator[Finding]:
    """The declared limit is one."""
    limit = subject.attribute("max_return")
    if limit is None:
        use = "gives returns a scale; the algorithm ngrpo needs it"
        yield Finding("advice", "max_return", use, "a class attribute: the largest return possible", optional=True)
        return
    best = max(subject.play(seed, subject.random_player).total_reward for seed in range(subject.num_tasks))
    if not isinstance(limit, int | float) or best > limit + 1e-6:  # rewards may be sums of rounded shares
        found = f"it is {limit!r}, but a random episode returned {best:g}"
        yield Finding("problem", "max_return", found, "set it to the largest possible return")
    else:
        yield Finding("ok", "max_return", f"{limit:g}")


def _replay(subject: Subject, actions: list[str]) -> Iterator[tuple[Any, ...]]:
    """Play ``actions`` from the current state until they or the episode end; yield what the agent gets."""
    for action in actions:
        text, reward, terminated, truncated, _ = subject.step(action)
        yield text, reward, terminated, truncated
        if terminated or truncated:
            return


def _call(subject: Subject, name: str, *args: Any) -> Any:
    try:
        return subject.attribute(name)(*args)
    except Exception as error:
        raise BrokenEnv(f"{name}() raised {explain(error)}", "correct it, or leave the method out") from error
