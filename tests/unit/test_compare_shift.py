from __future__ import annotations

import numpy as np
import pytest

from strataprobe.compare.calibration_curve import calibration_entry, reliability_bins
from strataprobe.compare.shift import eval_curves, shift_entry
from strataprobe.compare.subsets import Labelled
from strataprobe.metrics import expected_calibration_error
from strataprobe.probes.calibration import Calibration, sigmoid
from strataprobe.probes.probe import Probe, ProbeSet


def probes(slope: float = 1.0, intercept: float = 0.0) -> ProbeSet:
    """A probe on the first of three features."""
    positive = Probe(
        np.array([1, 0, 0], dtype=np.float32), 0.0, "positive", 4, 3, "last", calibration=Calibration(slope, intercept)
    )
    return ProbeSet([positive.mirrored("negative"), positive])


def texts(n: int, seed: int, *, share: float = 0.5, slope: float = 1.0, bias: float = 0.0) -> Labelled:
    """Rows whose class has the log-odds slope * first feature + bias."""
    rng = np.random.default_rng(seed)
    X = rng.normal(0.0, 3.0, size=(n, 3)).astype(np.float32)
    labels = (rng.random(n) < sigmoid(slope * X[:, 0] + bias)).astype(np.int64)
    return Labelled(X, labels, [str(i) for i in range(n)])


def test_the_table_shows_what_text_of_another_kind_does_to_ranking_and_to_probabilities() -> None:
    curves = {"test": {3: 0.8, 4: 0.9}, "reviews": {3: 0.95, 4: 0.7}}
    found = shift_entry("sentiment", probes(), {"test": texts(4000, 0), "reviews": texts(4000, 1, bias=4.0)}, curves)
    test, reviews = found["rows"]
    assert (found["trained_on"], found["layer"]) == ("sentiment", 4)
    assert test["ece"] < 0.03 < 0.15 < reviews["ece"]
    assert test["positive_share"] == pytest.approx(0.5, abs=0.03)
    assert reviews["positive_share"] > 0.75
    assert test["accuracy"] > reviews["accuracy"] + 0.05
    assert test["auc_low"] < test["auc"] < test["auc_high"]
    assert (test["best_layer"], reviews["best_layer"], reviews["best_auc"]) == (4, 3, 0.95)


def test_text_without_labels_and_a_missing_layer_leave_gaps() -> None:
    empty = Labelled(np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.int64), [])
    (row,) = shift_entry("sentiment", probes(), {"reviews": empty}, {"reviews": {4: None}})["rows"]
    assert row["n"] == 0
    assert [row[k] for k in ("auc", "accuracy", "ece", "best_layer", "best_auc")] == [None] * 5
    assert shift_entry("sentiment", None, {}, {})["reason"] == "there is no best layer"


def test_the_curves_are_read_from_the_layers() -> None:
    entries = [{"layer": 1, "test_auc": 0.6, "eval": {}}, {"layer": 2, "test_auc": 0.7, "eval": {"reviews": 0.65}}]
    assert eval_curves(entries) == {"test": {1: 0.6, 2: 0.7}, "reviews": {2: 0.65}}


def test_bins_of_a_calibrated_probe_lie_on_the_diagonal_and_those_of_an_overconfident_one_do_not() -> None:
    own = texts(20_000, 2)
    for probe_set, is_calibrated in ((probes(), True), (probes(slope=4.0), False)):
        probabilities = probe_set.probabilities(own.X)
        entry = calibration_entry(probe_set, own.labels, probabilities)["classes"]["positive"]
        gaps = [abs(b["predicted"] - b["observed"]) for b in entry["bins"]]
        assert sum(b["n"] for b in entry["bins"]) == 20_000
        assert (max(gaps) < 0.04) == is_calibrated
        assert entry["ece"] == pytest.approx(expected_calibration_error(own.labels == 1, probabilities[:, 1]))
        assert entry["ece"] == pytest.approx(np.mean(gaps), abs=1e-3)
    assert (entry["slope"], entry["intercept"], entry["threshold"]) == (4.0, 0.0, 0.5)


def test_rows_of_equal_probability_do_not_depend_on_their_order() -> None:
    labels = np.array([1] * 5 + [0] * 15)
    assert reliability_bins(labels, np.full(20, 0.3)) == reliability_bins(labels[::-1], np.full(20, 0.3))
    assert reliability_bins(np.zeros(0), np.zeros(0)) == []


def test_without_a_best_layer_there_is_no_calibration() -> None:
    assert calibration_entry(None, np.zeros(3), np.zeros((3, 2)))["classes"] == {}
