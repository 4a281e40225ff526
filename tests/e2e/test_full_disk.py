"""A disk that runs full, at any point of a capture: one sentence, and the same command completes it once there is room.

The disk is a small file system in memory, which takes the right to mount one; the command believes that there is enough
space when it begins, as when something else fills the disk later.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import save_model
from forked_commands import Commands
from stage_runs import data_files, only_the_result, write_texts

PAGE = 4096
LARGE = 64 * 2**20
INNER = "STRATAPROBE_TEST_IN_OWN_NAME_SPACE"
Job = tuple[Commands, list[object], dict[str, bytes]]


def resize(place: Path, size_bytes: int, *first: str) -> bool:
    options = ",".join([*first, f"size={size_bytes}"])
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
    return done.returncode == 0


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """What runs commands, a capture without its --out, and the data files it makes."""
    work = tmp_path_factory.mktemp("job")
    model = save_model(work / "model", "llama", width=64)
    texts = write_texts(work / "texts.jsonl", 150)
    base = ["capture", "--data", texts, "--model", model, "--batch-tokens", 400, "--suffix", " is"]
    with Commands(work / "log", *base, "--out", work / "activations") as commands:
        yield commands, base, data_files(work / "activations")


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of its own; without the right to mount one, the test runs where it has it, if it can."""
    place = tmp_path / "disk"
    place.mkdir()
    if resize(place, LARGE):
        yield place
        subprocess.run(["umount", str(place)], check=True)
        return
    assert INNER not in os.environ, "a file system could be mounted here a moment ago"
    trial = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(place)]
    if shutil.which("unshare") is None or subprocess.run(trial, capture_output=True).returncode:
        pytest.skip("no right to mount a file system, and none to be given it by unshare -rm")
    test = f"{__file__}::{request.node.name}"
    inner = ["unshare", "-rm", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(inner, env={**os.environ, INNER: "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout, done.stdout
    pytest.skip("passed in a name space of its own, where a file system may be mounted")


def where(sentence: str) -> str:
    """Which kind of file did not fit, from the sentence."""
    kinds = {"attempt.json": "plan", "plan.npz": "plan", ".shards/": "shard", ".h5": "layer file"}
    kinds |= {"texts.jsonl": "texts", "manifest.json": "manifest"}
    named = sentence.split()[1]
    return next(kind for part, kind in kinds.items() if part in named)


@pytest.mark.slow
def test_a_capture_that_fills_the_disk_anywhere_is_completed_by_the_same_command(job: Job, disk: Path) -> None:
    commands, base, whole = job
    out = disk / "activations"
    seen: set[str] = set()

    def fits(n_pages: int) -> bool:
        """Whether the capture fits into so many pages; where it does not, it is completed when there are more."""
        assert resize(disk, n_pages * PAGE, "remount")
        status, said = commands.run(*base, "--out", out, said_to_be_free=LARGE)
        assert status in (0, 2), (status, said)
        if status == 2:
            sentence = said.splitlines()[-1]
            assert re.match(r"strataprobe: .*[Nn]o space left .*then run the same command again", sentence), said
            assert "Traceback" not in said
            assert not out.exists()
            kind = where(sentence)
            seen.add(kind)
            resize(disk, LARGE, "remount")
            again, said = commands.run(*base, "--out", out)
            assert again == 0, said
            assert ("150 of 150 texts were read before the interruption" in said) == (kind not in ("shard", "plan"))
        assert data_files(out) == whole
        only_the_result(out)
        for path in disk.iterdir():
            shutil.rmtree(path)
        return status == 0

    few, many = 60, 2 * sum(len(data) // PAGE + 1 for data in whole.values()) + 100
    assert not fits(1)
    assert not fits(few)
    assert fits(many)
    while many - few > 1:  # to the very last file: there the disk is full at the manifest
        middle = (few + many) // 2
        few, many = (few, middle) if fits(middle) else (middle, many)
    n_pages_of_texts = len(whole["texts.jsonl"]) // PAGE
    assert not fits(few - n_pages_of_texts // 2)
    assert not fits(few - n_pages_of_texts - 10)
    assert seen == {"plan", "shard", "layer file", "texts", "manifest"}


@pytest.mark.slow
def test_a_disk_too_small_is_said_before_the_first_batch(job: Job, disk: Path) -> None:
    commands, base, whole = job
    out = disk / "activations"
    assert resize(disk, 300_000, "remount")
    status, said = commands.run(*base, "--out", out)
    assert status == 2
    numbers = r"needs 0\.\d MB more on its disk .*, and 0\.3 MB are free: free some space, choose another --out"
    assert re.search(numbers, said), said
    assert list(disk.rglob("*.safetensors")) == []
    status, said = commands.run(*base, "--out", disk / "other", "--keep-tokens", "--layers", "1-2")
    assert status == 2
    tokens = r"--keep-tokens: the vectors of every token would take \d+\.\d MB, .* 0\.3 MB are free: ask for fewer"
    assert re.search(tokens, said), said
    resize(disk, LARGE, "remount")
    status, said = commands.run(*base, "--out", out)
    assert status == 0, said
    assert data_files(out) == whole
    only_the_result(out)
