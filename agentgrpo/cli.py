"""The commands of ``python -m agentgrpo``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import resources

from omegaconf import DictConfig

from agentgrpo import composing
from agentgrpo.cluster.errors import ClusterError
from agentgrpo.startup import prepare

SETTLED = ("explain", "sweep", "compare", "doctor", "eval", "play", "view", "export")
"""Commands whose settings stand in one file of their own."""

USAGE = """\
usage: agentgrpo COMMAND [key=value ...]

  train       train an agent; -m sweeps: train -m algorithm=grpo,gigpo seed=0,1
  explain     what train would do: episodes, time, memory, settings without effect
  sweep       all runs of a study on all cores: sweep study=variants
  eval        success of a run's policy, or of any model, on the held-out tasks
  play        play an environment yourself, or watch a run's policy
  export      a run's policy as a Hugging Face folder, for transformers and vLLM
  view        a run's trajectories as one HTML file: view run_dir=runs/demo
  compare     runs side by side, with intervals and differences: compare runs
  doctor      what looks wrong in a run, and what to change: doctor run_dir=runs/demo
  check-env   does an environment keep the contract? check-env my_module:Maze-v0
  algorithms  what there is to choose from: formula, source, options and defaults

  train --cfg job   prints the whole configuration
  COMMAND --help    lists what can be chosen
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 1 for a problem found, 2 for bad input, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}.\n\n{USAGE}", file=sys.stderr, end="")
        return 2
    if name in SETTLED and {"-h", "--help"} & set(rest):
        # Its settings stand in a file with a comment each; `train` has groups to choose from, which Hydra lists.
        print(resources.files(composing.CONFIG_MODULE).joinpath(f"{name}.yaml").read_text(), end="")
        return 0
    prepare()
    try:
        return COMMANDS[name](rest)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130


def _train(args: list[str]) -> int:
    flags, overrides = _split(args)
    if flags:
        composing.check_overrides("train", overrides)
        return _through_hydra(flags, composing.complete(overrides))
    return _train_one(overrides)


def _train_one(overrides: Sequence[str]) -> int:
    from agentgrpo.launch import launch

    fresh = composing.compose_config("train", composing.known_to_run(overrides))
    if fresh.resume:
        config, saved = composing.config_for_run("train", overrides)
        if saved is not None:
            _refuse_changes(saved, config)
        else:
            raise ValueError(f"resume=true, but run_dir={fresh.run_dir} holds no run. Leave resume out to start one.")
    else:
        config = fresh
    return 130 if launch(config)["status"] == "interrupted" else 0


def _refuse_changes(saved: DictConfig, config: DictConfig) -> None:
    # More updates, where they are computed, and how often things are looked at or kept, change nothing about the
    # updates themselves.
    allowed = (
        "resume",
        "num_updates",
        "run_dir",
        "cluster",
        "doctor",
        "checkpoint.every",
        "checkpoint.keep",
        "log.every",
        "log.trajectories",
    )
    changed = composing.differences(saved, config, allowed)
    if changed:
        raise ValueError(
            f"resume=true with a changed configuration would not continue the run in {config.run_dir}: "
            f"{'; '.join(changed)}. Leave these out, or start another run_dir."
        )


def _through_hydra(flags: list[str], overrides: list[str]) -> int:
    """Sweeps, ``--cfg`` and ``--help`` are Hydra's own; a sweep's jobs call back one by one."""
    import hydra

    status = 0

    def job(config: DictConfig) -> float:
        from agentgrpo.launch import launch

        print(f"==> {config.run_dir}", flush=True)
        nonlocal status
        try:
            summary = launch(config)
        except ValueError as error:
            # The other runs of a sweep are worth having all the same.
            print(f"error: {error}", file=sys.stderr)
            status = 2
            return float("nan")
        if summary["status"] == "interrupted":
            raise KeyboardInterrupt
        return float(summary["after"]["success"])

    argv, sys.argv = sys.argv, ["agentgrpo train", *flags, *overrides]
    try:
        hydra.main(version_base="1.3", config_path="pkg://" + composing.CONFIG_MODULE, config_name="train")(job)()
    finally:
        sys.argv = argv
    return status


def _split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    flags = [a for a in args if a.startswith("-") and "=" not in a]
    if "--cfg" in args or "-c" in args:  # has a value of its own
        flags = [a for a in args if a.startswith("-") or "=" not in a]
    return flags, [a for a in args if a not in flags]


def _explain(args: list[str]) -> int:
    from agentgrpo.explain import explain_command

    return explain_command(composing.compose_config("explain", args), args)


def _sweep(args: list[str]) -> int:
    from agentgrpo.sweep import sweep_command

    return sweep_command(composing.compose_config("sweep", args), args)


def _eval(args: list[str]) -> int:
    from agentgrpo.inspection import evaluate_command

    return evaluate_command(composing.config_for_run("eval", args)[0])


def _play(args: list[str]) -> int:
    from agentgrpo.inspection import play_command

    return play_command(composing.config_for_run("play", args)[0])


def _export(args: list[str]) -> int:
    from agentgrpo.export import export_command

    return export_command(composing.config_for_run("export", args)[0])


def _view(args: list[str]) -> int:
    from agentgrpo.view import view_command

    return view_command(composing.compose_config("view", args))


def _compare(args: list[str]) -> int:
    from agentgrpo.compare import compare_command

    return compare_command(args)


def _doctor(args: list[str]) -> int:
    from agentgrpo.doctor.command import doctor_command

    return doctor_command(composing.compose_config("doctor", args))


def _check_env(args: list[str]) -> int:
    from agentgrpo.env_check import main as check

    return check(args)


def _algorithms(args: list[str]) -> int:
    from rich.console import Console

    from agentgrpo.algorithm_table import print_table

    if args:
        raise ValueError(f"algorithms takes no settings, got {' '.join(args)}.")
    print_table(Console())
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "explain": _explain,
    "sweep": _sweep,
    "eval": _eval,
    "play": _play,
    "export": _export,
    "view": _view,
    "compare": _compare,
    "doctor": _doctor,
    "check-env": _check_env,
    "algorithms": _algorithms,
}
