"""The capture stage on disk: the same bytes each time, refusals, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders import save_model, tiny_model
from stage_runs import (
    BATCH_TOKENS,
    counted,
    data_files,
    everything,
    only_the_result,
    refused,
    shards_of,
    stage,
)
from strataprobe.capture.batches import CPU_BATCH_TOKENS
from strataprobe.capture.job import most_in_host_memory
from strataprobe.capture.run import capture_stage
from strataprobe.errors import DataError, ModelError, NonFiniteError, OptionError, StageError
from strataprobe.models import load_model
from strataprobe.store import ActivationFolder


def test_two_captures_give_the_same_bytes(
    texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    stage(texts, str(llama_folder), tmp_path / "elsewhere" / "activations")
    again = data_files(tmp_path / "elsewhere" / "activations")
    assert sorted(again) == [*(f"layer_{k}_activations.h5" for k in range(7)), "texts.jsonl"]
    assert again == whole
    only_the_result(tmp_path / "elsewhere" / "activations")


def test_a_finished_capture_is_not_done_again(texts: Path, tmp_path: Path) -> None:
    model = load_model(*tiny_model("llama"))
    out = tmp_path / "activations"
    with counted(model) as passes:
        first = stage(texts, model, out)
    assert 5 < len(passes) < 20
    before = everything(tmp_path)
    with counted(model) as passes:
        assert stage(texts, model, out).files == first.files
        assert stage(texts, model, out, layers="2").files == first.files
    assert passes == []
    assert everything(tmp_path) == before


def test_other_texts_another_model_or_other_options_are_refused_and_nothing_changes(
    texts: Path, more_texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "activations"
    stage(texts, llama_folder, out, layers="1-2", evals={"snow": more_texts})
    other = save_model(tmp_path / "other", "llama", n_layers=6, seed=1)
    made = "made from something else"
    refused(StageError, f"{made} .texts_sha256", tmp_path, more_texts, llama_folder, out)
    refused(StageError, f"{made} .model_revision", tmp_path, texts, other, out, layers="1-4")
    for name, option in {
        "suffix": {"suffix": " other"},
        "prefix": {"prefix": "Text: "},
        "readouts": {"readouts": ["mean"]},
        "max_tokens": {"max_tokens": 100},
        "dtype": {"dtype": "bfloat16"},
        "template": {"template": "chat"},
    }.items():
        refused(StageError, f"{made} .*{name} ", tmp_path, texts, llama_folder, out, **option)
    refused(
        StageError, "'snow' was captured from other texts", tmp_path, texts, llama_folder, out, evals={"snow": texts}
    )
    assert stage(texts, llama_folder, out, layers="1-2", evals={"snow": more_texts}).stage == "capture"


def test_a_folder_of_the_users_own_files_is_left_alone(texts: Path, llama_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "activations"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    refused(StageError, "has no manifest.json", tmp_path, texts, llama_folder, out)


def test_bad_options_and_eval_texts_are_refused_before_anything_is_written(
    texts: Path, more_texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "activations"
    third = tmp_path / "third.jsonl"
    third.write_text('{"text": "x", "label": "neutral"}\n')
    refused(OptionError, "layers 1 to 6", tmp_path, texts, llama_folder, out, layers="5-9")
    refused(OptionError, "cannot be read: write them like", tmp_path, texts, llama_folder, out, layers="5..9")
    refused(OptionError, "name may hold only", tmp_path, texts, llama_folder, out, evals={"a/b": more_texts})
    refused(DataError, "has the class 'neutral'", tmp_path, texts, llama_folder, out, evals={"third": third})
    refused(OptionError, "readout 'first'", tmp_path, texts, llama_folder, out, readouts=["first"])
    refused(OptionError, "--dtype 'float16' cannot be used", tmp_path, texts, llama_folder, out, dtype="float16")
    refused(OptionError, "--device 'tpu9' is not a device", tmp_path, texts, llama_folder, out, device="tpu9")
    assert not out.exists()


@pytest.mark.parametrize("value", ["0", "-3", "many", 0])
def test_a_token_budget_that_is_no_positive_number_is_refused(
    value: Any, texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="neither 'auto' nor a positive whole number"):
        stage(texts, llama_folder, tmp_path / "activations", batch_tokens=value)


def test_a_value_that_is_not_finite_stops_the_capture_and_writes_no_row_of_its_batch(
    texts: Path, llama_folder: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)

    n_passes: list[int] = []

    def spoil(_module: Any, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        n_passes.append(1)
        bad = hidden * float("inf") if len(n_passes) > 3 else hidden
        return (bad, *output[1:]) if isinstance(output, tuple) else bad

    handle = model.blocks[4].register_forward_hook(spoil)
    try:
        with pytest.raises(ModelError, match=r"layer 5 \(last\) of tiny-llama is not finite for text '0000\d\d' in"):
            stage(texts, model, out)
    finally:
        handle.remove()
    assert not out.exists()
    assert len(shards_of(out)) == 3
    stage(texts, model, out)
    assert data_files(out) == whole


def test_after_a_value_that_is_not_finite_another_dtype_may_begin_anew(
    texts: Path, llama_folder: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out, model = tmp_path / "activations", load_model(llama_folder)
    handle = model.blocks[1].register_forward_hook(lambda _m, _a, out: torch.full_like(out, float("nan")))
    try:
        with pytest.raises(NonFiniteError, match=r"layer 2 \(mean\) of tiny-llama is not finite"):
            stage(texts, model, out, readouts=["mean"])
    finally:
        handle.remove()
    stage(texts, model, out)
    assert data_files(out) == whole


def test_an_interrupted_capture_is_not_thrown_away_for_other_options(
    texts: Path, llama_folder: Path, tmp_path: Path
) -> None:
    out, model, n_passes = tmp_path / "activations", load_model(llama_folder), []

    def stop(_module: Any, _args: Any, output: Any) -> Any:
        n_passes.append(1)
        if len(n_passes) > 2:
            raise KeyboardInterrupt
        return output

    handle = model.blocks[0].register_forward_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            stage(texts, model, out)
    finally:
        handle.remove()
    with pytest.raises(StageError, match="unfinished"):
        stage(texts, model, out, readouts=["mean"])
    assert len(shards_of(out)) == 2


def test_class_word_logits_that_are_not_finite_are_an_error(texts: Path, tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match=r"layer 3 \(class words\) of .* is not finite for text '0000"):
        stage(texts, model, tmp_path / "activations", tokenizer=tokenizer)
    assert stage(texts, model, tmp_path / "other", tokenizer=tokenizer, layers="1-2").stage == "capture"


def test_texts_cut_at_their_end_are_counted_and_marked(
    texts: Path, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "activations"
    limit = 45
    manifest = stage(texts, llama_folder, out, max_tokens=limit, layers="1")
    rows = ActivationFolder.open(out).texts()
    cut = [r["id"] for r in rows if r.get("truncated")]
    assert 0 < len(cut) < 30
    assert max(r["n_tokens"] for r in rows) <= limit
    captured = manifest.details["captured"]["main"]
    assert (captured["n_truncated"], captured["truncated_ids"]) == (len(cut), cut)
    assert captured["n_tokens"] == sum(r["n_tokens"] for r in rows)
    assert f"{len(cut)} of 30 texts were longer than 45 tokens and were cut" in capsys.readouterr().err
    stage(texts, llama_folder, tmp_path / "other", layers="1")
    assert "cut" not in capsys.readouterr().err


def test_what_is_chosen_automatically_is_said_with_its_reason(
    texts: Path, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture_stage(texts, llama_folder, tmp_path / "activations", layers="1")
    said = capsys.readouterr().err
    for line in (
        "device: cpu (auto: ",
        "dtype: float32 (auto: ",
        f"batch-tokens: {CPU_BATCH_TOKENS:,} (auto: ",
        "readout: last, mean (auto: ",
    ):
        assert line in said
    capture_stage(
        texts,
        llama_folder,
        tmp_path / "b",
        layers="1",
        device="cpu",
        dtype="float32",
        batch_tokens=99,
        readouts=["mean"],
    )
    assert "auto" not in capsys.readouterr().err


def test_an_encoder_reads_the_mean_without_the_recipes_suffix(texts: Path, tmp_path: Path) -> None:
    model, tokenizer = tiny_model("bert")
    capture_stage(texts, model, tmp_path / "activations", tokenizer=tokenizer)
    folder = ActivationFolder.open(tmp_path / "activations")
    assert (folder.readouts, folder.info["suffix"]) == (["mean"], "")
    assert all("zero_shot" not in row for row in folder.texts())
    assert np.isfinite(folder.read(3, "train").activations).all()


def test_the_manifest_says_how_the_texts_were_batched(texts: Path, llama_folder: Path, tmp_path: Path) -> None:
    model, shapes = load_model(llama_folder), list[int]()
    handle = model.blocks[0].register_forward_pre_hook(lambda _m, inputs: shapes.append(inputs[0].shape[:2].numel()))
    try:
        details = stage(texts, model, tmp_path / "activations").details
    finally:
        handle.remove()
    assert (details["batch_tokens"], details["n_batches"]) == (BATCH_TOKENS, len(shapes))
    n_tokens = details["captured"]["main"]["n_tokens"]
    assert details["padding_share"] == round(1 - n_tokens / sum(shapes), 4)
    assert details["out_of_memory_splits"] == 0
    assert "exactness" not in details


def test_conversations_are_captured_and_lie_beside_their_vectors(llama_folder: Path, tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "It rained."}
    asked = [{"role": "user", "content": f"How was day {i}?"} for i in range(4)]
    rows: list[dict[str, Any]] = [{"label": "a", "messages": [question, answer]} for question in asked]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"label": "b", "text": "Fine."}]), "utf-8")
    options: dict[str, Any] = {"template": "chat", "layers": "1", "suffix": ""}
    stage(file, llama_folder, tmp_path / "activations", readouts=["mean", "last"], **options)
    found = ActivationFolder.open(tmp_path / "activations").texts()
    assert [row["text"] for row in found] == ["It rained."] * 4 + ["Fine."]
    assert [row.get("messages") for row in found] == [*(row["messages"] for row in rows), None]
    with pytest.raises(DataError, match=r"text '000004' has no message by the assistant"):
        stage(file, llama_folder, tmp_path / "other", readouts=["last-assistant"], **options)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", [".", ".."])
def test_the_current_folder_may_be_given_by_its_dots(
    name: str, texts: Path, llama_folder: Path, whole: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    if name == "..":
        with pytest.raises(StageError, match=r"outer has no manifest.json and holds other files"):
            stage(texts, llama_folder, Path(name))
        return
    stage(texts, llama_folder, Path(name), layers="1-3")
    monkeypatch.chdir(inner)
    stage(texts, llama_folder, Path(name))
    assert data_files(inner) == whole
    only_the_result(inner)


def test_a_token_budget_that_is_no_number_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--batch-tokens 'abc' is neither 'auto' nor a positive whole number"):
        stage(tmp_path / "no texts", "no/model", tmp_path / "activations", batch_tokens="abc")
    assert list(tmp_path.iterdir()) == []


def test_batches_that_keep_every_token_are_made_for_the_hosts_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: "MemTotal: 9 kB\nMemAvailable:   80000000 kB\n")
    gemma = 4 * 2560 * 35
    assert most_in_host_memory(2**15, gemma) == 2**14  # 28,571 fit into an eighth of 82 GB
    assert most_in_host_memory(2**13, gemma) == 2**13
    assert most_in_host_memory(2**15, 1000 * gemma) == 2**11
    monkeypatch.setattr(Path, "read_text", lambda _: "")
    assert most_in_host_memory(2**15, gemma) == 2**15
