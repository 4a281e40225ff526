"""The Python names, used as a notebook would, on probes of a 34-layer Gemma 3; numbers checked by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import strataprobe as sp
from builders import SENTENCES, tiny_model
from strataprobe.errors import DataError, OptionError, ProbeError, StrataprobeError

TEXT = "I'm so excited about this!"
WORDS = ("rain", "coast", "window", "soup", "light")


@pytest.fixture(scope="module")
def gemma() -> tuple[Any, Any]:
    return tiny_model("gemma3_text", 34)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    dice = np.random.default_rng(0)
    return [f"{SENTENCES[dice.integers(5)]} The {WORDS[dice.integers(5)]} was {w}." for w in ("good", "bad") * 40]


@pytest.fixture(scope="module")
def labels() -> list[str]:
    return ["positive", "negative"] * 40


@pytest.fixture(scope="module")
def trained(gemma: tuple[Any, Any], texts: list[str], labels: list[str], tmp_path_factory: Any) -> Path:
    """``probes`` with layers 24, 26, 28, trained through the stages on files."""
    import json

    from strataprobe.capture.run import capture_stage
    from strataprobe.probes.run import train

    folder = tmp_path_factory.mktemp("gemma")
    rows = [json.dumps({"text": t, "label": c}) for t, c in zip(texts, labels, strict=True)]
    (folder / "texts.jsonl").write_text("\n".join(rows))
    suffix = "\n\nThe sentiment of this section is"
    model, tokenizer = gemma
    capture_stage(
        folder / "texts.jsonl",
        model,
        folder / "activations",
        tokenizer=tokenizer,
        layers=[24, 26, 28],
        readouts=["last"],
        suffix=suffix,
    )
    train(folder / "activations", folder / "probes")
    return folder / "probes"


def by_hand(gemma: tuple[Any, Any], probes: Path, layer: int, text: str) -> float:
    """Probability of "positive" from the exported file, a plain hook and one unpadded text."""
    model, tokenizer = gemma
    data = torch.load(
        io.BytesIO((probes / f"layer_{layer}" / "probe_positive.pth").read_bytes()),
        weights_only=True,
        map_location="cpu",
    )
    meta = data["metadata"]
    kept: list[torch.Tensor] = []
    handle = model.model.layers[meta["block_index"]].register_forward_hook(
        lambda _m, _a, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model(**tokenizer(meta["prefix"] + text + meta["suffix"], return_tensors="pt"))
    handle.remove()
    state = data["model_state_dict"]
    logit = float(kept[0][0, -1].double() @ state["linear.weight"][0].double() + state["linear.bias"][0].double())
    a, c = meta["calibration"]["slope"], meta["calibration"]["intercept"]
    return float(1 / (1 + np.exp(-(a * logit + c))))


def of_class(predictions: list[dict[str, Any]], name: str) -> float:
    return next(p["probability"] for p in predictions if p["action"] == name)


def test_capture_and_fit_give_a_probe_for_each_layer_and_class(
    gemma: tuple[Any, Any], texts: list[str], labels: list[str]
) -> None:
    model, tok = gemma
    acts = sp.capture(texts, model=model, tokenizer=tok, layers="all", readout="last")
    assert acts.layers == list(range(1, 35))
    assert acts.layer(26).shape == (80, 32)
    assert acts.layer(26).dtype == np.float32
    probes = sp.fit(acts, labels, groups=[str(i // 2) for i in range(80)])
    assert list(probes) == acts.layers
    probe = probes[26]["positive"]
    assert probe.direction.shape == (32,)
    assert np.linalg.norm(probe.direction) == pytest.approx(1, abs=1e-6)
    assert (probe.layer, probe.block_index) == (26, 25)
    assert np.array_equal(probe.weight, -probes[26]["negative"].weight)
    assert np.array_equal(probes[26]["positive"].direction, -probes[26]["negative"].direction)
    assert 0 < probe.threshold < 1


def test_a_saved_probe_comes_back_as_it_was(
    gemma: tuple[Any, Any], texts: list[str], labels: list[str], tmp_path: Path
) -> None:
    model, tok = gemma
    probes = sp.fit(sp.capture(texts, model=model, tokenizer=tok, layers=[5], readout="last"), labels)
    for name in ("positive", "negative"):
        probes[5][name].save(tmp_path / f"probe_{name}.pth")
    one = sp.MultiProbeInference(tmp_path, model, tokenizer=tok)
    assert one.layer == 5
    direct = probes[5].probabilities(sp.capture([TEXT], model=model, tokenizer=tok, layers=5, readout="last").layer(5))
    assert of_class(one.predict(TEXT), "positive") == pytest.approx(direct[0, 1], abs=1e-6)


def test_one_layer_predicts_what_weights_and_vectors_give_by_hand(gemma: tuple[Any, Any], trained: Path) -> None:
    model, tok = gemma
    one = sp.MultiProbeInference(probes_dir=str(trained / "layer_26"), model_name=model, layer=26, tokenizer=tok)
    (best, second) = one.predict(TEXT, top_k=2)
    assert set(best) == {"action", "probability", "active"}
    assert best["probability"] >= second["probability"]
    assert of_class([best, second], "positive") == pytest.approx(by_hand(gemma, trained, 26, TEXT), abs=1e-5)
    assert (one.layer, one.block_index) == (26, 25)
    assert len(one.predict(TEXT, top_k=1)) == 1


def test_a_batch_gives_what_each_text_gives_alone(gemma: tuple[Any, Any], trained: Path, texts: list[str]) -> None:
    model, tok = gemma
    one = sp.MultiProbeInference(trained, model, layer=24, tokenizer=tok)
    batch = one.predict_batch(texts[:12])
    for text, found in zip(texts, batch, strict=False):
        alone = one.predict(text)
        assert [p["action"] for p in found] == [p["action"] for p in alone]
        assert of_class(found, "positive") == pytest.approx(of_class(alone, "positive"), abs=1e-5)
    assert one.predict_batch([]) == []


def test_several_layers_predict_each_by_itself_and_together(gemma: tuple[Any, Any], trained: Path) -> None:
    model, tok = gemma
    many = sp.UniversalMultiLayerInference(
        model_name=model,
        tokenizer=tok,
        probe_dirs={24: trained / "layer_24", "mine": trained / "layer_26", 28: trained / "layer_28"},
    )
    by_layer = many.predict_by_layer(TEXT)
    assert list(by_layer) == [24, "mine", 28]
    assert many.layers == {24: 24, "mine": 26, 28: 28}
    expected = [by_hand(gemma, trained, k, TEXT) for k in (24, 26, 28)]
    assert [of_class(p, "positive") for p in by_layer.values()] == pytest.approx(expected, abs=1e-5)
    logits = np.log(np.array(expected) / (1 - np.array(expected)))
    mean = of_class(many.predict_ensemble(TEXT, method="mean"), "positive")
    assert mean == pytest.approx(1 / (1 + np.exp(-logits.mean())), abs=1e-5)
    vote = of_class(many.predict_ensemble(TEXT, method="vote"), "positive")
    assert round(3 * vote) == pytest.approx(3 * vote)
    stacked = many.predict_ensemble(TEXT, method="stacked")
    assert sum(p["probability"] for p in stacked) == pytest.approx(1)


def test_stacking_weighs_layers_by_their_out_of_fold_logits(gemma: tuple[Any, Any], trained: Path) -> None:
    from strataprobe.compare.ensembles import fit_stacker
    from strataprobe.probes.files import load_oof

    model, tok = gemma
    many = sp.UniversalMultiLayerInference(model, dict.fromkeys((24, 28), trained), tokenizer=tok)
    oof = load_oof(trained)
    stacker = fit_stacker(
        np.stack([oof.logits["last", k][:, 1] for k in (24, 28)], axis=1), oof.labels == 1, oof.groups
    )
    singles = [sp.MultiProbeInference(trained, model, layer=k, tokenizer=tok).logits([TEXT])[0, 1] for k in (24, 28)]
    expected = 1 / (1 + np.exp(-stacker.logits(np.array([singles]))[0]))
    assert of_class(many.predict_ensemble(TEXT, method="stacked"), "positive") == pytest.approx(expected, abs=1e-6)


def test_several_probe_sets_share_one_pass(gemma: tuple[Any, Any], trained: Path) -> None:
    model, tok = gemma
    sets = {
        "sentiment": sp.MultiProbeInference(trained, model, layer=26, tokenizer=tok),
        "early": sp.MultiProbeInference(trained, model, layer=24, tokenizer=tok),
    }
    calls = []
    handle = model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    together = sp.predict_together(sets, TEXT)
    handle.remove()
    assert len(calls) == 1
    for name, one in sets.items():
        assert of_class(together[name], "positive") == pytest.approx(of_class(one.predict(TEXT), "positive"), abs=1e-6)


def test_two_objects_on_one_model_load_it_once(tmp_path: Path) -> None:
    from demo import demo_run

    probes = demo_run().out / "probes"
    first, second = sp.MultiProbeInference(probes, "demo"), sp.MultiProbeInference(probes / "layer_2", "demo")
    assert first.model is second.model
    assert sp.MultiProbeInference(probes).model is first.model


def test_what_does_not_fit_is_refused_in_a_sentence(gemma: tuple[Any, Any], trained: Path) -> None:
    model, tok = gemma
    other, other_tok = tiny_model("gemma3_text", 34, seed=1)
    with pytest.raises(ProbeError, match="other weights"):
        sp.MultiProbeInference(trained, other, tokenizer=other_tok)
    wide, wide_tok = tiny_model("llama", 34, width=64)
    with pytest.raises(ProbeError, match="32 wide"):
        sp.MultiProbeInference(trained, wide, tokenizer=wide_tok)
    with pytest.raises(ProbeError, match="layer 25"):
        sp.MultiProbeInference(trained, model, layer=25, tokenizer=tok)
    with pytest.raises(OptionError, match="empty"):
        sp.UniversalMultiLayerInference(model, {}, tokenizer=tok)
    with pytest.raises(OptionError, match="no probe sets"):
        sp.predict_together({}, TEXT)
    one = sp.MultiProbeInference(trained, model, tokenizer=tok)
    with pytest.raises(DataError, match="empty text"):
        one.predict("")
    with pytest.raises(StrataprobeError, match="half of a surrogate"):
        one.predict("\ud83d")


def test_layers_out_of_order_change_nothing(gemma: tuple[Any, Any], trained: Path) -> None:
    model, tok = gemma
    a = sp.UniversalMultiLayerInference(model, dict.fromkeys((28, 24, 26), trained), tokenizer=tok)
    b = sp.UniversalMultiLayerInference(model, dict.fromkeys((24, 26, 28), trained), tokenizer=tok)
    for method in ("mean", "vote", "stacked"):
        first, second = (of_class(m.predict_ensemble(TEXT, method=method), "positive") for m in (a, b))
        assert first == pytest.approx(second, abs=1e-6)
