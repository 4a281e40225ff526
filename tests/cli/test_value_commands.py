"""capture, train, predict and evaluate on texts with a score: the value that a probe gives, end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import known_truth
from builders import tiny_model
from strataprobe.errors import DataError, ProbeError
from strataprobe.models import wrap_model
from strataprobe.predict.evaluate import evaluate
from strataprobe.predict.inference import MultiProbeInference
from strataprobe.probes.pth import load_pth
from strataprobe.probes.values import MEASURES, value_summary

Cli = Callable[..., tuple[int, str, str]]


def score_of(text: str) -> float:
    words = text.split()
    return sum(w.startswith("good") - w.startswith("bad") for w in words) / len(words)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model`` (4 layers, concept written by block 1) and ``texts.jsonl`` (240, with labels)."""
    folder = tmp_path_factory.mktemp("known")
    known_truth.write(folder, concept_block=1, n_layers=4, n_texts=240)
    return folder


@pytest.fixture(scope="module")
def scored(known: Path) -> Path:
    """The texts with a score in place of the label, none in every fifth row; two share a group."""
    path = known / "scored.jsonl"
    texts = [json.loads(line)["text"] for line in (known / "texts.jsonl").read_text().splitlines()]
    with path.open("w") as file:
        for i, text in enumerate(texts):
            row = {"id": f"text-{i}", "text": text, "group": f"group-{i // 2}"}
            file.write(json.dumps(row if i % 5 == 0 else {**row, "score": score_of(text)}) + "\n")
    return path


@pytest.fixture(scope="module")
def probes(scored: Path, known: Path) -> Path:
    """What ``train --probe ridge`` makes of them, beside the texts."""
    from strataprobe.capture.run import capture_stage
    from strataprobe.probes.run import train

    capture_stage(scored, known / "model", scored.parent / "activations")
    train(scored.parent / "activations", scored.parent / "probes", probe="ridge")
    return scored.parent / "probes"


@pytest.fixture
def base(probes: Path, known: Path) -> tuple[object, ...]:
    return ("--probes", probes, "--model", known / "model", "--layer", 3)


def test_capture_writes_the_scores_and_nan_where_there_is_none(probes: Path, scored: Path) -> None:
    rows = {row["id"]: row for row in map(json.loads, scored.read_text().splitlines())}
    with h5py.File(probes.parent / "activations" / "layer_2_activations.h5") as file:
        for split in ("train", "val", "test"):
            expected = [rows[i].get("score", np.nan) for i in file[split]["ids"].asstr()]
            np.testing.assert_array_equal(file[split]["targets"][:], np.array(expected, dtype=np.float32))
            assert 0 < np.isnan(expected).sum() < len(expected)
            assert (file[split]["labels"][:] == -1).all()


def test_train_prints_the_curve_of_a_value(cli: Cli, scored: Path, probes: Path) -> None:
    folder = scored.parent / "activations"
    status, out, err = cli("train", "--activations", folder, "--out", probes, "--probe", "ridge")
    assert status == 0, err
    assert "cv R2" in out
    assert "cv Spearman" in out
    status, out, err = cli("train", "--activations", folder, "--out", scored.parent / "other")
    assert status == 2
    assert "use --probe ridge" in err
    assert out == ""


def test_predict_gives_values_that_the_stored_probe_gives_too(
    cli: Cli, base: tuple[object, ...], probes: Path, scored: Path
) -> None:
    status, out, err = cli("predict", "--file", scored, *base, "--json")
    assert status == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert all(set(row["predictions"][0]) == {"action", "value"} and row["layers"] == [3] for row in found)
    rows = [json.loads(line) for line in scored.read_text().splitlines()]
    values = {row["id"]: f["predictions"][0]["value"] for row, f in zip(rows, found, strict=True)}
    exported = load_pth(probes / "layer_3" / "probe_score.pth")
    with h5py.File(probes.parent / "activations" / "layer_3_activations.h5") as file:
        for split in ("train", "val", "test"):
            ours = exported.logits(file[split]["activations"][:])
            theirs = [values[i] for i in file[split]["ids"].asstr()]
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)
    told = [(score_of(row["text"]), values[row["id"]]) for row in rows]
    assert np.corrcoef(*zip(*told, strict=True))[0, 1] > 0.8


def test_a_value_is_printed_without_a_bar_and_a_threshold_is_refused(cli: Cli, base: tuple[object, ...]) -> None:
    status, out, _ = cli("predict", "word1 good1 good2 .", *base)
    assert status == 0
    assert "score" in out
    assert "█" not in out
    assert "active" not in out
    status, out, err = cli("predict", "word1 good1 good2 .", *base, "--threshold", 0.4)
    assert status == 2
    assert "--threshold is a probability" in err


def test_evaluate_measures_the_values_that_predict_gives(cli: Cli, base: tuple[object, ...], scored: Path) -> None:
    rows = [json.loads(line) for line in scored.read_text().splitlines()]
    _, out, _ = cli("predict", "--file", scored, *base, "--json")
    values = [json.loads(line)["predictions"][0]["value"] for line in out.splitlines()]
    kept = [i for i, row in enumerate(rows) if "score" in row]
    status, out, err = cli("evaluate", *base, "--data", scored, "--json")
    assert status == 0, err
    result = json.loads(out)
    groups = [rows[i]["group"] for i in kept]
    expected = value_summary([rows[i]["score"] for i in kept], [values[i] for i in kept], groups)
    assert (result["n"], result["n_skipped"], result["layer"]) == (len(kept), len(rows) - len(kept), 3)
    for name in MEASURES:
        for end in ("", "_low", "_high"):
            assert result[name + end] == pytest.approx(expected[name + end], abs=1e-9)
    status, out, _ = cli("evaluate", *base, "--data", scored)
    assert status == 0
    assert "mean absolute error" in out
    assert f"{len(kept)} texts with a score" in out


def test_compare_and_run_say_that_they_are_for_classes(
    cli: Cli, probes: Path, scored: Path, known: Path, tmp_path: Path
) -> None:
    status, _, err = cli("compare", "--probes", probes, "--out", tmp_path / "c")
    assert status == 2
    assert "give values, and compare ranks probes of classes" in err
    status, _, err = cli("run", "--data", scored, "--model", known / "model", "--out", tmp_path / "r")
    assert status == 2
    assert "use 'capture' and 'train --probe ridge'" in " ".join(err.split())
    assert list(tmp_path.iterdir()) == [] or not (tmp_path / "r" / "activations").exists()


def test_texts_without_a_score_cannot_measure_a_value(cli: Cli, base: tuple[object, ...], known: Path) -> None:
    status, out, err = cli("evaluate", *base, "--data", known / "texts.jsonl")
    assert (status, out) == (2, "")
    assert "has no row with a score" in err


def test_the_demo_model_reads_the_valence_of_real_text(cli: Cli, data_folder: Path, tmp_path: Path) -> None:
    lines = (data_folder / "real_text" / "emobank__score.jsonl").read_text("utf-8").splitlines()[:250]
    texts = tmp_path / "valence.jsonl"
    texts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = tmp_path / "activations"
    assert cli("capture", "--data", texts, "--model", "demo", "--layers", "4", "--out", folder)[0] == 0
    status, out, _ = cli("train", "--activations", folder, "--out", tmp_path / "p", "--probe", "ridge", "--json")
    assert status == 0
    entry = json.loads(out)["details"]["layers"]["mean"]["4"]
    assert entry["cv_spearman"] > 0.4
    assert entry["cv_r2"] > 0.1
    _, out, _ = cli("predict", "I love this.", "I hate this.", "--probes", tmp_path / "p", "--model", "demo", "--json")
    good, bad = (json.loads(line)["predictions"][0]["value"] for line in out.splitlines())
    assert good > bad + 0.1


def test_brijes_real_regression_probe_gives_values_on_a_model_of_its_width_and_is_refused_on_another(
    data_folder: Path, tiny: Callable[[str], object]
) -> None:
    folder = data_folder / "brije" / "sentiment_regression"
    small = {"intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8}
    model = wrap_model(*tiny_model("llama", n_layers=8, width=2560, **small))
    inference = MultiProbeInference(folder, model, layer=7)
    assert (inference.layer, inference.block_index) == (8, 7)
    ((found,),) = inference.predict_batch(["It was a good day."])
    assert found["action"] == "sentiment"
    assert found["value"] == pytest.approx(inference.logits(["It was a good day."])[0, 0])
    with pytest.raises(ProbeError, match="2560 wide"):
        MultiProbeInference(folder, tiny("llama"), layer=7)
    with pytest.raises(ProbeError, match="read layer 29"):
        MultiProbeInference(folder, model, layer=28)
    with pytest.raises(DataError, match="has no row with a score"):
        evaluate(inference, data_folder / "real_text" / "uci_yelp.jsonl")
