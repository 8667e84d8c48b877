"""Run folders written by hand, for the tests of the trajectory browser: no model, no training."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from agentgrpo.run_folder import RunFolder
from agentgrpo.types import Credit, Group, RolloutStatus, Step, StopReason, Trajectory

END = 0
NASTY = (
    '</script><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">'
    "\u202e\x00\x1b[2J&lt;"
)
"""Markup and scripts, the end of the element that holds the data, a mark that turns text around, control characters."""


def tokenizer() -> Tokenizer:
    """Byte-level without merges: 0 ends a turn, id b + 1 is the byte of its place in the alphabet."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={"<|end|>": END} | {c: i + 1 for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<|end|>", special=True)])
    return made


TOKENIZER = tokenizer()


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text, add_special_tokens=False).ids)


def step(observation: str, text: str, reward: float = 0.0, *, guided: int = 0, **fields: object) -> Step:
    """A step whose action is its text; ``guided`` of its tokens are an expert's."""
    action_ids = (*ids(text), END)
    made: dict[str, object] = {
        "observation": observation,
        "text": text,
        "action": text,
        "reward": reward,
        "reward_terms": {"environment": reward},
        "prompt_ids": ids(observation),
        "action_ids": action_ids,
        "num_guided": guided,
        "logprobs": (-0.5,) * (len(action_ids) - guided),
    }
    return Step(**{**made, **fields})  # type: ignore[arg-type]


def credit(group: Group, advantages: Sequence[float]) -> list[Credit]:
    """One advantage per member, the same for all of its tokens."""
    return [
        Credit(torch.full((t.num_policy_tokens,), a, dtype=torch.float64))
        for t, a in zip(group, advantages, strict=True)
    ]


def make_run(path: Path, *, finished: bool = True, with_tokenizer: bool = True) -> RunFolder:
    """A run folder without trajectories."""
    folder = RunFolder(path)
    folder.create(OmegaConf.create({"env": {"name": "maze"}, "algorithm": {"name": "gigpo", "gamma": 0.5}}))
    folder.append("metrics", {"update": 2})
    if finished:
        folder.write_summary({"status": "finished", "updates": 2})
    if with_tokenizer:
        (folder.checkpoints / "best").mkdir(parents=True)
        TOKENIZER.save(str(folder.checkpoints / "best" / "tokenizer.json"))
    return folder


def small_run(path: Path, *, finished: bool = True, with_tokenizer: bool = True) -> RunFolder:
    """Two updates: a maze group of two members that share a state, and a shop group with an expert and a crash."""
    folder = make_run(path, finished=finished, with_tokenizer=with_tokenizer)
    won = Trajectory(
        (
            step("hall", "left", anchor="H", old_logprobs=(-0.25,) * 5),
            step("door", "open", 1.0, anchor="D", old_logprobs=(-0.5,) * 5),
        ),
        success=True,
        final_observation="treasure",
        task_info={"answer": 42},
    )
    lost = Trajectory(
        (step("hall again", "back", anchor="H", valid_action=False), step("pit", "jump", -1.0, anchor="P")),
        status=RolloutStatus.TURN_LIMIT,
    )
    maze = Group((won, lost), task_seed=2**60 + 1, max_return=1.0, env="maze")
    folder.write_trajectories(1, [maze], [credit(maze, (2.0, -1.0))])
    led = Trajectory((step("shop", "buy tea", 0.5, guided=3),), success=True, task_info={NASTY: NASTY})
    crashed = Trajectory(
        (step("shop", NASTY, stop_reason=StopReason.LENGTH, reward_terms={"environment": 0.0, "format": 1.0}),),
        status=RolloutStatus.ENV_ERROR,
        error="Traceback: boom",
        final_observation=NASTY,
        task_info={NASTY: NASTY},
    )
    shop = Group((led, crashed), task_seed=7, env="shop")
    folder.write_trajectories(2, [shop], [credit(shop, (0.25, 0.0))])
    return folder


def large_run(path: Path, *, num_updates: int, groups: int, size: int, turns: int) -> RunFolder:
    """Many trajectories whose texts and figures differ from each other."""
    folder = make_run(path)
    for update in range(1, num_updates + 1):
        made, worth = [], []
        for g in range(groups):
            members = tuple(_varied(update * 1000 + g * size + slot, turns) for slot in range(size))
            made.append(Group(members, task_seed=update * 100 + g, max_return=1.0, env="maze"))
            worth.append(credit(made[-1], [0.01 * ((update + slot) % 300) - 1 for slot in range(size)]))
        folder.write_trajectories(update, made, worth)
    return folder


_WAYS = ("north", "south", "east", "west")


def _varied(seed: int, turns: int) -> Trajectory:
    steps = []
    for t in range(turns):
        text = f"go {_WAYS[(seed * 7 + t * 5) % 4]} {seed * 31 % 97}"
        observation = f"Room {(seed * 13 + t) % 50}. Exits: north, south, east. You have {(seed + t) % 9} keys."
        logprobs = tuple(-((seed * 37 + t * 11 + i * 101) % 2003) / 517 for i in range(len(text) + 1))
        steps.append(step(observation, text, float(t == turns - 1 and seed % 3 == 0), logprobs=logprobs))
    return Trajectory(tuple(steps), success=seed % 3 == 0, final_observation="The end.")


def rewrite(path: Path, change: dict[str, object]) -> None:
    """Sets entries in the first record of a trajectory file."""
    first, *rest = gzip.decompress(path.read_bytes()).decode().splitlines()
    lines = [json.dumps({**json.loads(first), **change}), *rest]
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
