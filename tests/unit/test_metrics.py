from __future__ import annotations

import numpy as np
import pytest

from strataprobe.intervals import max_t_pairs_quantile, max_t_quantile
from strataprobe.metrics import (
    AucEstimate,
    accuracy_interval,
    auc,
    auc_interval,
    classification_summary,
    clustered_auc,
    expected_calibration_error,
    folded_auc,
    macro_auc,
)


def test_auc_counts_ties_half() -> None:
    assert auc([0, 0, 1, 1], [0.0, 1.0, 1.0, 2.0]) == 0.875


def test_auc_without_one_class_is_nan() -> None:
    assert np.isnan(auc([1, 1], [0.0, 1.0]))
    assert np.isnan(clustered_auc([0, 0], [0.0, 1.0], [0, 1]).auc[0])
    assert all(np.isnan(b).all() for b in auc_interval(clustered_auc([0, 0], [0.0, 1.0], [0, 1])))


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        auc([0, 1], [0.0, np.nan])


def test_repeating_rows_within_their_groups_does_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 60)
    logits, groups = rng.standard_normal(120) + labels, np.arange(120)
    once = auc_interval(clustered_auc(labels, logits, groups))
    fivefold = auc_interval(clustered_auc(np.repeat(labels, 5), np.repeat(logits, 5), np.repeat(groups, 5)))
    as_if_single = auc_interval(clustered_auc(np.repeat(labels, 5), np.repeat(logits, 5), np.arange(600)))
    assert np.ravel(fivefold) == pytest.approx(np.ravel(once), abs=1e-6)
    assert as_if_single[1][0] - as_if_single[0][0] < 0.6 * (once[1][0] - once[0][0])


def test_a_perfect_auc_still_has_an_interval_that_narrows_with_the_number_of_groups() -> None:
    lows = []
    for n in (10, 100, 1000):
        labels = np.tile([0, 1], n)
        low, high = auc_interval(clustered_auc(labels, labels.astype(float), np.arange(2 * n)))
        assert high[0] == pytest.approx(1.0)
        lows.append(low[0])
    assert 0.6 < lows[0] < 0.9 < lows[1] < 0.99 < lows[2] < 1


def test_a_constant_column_has_an_auc_of_one_half_exactly() -> None:
    estimate = clustered_auc(np.tile([0, 1], 20), np.ones(40), np.arange(40))
    low, high = auc_interval(estimate)
    assert estimate.auc[0] == 0.5
    assert (low[0], high[0]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert estimate.correlation.tolist() == [[1.0]]


def test_folds_are_averaged_and_not_pooled() -> None:
    labels, folds = np.tile([0, 1], 50), np.repeat([0, 1], 50)
    logits = labels + 100.0 * folds
    assert folded_auc(labels, logits, np.arange(100), folds).auc[0] == 1.0
    assert auc(labels, logits) < 0.8


def test_a_fold_without_a_class_is_left_out() -> None:
    labels = np.array([0, 1, 0, 1, 0, 0])
    logits = np.array([0.0, 1.0, 0.0, 1.0, 5.0, 6.0])
    estimate = folded_auc(labels, logits, np.arange(6), np.array([0, 0, 1, 1, 2, 2]))
    assert estimate.auc[0] == 1.0
    assert (estimate.n_positive_groups, estimate.n_negative_groups) == (2, 2)


def test_the_macro_auc_is_the_mean_over_classes_that_are_there() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 90)
    logits = rng.standard_normal((90, 4, 2)) + np.eye(4)[labels][:, :, None]
    estimate = macro_auc(labels, logits, np.arange(90))
    expected = [np.mean([auc(labels == c, logits[:, c, j]) for c in range(3)]) for j in range(2)]
    assert estimate.auc == pytest.approx(expected, abs=1e-12)
    assert np.isnan(macro_auc(np.zeros(5, dtype=int), np.zeros((5, 3, 1)), np.arange(5)).auc[0])


def test_the_critical_value_lies_between_that_of_one_column_and_bonferronis() -> None:
    independent, equal = np.eye(20), np.full((20, 20), 1.0)
    assert max_t_quantile(equal) == pytest.approx(1.645, abs=0.03)
    assert max_t_quantile(independent) == pytest.approx(2.80, abs=0.06)
    assert max_t_pairs_quantile(np.eye(2)) == pytest.approx(1.96, abs=0.05)
    assert max_t_pairs_quantile(np.eye(10)) == pytest.approx(3.16, abs=0.08)
    assert max_t_pairs_quantile(np.zeros((3, 3))) == pytest.approx(1.96, abs=0.001)


def test_the_simulated_critical_value_is_the_same_for_the_same_seed() -> None:
    assert max_t_quantile(np.eye(5), seed=3) == max_t_quantile(np.eye(5), seed=3)


def test_correlation_of_identical_columns_is_one() -> None:
    rng = np.random.default_rng(2)
    labels = np.tile([0, 1], 40)
    logits = rng.standard_normal(80) + labels
    estimate = clustered_auc(labels, np.stack([logits, 2 * logits, np.zeros(80)], axis=1), np.arange(80))
    expected = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert estimate.correlation == pytest.approx(np.array(expected, dtype=float), abs=1e-9)


def test_intervals_are_wider_for_a_larger_critical_value() -> None:
    estimate = AucEstimate(np.array([0.8]), np.array([[0.001]]), 100, 100)
    assert auc_interval(estimate, 3.0)[0][0] < auc_interval(estimate, 1.96)[0][0] < 0.8


def test_accuracy_has_wilsons_interval_when_rows_are_independent() -> None:
    value, low, high = accuracy_interval(np.repeat([1, 0], [90, 10]), np.arange(100))
    assert value == pytest.approx(0.9)
    assert (low, high) == (pytest.approx(0.826, abs=0.003), pytest.approx(0.945, abs=0.003))


def test_accuracy_of_grouped_rows_has_a_wider_interval() -> None:
    correct = np.repeat(np.tile([1, 1, 1, 1, 0], 8), 10)
    single = accuracy_interval(correct, np.arange(400))
    grouped = accuracy_interval(correct, np.repeat(np.arange(40), 10))
    assert grouped[2] - grouped[1] > 2 * (single[2] - single[1])


def test_an_accuracy_of_one_has_a_lower_bound_from_the_number_of_groups() -> None:
    assert accuracy_interval(np.ones(100), np.repeat(np.arange(10), 10))[1] == pytest.approx(0.722, abs=0.001)


def test_the_summary_of_a_class_that_is_never_called_has_no_warnings_and_zero_precision() -> None:
    summary = classification_summary([0, 0, 1], [0.1, 0.2, 0.3])
    assert summary["precision"] == summary["recall"] == summary["f1"] == 0.0
    assert summary["confusion_matrix"] == [[2, 0], [1, 0]]
    assert summary["auc_roc"] == 1.0
    assert classification_summary([0, 0], [0.1, 0.2])["auc_roc"] is None


def test_the_threshold_decides_what_is_called() -> None:
    assert classification_summary([0, 0, 1], [0.1, 0.2, 0.3], 0.3)["accuracy"] == 1.0


def test_calibration_error_is_zero_for_true_frequencies_and_large_for_overconfidence() -> None:
    rng = np.random.default_rng(3)
    p = rng.uniform(size=20_000)
    labels = rng.uniform(size=20_000) < p
    assert expected_calibration_error(labels, p) < 0.02
    assert expected_calibration_error(labels, np.where(p > 0.5, 0.999, 0.001)) > 0.2


def test_calibration_error_of_equal_probabilities_does_not_depend_on_the_order_of_rows() -> None:
    labels = np.repeat([0, 1], 50)
    assert expected_calibration_error(labels, np.full(100, 0.5)) == pytest.approx(0)
    assert expected_calibration_error(labels, np.full(100, 0.8)) == pytest.approx(0.3)
    assert np.isnan(expected_calibration_error([], []))
