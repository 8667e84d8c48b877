"""``eval`` against vLLM's own OpenAI-compatible server on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentgrpo.cli import main

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

START_TIMEOUT = 400.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run whose prompts are fresh at every turn, so that the server cuts them into the same tokens."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    small = ["model.num_heads=2", "warm_start.episodes=192", "warm_start.oracle_share=0.3", "eval.num_tasks=16"]
    assert main(["train", *small, "context.kind=window", "num_updates=0", f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def url(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = run / "checkpoints" / "best"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "nano", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--block-size", "32", "--max-num-seqs", "16", "--api-key", "secret"]
    log = tmp_path_factory.mktemp("server") / "log"
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=env, start_new_session=True)
    try:
        ends = time.monotonic() + START_TIMEOUT
        while True:
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < ends, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def evaluated(run: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[int, list[str], str]:
    capsys.readouterr()
    status = main(["eval", f"run_dir={run}", "eval.temperature=0", *overrides])
    said = capsys.readouterr()
    return status, said.out.splitlines(), said.err


def test_a_policy_behind_a_server_plays_as_it_does_here(
    run: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "secret")
    server = ["sampler=openai", f"sampler.base_url={url}", "sampler.model=nano", "sampler.api_key_env=SERVER_KEY"]
    status, there, err = evaluated(run, capsys, *server)
    assert (status, err) == (0, "")
    assert there[0] == f"policy    nano at {url}"
    _, here, _ = evaluated(run, capsys)
    # The same panel, the same success, return and number of turns.
    assert there[1:] == here[1:]
    assert "success   0.000" not in here[2]


def test_a_wrong_key_and_a_wrong_model(
    run: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ["sampler=openai", f"sampler.base_url={url}", "sampler.model=nano"]
    status, _, err = evaluated(run, capsys, *server)
    assert status == 2
    assert "refuses requests without a key (sampler.api_key_env=null): 401" in err
    monkeypatch.setenv("SERVER_KEY", "secret")
    status, _, err = evaluated(run, capsys, *server[:2], "sampler.model=large", "sampler.api_key_env=SERVER_KEY")
    assert status == 2
    assert "does not serve sampler.model=large (it has: nano)" in err
