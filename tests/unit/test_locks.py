"""One writer a folder: also when the one before removes its lock at that very moment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import strataprobe.locks as locks
from stage_runs import only_the_result, stage
from strataprobe.errors import StageError
from strataprobe.locks import release_lock, take_lock

TAKE = "import sys; from pathlib import Path; from strataprobe.locks import take_lock; take_lock(Path(sys.argv[1]))"


def _other_may_take(out: Path) -> bool:
    done = subprocess.run([sys.executable, "-c", TAKE, str(out)], capture_output=True, text=True)
    assert done.returncode == 0 or "another strataprobe is writing" in done.stderr, done.stderr
    return done.returncode == 0


def test_a_lock_keeps_others_away_until_it_is_released(tmp_path: Path) -> None:
    out = tmp_path / "activations"
    take_lock(out)
    take_lock(out)
    assert not _other_may_take(out)
    release_lock(out)
    assert list(tmp_path.iterdir()) == []
    assert _other_may_take(out)


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_lock_whose_file_was_removed_before_it_was_locked_is_taken_again(
    made_anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, lockf, opened = tmp_path / "activations", locks.fcntl.lockf, []

    def removed_meanwhile(descriptor: int, how: int) -> None:
        opened.append(descriptor)
        if len(opened) == 1:
            file = tmp_path / ".activations.lock"
            file.unlink()
            if made_anew:
                file.touch()
        lockf(descriptor, how)

    monkeypatch.setattr(locks.fcntl, "lockf", removed_meanwhile)
    take_lock(out)
    try:
        assert len(opened) == 2
        assert not _other_may_take(out)
    finally:
        release_lock(out)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_stable_numbers_is_locked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "activations"
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "samestat", lambda *_: False)
        take_lock(out)
    assert not _other_may_take(out)
    release_lock(out)
    assert _other_may_take(out)


@contextmanager
def held_by_another(out: Path) -> Iterator[None]:
    held = f"{TAKE}; print('held', flush=True); sys.stdin.read()"
    command: list[Any] = [sys.executable, "-c", held, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        yield
        other.communicate("")


def test_a_lock_that_another_holds_is_a_sentence(tmp_path: Path) -> None:
    out = tmp_path / "activations"
    with (
        held_by_another(out),
        pytest.raises(StageError, match=r"another strataprobe is writing .*activations: wait for it, or choose"),
    ):
        take_lock(out)
    take_lock(out)
    release_lock(out)


def test_a_capture_removes_nothing_of_another_that_is_about_to_begin(
    texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "activations"
    work, shards = tmp_path / ".activations.partial", tmp_path / ".activations.shards"
    for folder in (work, shards):
        folder.mkdir()
        (folder / "left").touch()
    with held_by_another(out), pytest.raises(StageError, match="another strataprobe is writing"):
        stage(texts, llama_folder, out, layers="1")
    assert (work / "left").exists()
    assert (shards / "left").exists()
    stage(texts, llama_folder, out, layers="1")
    only_the_result(out)
