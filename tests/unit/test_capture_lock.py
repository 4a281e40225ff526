"""One writer at a time: other processes, and the thread that writes in the background."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from stage_runs import data_files, interrupted, only_the_result, shards_of, stage
from strataprobe.capture.corpus import Corpus
from strataprobe.capture.shards import ShardFolder
from strataprobe.errors import StageError
from strataprobe.models import load_model


@pytest.mark.parametrize("layers", [None, "1-2"])
def test_a_capture_that_another_process_has_finished_meanwhile_is_left_as_it_is(
    layers: str | None, texts: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model, real = tmp_path / "activations", load_model(llama_folder), Corpus.tokenize
    if layers:
        stage(texts, model, out, layers=layers)

    def meanwhile(self: Corpus, *arguments: Any) -> None:
        monkeypatch.setattr(Corpus, "tokenize", real)
        stage(texts, model, out, layers="1-4")
        real(self, *arguments)

    monkeypatch.setattr(Corpus, "tokenize", meanwhile)
    with pytest.raises(StageError, match="was changed meanwhile by another strataprobe: run the same command again"):
        stage(texts, model, out)
    only_the_result(out)
    stage(texts, model, out)
    only_the_result(out)


def lock_is_free(out: Path) -> bool:
    """Whether another process gets the lock on a folder."""
    code = "import sys; from pathlib import Path; from strataprobe.locks import take_lock; take_lock(Path(sys.argv[1]))"
    return subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True).returncode == 0


def test_an_attempt_that_failed_or_was_refused_keeps_no_lock(
    texts: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, free = tmp_path / "activations", list[bool]()
    real = ShardFolder.write

    def write(*arguments: Any) -> None:
        if not free:
            free.append(lock_is_free(out))
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ShardFolder, "write", write)
        interrupted("close_layers", texts, llama_folder, out)
    assert free == [False]
    assert lock_is_free(out)
    with pytest.raises(StageError, match="holds an unfinished 'capture'"):
        stage(texts, llama_folder, out, suffix="?")
    assert lock_is_free(out)


def test_a_second_interruption_leaves_a_batch_being_written_to_its_thread_alone(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    go, writing, writers, real = threading.Event(), threading.Event(), list[threading.Thread](), ShardFolder.write

    def slow(*arguments: Any) -> None:
        writers.append(threading.current_thread())
        writing.set()
        assert go.wait(10)
        real(*arguments)

    def interrupt(*_: Any) -> None:
        if writers or writing.wait(0.2):
            raise KeyboardInterrupt

    def impatient(_thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    handle = model.blocks[0].register_forward_pre_hook(interrupt)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(ShardFolder, "write", slow)
            patch.setattr(threading.Thread, "join", impatient)
            with pytest.raises(KeyboardInterrupt):
                stage(texts, model, out)
            assert threading.current_thread() not in writers
    finally:
        handle.remove()
        go.set()
    for thread in writers:
        thread.join()
    assert len(shards_of(out)) == 1
    stage(texts, model, out)
    assert data_files(out) == whole
