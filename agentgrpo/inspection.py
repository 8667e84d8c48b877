"""``eval`` and ``play``: look at a policy, or at an environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from agentgrpo import checkpoint, environments, models
from agentgrpo.chat_player import chat_player, chat_runner
from agentgrpo.checks import did_you_mean
from agentgrpo.config import EnvConfig, TrainConfig, parse
from agentgrpo.environments import attribute, checked_reset, checked_step, make_env
from agentgrpo.evaluation import evaluate, make_panel
from agentgrpo.players import ContinuousPlayer, Player, PolicyPlayer
from agentgrpo.rewards import RewardScorer, build_terms
from agentgrpo.rollout import RolloutRunner
from agentgrpo.run_folder import RunFolder
from agentgrpo.samplers.settings import OpenAiSettings
from agentgrpo.setup import Policy, build_runner, build_sampler, check_sampler, make_policy
from agentgrpo.types import Trajectory


def evaluate_command(config: DictConfig) -> int:
    """Prints held-out success of a run's checkpoint, or of a model that was not trained here."""
    c = _parse(config)
    runner, player, name = _seat(c, config)
    panel = make_panel(c.environments, c.eval.num_tasks)
    scorer = RewardScorer(build_terms(c.reward))
    result = evaluate(lambda orders: scorer.score(runner.play(player, orders)), panel)
    low, high = result.interval
    print(f"policy    {name}")
    print(f"panel     {panel.name}, {len(panel.tasks)} tasks, hash {panel.hash[:16]}")
    print(f"success   {result.success:.3f}  95% interval [{low:.3f}, {high:.3f}], temperature {c.eval.temperature:g}")
    for env, success in result.by_env.items():
        print(f"  {env:<20}{success:.3f}")
    print(f"return    {result.return_mean:.3f}  turns {result.turns_mean:.1f}")
    return 0


def play_command(config: DictConfig) -> int:
    """A person plays, or a run's policy does and its episodes are printed."""
    c = _parse(config)
    console = Console(highlight=False)
    first = int(config.task)
    count = int(config.episodes)
    panels = [make_panel({name: env}, first + count).tasks[first:] for name, env in c.environments.items()]
    if not config.run_dir and c.sampler["kind"] != "openai":
        return _play_by_hand(c.env, [t.seed for t in panels[0]], console)
    runner, player, name = _seat(c, config)
    console.print(f"{name} plays {', '.join(env.id for env in c.environments.values())}", markup=False)
    tasks = [task for panel in panels for task in panel]
    for group in runner.collect(player, tasks, group_size=1):
        console.rule(f"{group.env} task {group.task_seed}")
        _show(group.trajectories[0], console)
    return 0


def _parse(config: DictConfig) -> TrainConfig:
    plain: Any = OmegaConf.to_container(config)
    for key in ("checkpoint_name", "task", "episodes"):
        plain.pop(key, None)
    plain["run_dir"] = plain["run_dir"] or ""
    c = parse(OmegaConf.create(plain))
    check_sampler(c)
    for env in c.environments.values():
        environments.probe(env, c.rollout.max_turns, c.rollout.step_timeout)
    return c


def _seat(c: TrainConfig, config: DictConfig) -> tuple[RolloutRunner, Player | ContinuousPlayer, str]:
    """Environments, who plays them, and the player's name in a sentence."""
    settings = c.sampler_settings
    if isinstance(settings, OpenAiSettings):
        player, name = chat_player(c, settings)
        return chat_runner(c), player, name
    made, name = _load(c, config)
    params = c.rollout.params(c.eval.temperature)
    return build_runner(c, made), PolicyPlayer(build_sampler(c, made), params), name


def _load(c: TrainConfig, config: DictConfig) -> tuple[Policy, str]:
    """The policy to look at, and its name in a sentence."""
    if not c.run_dir:
        if c.model.kind == "nano":
            raise ValueError(
                "An untrained nano model knows no words. Name a run: run_dir=..., or a model: model=smollm2."
            )
        models.check(c.model)
        return make_policy(c), f"{c.model.path}, untrained"
    folder = RunFolder(c.run_dir)
    if not folder.holds_run():
        raise ValueError(f"run_dir={c.run_dir} holds no run.{_near(c.run_dir)} `train` makes one.")
    if c.model.lora.rank:
        models.check(c.model)  # a run with adapters needs its base
    found = checkpoint.find(folder.checkpoints, str(config.checkpoint_name))
    return make_policy(c, found.folder), f"{found.folder} (update {found.update})"


def _near(path: str) -> str:
    parent = Path(path).parent
    return did_you_mean(path, [str(p) for p in parent.iterdir() if p.is_dir()]) if parent.is_dir() else ""


def _show(trajectory: Trajectory, console: Console) -> None:
    for step in trajectory.steps:
        console.print(step.observation, markup=False)
        note = "" if step.valid_action else "   (not understood)"
        console.print(f"> {json.dumps(step.action, ensure_ascii=False)[1:-1]}{note}", markup=False, style="bold")
    console.print(trajectory.final_observation, markup=False)
    outcome = "success" if trajectory.success else "no success"
    console.print(f"{outcome}, return {trajectory.episode_return:g}, {trajectory.status}", style="dim", markup=False)


def _play_by_hand(env_config: EnvConfig, seeds: list[int], console: Console) -> int:
    env = make_env(env_config)
    console.print(env_config.instructions, markup=False, style="dim")
    console.print("Write an action and press Enter; ? asks the oracle, an empty line lists what can be done, q ends.")
    for seed in seeds:
        console.rule(f"task {seed}")
        observation, info = checked_reset(env, seed, 0)
        total, ended = 0.0, False
        while not ended:
            console.print(observation, markup=False)
            action = _ask(env, info, console)
            if action is None:
                return 0
            observation, reward, terminated, truncated, info = checked_step(env, action)
            total, ended = total + reward, terminated or truncated
        console.print(observation, markup=False)
        console.print(
            f"The episode is over: return {total:g}, success: {info.get('success', total > 0)}.", style="bold"
        )
    return 0


def _ask(env: environments.Env, info: dict[str, Any], console: Console) -> str | None:
    """The next action, or None to stop."""
    while True:
        try:
            text = console.input("> ").strip()
        except EOFError:
            return None
        if text == "q":
            return None
        if text == "?":
            oracle = attribute(env, "oracle_actions")
            plan = oracle() if oracle is not None else []
            console.print(f"  oracle: {', then '.join(plan) or 'has no answer here'}", markup=False, style="dim")
        elif not text:
            console.print(f"  possible: {', '.join(info.get('admissible_actions', ['(unknown)']))}", markup=False)
        else:
            return text
