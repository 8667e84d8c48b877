"""A study: which runs there are. Environments x variants x learning rates x seeds, each a list of settings."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agentgrpo import composing
from agentgrpo.checks import above
from agentgrpo.config import build_algorithm, parse
from agentgrpo.run_folder import RunFolder

_OWN = ("optim.lr", "seed", "run_dir", "resume")
"""Settings that a study decides for each run."""


@dataclass
class Start:
    """A policy that all runs of an environment and seed begin from."""

    make: list[str]
    use: list[str]


@dataclass
class Study:
    """Lists of settings (``key=value``) by name."""

    name: str
    common: list[str]
    environments: dict[str, list[str]]
    variants: dict[str, list[str]]
    learning_rates: list[float]
    seeds: list[int]
    start: Start | None = None
    learning_rates_of: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.learning_rates_of) - set(self.environments))
        if unknown:
            raise ValueError(
                f"study.learning_rates_of names {', '.join(unknown)}; environments: {list(self.environments)}"
            )
        for rate in self.learning_rates:
            above("study.learning_rates", rate, 0)
        for environment in self.learning_rates_of:
            for rate in self.rates(environment):
                above(f"study.learning_rates_of.{environment}", rate, 0)
        for name in ("environments", "variants", "learning_rates", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"study.{name} is empty, so there is nothing to run.")
        for name in ("learning_rates", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"study.{name}={values} names one of them twice: it would be one run.")
        for environment, own in self.learning_rates_of.items():
            if not own or len(set(own)) < len(own):
                raise ValueError(
                    f"study.learning_rates_of.{environment}={own}: one or several different rates, please."
                )
        for name in (*self.environments, *self.variants):
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                raise ValueError(
                    f"study: {name!r} becomes the name of a folder, so it may have letters, digits, _, - and . only."
                )

    def rates(self, environment: str) -> list[float]:
        """Learning rates that an environment is run with."""
        return self.learning_rates_of.get(environment, self.learning_rates)


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a study."""

    environment: str
    variant: str
    learning_rate: float | None
    seed: int
    run_dir: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the run is, in a few words."""
        rate = "" if self.learning_rate is None else f" lr {self.learning_rate:g}"
        return f"{self.environment} {self.variant}{rate} seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.summary is not None

    @property
    def summary(self) -> dict[str, object] | None:
        """What the finished run left; None before."""
        try:
            found: dict[str, object] = json.loads((Path(self.run_dir) / "summary.json").read_text())
        except (OSError, ValueError):
            return None
        return found if found.get("status") == "finished" else None

    @property
    def started(self) -> bool:
        """Whether there is anything of the run."""
        return RunFolder(self.run_dir).holds_run()


def parse_study(config: DictConfig) -> Study:
    """Checks names and types.

    Raises:
        ValueError: names the key, what it was given and what is allowed.
    """
    try:
        study = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Study), config.study))
    except OmegaConfBaseException as error:
        key = f"study.{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ValueError(f"{key}{str(error).splitlines()[0]}") from error
    assert isinstance(study, Study)
    for name, lines in (("common", study.common), *study.environments.items(), *study.variants.items()):
        for line in lines:
            if line.lstrip("+").partition("=")[0] in _OWN:
                raise ValueError(f"study: {line} in {name}: {', '.join(_OWN)} are decided for each run by the study.")
    return study


def start_jobs(study: Study, folder: str) -> list[Job]:
    """The runs that make what the others begin from, one per environment and seed."""
    if study.start is None:
        return []
    jobs = []
    for seed, (environment, lines) in product(study.seeds, study.environments.items()):
        run_dir = _start_folder(folder, environment, seed)
        settings = [*study.common, *lines, *study.start.make, "num_updates=0", f"seed={seed}", f"run_dir={run_dir}"]
        jobs.append(Job(environment, "start", None, seed, run_dir, tuple(settings)))
    return jobs


def run_jobs(study: Study, folder: str) -> list[Job]:
    """The runs to compare, seed after seed, so that a study that is stopped has something of everything."""
    jobs = []
    members = product(study.seeds, study.environments.items(), study.variants.items())
    for seed, (environment, lines), (variant, more), rate in (
        (*member, rate) for member in members for rate in study.rates(member[1][0])
    ):
        run_dir = f"{folder}/{environment}/{variant}/lr{rate:g}/seed{seed}"
        settings = [*study.common, *lines, *more]
        if study.start is not None:
            path = f"{_start_folder(folder, environment, seed)}/checkpoints/update_000000"
            settings += [*study.start.use, f"model.path={path}", "warm_start.episodes=0"]
        settings += [f"optim.lr={rate}", f"seed={seed}", f"run_dir={run_dir}"]
        jobs.append(Job(environment, variant, rate, seed, run_dir, tuple(settings)))
    return jobs


def _start_folder(folder: str, environment: str, seed: int) -> str:
    # Beside the study and not in it: these are no runs to compare.
    return f"{folder}-starts/{environment}/seed{seed}"


def check(study: Study, folder: str) -> None:
    """Composes a run of each environment and variant, so that a typing error shows before anything is trained.

    Raises:
        ValueError: what is wrong, and in which of them.
    """
    for job in run_jobs(study, folder):
        if (job.learning_rate, job.seed) == (study.rates(job.environment)[0], study.seeds[0]):
            try:
                build_algorithm(parse(_composed(job.overrides)))
            except ValueError as error:
                raise ValueError(f"study {study.name}, {job.environment} with {job.variant}: {error}") from error


@lru_cache(maxsize=4096)
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    return composing.compose_config("train", list(overrides))


def composed(job: Job) -> DictConfig:
    """The configuration that a job runs with, as a new run or as the rest of one that was stopped.

    Raises:
        ValueError: there is a run of another configuration in its folder.
    """
    config = _composed(job.overrides).copy()
    folder = RunFolder(job.run_dir)
    if folder.holds_run():
        changed = composing.differences(folder.load_config(), config, ("resume", "num_updates"))
        if changed:
            raise ValueError(
                f"{job.run_dir} holds a run with other settings than the study now has: {'; '.join(changed)}. "
                "Delete that folder, or give the study another one: folder=runs/NAME"
            )
        config.resume = True
    return config


def clear_remains(job: Job) -> None:
    """Removes what a run left that was killed before it had a configuration."""
    path = Path(job.run_dir)
    if path.is_dir() and not job.started and all(p.name == "versions.json" for p in path.iterdir()):
        shutil.rmtree(path)
