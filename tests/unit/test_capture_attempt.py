"""What an interrupted capture leaves to the next attempt, beside its shards: batches, limits, tokens, versions, the lock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import strataprobe.capture.attempt as attempt_module
from stage_runs import (
    BATCH_TOKENS,
    assert_same_vectors,
    counted,
    data_files,
    everything,
    interrupted,
    only_the_result,
    stage,
)
from strataprobe.capture.tokens import Tokenizer
from strataprobe.errors import StageError
from strataprobe.manifest import verify_folder
from strataprobe.models import load_model

TESTS = Path(__file__).resolve().parent.parent


def half_read(texts: Path, model: Any, out: Path, **options: Any) -> int:
    """An attempt that has read everything and then lost two batches: how many are left."""
    shards = interrupted("close_layers", texts, model, out, **options)
    for batch in (0, 2):
        (shards / f"{batch:06d}.safetensors").unlink()
    return len(list(shards.glob("*.safetensors")))


def test_texts_that_were_changed_on_disk_are_not_given_a_new_checksum_when_layers_are_added(
    texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    stage(texts, model, out, layers="1-2")
    rows = out / "texts.jsonl"
    written = rows.read_text("utf-8")
    rows.write_text(written.replace("rain", "pain"), "utf-8")
    for _ in range(2):
        with pytest.raises(StageError, match=r"texts.jsonl has other contents than were written"):
            stage(texts, model, out, layers="1-3")
    assert verify_folder(out) == ["texts.jsonl has other contents than were written (sha256 differs)."]
    rows.write_text(written, "utf-8")
    stage(texts, model, out, layers="1-3")
    only_the_result(out)


def test_the_batches_of_an_interrupted_attempt_are_kept_where_larger_ones_are_asked_for(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    half_read(texts, model, out)
    manifest = stage(texts, model, out, batch_tokens=4000)
    assert data_files(out) == whole
    assert manifest.details["batch_tokens"] == BATCH_TOKENS
    assert manifest.details["n_batches"] > 5
    assert "exactness" not in manifest.details
    said = f"batch-tokens: {BATCH_TOKENS} (that of the interrupted attempt, whose batches are kept)"
    assert said in capsys.readouterr().err


def test_smaller_batches_asked_for_after_an_interruption_are_read_in_parts_from_then_on(
    texts: Path, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model, shapes = tmp_path / "activations", load_model(llama_folder), list[int]()
    n_kept = half_read(texts, model, out)
    handle = model.blocks[0].register_forward_pre_hook(lambda _m, inputs: shapes.append(inputs[0].shape[:2].numel()))
    try:
        shards = interrupted("write_texts", texts, model, out, batch_tokens=80)
        assert "batch-tokens: 80 (batches of the interrupted attempt are read in parts)" in capsys.readouterr().err
        (shards / "000002.safetensors").unlink()
        manifest = stage(texts, model, out)  # the limit is remembered
    finally:
        handle.remove()
    assert 0 < max(shapes) <= 80
    assert n_kept == manifest.details["n_batches"] - 2
    assert manifest.details["batch_tokens"] == BATCH_TOKENS
    assert "went on with 80 tokens in a batch, not 160. Vectors agree" in manifest.details["exactness"]
    stage(texts, model, tmp_path / "undisturbed")
    assert_same_vectors(out, tmp_path / "undisturbed")


def test_an_attempt_that_has_read_nothing_leaves_no_batches_to_keep(
    texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    interrupted("check_space", texts, model, out, batch_tokens=4000)
    manifest = stage(texts, model, out)
    stage(texts, model, tmp_path / "whole")
    assert data_files(out) == data_files(tmp_path / "whole")
    assert manifest.details["batch_tokens"] == BATCH_TOKENS
    assert "exactness" not in manifest.details


def other_tokens(patch: pytest.MonkeyPatch) -> None:
    """From here on a tokenizer that gives each text's last token twice more."""
    real = Tokenizer.rows

    def rows(self: Tokenizer, *arguments: Any) -> Any:
        table = real(self, *arguments)
        table.ids[table.offsets[1:] - 1] = 5
        return table

    patch.setattr(Tokenizer, "rows", rows)


def test_texts_that_have_other_tokens_after_an_interruption_are_all_read_again(
    texts: Path, more_texts: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, model = tmp_path / "activations", load_model(llama_folder)
    n_kept = half_read(texts, model, out, evals={"snow": more_texts})
    other_tokens(monkeypatch)
    with counted(model) as passes:
        manifest = stage(texts, model, out, evals={"snow": more_texts})
    assert len(passes) == manifest.details["n_batches"] > n_kept
    assert "the tokenizer gives other tokens than before the interruption: main is read" in capsys.readouterr().err
    stage(texts, model, tmp_path / "anew", evals={"snow": more_texts})
    assert data_files(out) == data_files(tmp_path / "anew")
    assert "other tokens" not in capsys.readouterr().err


def test_layers_are_not_added_with_other_tokens(
    texts: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "activations"
    stage(texts, llama_folder, out, layers="1-2")
    before = everything(tmp_path)
    other_tokens(monkeypatch)
    with pytest.raises(StageError, match=r"captured from other tokens of the same texts .*choose another --out"):
        stage(texts, llama_folder, out, layers="1-3")
    assert everything(tmp_path) == before


def test_what_is_read_with_other_versions_after_an_interruption_is_said_and_recorded(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, model = tmp_path / "activations", load_model(llama_folder)
    half_read(texts, model, out, layers="1-3")
    versions = attempt_module.library_versions()
    with monkeypatch.context() as patch:
        patch.setattr(attempt_module, "library_versions", lambda: {**versions, "torch": "9.9"})
        details = stage(texts, model, out, layers="1-3").details
    assert f"capture: going on with torch 9.9, not {versions['torch']} as before" in capsys.readouterr().err
    assert f"went on with torch 9.9, not {versions['torch']}. Vectors agree" in details["exactness"]
    further = stage(texts, model, out).details
    assert further["exactness"] == details["exactness"]
    assert [made["layers"] for made in further["made_with"]] == [{"main": [0, 1, 2, 3]}, {"main": [4, 5, 6]}]
    assert {made["torch"] for made in further["made_with"]} == {versions["torch"]}
    assert {made["device"] for made in further["made_with"]} == {"cpu"}
    assert "going on with" not in capsys.readouterr().err
    assert data_files(out) == whole


def test_other_versions_after_everything_was_read_change_nothing(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    interrupted("close_layers", texts, model, out)
    monkeypatch.setattr(attempt_module, "library_versions", lambda: {"torch": "9.9"})
    assert "exactness" not in stage(texts, model, out, batch_tokens=20).details
    assert data_files(out) == whole


def test_what_is_remembered_and_damaged_is_a_sentence(texts: Path, llama_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "activations"
    remembered = interrupted("close_layers", texts, llama_folder, out).parent / "attempt.json"
    for content in ("{", '{"made": 1}', "[]"):
        remembered.write_text(content)
        with pytest.raises(StageError, match=r"attempt.json .*damaged.* delete") as error:
            stage(texts, llama_folder, out)
        assert "\n" not in str(error.value)


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
    assert_same_vectors(out, tmp_path / "undisturbed")
