from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from strataprobe.classmeasures import auprc, calibration_error, f1, recall_at
from strataprobe.compare.choice import difference_low
from strataprobe.compare.measures import layer_measures, paired_p
from strataprobe.metrics import auc, clustered_auc

LABELS = np.tile([0, 1], 105)
SINGLE = np.arange(210)


def logits_of(shift: float, seed: int, labels: np.ndarray = LABELS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(len(labels)) + shift * labels


def probability(logits: np.ndarray, shift: float) -> np.ndarray:
    """That of class 1 where the classes are ``shift`` apart."""
    return 1.0 / (1.0 + np.exp(-shift * (logits - shift / 2)))


@pytest.mark.parametrize("measure", [auprc, recall_at, calibration_error, f1])
def test_repeating_rows_within_their_groups_changes_neither_value_nor_bounds(measure: object) -> None:
    stated = probability(logits_of(1.5, 0), 1.5)
    values = stated > 0.5 if measure is f1 else stated
    once = measure(LABELS, values, SINGLE)  # type: ignore[operator]
    fourfold = measure(*(np.repeat(part, 4) for part in (LABELS, values, SINGLE)))  # type: ignore[operator]
    tolerance = 0.02 if measure in (recall_at, calibration_error) else 1e-3
    assert np.array(fourfold) == pytest.approx(np.array(once), abs=tolerance)


@pytest.mark.parametrize("measure", [auprc, recall_at, calibration_error, f1])
def test_treating_related_rows_as_independent_would_narrow_the_bounds(measure: object) -> None:
    stated = np.repeat(probability(logits_of(1.5, 1), 1.5), 4)
    values = stated > 0.5 if measure is f1 else stated
    labels, groups = np.repeat(LABELS, 4), np.repeat(SINGLE, 4)
    related, single = (measure(labels, values, g) for g in (groups, np.arange(840)))  # type: ignore[operator]
    assert related.high - related.low > 1.2 * (single.high - single.low)


def test_perfect_values_have_a_lower_bound_below_one_that_rises_with_the_number_of_texts() -> None:
    lows = []
    for n in (20, 200, 2000):
        labels = np.tile([0, 1], n // 2)
        found = [m(labels, labels, np.arange(n)) for m in (auprc, f1, recall_at)]
        assert [b.value for b in found] == [1.0, 1.0, 1.0]
        assert [b.high for b in found] == pytest.approx([1.0, 1.0, 1.0])
        lows.append([b.low for b in found])
    assert np.all(np.diff(lows, axis=0) > 0)
    assert np.all(np.array(lows) < 1)
    assert np.all(np.array(lows[-1]) > 0.95)


def test_a_calibrated_probe_has_a_calibration_error_whose_bounds_reach_zero_and_an_overconfident_one_has_not() -> None:
    stated = probability(logits_of(1.5, 2), 1.5)
    honest = calibration_error(LABELS, stated, SINGLE)
    sure = calibration_error(LABELS, stated**6 / (stated**6 + (1 - stated) ** 6), SINGLE)
    assert honest.low == 0.0
    assert honest.value > 0.01
    assert sure.low > 0.05


def test_a_constant_probability_has_one_bin_and_its_gap() -> None:
    assert calibration_error(LABELS, np.full(210, 0.5), SINGLE).value == pytest.approx(0.0)
    assert calibration_error(LABELS, np.full(210, 0.8), SINGLE).value == pytest.approx(0.3)


def test_bounds_hold_the_truth_about_as_often_as_they_say() -> None:
    shift = norm.ppf(0.95) * np.sqrt(2)
    groups = np.repeat(np.arange(105), 2)
    truth = {"auprc": 0.950, "f1": norm.cdf(shift / 2), "recall": norm.sf(norm.isf(0.01) - shift)}
    misses = dict.fromkeys(truth, 0)
    rng = np.random.default_rng(3)
    for _ in range(100):
        noise = rng.standard_normal(210) + rng.standard_normal(105)[groups]
        logits = np.sqrt(0.5) * noise + shift * LABELS
        found = {
            "auprc": auprc(LABELS, logits, groups),
            "f1": f1(LABELS, logits > shift / 2, groups),
            "recall": recall_at(LABELS, logits, groups),
        }
        for name, bounded in found.items():
            misses[name] += not bounded.low <= truth[name] <= bounded.high
    assert all(count <= 10 for count in misses.values()), misses


def test_the_mean_over_classes_is_that_of_the_classes_alone() -> None:
    rng = np.random.default_rng(4)
    labels = np.eye(3)[rng.integers(0, 3, 240)]
    logits = rng.standard_normal((240, 3)) + 2 * labels
    groups = np.arange(240) // 2
    stated = probability(logits, 2.0)
    for measure, values in ((auprc, logits), (f1, logits > 1), (recall_at, logits), (calibration_error, stated)):
        alone = [measure(labels[:, k], values[:, k], groups) for k in range(3)]
        together = measure(labels, values, groups)
        assert together.value == pytest.approx(np.mean([b.value for b in alone]), abs=1e-12)
        assert together.high - together.low < np.mean([b.high - b.low for b in alone])


def test_a_layer_of_two_classes_is_measured_on_the_second() -> None:
    stated = probability(logits_of(2.0, 5), 2.0)
    found = layer_measures(LABELS, np.stack([1 - stated, stated], axis=1), np.array([0.5, 0.4]), SINGLE)
    assert found["test_auprc"] == auprc(LABELS, stated, SINGLE).value
    assert found["test_f1"] == f1(LABELS, stated >= 0.4, SINGLE).value
    assert set(found) == {f"test_{m}{e}" for m in ("auprc", "f1", "recall_1fpr", "ece") for e in ("", "_low", "_high")}
    for name in ("auprc", "f1", "recall_1fpr", "ece"):
        low, value, high = (found[f"test_{name}{end}"] for end in ("_low", "", "_high"))
        assert None not in (low, value, high)
        assert 0 <= low <= value <= high <= 1  # type: ignore[operator]


def test_a_layer_without_one_of_two_classes_has_no_measures_and_an_absent_class_of_three_is_left_out() -> None:
    stated = probability(logits_of(2.0, 6), 2.0)
    two = np.stack([1 - stated, stated], axis=1)
    assert set(layer_measures(np.zeros(210, dtype=int), two, np.array([0.5, 0.5]), SINGLE).values()) == {None}
    three = np.concatenate([two, two[:, :1]], axis=1)
    assert layer_measures(LABELS, three, np.full(3, 0.5), SINGLE)["test_auprc"] is not None


def test_the_paired_p_is_below_a_twentieth_just_where_the_bounds_leave_zero_out() -> None:
    seen = set()
    for seed in range(6):
        logits = logits_of(1.5, seed)
        other = logits + (0.1, 0.8)[seed % 2] * np.random.default_rng([seed, 7]).standard_normal(210)
        p = paired_p(logits, other, LABELS, SINGLE)
        low = difference_low(clustered_auc(LABELS, np.stack([logits, other], axis=1), SINGLE), norm.isf(0.025))
        assert (p < 0.05) == bool(low[0, 1] > 0 or low[1, 0] > 0)
        assert p == pytest.approx(paired_p(other, logits, LABELS, SINGLE), rel=1e-6)
        seen.add(p < 0.05)
    assert seen == {True, False}


def test_the_same_logits_do_not_differ_and_no_class_gives_no_p() -> None:
    logits = logits_of(1.0, 8)
    assert paired_p(logits, logits, LABELS, SINGLE) == 1.0
    assert paired_p(logits, 3 * logits + 1, LABELS, SINGLE) == 1.0
    assert np.isnan(paired_p(logits, -logits, np.zeros(210, dtype=int), SINGLE))


def test_the_paired_p_takes_columns_of_classes() -> None:
    one, other = logits_of(1.5, 9), logits_of(0.5, 10)
    both = [np.stack([-x, x], axis=1) for x in (one, other)]
    assert paired_p(both[0], both[1], LABELS, SINGLE) == paired_p(one, other, LABELS, SINGLE)
    labels = np.random.default_rng(11).integers(0, 3, 210)
    three = [np.random.default_rng(12).standard_normal((210, 3)) + s * np.eye(3)[labels] for s in (2.0, 0.2)]
    assert paired_p(three[0], three[1], labels, SINGLE) < 1e-3
    assert auc(labels == 0, three[0][:, 0]) > 0.8
