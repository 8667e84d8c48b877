"""Manifests and batch scripts under deploy/: they are valid, start what they say, and their settings compose."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from doc_blocks import RAY_OPTIONS, ROOT, Command, Wrong, check_command

from agentgrpo.composing import compose_config

KUBERAY = ROOT / "deploy" / "kuberay"
SLURM = ROOT / "deploy" / "slurm"
JOBS = ["rayjob.yaml", "rayjob-gpu.yaml"]
SCRIPTS = ["torchrun.sbatch", "ray.sbatch"]
KUBERNETES = "1.37"
"""Whose definitions the core resources must fit, unknown fields refused."""


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((KUBERAY / name).read_text()))


def by_kind(name: str) -> dict[str, Any]:
    return {document["kind"]: document for document in documents(name)}


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def ray_errors(job: Any) -> list[str]:
    """What is wrong with a RayJob: its own fields, and the pod templates in it."""
    schema = yaml.safe_load((ROOT / "tests" / "kuberay.yaml").read_text())
    validator = jsonschema.Draft202012Validator({**schema, "$ref": "#/RayJob"})
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(job)]
    return errors or [error for template in templates(job) for error in core_errors(as_resource(template))]


def as_resource(template: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}


def core_errors(resource: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{error.json_path}: {error.message}"]
    return []


def templates(job: Any) -> list[Any]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", JOBS)
def test_jobs_are_valid(name: str) -> None:
    (job,) = documents(name)
    assert ray_errors(job) == []


def test_what_both_jobs_need_is_valid() -> None:
    found = documents("common.yaml")
    assert [d["kind"] for d in found] == ["PersistentVolumeClaim", "ConfigMap", "NetworkPolicy"]
    assert [error for document in found for error in core_errors(document)] == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("entrypont",), "x", "'entrypont' was unexpected"),
        (("backoffLimit",), "2", "'2' is not of type 'integer'"),
        (("submissionMode",), "Sidecar", "'Sidecar' is not one of"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "0 is not of type 'string'"),
        (("rayClusterSpec", "workerGroupSpecs", 0, "replica"), 2, "'replica' was unexpected"),
        (("rayClusterSpec", "headGroupSpec", "template", "spec", "container"), [], "'container' was unexpected"),
        (("rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "ports"), "8265", "8265"),
    ],
)
def test_a_field_that_is_wrong_is_found(path: tuple[str | int, ...], value: Any, message: str) -> None:
    (job,) = documents("rayjob.yaml")
    node = job["spec"]
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    assert any(message in error for error in ray_errors(job)), ray_errors(job)


# The operator's definition is 25,000 lines long, so it is not kept here: kubectl get crd rayjobs.ray.io -o yaml > FILE
@pytest.mark.skipif("RAYJOB_CRD" not in os.environ, reason="RAYJOB_CRD names no file with an operator's definition")
def test_the_operators_own_definition_agrees() -> None:
    definition = yaml.safe_load(Path(os.environ["RAYJOB_CRD"]).read_text())
    (theirs,) = [v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == "v1"]
    ours = yaml.safe_load((ROOT / "tests" / "kuberay.yaml").read_text())
    assert list(_missing(ours["RayJob"]["properties"]["spec"], theirs["properties"]["spec"], ours, "spec")) == []
    validator = jsonschema.Draft202012Validator(_closed(theirs))
    for name in JOBS:
        (job,) = documents(name)
        # Only names of metadata are in a definition: the API server checks it by itself.
        errors = [f"{e.json_path}: {e.message}" for e in validator.iter_errors({**job, "metadata": {}})]
        assert errors == [], name


def _missing(ours: Any, theirs: Any, root: Any, where: str) -> Iterator[str]:
    """Fields and types of ours that are not theirs."""
    if "$ref" in ours:
        ours = root[ours["$ref"].removeprefix("#/")]
    if ours.get("type") != theirs.get("type"):
        yield f"{where}: {ours.get('type')} is {theirs.get('type')}"
    for key, value in ours.get("properties", {}).items():
        if key not in theirs.get("properties", {}):
            yield f"{where}.{key}"
        else:
            yield from _missing(value, theirs["properties"][key], root, f"{where}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(ours.get(key), dict):
            yield from _missing(ours[key], theirs.get(key, {}), root, f"{where}.{key}")


def _closed(schema: Any) -> Any:
    """An OpenAPI schema of Kubernetes as JSON Schema in which unknown fields are refused."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in schema:
        out["additionalProperties"] = out.get("additionalProperties", False)
    return out


def train_words(name: str) -> list[str]:
    """The command that a job's pods run, with what train.sh puts before the job's own settings."""
    (job,) = documents(name)
    shell, script, run_dir, *settings = shlex.split(job["spec"]["entrypoint"])
    assert [shell, script] == ["bash", "/etc/agentgrpo/train.sh"]
    common = by_kind("common.yaml")["ConfigMap"]["data"]["train.sh"]
    (line,) = re.findall(r"^exec (python .*)$", common, re.MULTILINE)
    line = line.replace('"$run_dir"', run_dir).replace('"$resume"', "false").replace('"$@"', " ".join(settings))
    return shlex.split(line)


@pytest.mark.parametrize("name", JOBS)
def test_settings_of_jobs_compose(name: str) -> None:
    check_command(Command(name, tuple(train_words(name))))


@pytest.mark.parametrize("name", JOBS)
def test_actors_fit_into_the_pods_wherever_they_land(name: str) -> None:
    cluster = compose_config("train", train_words(name)[4:]).cluster
    actors = cluster.samplers + cluster.learners
    for resource, setting in (("cpu", "cpus"), ("nvidia.com/gpu", "gpus")):
        most = max(cluster[f"{setting}_per_sampler"], cluster[f"{setting}_per_learner"])
        if most:
            assert sum(amount // most for amount in capacities(name, resource)) >= actors, resource


def test_four_samplers_with_half_a_gpu_each_fit_as_well() -> None:
    words = train_words("rayjob-gpu.yaml")
    (half,) = re.findall(r"# Two samplers on each GPU: (.*)", (KUBERAY / "rayjob-gpu.yaml").read_text())
    check_command(Command("half", (*words, *half.split())))
    config = compose_config("train", [*words[4:], *half.split()])
    c = config.cluster
    gpus = c.samplers * c.gpus_per_sampler + c.learners * c.gpus_per_learner
    assert gpus == sum(capacities("rayjob-gpu.yaml", "nvidia.com/gpu"))
    assert config.sampler.gpu_memory_share / c.gpus_per_sampler < 1  # two engines share a GPU's memory


def capacities(name: str, resource: str) -> list[float]:
    """Of each pod, what Ray has of a resource in it."""
    (job,) = documents(name)
    cluster = job["spec"]["rayClusterSpec"]
    out = []
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        amount = float(container["resources"]["limits"].get(resource, 0))
        if resource == "cpu":
            amount = float(group["rayStartParams"].get("num-cpus", amount))
        out += [amount] * group.get("replicas", 1)
    return out


@pytest.mark.parametrize("name", JOBS)
def test_jobs_name_the_version_of_ray_that_the_image_gets(name: str) -> None:
    version = documents(name)[0]["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ray=={version}" in (ROOT / "constraints.txt").read_text().splitlines()


@pytest.mark.parametrize("name", JOBS)
def test_jobs_name_what_common_yaml_has(name: str) -> None:
    common = by_kind("common.yaml")
    (job,) = documents(name)
    policy = common["NetworkPolicy"]["spec"]
    for template in templates(job):
        assert template["metadata"]["labels"].items() >= policy["podSelector"]["matchLabels"].items()
        volumes = {v["name"]: v for v in template["spec"]["volumes"]}
        assert (
            volumes["runs"]["persistentVolumeClaim"]["claimName"] == common["PersistentVolumeClaim"]["metadata"]["name"]
        )
        assert volumes["train"]["configMap"]["name"] == common["ConfigMap"]["metadata"]["name"]
        (container,) = template["spec"]["containers"]
        assert {m["name"] for m in container["volumeMounts"]} == set(volumes)
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert len({t["spec"]["containers"][0]["image"] for t in templates(job)}) == 1


@pytest.mark.parametrize("started", [False, True])
def test_the_script_in_the_pods_starts_a_run_and_goes_on_with_it(started: bool, tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(by_kind("common.yaml")["ConfigMap"]["data"]["train.sh"])
    run_dir = tmp_path / "a run"
    if started:
        run_dir.mkdir()
        (run_dir / "config.yaml").touch()
    calls = run_with_stubs(tmp_path, ["bash", str(script), str(run_dir), "seed=3"], {}, ["python"])
    assert calls[0].words == [
        *["python", "-m", "agentgrpo", "train", "cluster=ray", "cluster.address=auto"],
        *[f"run_dir={run_dir}", f"resume={str(started).lower()}", "seed=3"],
    ]


# --- SLURM ------------------------------------------------------------------------------------------------------------

STUB = """#!{python}
import json, os, signal, subprocess, sys, time
name = os.path.basename(sys.argv[0])
with open({notes!r}, "a") as notes:
    print(json.dumps([[name, *sys.argv[1:]], dict(os.environ)]), file=notes)
if name == "scontrol":
    assert sys.argv[1:] == ["show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    print(*("node%d" % n for n in range(int(os.environ["SLURM_JOB_NUM_NODES"]))), sep="\\n")
if name == "srun":
    program = sys.argv[1:]
    while program[0].startswith("--"):
        program = program[1:]
    given = [word for word in sys.argv[1:] if word.startswith("--nodes=")] or ["=" + os.environ["SLURM_JOB_NUM_NODES"]]
    for _ in range(int(given[0].partition("=")[2])):
        subprocess.run(program, check=True)
if name == "python" and "train" in sys.argv:
    if "INTERRUPT" in os.environ:
        try:
            time.sleep(0.5)  # the script is then waiting
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(20)
        except KeyboardInterrupt:
            sys.exit(130)
    sys.exit(int(os.environ.get("STATUS", 0)))
"""


@dataclass(frozen=True)
class Call:
    """A program that was started."""

    words: list[str]
    environment: dict[str, str]


def run_with_stubs(folder: Path, command: list[str], environment: dict[str, str], names: list[str]) -> list[Call]:
    """Runs a command with stand-ins for some programs, which note how they were called."""
    programs, notes = folder / "bin", folder / "notes.jsonl"
    programs.mkdir()
    notes.touch()
    for name in names:
        (programs / name).write_text(STUB.format(python=sys.executable, notes=str(notes)))
        (programs / name).chmod(0o755)
    env = {"PATH": f"{programs}:/usr/bin:/bin", **environment}
    subprocess.run(command, env=env, cwd=folder, check=True, capture_output=True, text=True)
    return [Call(*json.loads(line)) for line in notes.read_text().splitlines()]


def submit(script: str, folder: Path, words: list[str], **environment: str) -> list[Call]:
    slurm = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "node[0-2]"}
    slurm |= {"SLURM_CPUS_PER_TASK": "8", **environment}
    stubs = ["srun", "scontrol", "torchrun", "ray", "python"]
    return run_with_stubs(folder, ["bash", str(SLURM / script), *words], slurm, stubs)


def of(calls: list[Call], name: str) -> list[Call]:
    return [call for call in calls if call.words[0] == name]


def options(words: list[str]) -> dict[str, str]:
    """``--key=value`` and ``--key value`` before the first ``-m`` or ``--``."""
    end = next(i for i, word in enumerate(words) if word in ("-m", "--"))
    pairs = re.findall(r"--([\w-]+)[= ]([^-]\S*)", " ".join(words[:end]))
    return dict(pairs)


def test_torchrun_starts_on_every_node_and_meets_on_the_first(tmp_path: Path) -> None:
    words = ["/shared/first", "env=sokoban", "seed=3"]
    calls = submit("torchrun.sbatch", tmp_path, words, SLURM_GPUS_ON_NODE="4")
    started = of(calls, "torchrun")
    assert len(started) == 3
    for call in started:
        check_command(Command("torchrun.sbatch", tuple(call.words)))
        given = options(call.words)
        assert (given["nnodes"], given["nproc-per-node"], given["rdzv-id"]) == ("3", "4", "4242")
        assert (given["rdzv-backend"], given["rdzv-endpoint"]) == ("c10d", "node0:24242")
        assert call.words[-5:] == ["cluster=torchrun", "run_dir=/shared/first", "resume=false", "env=sokoban", "seed=3"]
        assert call.environment["OMP_NUM_THREADS"] == "2"  # 8 cores for 4 ranks


@pytest.mark.parametrize(
    ("environment", "ranks", "threads"),
    [
        ({}, "1", "8"),
        ({"RANKS_PER_NODE": "2", "SLURM_GPUS_ON_NODE": "4"}, "2", "4"),
        ({"RANKS_PER_NODE": "16"}, "16", "1"),
    ],
)
def test_ranks_of_a_node(environment: dict[str, str], ranks: str, threads: str, tmp_path: Path) -> None:
    call = of(submit("torchrun.sbatch", tmp_path, ["/shared/first"], **environment), "torchrun")[0]
    assert (options(call.words)["nproc-per-node"], call.environment["OMP_NUM_THREADS"]) == (ranks, threads)


def test_ray_starts_on_every_node_before_the_run(tmp_path: Path) -> None:
    words = ["/shared/first", "cluster.samplers=8", "cluster.gpus_per_sampler=0.5"]
    calls = submit("ray.sbatch", tmp_path, words, SLURM_GPUS_ON_NODE="4")
    starts = [call.words for call in of(calls, "ray") if call.words[1] == "start"]
    resources = ["--num-cpus=8", "--num-gpus=4"]
    head = ["ray", "start", "--head", "--port=24242", *resources, "--disable-usage-stats", "--block"]
    assert sorted(starts) == sorted([head, *2 * [["ray", "start", "--address=node0:24242", *resources, "--block"]]])
    waited, run = of(calls, "python")
    assert waited.words[1:] == ["-", "node0:24242", "3"]
    check_command(Command("ray.sbatch", tuple(run.words)))
    assert run.words[4:8] == ["cluster=ray", "cluster.address=node0:24242", "run_dir=/shared/first", "resume=false"]
    assert run.words[8:] == words[1:]
    for call in of(calls, "ray"):
        check_command(Command("ray.sbatch", tuple(call.words)))


def test_the_head_is_on_the_first_node_and_the_others_are_not(tmp_path: Path) -> None:
    first, others = of(submit("ray.sbatch", tmp_path, ["/shared/first"]), "srun")
    assert {"--nodes=1", "--ntasks=1", "--nodelist=node0"} <= set(first.words)
    assert {"--nodes=2", "--ntasks=2", "--exclude=node0"} <= set(others.words)


def test_one_node_is_enough_for_ray(tmp_path: Path) -> None:
    calls = submit("ray.sbatch", tmp_path, ["/shared/first"], SLURM_JOB_NUM_NODES="1")
    assert len(of(calls, "srun")) == 1
    assert of(calls, "python")[0].words[3] == "1"


def test_without_gpus_ray_is_told_of_none(tmp_path: Path) -> None:
    calls = submit("ray.sbatch", tmp_path, ["/shared/first"])
    assert all("--num-gpus=0" in call.words for call in of(calls, "ray") if call.words[1] == "start")


@pytest.mark.parametrize("status", [0, 7])
def test_the_status_of_the_run_is_that_of_the_job(status: int, tmp_path: Path) -> None:
    if status == 0:
        submit("ray.sbatch", tmp_path, ["/shared/first"], STATUS="0")
        return
    with pytest.raises(subprocess.CalledProcessError) as failed:
        submit("ray.sbatch", tmp_path, ["/shared/first"], STATUS=str(status))
    assert failed.value.returncode == status


def test_an_interrupt_of_the_script_reaches_the_run(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as stopped:
        submit("ray.sbatch", tmp_path, ["/shared/first"], INTERRUPT="yes")
    assert stopped.value.returncode == 130  # as the stand-in ends once it has been interrupted


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_same_line_again_goes_on(script: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "a run"
    run_dir.mkdir()
    (run_dir / "config.yaml").touch()
    calls = submit(script, tmp_path, [str(run_dir), "seed=3"])
    last = next(call.words for call in calls if "train" in call.words)
    assert last[-3:] == [f"run_dir={run_dir}", "resume=true", "seed=3"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_one_task_on_each_node_with_all_its_cores(script: str, tmp_path: Path) -> None:
    for srun in of(submit(script, tmp_path, ["/shared/first"]), "srun"):
        assert {"--ntasks-per-node=1", "--cpus-per-task=8"} <= set(srun.words)


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_a_folder_it_says_what_is_missing(script: str) -> None:
    done = subprocess.run(["bash", str(SLURM / script)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "the folder of the run comes first" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_examples_in_scripts_can_be_done(script: str) -> None:
    lines = re.findall(r"^#   (sbatch .*)$", (SLURM / script).read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        check_command(Command(script, tuple(shlex.split(line))))


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_has_nothing_to_say(script: str) -> None:
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "shellcheck is missing: pip install -e '.[dev]'"
    done = subprocess.run([program, str(SLURM / script)], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_options_of_ray_are_those_that_it_has() -> None:
    scripts = pytest.importorskip("ray.scripts.scripts")
    theirs = {
        name: {option for parameter in scripts.cli.commands[name].params for option in parameter.opts}
        for name in RAY_OPTIONS
    }
    assert {name: used - theirs[name] for name, used in RAY_OPTIONS.items() if used - theirs[name]} == {}


# --- the image --------------------------------------------------------------------------------------------------------


def test_the_image_gets_all_that_the_package_is_built_from() -> None:
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert ignore[0] == "*"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {Path(folder).parts[0] for folder in project["tool"]["setuptools"]["package-dir"].values()}
    files = {"pyproject.toml", "constraints.txt", project["project"]["readme"], *project["project"]["license-files"]}
    assert kept == folders | files


def test_the_commands_in_the_dockerfile_can_be_done() -> None:
    lines = re.findall(r"^#   (docker .*)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    images = set()
    for line in lines:
        words = shlex.split(line)
        check_command(Command("Dockerfile", tuple(words)))
        images.add(words[words.index("-t") + 1])
    named = {t["spec"]["containers"][0]["image"] for name in JOBS for t in templates(documents(name)[0])}
    assert images == named


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("torchrun --nnodes=2 -m agentgrpo trian", "no such command"),
        ("torchrun --nproc-per-node=2 train.py", "starts `-m agentgrpo"),
        ("torchrun --no-such -m agentgrpo train", "no-such"),
        ("ray start --heads", "has no --heads"),
        ("ray up x.yaml", "no check knows ray up"),
        ("sbatch deploy/slurm/ray.sbatch seed=1", "the run's folder before settings"),
        ("sbatch deploy/slurm/ray.sbatch runs/x cluster.sampler=1", "'cluster.sampler' is not a setting"),
        ("kubectl apply -f deploy/none.yaml", "there is no deploy/none.yaml"),
        ("docker build -f deploy/Dockerfile -t x --build-arg EXTRA=ray .", "has no ARG EXTRA"),
        ("docker build -f deploy/Dockerfile -t x --build-arg EXTRAS=rai .", "no extra rai"),
    ],
)
def test_what_cannot_be_done_on_a_cluster_is_found(command: str, message: str) -> None:
    with pytest.raises(Wrong, match=re.escape(message)):
        check_command(Command("page.md:1", tuple(shlex.split(command))))
