"""Every token's vector kept: they are those the readouts come from, and what is written is the same each time."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import strataprobe.capture.close as close_module
import strataprobe.capture.space as space_module
from plain_hook import SUFFIX
from stage_runs import Killed, data_files, only_the_result, refused, stage
from strataprobe.capture.shards import ShardFolder
from strataprobe.errors import OptionError, StageError
from strataprobe.models import load_model
from strataprobe.store import ActivationFolder, Activations

READOUTS = ["last", "mean", "last-text"]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def kept(texts: Path, more_texts: Path, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted capture with every token of layers 0, 1, 2 and 5."""
    out = tmp_path_factory.mktemp("kept") / "activations"
    options: dict[str, Any] = {"layers": "1-2,5", "evals": {"snow": more_texts}, "readouts": READOUTS}
    stage(texts, llama_folder, out, prefix="Text: ", keep_tokens=True, **options)
    return out


def test_there_is_a_further_file_for_each_layer_captured(kept: Path) -> None:
    names = {p.name for p in kept.glob("*_tokens*")}
    assert names == {f"layer_{k}_tokens{end}.h5" for k in (0, 1, 2, 5) for end in ("", "_eval_snow")}
    folder = ActivationFolder.open(kept)
    assert (folder.layers, folder.eval_names) == ([0, 1, 2, 5], ["snow"])
    only_the_result(kept)


def test_the_readouts_are_found_again_among_the_tokens(kept: Path) -> None:
    folder = ActivationFolder.open(kept)
    n_texts = 0
    for layer in (1, 2, 5):
        for split, eval_name in (("train", None), ("val", None), ("test", None), ("eval", "snow")):
            tokens = folder.read_tokens(layer, split, eval_name)
            read = {
                r: folder.read_eval(layer, eval_name, r) if eval_name else folder.read(layer, split, r)
                for r in READOUTS
            }
            n_texts += len(tokens.ids)
            assert tokens.ids == read["mean"].ids
            assert tokens.groups == read["mean"].groups
            np.testing.assert_array_equal(tokens.labels, read["mean"].labels)
            for i, vectors in enumerate(tokens.activations):
                own = slice(tokens.own_start[i], tokens.own_end[i])
                np.testing.assert_array_equal(vectors[-1], read["last"].activations[i])
                np.testing.assert_array_equal(vectors[own][-1], read["last-text"].activations[i])
                np.testing.assert_allclose(vectors[own].mean(0), read["mean"].activations[i], rtol=1e-5, atol=1e-6)
                assert not np.array_equal(vectors[own][0], vectors[own][-1]) or len(vectors[own]) == 1
    assert n_texts == 3 * 39


def test_the_token_ids_are_those_of_the_whole_string(kept: Path, llama_folder: Path) -> None:
    tokenizer, folder = load_model(llama_folder).tokenizer, ActivationFolder.open(kept)
    strings = {row["id"]: f"Text: {row['text']}{SUFFIX}" for row in folder.texts() if row["split"] == "train"}
    tokens = folder.read_tokens(5, "train")
    assert list(strings) == tokens.ids
    for name, token_ids, vectors in zip(tokens.ids, tokens.token_ids, tokens.activations, strict=True):
        assert token_ids.tolist() == tokenizer(strings[name])["input_ids"]
        assert vectors.shape == (len(token_ids), folder.d_model)
        assert (vectors.dtype, token_ids.dtype) == (np.float32, np.int64)


def test_the_file_is_laid_out_as_promised(kept: Path) -> None:
    with h5py.File(kept / "layer_5_tokens.h5") as file, h5py.File(kept / "layer_5_activations.h5") as beside:
        assert {**file.attrs, "readouts": 0, "label_names": 0} == {**beside.attrs, "readouts": 0, "label_names": 0}
        assert list(file.attrs["readouts"]) == ["tokens"]
        for split in ("train", "val", "test"):
            group, n = file[split], len(beside[split]["labels"])
            n_tokens = group["offsets"][-1]
            expected = {"offsets": n + 1, "own_start": n, "own_end": n, "labels": n, "ids": n, "groups": n}
            expected |= {"activations": n_tokens, "token_ids": n_tokens}
            assert {name: len(group[name]) for name in group} == expected
            assert group["activations"].dtype == np.float32
            assert {group[m].dtype for m in ("offsets", "own_start", "own_end", "token_ids")} == {np.dtype(np.int64)}
            assert {group[name].chunks for name in group} == {None}


@pytest.mark.parametrize("moment", ["reading", "closing"])
def test_an_interrupted_capture_of_tokens_ends_with_the_same_bytes(
    moment: str, kept: Path, texts: Path, more_texts: Path, llama_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, model = tmp_path / "activations", load_model(llama_folder)
    options: dict[str, Any] = {"layers": "1-2,5", "evals": {"snow": more_texts}, "readouts": READOUTS}
    options |= {"prefix": "Text: ", "keep_tokens": True}
    owner, name = (ShardFolder, "write") if moment == "reading" else (close_module, "write_layer_file")
    real, calls = getattr(owner, name), list[int]()

    def die(*arguments: Any, **more: Any) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise Killed
        real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(Killed):
            stage(texts, model, out, **options)
    stage(texts, model, out, **options)
    assert data_files(out) == data_files(kept)
    only_the_result(out)


def test_layers_may_be_added_with_their_tokens(kept: Path, texts: Path, llama_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "activations"
    options: dict[str, Any] = {"readouts": READOUTS, "prefix": "Text: ", "keep_tokens": True}
    stage(texts, llama_folder, out, layers="1", **options)
    stage(texts, llama_folder, out, layers="1-2,5", **options)
    mine, theirs = data_files(out), data_files(kept)
    assert {name for name in theirs if "eval" not in name} == set(mine)
    assert [name for name in mine if name.endswith(".h5") and mine[name] != theirs[name]] == []


def test_tokens_of_the_embeddings_are_kept_with_those_of_any_layer(
    texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    stage(texts, llama_folder, tmp_path / "activations", layers="1", keep_tokens=True)
    before = data_files(tmp_path / "activations")
    stage(texts, llama_folder, tmp_path / "activations", layers="0-1", keep_tokens=True)
    assert data_files(tmp_path / "activations") == before
    folder = ActivationFolder.open(tmp_path / "activations")
    tokens = folder.read_tokens(0, "val")
    for i, vectors in enumerate(tokens.activations):
        own = vectors[tokens.own_start[i] : tokens.own_end[i]]
        np.testing.assert_allclose(own.mean(0), folder.read(0, "val").activations[i], rtol=1e-5, atol=1e-7)


def test_a_folder_with_tokens_and_one_without_are_not_mixed(
    kept: Path, texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "activations"
    shutil.copytree(kept, out)
    options: dict[str, Any] = {"layers": "1-2,5", "readouts": READOUTS, "prefix": "Text: "}
    refused(
        StageError, "made from something else .keep_tokens true there", tmp_path, texts, llama_folder, out, **options
    )
    plain = tmp_path / "plain"
    stage(texts, llama_folder, plain, layers="1")
    refused(StageError, "keep_tokens nothing there", tmp_path, texts, llama_folder, plain, layers="1", keep_tokens=True)
    with pytest.raises(StageError, match=r"layer_1_tokens.h5 is missing: capture with --keep-tokens"):
        ActivationFolder.open(plain).read_tokens(1, "train")


def test_a_damaged_token_file_and_an_unknown_split_are_sentences(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "activations"
    shutil.copytree(kept, out)
    folder = ActivationFolder.open(out)
    with pytest.raises(StageError, match=r"has no dev, only test, train, val"):
        folder.read_tokens(1, "dev")
    file = out / "layer_1_tokens.h5"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(StageError, match=r"layer_1_tokens.h5 cannot be read .*capture it again"):
        folder.read_tokens(1, "train")


def test_tokens_that_would_take_more_than_half_the_free_disk_are_refused_before_reading(
    texts: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    n_tokens = stage(texts, model, tmp_path / "count", layers="1").details["captured"]["main"]["n_tokens"]
    tokens_bytes = 4 * 32 * 7 * n_tokens

    def free(n_bytes: int) -> None:
        monkeypatch.setattr(space_module.shutil, "disk_usage", lambda _: Usage(10**12, 0, n_bytes))

    free(2 * tokens_bytes - 1)
    with pytest.raises(OptionError, match=r"--keep-tokens: the vectors of every token would take \d\.\d MB, .* fewer"):
        stage(texts, model, out, keep_tokens=True)
    free(2 * tokens_bytes + 1)
    with pytest.raises(StageError, match=r"activations needs \d\.\d MB more on its disk .*, and \d\.\d MB are free"):
        stage(texts, model, out, keep_tokens=True)
    assert not list(tmp_path.rglob("*.safetensors"))
    stage(texts, model, tmp_path / "without")
    free(3 * tokens_bytes)
    stage(texts, model, out, keep_tokens=True)
    only_the_result(out)


def test_what_an_interrupted_attempt_holds_is_not_needed_again(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    enough_bytes = sum(map(len, whole.values())) + 30 * 32 * 4 * (1 + 6 * 2)  # all files, and the vectors once more

    def free(n_bytes: int) -> None:
        monkeypatch.setattr(space_module.shutil, "disk_usage", lambda _: Usage(10**12, 0, n_bytes))

    free(enough_bytes)
    with pytest.raises(StageError, match="MB more on its disk"):
        stage(texts, model, out)
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setattr("strataprobe.capture.job.close_layers", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            stage(texts, model, out)
    free(enough_bytes)
    stage(texts, model, out)
    assert data_files(out) == whole


def test_tokens_in_memory_are_given_by_layer() -> None:
    arrays = {("last", 1): np.zeros((2, 3), np.float32)}
    tokens = [np.ones((4, 3), np.float32), np.ones((2, 3), np.float32)]
    assert Activations(arrays, ["last"], {}, {1: tokens}).tokens(1) is tokens
    with pytest.raises(
        OptionError, match=r"tokens of layer 1 were not kept; there are those of none: .*keep_tokens=True"
    ):
        Activations(arrays, ["last"], {}).tokens(1)
