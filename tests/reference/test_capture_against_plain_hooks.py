"""Every vector that capture gives, against a plain hook on one unpadded text at a time through the whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import plain_hook
import strataprobe as sp
from builders import DECODERS, FAMILIES, WINDOW, save_model, tiny_model
from plain_hook import SUFFIX, TEXTS, relative
from strataprobe.capture.check import TOLERANCE
from strataprobe.capture.run import capture_stage
from strataprobe.models import load_model, wrap_model

FLOAT32, BFLOAT16 = TOLERANCE["float32"], TOLERANCE["bfloat16"]


def plain(model: Any, tokenizer: Any, family: str, texts: list[str], **form: str) -> list[plain_hook.Plain]:
    return [plain_hook.read(model, tokenizer, family, text, **form) for text in texts]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_and_readout_equals_a_plain_hook(family: str, tiny: Any) -> None:
    model = tiny(family)
    suffix = "" if family == "bert" else SUFFIX
    acts = sp.capture(
        TEXTS, model.model, model.tokenizer, layers=range(4), readout=["last", "mean", "last-text"], suffix=suffix
    )
    theirs = plain(model.model, model.tokenizer, family, TEXTS, suffix=suffix)
    assert max(len(p.ids) for p in theirs) > 3 * WINDOW
    for layer in range(4):
        for readout in acts.readouts:
            expected = np.stack([p.vector(readout, layer) for p in theirs])
            got = acts.layer(layer, readout)
            assert got.dtype == np.float32
            assert relative(got, expected) < FLOAT32, (layer, readout)


@pytest.mark.parametrize("family", DECODERS)
def test_the_last_layer_is_raw_and_becomes_the_librarys_last_state_behind_the_final_norm(
    family: str, tiny: Any
) -> None:
    model = tiny(family)
    raw = sp.capture(TEXTS, model.model, model.tokenizer, layers=3, readout="last").layer(3)
    normed = np.stack([p.normed[p.last] for p in plain(model.model, model.tokenizer, family, TEXTS)])
    assert relative(raw, normed) > 1e-2
    with torch.no_grad():
        assert relative(model.final_norm(torch.from_numpy(raw)).numpy(), normed) < FLOAT32


@pytest.mark.parametrize("family", ["gemma3", "llama", "gpt2", "bert"])
def test_bfloat16_vectors_equal_plain_bfloat16_hooks_within_the_stated_tolerance(family: str) -> None:
    model, tokenizer = tiny_model(family)
    model.to(torch.bfloat16)
    acts = sp.capture(TEXTS, model, tokenizer, layers=[1, 2, 3], readout=["last", "mean"])
    theirs = plain(model, tokenizer, family, TEXTS)
    for layer in acts.layers:
        for readout in acts.readouts:
            got = acts.layer(layer, readout)
            assert got.dtype == np.float32
            assert relative(got, np.stack([p.vector(readout, layer) for p in theirs])) < BFLOAT16


def test_a_plain_hook_on_another_layer_is_told_apart(tiny: Any) -> None:
    model = tiny("gemma3_text")
    acts = sp.capture(TEXTS, model.model, model.tokenizer, readout="last")
    theirs = plain(model.model, model.tokenizer, "gemma3_text", TEXTS)
    for layer in (1, 2):
        off_by_one = np.stack([p.vector("last", layer + 1) for p in theirs])
        assert relative(acts.layer(layer), off_by_one) > 1e-2


def test_a_prefix_is_read_but_no_part_of_the_mean(tiny: Any) -> None:
    model = tiny("llama")
    acts = sp.capture(TEXTS, model.model, model.tokenizer, readout=["mean", "last"], prefix="Text:\n", suffix=SUFFIX)
    theirs = plain(model.model, model.tokenizer, "llama", TEXTS, prefix="Text:\n", suffix=SUFFIX)
    for readout in acts.readouts:
        assert relative(acts.layer(2, readout), np.stack([p.vector(readout, 2) for p in theirs])) < FLOAT32


def labelled(path: Path, texts: list[str]) -> Path:
    rows = [{"text": t, "label": ("negative", "positive")[i % 2]} for i, t in enumerate(texts)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("family", ["gemma3_text", "gemma3"])
def test_a_gemma_3_of_34_layers_is_captured_whole_and_every_stored_vector_equals_a_plain_hook(
    family: str, tmp_path: Path
) -> None:
    texts = [f"{t} ({i})" for i, t in enumerate(TEXTS * 3)]
    folder = save_model(tmp_path / "gemma-3-34", family, n_layers=34, width=16)
    out = tmp_path / "activations"
    capture_stage(labelled(tmp_path / "texts.jsonl", texts), folder, out, suffix=SUFFIX, batch_tokens=256)
    loaded = load_model(folder)
    assert (
        type(loaded.model).__name__
        == {
            "gemma3_text": "Gemma3ForCausalLM",
            "gemma3": "Gemma3ForConditionalGeneration",
        }[family]
    )
    theirs = plain(loaded.model, loaded.tokenizer, family, texts, suffix=SUFFIX)
    assert sorted(p.name for p in out.glob("*.h5")) == sorted(f"layer_{k}_activations.h5" for k in range(35))
    worst = 0.0
    for layer in range(1, 35):
        with h5py.File(out / f"layer_{layer}_activations.h5") as file:
            assert (file.attrs["layer"], file.attrs["block_index"]) == (layer, layer - 1)
            ids = [int(i) for split in ("train", "val", "test") for i in file[split]["ids"].asstr()[:]]
            assert sorted(ids) == list(range(len(texts)))
            for column, readout in (("activations", "last"), ("activations_mean", "mean")):
                stored = np.concatenate([file[split][column][:] for split in ("train", "val", "test")])
                worst = max(worst, relative(stored, np.stack([theirs[i].vector(readout, layer) for i in ids])))
            last = np.concatenate([file[split]["activations"][:] for split in ("train", "val", "test")])
    assert worst < FLOAT32
    normed = np.stack([theirs[i].normed[theirs[i].last] for i in ids])
    assert relative(last, normed) > 0.1
    assert loaded.final_norm is not None
    with torch.no_grad():
        assert relative(loaded.final_norm(torch.from_numpy(last)).numpy(), normed) < FLOAT32


@pytest.mark.parametrize("family", ["gemma3_text", "gemma3", "gemma2", "gpt2", "llama", "gpt_neox"])
def test_the_class_words_logits_are_those_of_the_whole_model(family: str, tmp_path: Path) -> None:
    model, tokenizer = tiny_model(family)
    if family == "gemma2":
        assert model.config.final_logit_softcapping
        with torch.no_grad():
            model.lm_head.weight.mul_(2000)  # so that the cap bends the logits
    texts = [*TEXTS, "One more of them here."]
    heads: list[int] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda *_: heads.append(1))
    out = tmp_path / "activations"
    capture_stage(
        labelled(tmp_path / "texts.jsonl", texts), model, out, tokenizer=tokenizer, suffix=SUFFIX, batch_tokens=128
    )
    assert heads == []
    rows = [json.loads(line) for line in (out / "texts.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == texts
    for row in rows:
        logits = plain_hook.read(model, tokenizer, family, row["text"], suffix=SUFFIX).logits
        assert logits is not None
        assert set(row["zero_shot"]) == {"negative", "positive"}
        for name, value in row["zero_shot"].items():
            space, token, *_ = tokenizer(f" {name}", add_special_tokens=False)["input_ids"]
            assert tokenizer.convert_ids_to_tokens([space, token]) == ["Ġ", name[0]]
            assert value == pytest.approx(float(logits[-1, token]), rel=1e-4, abs=1e-4)
    assert len(heads) == len(texts)  # the hook does see the head when the whole model runs
    handle.remove()


def test_a_text_alone_and_wrapped_by_the_caller_or_loaded_from_its_folder_is_the_same(llama_folder: Path) -> None:
    loaded = load_model(llama_folder)
    from_folder = sp.capture([TEXTS[1]], str(llama_folder), readout="last")
    from_model = sp.capture([TEXTS[1]], loaded.model, loaded.tokenizer, readout="last")
    for layer in range(1, 7):
        np.testing.assert_array_equal(from_folder.layer(layer), from_model.layer(layer))
    assert from_folder.info == from_model.info
    assert wrap_model(loaded.model, loaded.tokenizer).identity == loaded.identity
