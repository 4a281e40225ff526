from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compare_folders import write_activations
from strataprobe.compare.document import FORMAT_VERSION, Sources, build_document
from strataprobe.compare.layers import fold_factors, measure_layers, null_factors, read_test_rows
from strataprobe.probes.files import load_oof, load_probes
from strataprobe.probes.run import train
from strataprobe.store import ActivationFolder


def sources_of(run: Path, **kind: Any) -> Sources:
    folder = write_activations(run / "activations", **kind)
    train(folder, run / "probes")
    probes = run / "probes"
    return Sources(load_probes(probes), load_oof(probes), ActivationFolder.open(folder), None, "sentiment")


def document_of(sources: Sources) -> dict[str, Any]:
    rows = read_test_rows(sources.folder, sources.probes.layers[-1])
    return build_document(sources, measure_layers(sources.probes, sources.folder), rows, 0)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """A concept at layers 3 to 6 of 6, along one direction, in text from elsewhere too."""
    return sources_of(tmp_path_factory.mktemp("run"), readouts=("last",), layer_0=False)


@pytest.fixture(scope="module")
def document(sources: Sources) -> dict[str, Any]:
    return document_of(sources)


def test_every_section_is_there_for_the_best_layer(document: dict[str, Any]) -> None:
    best = document["best_layer"]
    assert document["format_version"] == FORMAT_VERSION
    assert document["n_folds"] == 5
    for section in ("learning_curve", "shift", "calibration"):
        assert document[section]["layer"] == best
        assert "reason" not in document[section]
    assert document["learning_curve"]["points"][-1]["n_texts"] == document["n_texts"]["train"]
    entry = next(e for e in document["layers"] if e["layer"] == best)
    assert document["learning_curve"]["points"][-1]["auc"] == pytest.approx(entry["test_auc"])
    assert list(document["learning_curve"]["own"]) == ["reviews"]


def test_bands_name_the_layers_and_each_layer_its_band(document: dict[str, Any]) -> None:
    assert [e["band"] for e in document["layers"]] == ["early", "early", "middle", "middle", "late", "final"]
    assert [b["layers"] for b in document["bands"]] == [[1, 2], [3, 4], [5], [6]]
    early, middle = document["bands"][:2]
    assert early["best_cv_auc"] < 0.7 < middle["best_cv_auc"]


def test_one_direction_is_found_from_the_layer_on_at_which_it_is_planted(document: dict[str, Any]) -> None:
    geometry = document["geometry"]
    auc = np.array(geometry["transfer_auc"])
    assert geometry["layers"] == [1, 2, 3, 4, 5, 6]
    assert np.diag(auc) == pytest.approx([e["test_auc"] for e in document["layers"]], abs=1e-6)
    assert auc[2:, 2:].min() > 0.8
    assert np.abs(auc[2:, 1] - 0.5).max() < 0.2
    assert geometry["cosine"][0] == [None] * 6
    assert min(geometry["cosine"][3][2:]) > 0.9 > 0.6 > geometry["cosine"][3][1]
    finding = next(f for f in document["findings"] if f["code"] == "C014")
    assert "One direction serves layers 3 to 6" in finding["message"]


def test_the_shift_table_agrees_with_the_layers(document: dict[str, Any]) -> None:
    test, reviews = document["shift"]["rows"]
    entry = next(e for e in document["layers"] if e["layer"] == document["best_layer"])
    assert (test["name"], test["n"], test["accuracy"]) == ("test", document["n_texts"]["test"], entry["test_accuracy"])
    assert reviews["auc"] == pytest.approx(entry["eval"]["reviews"])
    assert reviews["best_auc"] == max(e["eval"]["reviews"] for e in document["layers"])


def test_findings_beyond_the_curve_are_all_there_and_end_with_the_mend(document: dict[str, Any]) -> None:
    codes = [f["code"] for f in document["findings"]]
    assert codes == sorted(codes)
    assert {f"C{k:03d}" for k in range(12, 17)} <= set(codes)
    assert "C017" not in codes


def test_a_curve_of_one_fold_is_said_to_be_of_the_validation_texts(sources: Sources) -> None:
    n_train = int(sources.probes.manifest.details["n_train"])
    oof = sources.oof
    held = replace(
        oof,
        logits={key: value[n_train:] for key, value in oof.logits.items()},
        labels=oof.labels[n_train:],
        folds=np.zeros(len(oof.labels) - n_train, dtype=np.int64),
        groups=oof.groups[n_train:],
        ids=oof.ids[n_train:],
    )
    measured = measure_layers(sources.probes, sources.folder)
    assert fold_factors(held, measured).tolist() == null_factors(held, measured).tolist() == [1.0] * 6
    assert fold_factors(oof, measured) * null_factors(oof, measured) == pytest.approx(2.0)
    rows = read_test_rows(sources.folder, 6)
    found = build_document(replace(sources, oof=held), measured, rows, 0)
    assert found["n_folds"] == 0
    messages = {f["code"]: f["message"] for f in found["findings"]}
    assert "validation texts" in messages["C017"]
    assert "on the validation texts" in messages["C001"]


def test_without_a_best_layer_the_sections_say_so(tmp_path: Path) -> None:
    kind: dict[str, Any] = {"starts_at": 99, "n_layers": 2, "n_groups": 60, "readouts": ("last",)}
    document = document_of(sources_of(tmp_path, layer_0=False, **kind))
    assert document["best_layer"] is None
    for section in ("learning_curve", "shift", "calibration"):
        assert document[section]["reason"] == "there is no best layer"
    assert "single" not in document["ensembles"]
    assert document["geometry"]["transfer_auc"] is not None
    levels = {f["code"]: f["level"] for f in document["findings"]}
    assert {levels[f"C{k:03d}"] for k in range(12, 17)} == {"skipped"}


def test_one_layer_alone_has_no_geometry_and_no_ensembles(tmp_path: Path) -> None:
    kind: dict[str, Any] = {"starts_at": 1, "n_layers": 2, "n_groups": 60, "readouts": ("last",), "evals": ()}
    folder = write_activations(tmp_path / "activations", layer_0=False, **kind)
    train(folder, tmp_path / "probes", layers=[2])
    probes = tmp_path / "probes"
    sources = Sources(load_probes(probes), load_oof(probes), ActivationFolder.open(folder), None, "sentiment")
    document = document_of(sources)
    assert document["geometry"]["reason"] == "there is one layer only"
    assert document["ensembles"] == {}
    assert [b["band"] for b in document["bands"]] == ["final"]
    assert [row["name"] for row in document["shift"]["rows"]] == ["test"]


def test_three_classes_have_every_section(tmp_path: Path) -> None:
    kind: dict[str, Any] = {"n_layers": 3, "starts_at": 2, "strength": 3.0, "readouts": ("mean",), "n_groups": 80}
    document = document_of(sources_of(tmp_path, class_names=("anger", "calm", "joy"), layer_0=False, **kind))
    assert list(document["calibration"]["classes"]) == ["anger", "calm", "joy"]
    assert document["shift"]["rows"][0]["positive_share"] is None
    assert document["ensembles"]["greedy"]["test_auc"] > 0.9
    assert document["learning_curve"]["points"][0]["n_texts"] == 30
    assert document["geometry"]["transfer_auc"][1][2] > 0.9


def test_directions_are_moved_between_layers_of_the_primary_readout_only(tmp_path: Path) -> None:
    kind: dict[str, Any] = {"n_layers": 2, "starts_at": 1, "n_groups": 30, "readouts": ("last", "mean"), "evals": ()}
    sources = sources_of(tmp_path, layer_0=False, **kind)
    measured = measure_layers(sources.probes, sources.folder)
    assert [(m.readout, m.transfer is not None) for m in measured] == [
        ("last", True), ("last", True), ("mean", False), ("mean", False),
    ]  # fmt: skip


def test_text_from_elsewhere_that_is_called_test_stands_beside_the_test_texts(tmp_path: Path) -> None:
    kind: dict[str, Any] = {"n_layers": 2, "starts_at": 2, "n_groups": 60, "readouts": ("last",), "evals": ("test",)}
    document = document_of(sources_of(tmp_path, layer_0=False, **kind))
    assert [(r["name"], r["n"]) for r in document["shift"]["rows"]] == [
        ("test", document["n_texts"]["test"]), ("eval_test", 120),
    ]  # fmt: skip
    assert list(document["learning_curve"]["own"]) == ["eval_test"]
