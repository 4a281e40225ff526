"""The server backend against a server that was not written for it: that of the transformers library, on loopback."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripted_server import free_port
from server_jobs import asking
from strataprobe.errors import BackendError, OptionError
from strataprobe.generate.backends import BackendOptions
from strataprobe.generate.backends.server import Server

NEEDED = ("openai", "fastapi", "uvicorn", "accelerate")
absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(absent), reason=f"the server of transformers needs {', '.join(absent)}")
STARTS_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def process(
    llama_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The running server of a tiny model with random weights, and its address."""
    port, folder = free_port(), tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(llama_folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as running,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/health", running, folder / "server.log")
            yield running, f"http://127.0.0.1:{port}/v1"
        finally:
            running.kill()


def wait_for(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until_s and running.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1.0).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"the server did not start:\n{log.read_text('utf-8')[-2000:]}")


def test_a_real_server_is_asked_and_each_of_its_answers_is_kept_with_a_reason(
    process: tuple[subprocess.Popen[bytes], str], llama_folder: Path, tmp_path: Path
) -> None:
    url = process[1]
    with pytest.raises(OptionError, match="name one with --llm"):  # without a cache of models it cannot list any
        Server("openai", BackendOptions(base_url=url))
    options = BackendOptions(base_url=url, llm=str(llama_folder), parallel=2, max_new_tokens=24, timeout_s=30.0)
    backend = Server("openai", options)
    assert backend.identity.name == llama_folder.name
    with asking(tmp_path, n_per_class=2, max_attempts=2) as job:
        backend.write(job, 0)
        assert job.open() == []
        entries = job.ledger.entries
        assert sorted((e.cell, e.attempt) for e in entries) == sorted((c.id, n) for c in job.plan for n in (1, 2))
    # Random weights write nothing that could be accepted, and every answer arrived.
    assert all(e.check and e.found for e in entries)
    assert {e.check for e in entries}.isdisjoint({"no_answer", "refusal"})
    assert sum(bool(e.text) for e in entries) >= 6
    details = backend.details()
    assert details["requests"] == 8
    assert details["retries"] == {}
    assert details["tokens"]["completion_tokens"] > 8

    prompts = [[{"role": "user", "content": text}] for text in ("Is it day?", "Is it night?")]
    first = backend.answers(prompts)
    assert all(first)
    assert backend.answers(prompts[::-1]) == first[::-1]


def test_a_model_that_it_does_not_have_is_said_in_a_sentence(
    process: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    backend = Server("openai", BackendOptions(base_url=process[1], llm="another-model"))
    with asking(tmp_path, 1) as job, pytest.raises(BackendError, match=r"has no model 'another-model'.*0 of 2 texts"):
        backend.write(job, 0)


def test_when_it_is_killed_the_job_stops_in_a_sentence(
    process: tuple[subprocess.Popen[bytes], str], llama_folder: Path, tmp_path: Path
) -> None:
    running, url = process
    backend = Server("openai", BackendOptions(base_url=url, llm=str(llama_folder), max_new_tokens=8))
    backend.patience_s = 1.0
    running.kill()
    running.wait()
    with asking(tmp_path, 1) as job:
        with pytest.raises(BackendError, match=r"stopped answering \(no connection\): 0 of 2 texts .*same command"):
            backend.write(job, 0)
        assert job.ledger.entries == []
