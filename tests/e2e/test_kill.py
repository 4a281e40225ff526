"""Killed with -9 in generate, in capture and in train: the same command completes, and every data file is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from builders import save_model
from demo import STRATAPROBE, command_line, in_process
from strataprobe.generate.ledger import LEDGER_NAME

DATA_FILES = (".jsonl", ".h5", ".pth", ".safetensors")


def data_files(folder: Path) -> dict[str, bytes]:
    """Bytes of the files that must not depend on an interruption, by path; audit, manifests and metrics are exempt."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix in DATA_FILES)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def kill_when(command: list[str], ready: Callable[[], bool]) -> None:
    """Start the command in a process group of its own and kill the group with -9 as soon as ``ready``."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, env={**os.environ}
    )
    deadline_s = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, (
            f"it ended before it could be killed: {process.stderr and process.stderr.read()!r}"
        )
        assert time.monotonic() < deadline_s
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stderr:
        process.stderr.close()


def n_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_with_the_same_bytes(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "gemma3_text", 4)
    base = ["run", "sentiment", "--model", str(model), "--n-per-class", "120", "--batch-tokens", "512"]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    done = command_line(*base, "--out", whole)
    assert done.returncode == 0, done.stderr
    command = [STRATAPROBE, *base, "--out", str(out)]

    accepted = out / ".data.partial" / LEDGER_NAME
    kill_when(command, lambda: n_lines(accepted) >= 40)
    n_accepted = n_lines(accepted)
    assert not (out / "data").exists()

    shards = out / ".activations.shards" / "main"
    kill_when(command, lambda: len(list(shards.glob("0*.safetensors"))) >= 8)
    kept = {p.name: p.stat().st_mtime_ns for p in shards.glob("0*.safetensors")}
    assert 8 <= len(kept) < 240
    assert n_accepted < 240
    assert (out / "data").exists()
    assert not (out / "activations").exists()

    fitted = out / ".probes.partial" / ".done"
    kill_when(command, lambda: len(list(fitted.glob("*.safetensors"))) >= 2)
    assert (out / "activations").exists()
    assert not (out / "probes").exists()

    done = command_line(*base, "--out", out)
    assert done.returncode == 0, done.stderr
    mine, theirs = data_files(out), data_files(whole)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []
    assert [p for p in out.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
def test_the_same_seed_gives_the_same_files_in_two_processes(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "gpt2", 2)
    found = []
    for name, runner in (("a", in_process), ("b", partial(command_line, PYTHONHASHSEED="7"))):
        options = ("--model", model, "--n-per-class", 60, "--seed", 5, "--out", tmp_path / name)
        done = runner("run", "sentiment", *options)
        assert done.returncode == 0, done.stderr
        found.append(data_files(tmp_path / name))
    assert found[0] == found[1]
    assert len(found[0]) > 10
