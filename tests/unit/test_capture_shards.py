"""Shards that are not as they were written: read again, and never taken for others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import strataprobe.capture.job as job_module
from stage_runs import (
    BATCH_TOKENS,
    assert_same_vectors,
    counted,
    data_files,
    interrupted,
    only_the_result,
    stage,
)
from strataprobe.capture.shardfile import write_shard
from strataprobe.capture.shards import PLAN_NAME
from strataprobe.errors import StageError
from strataprobe.models import load_model


@pytest.mark.parametrize("cut", [0, 5, 300, -4])
def test_a_shard_cut_short_is_read_again_and_no_other(
    cut: int,
    texts: Path,
    llama_folder: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    shards = interrupted("close_layers", texts, model, out)
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
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    shard = interrupted("close_layers", texts, model, out) / "000001.safetensors"
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
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    (interrupted("close_layers", texts, model, out) / PLAN_NAME).unlink()
    with counted(model) as passes:
        stage(texts, model, out, batch_tokens=2 * BATCH_TOKENS)
    assert len(passes) > 3
    assert {p.name for p in out.iterdir()} == {*whole, "manifest.json"}
    only_the_result(out)
    stage(texts, model, tmp_path / "undisturbed")
    assert_same_vectors(out, tmp_path / "undisturbed")


def test_a_plan_that_is_damaged_is_a_sentence(texts: Path, llama_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "activations"
    plan = interrupted("close_layers", texts, llama_folder, out) / PLAN_NAME
    plan.write_bytes(plan.read_bytes()[:100])
    with pytest.raises(StageError, match=r"plan.npz is damaged .*: delete .*\.activations\.shards"):
        stage(texts, llama_folder, out)
    shutil.rmtree(out.with_name(".activations.shards"))
    stage(texts, llama_folder, out)
    only_the_result(out)


@pytest.mark.parametrize("name", ["last.3", "mean.0", "tokens.1", "zero_shot"])
@pytest.mark.parametrize("how", ["missing", "too many", "cut"])
def test_a_shard_with_other_arrays_than_were_asked_for_is_read_again(
    name: str, how: str, texts: Path, llama_folder: Path, tmp_path: Path, kept: dict[str, bytes]
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    shard = interrupted("close_layers", texts, model, out, layers="1-6", keep_tokens=True) / "000002.safetensors"
    arrays = safetensors.numpy.load_file(shard)
    if how == "missing":
        del arrays[name]
    elif how == "cut":
        arrays[name] = arrays[name][1:]
    else:
        arrays[f"{name}1"] = arrays[name]
    write_shard(shard, arrays)
    with counted(model) as passes:
        stage(texts, model, out, layers="1-6", keep_tokens=True)
    assert len(passes) == 1
    assert data_files(out) == kept


@pytest.fixture(scope="module")
def kept(texts: Path, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The data files of an uninterrupted capture with every token."""
    out = tmp_path_factory.mktemp("kept") / "activations"
    stage(texts, llama_folder, out, layers="1-6", keep_tokens=True)
    return data_files(out)


@pytest.mark.parametrize("other", ["mean.7", None])
def test_a_shard_that_gets_other_arrays_while_closing_is_named(
    other: str | None, texts: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "activations"
    shard = out.with_name(".activations.shards") / "main" / "000001.safetensors"
    real = job_module.close_layers

    def change(*arguments: Any) -> None:
        arrays = safetensors.numpy.load_file(shard)
        vectors = arrays.pop("mean.4")
        write_shard(shard, arrays if other is None else {**arrays, other: vectors})
        real(*arguments)

    monkeypatch.setattr(job_module, "close_layers", change)
    with pytest.raises(
        StageError, match=r"000001.safetensors is damaged \(it holds other arrays .*run the same command"
    ):
        stage(texts, llama_folder, out)


def test_a_damaged_shard_that_cannot_be_removed_is_a_sentence(
    texts: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    shard = interrupted("close_layers", texts, model, out) / "000001.safetensors"
    shard.write_bytes(b"")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self == shard:
            raise PermissionError(13, "Permission denied")
        os.remove(self) if self.exists() else None

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StageError, match=r"000001.safetensors is damaged and could not be removed .Permission denied"):
        stage(texts, model, out)


def test_a_shard_is_flushed_to_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "000000.safetensors", list[str]()
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(f"flush {os.fstat(file).st_size}"), flush(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), rename(*paths)))
    write_shard(path, {"mean.1": np.ones((3, 2), np.float32)})
    assert done == [f"flush {path.stat().st_size}", "rename"]
