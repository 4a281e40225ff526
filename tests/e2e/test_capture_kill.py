"""Killed with -9 at random moments, from the start to the end: the same command completes, and every byte is the same."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from forked_commands import Commands
from stage_runs import data_files, only_the_result, write_texts

SEED = 20


def state(out: Path) -> str:
    """How far an attempt has come."""
    if out.is_dir():
        return "in place"
    if list(out.with_name(f".{out.name}.partial").glob("*.h5")):
        return "closing"
    return "reading" if list(out.with_name(f".{out.name}.shards").rglob("*.safetensors")) else "beginning"


@pytest.mark.slow
def test_a_capture_killed_at_ten_random_moments_ends_with_the_same_bytes(
    more_texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    texts = write_texts(tmp_path / "texts.jsonl", 100)
    options = ("--suffix", " The word is", "--batch-tokens", 120, "--eval", f"snow={more_texts}", "--layers", "1-4")
    base = ("capture", "--data", texts, "--model", llama_folder, *options, "--keep-tokens")
    with Commands(tmp_path / "log", *base, "--out", tmp_path / "first" / "activations") as commands:
        took_s = []
        for name in ("whole", "again"):
            out = tmp_path / name / "activations"
            started_s = time.time()
            status, said = commands.run(*base, "--out", out)
            assert status == 0, said
            took_s.append((out / "manifest.json").stat().st_mtime - started_s)
        whole = data_files(out)
        n_killed, states = 0, set()
        for attempt in range(10):
            out = tmp_path / str(attempt) / "activations"
            moment_s = (attempt + rng.random()) / 9 * min(took_s)
            for again in range(1 + attempt % 2):  # every other attempt is killed once more on its way
                moment_s *= (1 - again) + again * rng.random()
                status, said = commands.run(*base, "--out", out, kill_after_s=moment_s)
                assert status in (-9, 0), said
                n_killed += status == -9
                states.add(state(out))
            status, said = commands.run(*base, "--out", out)
            assert status == 0, said
            assert data_files(out) == whole
            only_the_result(out)
    assert n_killed >= 10
    assert len(states) > 2, states
