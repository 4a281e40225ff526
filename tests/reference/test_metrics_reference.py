"""Metrics against scikit-learn, against formulas written out plainly, and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from strataprobe.aucvariance import Alike, binormal_variance, related_variance
from strataprobe.classmeasures import auprc, calibration_error, f1, recall_at
from strataprobe.metrics import auc, auc_interval, clustered_auc, expected_calibration_error, folded_auc


def simulated(
    true_auc: float, n_pairs: int, rng: np.random.Generator, *, paired: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and groups of binormal rows; ``paired`` puts one row of each class in a group, correlated."""
    labels = np.tile([0, 1], n_pairs)
    noise = rng.standard_normal(2 * n_pairs)
    groups = np.arange(2 * n_pairs)
    if paired:
        groups = np.repeat(np.arange(n_pairs), 2)
        noise = np.sqrt(0.3) * rng.standard_normal(n_pairs)[groups] + np.sqrt(0.7) * noise
    return labels, norm.ppf(true_auc) * np.sqrt(2) * labels + noise, groups


@pytest.mark.parametrize("seed", range(20))
def test_auc_is_that_of_scikit_learn_ties_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 300))
    labels = rng.integers(0, 2, n)
    labels[:2] = [0, 1]
    logits = rng.integers(0, int(rng.integers(2, 50)), n) + 0.3 * labels
    assert auc(labels, logits) == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)


def test_auc_of_every_column_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    logits = rng.integers(0, 9, (200, 5)) + labels[:, None] * np.arange(5)
    expected = [roc_auc_score(labels, column) for column in logits.T]
    assert clustered_auc(labels, logits, np.arange(200)).auc == pytest.approx(expected, abs=1e-12)


def test_the_mean_over_folds_is_that_of_scikit_learn_fold_by_fold() -> None:
    rng = np.random.default_rng(1)
    labels, folds = np.tile([0, 1], 100), np.repeat(np.arange(5), 40)
    logits = rng.standard_normal(200) + labels + 10 * folds
    expected = np.mean([roc_auc_score(labels[folds == f], logits[folds == f]) for f in range(5)])
    assert folded_auc(labels, logits, np.arange(200), folds).auc[0] == pytest.approx(expected, abs=1e-12)


def test_covariance_of_single_rows_is_delongs_written_out() -> None:
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat([0, 1], [35, 20]))
    logits = rng.standard_normal((55, 3)) + labels[:, None] * [0.5, 1.0, 2.0]
    x, y = logits[labels == 1], logits[labels == 0]
    wins = (x[:, None, :] > y[None, :, :]) + 0.5 * (x[:, None, :] == y[None, :, :])
    expected = np.cov(wins.mean(axis=1).T) / len(x) + np.cov(wins.mean(axis=0).T) / len(y)
    assert clustered_auc(labels, logits, np.arange(55)).covariance == pytest.approx(expected, abs=1e-12)


def test_covariance_over_groups_is_obuchowskis_written_out() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(80), 3)
    labels = rng.integers(0, 2, 240)
    logits = rng.standard_normal(240) + labels + rng.standard_normal(80)[groups]
    x, y = logits[labels == 1], logits[labels == 0]
    wins = (x[:, None] > y[None, :]).astype(float)
    value, m, n = wins.mean(), len(x), len(y)
    own = np.bincount(groups[labels == 1], weights=wins.mean(axis=1) - value, minlength=80)
    other = np.bincount(groups[labels == 0], weights=wins.mean(axis=0) - value, minlength=80)
    with_own, with_other = (len(np.unique(groups[labels == k])) for k in (1, 0))
    expected = with_own / (with_own - 1) * (own**2).sum() / m**2
    expected += with_other / (with_other - 1) * (other**2).sum() / n**2
    expected += 2 * 80 / 79 * (own * other).sum() / (m * n)
    assert clustered_auc(labels, logits, groups).variance[0] == pytest.approx(expected, rel=0.01)


def test_standard_error_over_groups_is_that_of_a_bootstrap_over_groups() -> None:
    rng = np.random.default_rng(4)
    labels, logits, groups = simulated(0.8, 150, rng, paired=True)
    copies = []
    for _ in range(1000):
        drawn = rng.integers(0, 150, 150)
        rows = (2 * drawn[:, None] + [0, 1]).ravel()
        copies.append(auc(labels[rows], logits[rows]))
    own = np.sqrt(clustered_auc(labels, logits, groups).variance[0])
    assert own == pytest.approx(np.std(copies), rel=0.08)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("true_auc", [0.5, 0.8, 0.95, 0.99])
def test_the_interval_covers_the_true_auc_as_often_as_it_says(true_auc: float, paired: bool) -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(300):
        labels, logits, groups = simulated(true_auc, 105, rng, paired=paired)
        low, high = auc_interval(clustered_auc(labels, logits, groups))
        hits += int(low[0] <= true_auc <= high[0])
    assert 0.92 <= hits / 300 <= 0.99


def test_the_interval_of_the_mean_over_folds_covers_the_true_auc_as_often_as_it_says() -> None:
    rng = np.random.default_rng(6)
    folds = np.repeat(np.arange(5), 42)
    hits = 0
    for _ in range(200):
        labels, logits, groups = simulated(0.9, 105, rng, paired=True)
        low, high = auc_interval(folded_auc(labels, logits, groups, folds))
        hits += int(low[0] <= 0.9 <= high[0])
    assert 0.92 <= hits / 200 <= 0.99


def fours(n_groups: int, true_auc: float, n_columns: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Labels, logits (N, n_columns) and groups of four binormal rows of one class that share half of their variance."""
    labels, groups = np.repeat(np.arange(n_groups) % 2, 4), np.repeat(np.arange(n_groups), 4)
    of_group = rng.standard_normal((n_groups, n_columns))[groups]
    noise = np.sqrt(0.5) * (of_group + rng.standard_normal((len(groups), n_columns)))
    return labels, norm.ppf(true_auc) * np.sqrt(2) * labels[:, None] + noise, groups


@pytest.mark.parametrize("true_auc", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n_groups", [16, 52, 120])
def test_the_interval_is_neither_too_narrow_nor_too_wide_for_groups_of_one_class(
    true_auc: float, n_groups: int
) -> None:
    labels, logits, groups = fours(n_groups, true_auc, 400, np.random.default_rng(7))
    low, high = auc_interval(clustered_auc(labels, logits, groups))
    assert 0.92 <= np.mean((low <= true_auc) & (true_auc <= high)) <= 0.985


def test_the_binormal_variances_are_those_of_simulated_aucs() -> None:
    labels, logits, groups = fours(60, 0.9, 1500, np.random.default_rng(8))
    found = clustered_auc(labels, logits, groups).auc.var()
    counts = np.stack([np.bincount(groups[labels == k], minlength=60) for k in (1, 0)], axis=1).astype(float)
    related = related_variance(np.array([0.9]), counts, Alike(np.array([0.5]), np.zeros(1)))[0]
    assert related == pytest.approx(found, rel=0.1)
    single = np.random.default_rng(9).standard_normal((240, 1500)) + norm.ppf(0.9) * np.sqrt(2) * labels[:, None]
    alone = clustered_auc(labels, single, np.arange(240)).auc.var()
    assert binormal_variance(np.array([0.9]), 120, 120)[0] == pytest.approx(alone, rel=0.1)
    assert related > 1.5 * alone


@pytest.mark.parametrize("seed", range(10))
def test_class_measures_are_those_of_scikit_learn_ties_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 400))
    labels = rng.integers(0, 2, n)
    labels[:2] = [0, 1]
    logits = rng.integers(0, int(rng.integers(3, 200)), n) + 4.0 * labels
    groups = np.arange(n) // 2
    assert auprc(labels, logits, groups).value == pytest.approx(average_precision_score(labels, logits), abs=1e-12)
    called = logits > np.median(logits)
    assert f1(labels, called, groups).value == pytest.approx(f1_score(labels, called), abs=1e-12)
    false, true, _ = roc_curve(labels, logits, drop_intermediate=False)
    assert recall_at(labels, logits, groups).value == pytest.approx(true[false <= 0.01].max(), abs=1e-12)


def test_the_calibration_error_is_the_plain_one_of_this_package() -> None:
    rng = np.random.default_rng(10)
    for n in (50, 210, 333):
        stated = rng.uniform(size=n)
        labels = rng.uniform(size=n) < stated**2
        plain = expected_calibration_error(labels, stated)
        assert calibration_error(labels, stated, np.arange(n)).value == pytest.approx(plain, abs=1e-12)


def test_the_influence_of_average_precision_gives_the_spread_of_a_bootstrap_over_groups() -> None:
    rng = np.random.default_rng(11)
    labels, logits, groups = simulated(0.8, 150, rng, paired=True)
    copies = []
    for _ in range(300):
        rows = (2 * rng.integers(0, 150, 150)[:, None] + [0, 1]).ravel()
        copies.append(average_precision_score(labels[rows], logits[rows]))
    bounded = auprc(labels, logits, groups)
    assert (bounded.high - bounded.low) / (2 * 1.96) == pytest.approx(np.std(copies), rel=0.15)
