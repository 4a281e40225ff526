from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from strataprobe.compare.aucs import auc_values
from strataprobe.compare.geometry import cosines, geometry_entry, shared_width, transfer_column, weights_of
from strataprobe.metrics import folded_auc, macro_auc
from strataprobe.probes.probe import Probe, ProbeSet


def probe_set(layer: int, weight: np.ndarray, names: tuple[str, ...] = ("negative", "positive")) -> ProbeSet:
    """The probes of one layer; of two classes ``weight`` (D,) is that of the second."""
    rows = [-weight, weight] if len(names) == 2 else list(weight)
    return ProbeSet(
        [Probe(w.astype(np.float32), 0.0, n, layer, layer - 1, "last") for w, n in zip(rows, names, strict=True)]
    )


def planted(direction: np.ndarray, size: float, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations (300, D) float32 of one layer that carry the label along ``direction``, and the labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(300) % 2
    noise = rng.standard_normal((300, len(direction)))
    rows = size * (noise + 2.0 * np.outer(2 * labels - 1, direction)) + shift
    return rows.astype(np.float32), labels


def test_a_direction_shared_by_two_layers_carries_over_whatever_their_size_and_mean_and_another_does_not() -> None:
    first, second = np.eye(20)[0], np.eye(20)[1]
    sets = [probe_set(k, w) for k, w in enumerate((first, 500 * first, second), 1)]
    weights = weights_of(sets)
    rows = [planted(first, 1, 0, 0), planted(first, 1e4, -3e4, 1), planted(second, 30, 100, 2)]
    transfer = [transfer_column(weights, X, y) for X, y in rows]
    entry = geometry_entry("last", [1, 2, 3], sets, transfer)
    auc = np.array(entry["transfer_auc"])
    assert auc[:2, :2].min() > 0.95
    assert np.abs(auc[:2, 2] - 0.5).max() < 0.12
    assert np.abs(auc[2, :2] - 0.5).max() < 0.12
    assert auc[2, 2] > 0.95
    assert np.array(entry["cosine"]) == pytest.approx(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]))


def test_a_row_is_the_layer_trained_on_and_a_column_the_layer_ranked() -> None:
    first, second = np.eye(20)[0], np.eye(20)[1]
    sets = [probe_set(1, first), probe_set(2, first + second)]
    rows = [planted(first, 1, 0, 0), planted(second, 1, 0, 1)]
    entry = geometry_entry("last", [1, 2], sets, [transfer_column(weights_of(sets), X, y) for X, y in rows])
    for i, probes in enumerate(sets):
        for j, (X, y) in enumerate(rows):
            assert entry["transfer_auc"][i][j] == pytest.approx(roc_auc_score(y, probes.logits(X)[:, 1]), abs=1e-6)
    assert entry["cosine"][0][1] == pytest.approx(0.5**0.5)


def test_classes_are_averaged() -> None:
    names = ("a", "b", "c")
    one, other = np.eye(8)[:3], np.eye(8)[[0, 1, 7]]
    assert cosines(weights_of([probe_set(1, one, names), probe_set(2, other, names)]))[0, 1] == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    X = (rng.standard_normal((200, 8)) + 3 * np.eye(8)[labels]).astype(np.float32)
    found = transfer_column(weights_of([probe_set(1, one, names), probe_set(2, other, names)]), X, labels)
    by_class = [roc_auc_score(labels == c, X[:, c]) for c in range(3)]
    assert found[0] == pytest.approx(np.mean(by_class), abs=1e-6)
    assert found[0] > found[1] + 0.1


def test_layers_that_cannot_be_compared_say_why() -> None:
    wide, narrow = probe_set(1, np.ones(4)), probe_set(2, np.ones(3))
    assert shared_width([wide, probe_set(2, np.ones(4))]) == ""
    assert shared_width([wide]) == "there is one layer only"
    entry = geometry_entry("last", [1, 2], [wide, narrow], [None, None])
    assert (entry["cosine"], entry["transfer_auc"]) == (None, None)
    assert entry["reason"] == "the layers differ in width"


def test_a_layer_without_a_direction_and_a_class_without_rows_give_none() -> None:
    sets = [probe_set(1, np.zeros(4)), probe_set(2, np.ones(4))]
    X = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    column = transfer_column(weights_of(sets), X, np.zeros(10, dtype=np.int64))
    entry = geometry_entry("last", [1, 2], sets, [column, column])
    assert entry["cosine"] == [[None, None], [None, pytest.approx(1.0)]]
    assert entry["transfer_auc"] == [[None, None], [None, None]]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_fast_aucs_are_those_that_have_a_covariance(n_classes: int) -> None:
    rng = np.random.default_rng(1)
    labels, folds = rng.integers(0, n_classes, 120), rng.integers(0, 4, 120)
    logits = rng.standard_normal((120, n_classes, 5)).round(1)
    groups = np.arange(120)
    if n_classes == 2:
        expected = folded_auc(labels, logits[:, 1, :], groups, folds).auc
    else:
        expected = macro_auc(labels, logits, groups, folds).auc
    assert auc_values(labels, logits, folds) == pytest.approx(expected)
    assert np.isnan(auc_values(np.zeros(120, dtype=np.int64), logits)).all()
