"""Measures of predicted values: against other libraries, their intervals, and what cannot be measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score

from strataprobe.metrics import clustered_auc
from strataprobe.probes import values as module
from strataprobe.probes.values import MEASURES, r2, spearman, value_summary


def drawn(n: int = 150, seed: int = 0, noise: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Targets with ties, as float32 holds them, and values that follow them."""
    rng = np.random.default_rng(seed)
    targets = np.round(rng.normal(size=n), 1).astype(np.float32).astype(np.float64)
    return targets, 0.8 * targets + noise * np.round(rng.normal(size=n), 2)


def test_the_numbers_are_those_of_other_libraries() -> None:
    y, x = drawn()
    found = value_summary(y, x, np.arange(len(y)))
    assert found["r2"] == pytest.approx(r2_score(y, x)) == pytest.approx(r2(y, x))
    assert found["pearson"] == pytest.approx(pearsonr(y, x)[0])
    assert found["spearman"] == pytest.approx(spearmanr(y, x)[0]) == pytest.approx(spearman(y, x))
    assert found["mae"] == pytest.approx(mean_absolute_error(y, x))


def test_the_concordance_of_two_classes_is_their_auc_with_delongs_error() -> None:
    y, x = drawn()
    classes = (y > 0).astype(np.float64)
    value, influence = module._concordance(classes, x)
    assert value == pytest.approx(roc_auc_score(classes, x))
    theirs = clustered_auc(classes.astype(int), x, np.arange(len(y))).variance[0]
    assert (influence**2).sum() / len(y) ** 2 == pytest.approx(theirs, rel=0.02)
    pairs = [(y[i], y[j], x[i], x[j]) for i in range(40) for j in range(i) if y[i] != y[j]]
    by_hand = np.mean([0.5 if p == q else (a > b) == (p > q) for a, b, p, q in pairs])
    assert value_summary(y[:40], x[:40], range(40))["concordance"] == pytest.approx(by_hand)


@pytest.mark.parametrize("digits", [0, 1, 9])
def test_many_rows_are_counted_in_parts_as_they_are_all_at_once(digits: int) -> None:
    rng = np.random.default_rng(3)
    y = np.round(rng.normal(size=1500), digits)
    x = np.round(y + rng.normal(size=1500), 1)
    different = np.sign(y[:, None] - y[None, :])
    alike = (different * np.sign(x[:, None] - x[None, :])).sum(axis=1)
    pairs = np.abs(different).sum(axis=1)
    value, influence = module._concordance(y, x)
    assert value == pytest.approx((alike.sum() / pairs.sum() + 1) / 2, abs=1e-12)
    expected = 2 * 1500 * ((alike + pairs) / 2 - value * pairs) / pairs.sum()
    np.testing.assert_allclose(influence, expected, atol=1e-9)


@pytest.mark.parametrize("measure", [module._r2, module._pearson, module._spearman, module._concordance])
def test_what_a_row_adds_is_what_leaving_it_out_takes_away(measure: Callable[..., tuple[float, np.ndarray]]) -> None:
    y, x = drawn()
    value, influence = measure(y, x)
    left_out = [(len(y) - 1) * (value - measure(np.delete(y, i), np.delete(x, i))[0]) for i in range(len(y))]
    assert abs(influence.mean()) < 1e-12
    assert np.corrcoef(influence, left_out)[0, 1] > 0.999
    assert influence.std() == pytest.approx(np.std(left_out), rel=0.03)


def test_intervals_over_rows_cover_the_truth_as_often_as_they_say() -> None:
    many = value_summary(*drawn(4000, seed=1), np.arange(4000))
    covered = dict.fromkeys(MEASURES, 0)
    for seed in range(300):
        found = value_summary(*drawn(80, seed=10 + seed), np.arange(80))
        for name in MEASURES:
            covered[name] += found[f"{name}_low"] <= many[name] <= found[f"{name}_high"]
    for name, count in covered.items():
        assert 0.90 <= count / 300 <= 0.985, name


def test_rows_that_say_the_same_twice_do_not_make_an_interval_narrower() -> None:
    y, x = drawn(60)
    alone = value_summary(y, x, np.arange(60))
    doubled = value_summary(np.repeat(y, 2), np.repeat(x, 2), np.repeat(np.arange(60), 2))
    unaware = value_summary(np.repeat(y, 2), np.repeat(x, 2), np.arange(120))
    for name in MEASURES:
        widths = [f[f"{name}_high"] - f[f"{name}_low"] for f in (alone, doubled, unaware)]
        assert widths[1] == pytest.approx(widths[0], rel=0.05)
        assert widths[2] < 0.8 * widths[0]


@pytest.mark.parametrize("noise", [0.05, 1.0, 30.0])
def test_bounds_stay_where_the_number_can_be(noise: float) -> None:
    found = value_summary(*drawn(noise=noise), np.arange(150))
    for name in MEASURES:
        low, value, high = (found[name + end] for end in ("_low", "", "_high"))
        assert low <= value <= high
    assert found["spearman_low"] >= -1
    assert found["spearman_high"] <= 1
    assert found["r2_high"] <= 1
    assert found["concordance_low"] >= 0
    assert found["mae_low"] >= 0


def test_what_cannot_be_measured_is_none_and_the_rest_is_not() -> None:
    same = value_summary([0.5] * 20, np.arange(20.0), range(20))
    assert (same["r2"], same["pearson"], same["spearman"], same["concordance"]) == (None,) * 4
    assert same["mae"] == pytest.approx(9.05)
    flat = value_summary(np.arange(20.0), [3.0] * 20, range(20))
    assert (flat["pearson"], flat["spearman"], flat["concordance"]) == (None, None, 0.5)
    assert flat["r2"] < 0
    perfect = value_summary(np.arange(20.0), np.arange(20.0) ** 3, range(20))
    assert (perfect["concordance"], perfect["concordance_low"], perfect["spearman_low"]) == (1.0, None, None)
    assert perfect["pearson_low"] is not None
    one_group = value_summary(*drawn(), ["a"] * 150)
    assert one_group["r2"] is not None
    assert (one_group["r2_low"], one_group["r2_high"]) == (None, None)
    assert set(value_summary([1.0], [1.0], ["a"]).values()) == {None}
    assert set(value_summary([], [], []).values()) == {None}


def test_scores_that_are_one_number_in_a_file_are_one_another_s_equal() -> None:
    y, x = drawn()
    nearly = y * (1 + 1e-12 * np.arange(len(y)))
    assert value_summary(nearly, x, range(150))["concordance"] == value_summary(y, x, range(150))["concordance"]


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="targets of shape"):
        value_summary([1.0, 2.0], [1.0], ["a"])
