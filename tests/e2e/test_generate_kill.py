"""Texts asked for on a server, killed with -9 part of the way: the restart asks for exactly what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from demo import STRATAPROBE
from scripted_server import MODEL, ScriptedServer, completion, good_text
from strataprobe.generate.cells import make_cells
from strataprobe.generate.ledger import LEDGER_NAME
from strataprobe.generate.prompts import request
from strataprobe.manifest import verify_folder
from strataprobe.recipe import load_recipe

RECIPE = load_recipe("sentiment")
N_PER_CLASS = 50
N = 2 * N_PER_CLASS


def start(out: Path, server: ScriptedServer) -> subprocess.Popen[bytes]:
    where = ("--backend", "openai", "--base-url", server.url, "--llm", MODEL, "--parallel", "4")
    command = (STRATAPROBE, "generate", "sentiment", "--out", str(out), *where, "--n-per-class", str(N_PER_CLASS))
    return subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def entries(out: Path) -> list[dict[str, Any]]:
    ledger = out.with_name(f".{out.name}.partial") / LEDGER_NAME
    lines = ledger.read_bytes().splitlines(keepends=True) if ledger.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def kill_at(share: float, out: Path, server: ScriptedServer) -> set[str]:
    """Start the job, kill it when that share of the texts is there; the cells that have a text on disk then."""
    job = start(out, server)
    give_up_s = time.monotonic() + 60
    while len(entries(out)) < share * N and job.poll() is None and time.monotonic() < give_up_s:
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.communicate()
    time.sleep(0.1)  # requests that were on their way reach the server
    assert job.returncode == -signal.SIGKILL
    return {entry["cell"] for entry in entries(out) if not entry.get("check")}


@pytest.mark.slow
def test_a_restart_asks_for_exactly_the_cells_that_have_no_text_yet(tmp_path: Path) -> None:
    cell_of = {request(RECIPE, cell): cell.id for cell in make_cells(RECIPE, N_PER_CLASS, 0)}
    assert len(cell_of) == N
    asked: list[str] = []

    def script(number: int, body: dict[str, Any]) -> Any:
        asked.append(cell_of[body["messages"][0]["content"]])
        time.sleep(0.05)
        return completion(good_text(number))

    out = tmp_path / "data"
    with ScriptedServer(script) as server:
        there = kill_at(0.3, out, server)
        assert 0.3 * N <= len(there) < 0.6 * N
        asked.clear()
        more = kill_at(0.8, out, server)
        assert there < more
        assert 0.8 * N <= len(more) < N
        assert not there & set(asked)
        assert more - there <= set(asked)
        assert len(asked) == len(set(asked))
        asked.clear()
        last = start(out, server)
        _, said = last.communicate(timeout=60)
        assert last.returncode == 0, said.decode()
    assert sorted(asked) == sorted(set(cell_of.values()) - more)
    assert verify_folder(out) == []
    rows = [json.loads(line) for line in (out / f"sentiment_combined_{N}.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rows} == set(cell_of.values())
    assert len({row["text"] for row in rows}) == N
    assert {(row["backend"], row["model"], row["attempt"]) for row in rows} == {("openai", MODEL, 1)}


def test_an_interrupted_job_says_that_the_same_command_goes_on(tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Any:
        time.sleep(0.2)
        return completion(good_text(number))

    out = tmp_path / "data"
    with ScriptedServer(script) as server:
        job = start(out, server)
        give_up_s = time.monotonic() + 60
        while len(entries(out)) < 3 and job.poll() is None and time.monotonic() < give_up_s:
            time.sleep(0.01)
        job.send_signal(signal.SIGINT)
        _, said = job.communicate(timeout=60)
    assert job.returncode == 130
    assert said.decode().strip().splitlines()[-1] == (
        "strataprobe: interrupted; the same command goes on where this one stopped."
    )
    assert len(entries(out)) >= 3
