"""What must hold for the metrics whatever the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strataprobe.classmeasures import auprc, calibration_error, f1, recall_at
from strataprobe.metrics import accuracy_interval, auc, auc_interval, clustered_auc, expected_calibration_error


@st.composite
def rows(draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with both classes, logits with ties, groups."""
    n = draw(st.integers(2, 40))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    labels[:2] = [0, 1]
    logits = np.array(draw(st.lists(st.integers(-20, 20), min_size=n, max_size=n)), dtype=np.float64)
    groups = np.array(draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)))
    return labels, logits, groups


@settings(max_examples=100, deadline=None)
@given(rows())
def test_an_increasing_function_of_the_logits_leaves_the_auc_alone(data: Any) -> None:
    labels, logits, _ = data
    assert auc(labels, np.exp(logits / 5) * 1e4 + 7) == pytest.approx(auc(labels, logits), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(rows())
def test_the_mirror_probe_has_the_mirrored_auc_and_the_same_variance(data: Any) -> None:
    labels, logits, groups = data
    one, other = clustered_auc(labels, logits, groups), clustered_auc(labels, -logits, groups)
    assert other.auc[0] == pytest.approx(1 - one.auc[0], abs=1e-12)
    assert other.variance[0] == pytest.approx(one.variance[0], abs=1e-12)
    assert clustered_auc(1 - labels, -logits, groups).auc[0] == pytest.approx(one.auc[0], abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(rows())
def test_intervals_hold_the_auc_and_lie_within_0_and_1(data: Any) -> None:
    labels, logits, groups = data
    estimate = clustered_auc(labels, np.stack([logits, -logits, 0 * logits], axis=1), groups)
    low, high = auc_interval(estimate)
    assert np.all(low >= 0)
    assert np.all(high <= 1)
    assert np.all(low <= estimate.auc + 1e-9)
    assert np.all(high >= estimate.auc - 1e-9)


@settings(max_examples=50, deadline=None)
@given(rows())
def test_the_covariance_is_never_indefinite(data: Any) -> None:
    labels, logits, groups = data
    columns = np.stack([logits, logits**2, -logits, np.roll(logits, 1)], axis=1)
    covariance = clustered_auc(labels, columns, groups).covariance
    assert np.linalg.eigvalsh(covariance).min() >= -1e-12


@settings(max_examples=50, deadline=None)
@given(rows())
def test_the_order_of_the_rows_does_not_matter(data: Any) -> None:
    labels, logits, groups = data
    order = np.random.default_rng(0).permutation(len(labels))
    one, other = clustered_auc(labels, logits, groups), clustered_auc(labels[order], logits[order], groups[order])
    assert other.auc[0] == pytest.approx(one.auc[0], abs=1e-12)
    assert other.variance[0] == pytest.approx(one.variance[0], abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(rows())
def test_accuracy_lies_in_its_interval_and_calibration_error_between_0_and_1(data: Any) -> None:
    labels, logits, groups = data
    value, low, high = accuracy_interval(logits > 0, groups)
    assert 0 <= low <= value + 1e-12
    assert value - 1e-12 <= high <= 1
    assert 0 <= expected_calibration_error(labels, 1 / (1 + np.exp(-logits))) <= 1


@settings(max_examples=50, deadline=None)
@given(rows())
def test_class_measures_lie_in_their_bounds_within_0_and_1(data: Any) -> None:
    labels, logits, groups = data
    stated = 1 / (1 + np.exp(-logits / 4))
    for bounded in (
        auprc(labels, logits, groups),
        f1(labels, logits > 0, groups),
        recall_at(labels, logits, groups),
        calibration_error(labels, stated, groups),
    ):
        assert 0 <= bounded.low <= bounded.value + 1e-9
        assert bounded.value - 1e-9 <= bounded.high <= 1


@settings(max_examples=50, deadline=None)
@given(rows())
def test_an_increasing_function_of_the_logits_leaves_average_precision_and_its_bounds_alone(data: Any) -> None:
    labels, logits, groups = data
    one, other = auprc(labels, logits, groups), auprc(labels, np.exp(logits / 5) * 1e4 + 7, groups)
    assert np.array(other) == pytest.approx(np.array(one), abs=1e-9)
    raised = recall_at(labels, 3 * logits + 5, groups)
    assert np.array(raised) == pytest.approx(np.array(recall_at(labels, logits, groups)), abs=1e-9)
