"""A capture interrupted or added to: nothing is read twice, and the bytes are those of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import strataprobe.capture.job as job_module
import strataprobe.stagefolder as stagefolder_module
from plain_hook import SUFFIX
from stage_runs import (
    BATCH_TOKENS,
    Killed,
    counted,
    data_files,
    everything,
    only_the_result,
    refused,
    shards_of,
    stage,
)
from strataprobe.capture.shards import PLAN_NAME, Plan, ShardFolder
from strataprobe.errors import StageError
from strataprobe.models import load_model
from strataprobe.store import ActivationFolder

TESTS = Path(__file__).resolve().parent.parent


SLOW_CAPTURE = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from strataprobe.capture.run import capture_stage
from strataprobe.models import load_model
model = load_model(sys.argv[3])
model.blocks[0].register_forward_pre_hook(lambda *_: time.sleep(0.15))
capture_stage(Path(sys.argv[2]), model, Path(sys.argv[4]), suffix=sys.argv[5], batch_tokens=int(sys.argv[6]))
"""


def test_a_capture_killed_in_the_middle_goes_on_at_its_next_batch(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "activations"
    arguments = [str(TESTS), str(texts), str(llama_folder), str(out), SUFFIX, str(BATCH_TOKENS)]
    process = subprocess.Popen([sys.executable, "-c", SLOW_CAPTURE, *arguments], stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 120
        while len(shards_of(out)) < 4 and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    done = shards_of(out)
    model = load_model(llama_folder)
    plan = Plan.read(out.with_name(".activations.shards") / "main" / PLAN_NAME)
    assert 4 <= len(done) < len(plan) - 2
    assert not out.exists()

    kept: dict[str, int] = {}
    with counted(model, lambda: kept.update(shards_of(out))) as passes:
        stage(texts, model, out)
    assert len(passes) == len(plan) - len(done)
    assert {name: kept[name] for name in done} == done
    assert data_files(out) == whole
    only_the_result(out)


@pytest.mark.parametrize("moment", ["closing", "recording", "manifest", "renaming", "renamed"])
@pytest.mark.parametrize("extending", [False, True])
def test_a_capture_killed_after_its_last_batch_reads_nothing_again(
    moment: str,
    extending: bool,
    texts: Path,
    llama_folder: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    if extending:
        stage(texts, model, out, layers="1-3")

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    def die_at_third(*arguments: Any, **columns: Any) -> None:
        if "layer_5" in str(arguments[0]):
            raise Killed
        real_write(*arguments, **columns)

    import strataprobe.capture.close as close_module

    real_write = close_module.write_layer_file
    with monkeypatch.context() as patch:
        if moment == "closing":
            patch.setattr(close_module, "write_layer_file", die_at_third)
        elif moment == "recording":
            patch.setattr(stagefolder_module, "record_files", die)
            patch.setattr(job_module, "record_files", die)
        elif moment == "manifest":
            patch.setattr(stagefolder_module, "write_manifest", die)
            patch.setattr(job_module, "write_manifest", die)
        else:
            real_replace = os.replace

            def replace(source: Any, target: Any) -> None:
                last = Path(target) == (out / "layer_5_activations.h5" if extending else out)
                if last and moment == "renaming":
                    raise Killed
                real_replace(source, target)
                if last:
                    raise Killed

            patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            stage(texts, model, out)
    with counted(model) as passes:
        stage(texts, model, out)
    assert passes == []
    assert data_files(out) == whole
    only_the_result(out)


def test_a_kill_after_everything_is_in_place_leaves_nothing_behind_at_the_next_run(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    shards, real = out.with_name(".activations.shards"), shutil.rmtree

    def rmtree(path: Path, **options: Any) -> None:
        if path == shards and path.is_dir():
            raise Killed
        real(path, **options)

    for layers in ("1-3", "1-6"):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", rmtree)
            with pytest.raises(Killed):
                stage(texts, model, out, layers=layers)
        assert out.is_dir()
        stage(texts, model, out, layers=layers)
        only_the_result(out)
    assert data_files(out) == whole


def test_the_lock_of_a_process_killed_in_its_last_moment_is_removed_at_the_next_run(
    texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    stage(texts, model, out)
    (tmp_path / ".activations.lock").touch()
    stage(texts, model, out)
    only_the_result(out)


def test_layers_asked_for_later_are_captured_alone_and_the_set_is_as_if_captured_at_once(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    stage(texts, model, out, layers="1-3")
    assert ActivationFolder.open(out).layers == [0, 1, 2, 3]
    before = everything(out)
    written: list[str] = []
    real = ShardFolder.write
    monkeypatch.setattr(
        ShardFolder, "write", lambda self, b, r: (written.extend(f"{k}" for _, k in r.vectors), real(self, b, r))[1]
    )
    stage(texts, model, out, layers="1-6")
    assert set(written) == {"4", "5", "6"}
    after = everything(out)
    for layer in range(4):
        assert after[f"layer_{layer}_activations.h5"] == before[f"layer_{layer}_activations.h5"]
    assert data_files(out) == whole
    only_the_result(out)


def test_eval_texts_may_be_added_later_and_are_kept_apart(
    texts: Path, more_texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    at_once, later = tmp_path / "one" / "activations", tmp_path / "two" / "activations"
    stage(texts, llama_folder, at_once, evals={"snow": more_texts})
    stage(texts, llama_folder, later)
    before = everything(later)
    stage(texts, llama_folder, later, evals={"snow": more_texts})
    assert data_files(later) == data_files(at_once)
    after = everything(later)
    assert all(after[name] == before[name] for name in before if name.endswith("activations.h5"))
    assert {n: b for n, b in data_files(later).items() if n in whole and n != "texts.jsonl"} == {
        n: b for n, b in whole.items() if n != "texts.jsonl"
    }
    folder = ActivationFolder.open(later)
    assert folder.eval_names == ["snow"]
    rows = folder.read_eval(3, "snow")
    assert rows.activations.shape == (9, folder.d_model)
    assert rows.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    splits = [row["split"] for row in folder.texts()]
    assert splits[:30] == [row["split"] for row in map(json.loads, whole["texts.jsonl"].decode().splitlines())]
    assert splits[30:] == ["eval_snow"] * 9
    only_the_result(later)


def test_an_unfinished_capture_is_not_mixed_with_other_options(
    texts: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "activations"
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "close_layers", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            stage(texts, llama_folder, out)
    refused(StageError, r"holds an unfinished 'capture'.*suffix", tmp_path, texts, llama_folder, out, suffix="?")
    stage(texts, llama_folder, out)
    only_the_result(out)


def test_a_full_disk_is_a_sentence_and_finished_batches_are_kept(
    texts: Path, llama_folder: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import strataprobe.capture.shards as shards_module

    out = tmp_path / "activations"
    real = shards_module.write_shard

    def full(path: Path, arrays: Any) -> None:
        if "000003" in path.name:
            raise OSError(28, "No space left on device")
        real(path, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "write_shard", full)
        with pytest.raises(StageError, match="free some space, then run the same command again"):
            stage(texts, llama_folder, out)
    assert sorted(shards_of(out)) == [f"00000{i}.safetensors" for i in range(3)]
    stage(texts, llama_folder, out)
    assert data_files(out) == whole


def test_a_full_disk_while_layers_are_added_is_a_sentence_and_reads_nothing_again(
    texts: Path, llama_folder: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    stage(texts, model, out, layers="1-3")
    real = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if "layer_5" in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)

    def no_links(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", no_links)
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(StageError, match=r"layer_5_activations.h5 could not be written .*free some space"):
            stage(texts, model, out)
    with counted(model) as passes:
        stage(texts, model, out)
    assert passes == []
    assert data_files(out) == whole
    only_the_result(out)
