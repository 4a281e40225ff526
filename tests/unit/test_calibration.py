"""Platt scaling and thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from strataprobe.errors import OptionError
from strataprobe.probes.calibration import (
    IDENTITY,
    Calibration,
    CalibrationRule,
    choose_threshold,
    fit_platt,
    fit_temperature,
    sigmoid,
    threshold_at_fpr,
)


def drawn(n: int, slope: float, intercept: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, n)
    return (rng.random(n) < sigmoid(slope * logits + intercept)).astype(int), logits


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.3, 1.0), (2.5, -1.5)])
def test_a_known_slope_and_intercept_are_found_again(slope: float, intercept: float) -> None:
    fit = fit_platt(*drawn(20_000, slope, intercept))
    assert fit.fallback == ""
    assert fit.calibration.slope == pytest.approx(slope, rel=0.06)
    assert fit.calibration.intercept == pytest.approx(intercept, abs=0.08)


def test_scaled_and_shifted_logits_give_the_same_probabilities() -> None:
    labels, logits = drawn(300, 1.2, 0.4)
    plain, moved = fit_platt(labels, logits).calibration, fit_platt(labels, 1e5 * logits + 3e5).calibration
    expected = sigmoid(plain.slope * logits + plain.intercept)
    np.testing.assert_allclose(sigmoid(moved.slope * (1e5 * logits + 3e5) + moved.intercept), expected, atol=1e-9)


def test_separable_logits_keep_finite_probabilities_away_from_0_and_1() -> None:
    labels, logits = np.array([0] * 20 + [1] * 20), np.array([-9.0] * 20 + [9.0] * 20)
    fit = fit_platt(labels, logits)
    p = sigmoid(fit.calibration.slope * logits + fit.calibration.intercept)
    assert p[-1] == pytest.approx(21 / 22, abs=1e-6)
    assert p[0] == pytest.approx(1 / 22, abs=1e-6)


def test_the_mirrored_problem_has_the_mirrored_calibration() -> None:
    labels, logits = drawn(200, 0.8, 0.9)
    one, other = fit_platt(labels, logits).calibration, fit_platt(1 - labels, -logits).calibration
    assert other == pytest.approx(one.mirrored())


def test_logits_that_rank_the_wrong_way_keep_slope_one_and_fit_the_intercept() -> None:
    labels, logits = drawn(500, 1.0, 0.0)
    fit = fit_platt(labels, -logits)
    assert fit.calibration.slope == 1.0
    assert "do not rank" in fit.fallback
    assert sigmoid(-logits + fit.calibration.intercept).mean() == pytest.approx(labels.mean(), abs=0.01)


@pytest.mark.parametrize(
    ("labels", "logits", "reason"),
    [([1, 0, 1], [1.0, 2.0, 3.0], "too few"), ([1] * 9, range(9), "one class"), ([], [], "too few")],
)
def test_rows_that_cannot_calibrate_give_the_identity_and_say_why(labels, logits, reason: str) -> None:
    fit = fit_platt(labels, list(logits))
    assert fit.calibration == IDENTITY
    assert reason in fit.fallback
    assert fit_platt(labels, list(logits), Calibration(2.0, 0.5)).calibration == (2.0, 0.5)


def test_equal_logits_keep_slope_one() -> None:
    fit = fit_platt([0, 1, 0, 1, 1, 1], [2.0] * 6)
    assert fit.calibration.slope == 1.0
    assert sigmoid(2.0 + fit.calibration.intercept) == pytest.approx(4 / 6, abs=0.1)


def f1(labels: np.ndarray, p: np.ndarray, t: float) -> float:
    called = p >= t
    return 2 * (called & labels).sum() / max(called.sum() + labels.sum(), 1)


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_has_the_highest_f1_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(80) < 0.25
    p = sigmoid(rng.normal(size=80) + 1.5 * labels - 1).round(2)
    best = max(f1(labels, p, t) for t in np.linspace(0, 1, 2001))
    assert f1(labels, p, choose_threshold(labels, p)) == pytest.approx(best)


def test_among_equally_good_thresholds_the_nearest_to_a_half_is_taken() -> None:
    labels = np.array([0] * 10 + [1] * 10)
    assert choose_threshold(labels, np.where(labels, 0.9, 0.1)) == 0.5
    assert choose_threshold(labels, np.where(labels, 0.4, 0.1)) == pytest.approx(0.25)


def test_a_threshold_without_examples_of_both_classes_is_a_half() -> None:
    assert choose_threshold([1] * 10, np.linspace(0, 1, 10)) == 0.5
    assert choose_threshold([0, 1], [0.1, 0.2]) == 0.5


def test_probabilities_of_a_logit_and_its_negative_add_up_to_one() -> None:
    z = np.array([-800.0, -40.0, -1e-9, 0.0, 3.3, 800.0])
    np.testing.assert_allclose(sigmoid(z) + sigmoid(-z), 1.0, rtol=0, atol=1e-15)
    assert Calibration(2.0, -1.0).mirrored() == (2.0, 1.0)


def loss(labels: np.ndarray, logits: np.ndarray, calibration: Calibration) -> float:
    z = calibration.slope * logits + calibration.intercept
    return float((np.logaddexp(0, z) - labels * z).mean())


def test_the_temperature_of_known_logits_is_found_and_the_intercept_stays_0() -> None:
    fit = fit_temperature(*drawn(20_000, 0.4, 0.0))
    assert fit.fallback == ""
    assert fit.calibration.slope == pytest.approx(0.4, rel=0.06)
    assert fit.calibration.intercept == 0.0
    labels, logits = drawn(300, 0.4, 0.0)
    assert fit_temperature(1 - labels, -logits).calibration == pytest.approx(
        fit_temperature(labels, logits).calibration
    )


def test_a_temperature_that_would_turn_the_probe_round_is_not_taken() -> None:
    labels, logits = drawn(500, 1.0, 0.0)
    fit = fit_temperature(labels, -logits)
    assert fit.calibration == IDENTITY
    assert "do not rank" in fit.fallback


def test_few_rows_move_a_calibration_from_elsewhere_little_and_many_move_it_freely() -> None:
    prior = Calibration(3.0, 0.0)
    many = fit_platt(*drawn(20_000, 0.5, 1.0), prior).calibration
    assert many.slope == pytest.approx(0.5, rel=0.1)
    assert many.intercept == pytest.approx(1.0, abs=0.1)
    test = drawn(5_000, 2.0, 0.5, seed=1)
    means = np.mean(
        [
            [loss(*test, fit_platt(*drawn(10, 2.0, 0.5, seed=s), p).calibration) for p in (None, prior)]
            for s in range(2, 40)
        ],
        axis=0,
    )
    assert means[1] < means[0] - 0.02


def test_a_prior_knows_the_scale_of_the_logits() -> None:
    labels, logits = drawn(40, 1.0, 0.3)
    plain = fit_platt(labels, logits, Calibration(1.5, 0.2)).calibration
    larger = fit_platt(labels, 1000 * logits, Calibration(1.5e-3, 0.2)).calibration
    assert larger == pytest.approx((plain.slope / 1000, plain.intercept), rel=1e-6)
    warm = fit_temperature(labels, logits, Calibration(1.5, 0.2)).calibration
    assert fit_temperature(labels, logits).calibration.slope < warm.slope < 1.5


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.2])
def test_the_threshold_is_the_smallest_that_keeps_the_false_positive_rate(fpr: float) -> None:
    rng = np.random.default_rng(int(1000 * fpr))
    labels = rng.random(1_000) < 0.3
    p = sigmoid(rng.normal(size=1_000) + 2 * labels).round(3)
    found = threshold_at_fpr(labels, p, fpr)
    assert found.caveat == ""
    assert (p[~labels] >= found.value).mean() <= fpr
    next_below = p[p < found.value].max()
    assert (p[~labels] >= next_below).mean() > fpr


def test_too_few_negatives_give_a_threshold_above_them_all_and_say_so() -> None:
    labels, p = np.array([0] * 20 + [1] * 20), np.r_[np.linspace(0, 0.6, 20), np.linspace(0.3, 0.9, 20)]
    found = threshold_at_fpr(labels, p, 0.01)
    assert 0.6 < found.value <= p[p > 0.6].min()
    assert "20 negative rows" in found.caveat
    assert threshold_at_fpr(labels, p, 0.05).caveat == ""
    sure = threshold_at_fpr(labels, np.ones(40), 0.01)
    assert not (np.ones(40) >= sure.value).any()
    assert "say nothing" in threshold_at_fpr([1] * 10, np.ones(10), 0.01).caveat


def test_a_rule_gives_two_classes_a_half_unless_a_false_positive_rate_is_asked_for() -> None:
    labels, logits = drawn(500, 1.0, 0.5)
    Y, p = labels[:, None], sigmoid(logits)[:, None]
    assert [t.value for t in CalibrationRule().thresholds(Y, p, 2)] == [0.5, 0.5]
    negative, positive = (t.value for t in CalibrationRule(fpr=0.05).thresholds(Y, p, 2))
    assert (p[labels == 0, 0] >= positive).mean() <= 0.05 < positive
    assert (1 - p[labels == 1, 0] >= negative).mean() <= 0.05
    assert positive != pytest.approx(1 - negative)
    three = np.eye(3)[np.arange(90) % 3]
    assert len(CalibrationRule().thresholds(three, 0.2 + 0.5 * three, 3)) == 3


@pytest.mark.parametrize(
    ("options", "sentence"), [({"method": "beta"}, "'beta'"), ({"fpr": 0.0}, "0.0"), ({"fpr": 1.0}, "1.0")]
)
def test_a_rule_that_cannot_be_followed_is_refused(options: dict, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        CalibrationRule(**options)


def test_a_false_positive_rate_next_to_one_gives_a_threshold() -> None:
    labels, p = np.array([0] * 20 + [1] * 20), np.linspace(0, 1, 40)
    assert threshold_at_fpr(labels, p, 1 - 1e-14).value <= p[1]


def test_a_hundred_rows_win_against_a_prior_whose_slope_is_far_too_low() -> None:
    labels, logits = drawn(300, 1.0, 0.3)
    far = Calibration(1.0, 0.0)
    for fit in (fit_platt, fit_temperature):
        plain, pulled = fit(labels, logits / 300).calibration, fit(labels, logits / 300, far).calibration
        assert pulled.slope == pytest.approx(plain.slope, rel=0.1)
        assert pulled.intercept == pytest.approx(plain.intercept, abs=0.1)
    assert fit_platt(labels[:30], logits[:30] / 300, far).calibration.slope < 3
