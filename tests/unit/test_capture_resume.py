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

import numpy as np
import pytest
import safetensors.numpy
import torch

import strataprobe.capture.job as job_module
import strataprobe.manifest as manifest_module
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
from strataprobe.capture.shardfile import write_shard
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
            patch.setattr(manifest_module, "record_files", die)
            patch.setattr(job_module, "record_files", die)
        elif moment == "manifest":
            patch.setattr(manifest_module, "write_manifest", die)
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


def interrupted_before_closing(texts: Path, model: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An attempt that has read everything and closed nothing: the folder of its shards."""
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "close_layers", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            stage(texts, model, out)
    return out.with_name(".activations.shards") / "main"


@pytest.mark.parametrize("cut", [0, 5, 300, -4])
def test_a_shard_cut_short_is_read_again_and_no_other(
    cut: int,
    texts: Path,
    llama_folder: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    shards = interrupted_before_closing(texts, model, out, monkeypatch)
    for name in ("000001", "000003"):
        shard = shards / f"{name}.safetensors"
        shard.write_bytes(shard.read_bytes()[:cut])
    with counted(model) as passes:
        stage(texts, model, out)
    assert len(passes) == 2
    assert "capture: 2 batches on disk were damaged and are read again." in capsys.readouterr().err
    assert data_files(out) == whole
    only_the_result(out)


def test_a_shard_with_fewer_rows_than_its_batch_is_read_again(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    shard = interrupted_before_closing(texts, model, out, monkeypatch) / "000001.safetensors"
    write_shard(shard, {name: array[1:] for name, array in safetensors.numpy.load_file(shard).items()})
    with counted(model) as passes:
        stage(texts, model, out)
    assert len(passes) == 1
    assert data_files(out) == whole


def test_a_shard_damaged_while_closing_is_named_and_the_same_command_mends_it(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "activations"
    shard = out.with_name(".activations.shards") / "main" / "000001.safetensors"
    real = job_module.close_layers

    def damage(*arguments: Any) -> None:
        shard.write_bytes(shard.read_bytes()[:-40])
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(job_module, "close_layers", damage)
        with pytest.raises(StageError, match=r"000001.safetensors is damaged .*run the same command again"):
            stage(texts, llama_folder, out)
    assert not out.exists()
    stage(texts, llama_folder, out)
    assert data_files(out) == whole
    only_the_result(out)


def test_shards_without_their_plan_are_read_again(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    (interrupted_before_closing(texts, model, out, monkeypatch) / PLAN_NAME).unlink()
    with counted(model) as passes:
        stage(texts, model, out, batch_tokens=2 * BATCH_TOKENS)
    assert len(passes) > 3
    assert {p.name for p in out.iterdir()} == {*whole, "manifest.json"}
    only_the_result(out)


def test_a_plan_that_is_damaged_is_a_sentence(
    texts: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "activations"
    plan = interrupted_before_closing(texts, llama_folder, out, monkeypatch) / PLAN_NAME
    plan.write_bytes(plan.read_bytes()[:100])
    with pytest.raises(StageError, match=r"plan.npz is damaged .*: delete .*\.activations\.shards"):
        stage(texts, llama_folder, out)
    shutil.rmtree(out.with_name(".activations.shards"))
    stage(texts, llama_folder, out)
    only_the_result(out)


def test_the_batches_of_an_interrupted_attempt_are_kept_whatever_budget_is_asked_for(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    shards = interrupted_before_closing(texts, model, out, monkeypatch)
    for batch in (0, 2):
        (shards / f"{batch:06d}.safetensors").unlink()
    manifest = stage(texts, model, out, batch_tokens=4000)
    assert data_files(out) == whole
    assert manifest.details["batch_tokens"] == BATCH_TOKENS
    assert manifest.details["n_batches"] > 5


def test_after_an_out_of_memory_a_resumed_attempt_goes_on_with_smaller_batches_and_the_manifest_says_so(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    shapes: list[int] = []

    def too_large(_module: Any, inputs: Any) -> None:
        shapes.append(inputs[0].shape[0] * inputs[0].shape[1])
        if shapes[-1] > 100:
            raise torch.OutOfMemoryError("out of memory")
        if len(shapes) > 12:
            raise KeyboardInterrupt

    handle = model.blocks[2].register_forward_pre_hook(too_large)
    try:
        with pytest.raises(KeyboardInterrupt):
            stage(texts, model, out)
        assert "capture: out of memory with" in capsys.readouterr().err
        n_tried = len([n for n in shapes if n > 100])
        assert n_tried > 0
        shapes.clear()
        handle.remove()
        handle = model.blocks[2].register_forward_pre_hook(
            lambda _m, inputs: shapes.append(inputs[0].shape[:2].numel())
        )
        manifest = stage(texts, model, out)
    finally:
        handle.remove()
    assert max(shapes) <= 100
    assert manifest.details["out_of_memory_splits"] == n_tried
    assert "within the tolerance" in manifest.details["exactness"]
    files = data_files(out)
    assert sorted(files) == sorted(whole)
    undisturbed = stage(texts, model, tmp_path / "undisturbed")
    assert undisturbed.details["out_of_memory_splits"] == 0
    assert "exactness" not in undisturbed.details
    for layer in range(7):
        for split in ("train", "val", "test"):
            one, two = (ActivationFolder.open(path).read(layer, split) for path in (out, tmp_path / "undisturbed"))
            np.testing.assert_allclose(one.activations, two.activations, rtol=1e-4, atol=1e-5)
            assert one.ids == two.ids
