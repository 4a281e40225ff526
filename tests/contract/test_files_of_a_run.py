"""Every file that a run promises exists, and opens as described."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open

from demo import demo_run
from strataprobe.manifest import verify_folder

LAYERS = range(1, 7)
EMOTIONS = {
    "positive": (
        "joy", "gratitude", "hope", "excitement", "love", "pride", "contentment", "inspiration", "relief", "satisfaction",
    ),
    "negative": (
        "sadness", "anger", "fear", "disgust", "shame", "anxiety", "frustration", "disappointment", "guilt", "loneliness",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def out() -> Path:
    return demo_run().out


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_texts_are_700_of_either_class_with_every_field(out: Path) -> None:
    combined = rows(out / "data" / "sentiment_combined_1400.jsonl")
    assert len(combined) == 1400
    for name in ("positive", "negative"):
        of_class = rows(out / "data" / f"{name}_sentiment_700.jsonl")
        assert len(of_class) == 700
        assert of_class == [r for r in combined if r["label"] == name]
        assert Counter(r["emotion"] for r in of_class) == dict.fromkeys(EMOTIONS[name], 70)
    for row in combined:
        fields = [
            "id",
            "text",
            "label",
            "split",
            "group",
            "sentiment",
            "emotion",
            "domain",
            "trigger",
            "language_style",
            "backend",
            "model",
            "attempt",
        ]
        assert list(row) == fields
        assert row["sentiment"] == row["label"]
    assert json.loads((out / "data" / "audit.json").read_text())["findings"]


@pytest.mark.parametrize("stage", ["data", "activations", "probes"])
def test_each_stage_has_a_manifest_and_every_byte_is_as_recorded(out: Path, stage: str) -> None:
    manifest = json.loads((out / stage / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["elapsed_s"] > 0
    assert manifest["versions"]["torch"]
    on_disk = {p.relative_to(out / stage).as_posix() for p in (out / stage).rglob("*") if p.is_file()}
    assert set(manifest["files"]) == on_disk - {"manifest.json"}
    assert verify_folder(out / stage) == []


def test_the_layer_files_hold_what_the_format_says(out: Path) -> None:
    split_of = Counter(r["split"] for r in rows(out / "data" / "sentiment_combined_1400.jsonl"))
    for layer in (0, *LAYERS):
        with h5py.File(out / "activations" / f"layer_{layer}_activations.h5") as file:
            assert set(file) == {"train", "val", "test"}
            for split, group in file.items():
                n = split_of[split]
                assert group["activations"].shape == (n, 384)
                assert group["activations"].dtype == np.float32
                assert group["labels"].shape == (n,)
                assert group["labels"].dtype == np.int64
                assert set(np.unique(group["labels"])) == {0, 1}
                assert h5py.check_string_dtype(group["ids"].dtype).encoding == "utf-8"
                assert group["groups"].shape == (n,)
            attrs = dict(file.attrs)
            assert (attrs["layer"], attrs["block_index"], attrs["site"]) == (layer, layer - 1, "resid_post")
            assert list(attrs["label_names"]) == ["negative", "positive"]
            assert list(attrs["readouts"]) == ["mean"]
            assert attrs["format_version"] == 1
            assert {"model_name", "model_revision", "prefix", "suffix", "template", "dtype"} <= set(attrs)


def test_the_texts_beside_the_activations_say_how_long_each_is(out: Path) -> None:
    found = rows(out / "activations" / "texts.jsonl")
    combined = rows(out / "data" / "sentiment_combined_1400.jsonl")
    for row, text in zip(found, combined, strict=True):
        assert {k: row[k] for k in ("id", "text", "label", "split", "group")} == {
            k: text[k] for k in ("id", "text", "label", "split", "group")
        }
        assert isinstance(row["n_tokens"], int)
        assert row["n_tokens"] > 2
        assert "zero_shot" not in row


def test_the_exported_probes_open_without_running_a_pickle(out: Path) -> None:
    for layer in LAYERS:
        loaded = {}
        for name in ("negative", "positive"):
            data = (out / "probes" / f"layer_{layer}" / f"probe_{name}.pth").read_bytes()
            probe = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
            assert probe["model_class"] == "BinaryLinearProbe"
            assert probe["model_config"] == {"input_dim": 384}
            weight, bias = probe["model_state_dict"]["linear.weight"], probe["model_state_dict"]["linear.bias"]
            assert (tuple(weight.shape), weight.dtype) == ((1, 384), torch.float32)
            assert (tuple(bias.shape), bias.dtype) == ((1,), torch.float32)
            meta = probe["metadata"]
            assert (meta["action"], meta["layer"], meta["block_index"]) == (name, layer, layer - 1)
            assert (meta["readout"], meta["prefix"], meta["suffix"], meta["template"]) == ("mean", "", "", "none")
            assert meta["model"] == "demo"
            assert set(meta["calibration"]) == {"slope", "intercept"}
            assert 0 < meta["threshold"] < 1
            loaded[name] = (weight, bias)
        assert torch.equal(loaded["negative"][0], -loaded["positive"][0])
        assert torch.equal(loaded["negative"][1], -loaded["positive"][1])


def test_the_metrics_of_each_layer_have_every_key(out: Path) -> None:
    for layer in LAYERS:
        metrics = json.loads((out / "probes" / f"layer_{layer}" / "aggregate_metrics.json").read_text())
        averages = {f"average_{name}" for name in ("auc_roc", "f1", "accuracy", "precision", "recall")}
        assert averages | {"total_training_time_seconds", "per_action_metrics"} <= set(metrics)
        for entry in metrics["per_action_metrics"]:
            keys = {"action", "accuracy", "precision", "recall", "f1", "auc_roc", "auc_pr", "confusion_matrix"}
            assert keys <= set(entry)


def test_the_safetensors_files_hold_probes_and_out_of_fold_logits_of_every_layer(out: Path) -> None:
    with safe_open(out / "probes" / "probes.safetensors", "numpy") as file:
        for layer in LAYERS:
            assert file.get_tensor(f"mean.layer_{layer}.weight").shape == (2, 384)
        assert len(file.metadata()) == 1
    with safe_open(out / "probes" / "oof_logits.safetensors", "numpy") as file:
        labels = file.get_tensor("labels")
        for layer in LAYERS:
            assert file.get_tensor(f"mean.layer_{layer}").shape == (len(labels), 2)


def test_the_comparison_says_which_layer_and_against_what(out: Path) -> None:
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["best_layer"] in LAYERS
    assert comparison["best_layer"] in comparison["tied_layers"]
    assert [entry["layer"] for entry in comparison["layers"]] == list(LAYERS)
    for entry in comparison["layers"]:
        assert entry["block_index"] == entry["layer"] - 1
        for name in ("cv_auc", "test_auc"):
            assert entry[f"{name}_low"] <= entry[name] <= entry[f"{name}_high"]
        assert 0 <= entry["test_accuracy"] <= 1
        assert abs(entry["control_auc"] - 0.5) < 0.15
        assert entry["eval"] == {}
    assert {"majority", "length", "tfidf", "lexicon", "layer_0", "zero_shot"} <= set(comparison["baselines"])
    assert all("test_auc" in baseline for baseline in comparison["baselines"].values())
    assert all({"code", "level", "message"} <= set(finding) for finding in comparison["findings"])


def test_the_figure_and_the_report_are_there_and_need_no_network(out: Path) -> None:
    assert (out / "sentiment_layer_comparison.png").read_bytes().startswith(b"\x89PNG\r\n")
    report = (out / "report.html").read_text("utf-8")
    assert "<script src=" not in report
    assert '<link rel="stylesheet" href="http' not in report


def test_run_json_says_how_each_step_went(out: Path) -> None:
    checks = json.loads((out / "run.json").read_text())["checks"]
    assert checks == {
        "device_found": "ok",
        "login": "not needed",
        "texts_complete": "ok",
        "layers_captured": "ok",
        "trained": "ok",
        "figure_made": "ok",
        "backup_made": "not needed",
    }


def test_nothing_is_left_half_written(out: Path) -> None:
    assert [p for p in out.rglob("*") if p.name.startswith(".")] == []
    assert [p for p in out.parent.iterdir() if p.name.startswith(".")] == []


def test_no_data_file_holds_a_path_of_this_machine(out: Path) -> None:
    folder = str(demo_run().folder).encode()
    for path in out.rglob("*"):
        if path.suffix in (".jsonl", ".h5", ".pth", ".safetensors"):
            assert folder not in path.read_bytes(), path
