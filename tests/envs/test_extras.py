"""What a registered task needs besides the package itself: named in one place, and asked for in plain words."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from omegaconf import OmegaConf

from agentgrpo.environments import make
from agentgrpo.envs import ENV_IDS, EXTRAS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
YAMLS = {path.stem: OmegaConf.load(path) for path in sorted((ROOT / "conf" / "env").glob("*.yaml"))}

# Runs in a process of its own: whatever is not needed by the package itself cannot be imported there.
WITHOUT_EXTRAS = """
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def closure(names):
    needed, queue = set(), [canonicalize_name(name) for name in names]
    while queue:
        name = queue.pop()
        if name in needed:
            continue
        needed.add(name)
        try:
            wanted = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        queue += [canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return needed

needed = closure([Requirement(line).name for line in %(dependencies)r]) | {"agentgrpo"}
blocked = {
    module for module, owners in packages_distributions().items()
    if not {canonicalize_name(owner) for owner in owners} & needed and not module.startswith("_")
}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def without_extras(code: str) -> str:
    """What ``code`` prints where only the package's own dependencies are installed."""
    before = WITHOUT_EXTRAS % {"dependencies": PROJECT["dependencies"]}
    result = subprocess.run(
        [sys.executable, "-c", before + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_extras_are_those_of_the_package() -> None:
    assert set(EXTRAS) <= set(ENV_IDS)
    assert set(EXTRAS.values()) <= set(PROJECT["optional-dependencies"])


def test_every_task_can_be_imported_without_its_extra() -> None:
    printed = without_extras(
        """
        import importlib
        from agentgrpo.envs import ENV_IDS
        for entry_point in ENV_IDS.values():
            module, _, name = entry_point.partition(":")
            print(getattr(importlib.import_module(module), name).__name__)
        """
    )
    assert printed.split() == [entry_point.partition(":")[2] for entry_point in ENV_IDS.values()]


def test_a_missing_extra_is_one_finding_and_one_error_with_the_command() -> None:
    printed = without_extras(
        """
        from agentgrpo.env_check import check_env
        from agentgrpo.environments import make
        from agentgrpo.envs import EXTRAS
        for env_id, extra in EXTRAS.items():
            command = f"pip install 'agentgrpo[{extra}]'"
            try:
                make(env_id, {})
                print(env_id, "was made")
            except ValueError as error:
                print(env_id, command in str(error) and env_id in str(error) or error)
            (finding,) = check_env(env_id).findings
            print(env_id, finding.check == "construction" and command in finding.next_step or finding)
        """
    )
    assert printed.splitlines() == [f"{env_id} True" for env_id in EXTRAS for _ in range(2)]


def test_tasks_without_an_extra_work_with_nothing_else_installed() -> None:
    printed = without_extras(
        """
        from agentgrpo.environments import make
        from agentgrpo.envs import ENV_IDS, EXTRAS
        for env_id in ENV_IDS:
            if env_id not in EXTRAS:
                print(env_id, bool(make(env_id, {}).reset(seed=0)[0]))
        """
    )
    assert printed.splitlines() == [f"{env_id} True" for env_id in ENV_IDS if env_id not in EXTRAS]


def test_a_package_that_is_missing_later_on_is_named_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(gym.Env[str, str]):
        def __init__(self) -> None:
            importlib.import_module("no_such_package_anywhere")

    gym.register("extras_test/Lazy-v0", entry_point=Lazy)
    monkeypatch.setitem(EXTRAS, "extras_test/Lazy-v0", "lazy")
    expected = "No module named 'no_such_package_anywhere'. Next: pip install 'agentgrpo[lazy]'"
    with pytest.raises(ValueError, match=re.escape(expected)):
        make("extras_test/Lazy-v0", {})


@pytest.mark.parametrize("env_id", sorted(ENV_IDS))
def test_every_task_has_a_yaml_whose_dials_are_its_arguments_and_have_a_comment_each(env_id: str) -> None:
    named = [name for name, config in YAMLS.items() if config.get("id") == env_id]
    assert named
    module, _, cls = ENV_IDS[env_id].partition(":")
    parameters: dict[str, Any] = dict(
        inspect.signature(getattr(importlib.import_module(module), cls).__init__).parameters
    )
    for name in named:
        config = YAMLS[name]
        assert config.name == name
        assert set(config.kwargs) <= set(parameters), name
        lines = (ROOT / "conf" / "env" / f"{name}.yaml").read_text().splitlines()
        for key in config.kwargs:
            assert any(re.match(rf"  {key}: *.*  # \w", line) for line in lines), f"{name}: {key} has no comment"
