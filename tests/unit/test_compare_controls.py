from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from strataprobe.compare import controls
from strataprobe.compare.controls import Controls, shuffle_labels, split_in_halves, train_controls
from strataprobe.metrics import auc_interval, folded_auc
from strataprobe.probes.solver import LogisticProblem, fit_logistic_path


def layer(
    strength: float, *, n: int = 600, d: int = 20, copies: bool = False, seed: int = 0
) -> tuple[Controls, np.ndarray, np.ndarray]:
    """Controls of a layer with a planted direction; with ``copies`` the test rows are train rows, in their groups."""
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 1], n // 2)
    rows = rng.standard_normal((n, d))
    rows[:, 0] += strength * labels
    groups = [f"g{i}" for i in range(n)]
    if copies:
        rows[2 * n // 3 :], groups[2 * n // 3 :] = rows[: n // 3], groups[: n // 3]
    parts = [slice(0, n // 3), slice(n // 3, 2 * n // 3), slice(2 * n // 3, n)]
    labels_by_part, groups_by_part = [labels[p] for p in parts], [groups[p] for p in parts]
    shuffled = shuffle_labels(labels_by_part, groups_by_part, 2)
    halves = split_in_halves(labels_by_part[0], groups_by_part[0], labels_by_part[1])
    return train_controls(*(rows[p] for p in parts), shuffled, halves, 0.1), labels, shuffled.train


def test_shuffled_labels_stay_at_chance_however_strong_the_concept() -> None:
    controls, _, _ = layer(5.0)
    assert controls.val_auc == pytest.approx(0.5, abs=0.06)
    assert controls.test_auc == pytest.approx(0.5, abs=0.06)


def test_copies_of_train_texts_among_the_test_texts_lift_the_control() -> None:
    controls, _, _ = layer(1.0, copies=True)
    assert controls.val_auc == pytest.approx(0.5, abs=0.08)
    assert controls.test_auc > 0.62


def test_shuffling_keeps_the_classes_and_is_the_same_for_the_same_seed() -> None:
    labels = [np.tile([0, 1], 30), np.tile([0, 1], 10), np.tile([0, 1], 10)]
    groups = [["a"] * 60, ["b"] * 20, ["c"] * 20]
    single = [[f"{s}{i}" for i in range(len(part))] for s, part in enumerate(labels)]
    one, other = shuffle_labels(labels, single, 2), shuffle_labels(labels, single, 2)
    assert np.array_equal(one.train, other.train)
    assert one.train.shape == (10, 60)
    assert one.train.sum() + one.val.sum() + one.test.sum() == 10 * 50
    together = shuffle_labels(labels, groups, 2)
    assert all(len(np.unique(row[::2])) == 1 for row in together.train)


def test_half_probes_agree_where_the_direction_is_settled_and_not_where_it_is_noise() -> None:
    assert layer(4.0, d=4)[0].agreement > 0.8
    assert np.mean([layer(0.0, d=100, seed=s)[0].agreement for s in range(3)]) < 0.2


def test_halves_keep_groups_together() -> None:
    groups = [f"g{i // 4}" for i in range(80)]
    halves = split_in_halves(np.tile([0, 1], 40), groups, np.zeros(0))
    for side in halves.side:
        assert all(len(np.unique(side[4 * i : 4 * i + 4])) == 1 for i in range(20))
        assert side.sum() == 40


def test_constant_activations_have_a_control_of_one_half_and_no_agreement() -> None:
    labels = [np.tile([0, 1], 20)] * 3
    groups = [[f"{s}{i}" for i in range(40)] for s in range(3)]
    shuffled, halves = shuffle_labels(labels, groups, 2), split_in_halves(labels[0], groups[0], labels[1])
    found = train_controls(*[np.ones((40, 5))] * 3, shuffled, halves, 0.1)
    assert (found.val_auc, found.test_auc, found.agreement) == (0.5, 0.5, 0.0)


def test_the_widened_band_holds_the_auc_on_fresh_texts_as_often_as_it_says_and_the_plain_one_does_not() -> None:
    n, n_train, d, apart, c = 510, 420, 100, 0.7, 0.01
    groups, held = [f"g{i}" for i in range(n)], np.zeros((100, 2), dtype=bool)
    for seed, hits in enumerate(held):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.tile([0, 1], n // 2))
        rows = rng.standard_normal((n, d))
        rows[:, 0] += apart * labels
        folds = np.zeros(n, dtype=np.int64)
        for k in (0, 1):
            folds[labels == k] = rng.permutation(n // 2) % 5
        path = fit_logistic_path(rows, np.where(folds[:, None] == np.arange(5), np.nan, labels[:, None]), [c])
        weight = np.asarray(path.weight)[0]
        fresh = norm.cdf(apart * weight[:, 0] / (np.sqrt(2) * np.linalg.norm(weight, axis=1))).mean()
        parts = [slice(0, n_train), slice(n_train, n), slice(0, 20)]
        shuffled = shuffle_labels([labels[p] for p in parts], [groups[p] for p in parts], 2, seed=seed)
        halves = split_in_halves(labels[parts[0]], groups[:n_train], labels[parts[1]], seed=seed)
        factor = train_controls(*(rows[p] for p in parts), shuffled, halves, c).fold_factor
        out_of_fold = path.logits(rows)[np.arange(n), 0, folds]
        estimate = folded_auc(labels, out_of_fold, np.arange(n), folds)
        for i, by in enumerate((1.0, factor)):
            low, high = auc_interval(estimate.inflated(np.array([by])))
            hits[i] = low[0] <= fresh <= high[0]
    plain, widened = held.mean(axis=0)
    assert plain < 0.91
    assert 0.91 <= widened <= 0.99


@pytest.mark.parametrize(("n_classes", "expected"), [(2, 18), (3, 9 + 24), (45, 20 + 40)])
def test_the_controls_of_many_classes_cost_little_more_than_those_of_a_few(
    n_classes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = []

    class Counted(LogisticProblem):
        def solve(self, Y: Any, Cs: Any, **options: Any) -> Any:
            widths.append(Y.shape[1])
            return super().solve(Y, Cs, **options)

    monkeypatch.setattr(controls, "LogisticProblem", Counted)
    labels = [np.tile(np.arange(n_classes), k) for k in (8, 4, 4)]
    groups = [[f"{s}{i}" for i in range(len(part))] for s, part in enumerate(labels)]
    shuffled, halves = shuffle_labels(labels, groups, n_classes), split_in_halves(labels[0], groups[0], labels[1])
    rng = np.random.default_rng(0)
    found = train_controls(*(rng.standard_normal((len(p), 4)) for p in labels), shuffled, halves, 0.1)
    assert widths[0] <= expected
    assert controls.n_controls(n_classes) == min(expected, {2: 10, 3: 9, 45: 20}[n_classes])
    assert found.test_auc == pytest.approx(0.5, abs=0.2)
