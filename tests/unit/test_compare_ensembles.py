from __future__ import annotations

import numpy as np
import pytest

from strataprobe.compare.ensembles import (
    calibrated_probabilities,
    calibrations_of,
    choose_greedily,
    combine_mean,
    combine_stacked,
    combine_vote,
    fit_stacker,
    fit_stackers,
)
from strataprobe.metrics import auc, expected_calibration_error


def mirrored(second: np.ndarray) -> np.ndarray:
    """Logits (N, L, 2) of two classes from those of the second, (N, L)."""
    return np.stack([-second, second], axis=2)


def planted(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (n, 3) of which the last layer knows nothing, labels, groups of two."""
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 1], n // 2)
    logits = rng.standard_normal((n, 3)) * [1.0, 30.0, 1.0]
    logits[:, 0] += 1.2 * labels
    logits[:, 1] += 36.0 * labels
    return logits, labels, np.repeat(np.arange(n // 2), 2)


def test_the_mean_is_the_sigmoid_of_the_mean_calibrated_logit() -> None:
    found = combine_mean(mirrored(np.array([[1.0, 3.0], [-4.0, 0.0]])))
    assert found[:, 1] == pytest.approx(1 / (1 + np.exp([-2.0, 2.0])))


@pytest.mark.parametrize("method", ["mean", "vote", "stacked"])
def test_two_classes_sum_to_one_exactly(method: str) -> None:
    logits, labels, groups = planted()
    cube = mirrored(logits)
    stackers = fit_stackers(cube, labels, groups)
    found = {"mean": combine_mean(cube), "vote": combine_vote(cube), "stacked": combine_stacked(cube, stackers)}[method]
    assert (found.sum(axis=1) == 1.0).all()


def test_classes_against_the_rest_stay_independent() -> None:
    found = combine_mean(np.full((1, 2, 3), 5.0))
    assert found.sum() > 2.9


def test_a_vote_counts_layers_over_their_thresholds_and_a_tie_half() -> None:
    logits = mirrored(np.array([[1.0, -1.0, 2.0], [0.0, 0.0, -1.0]]))
    assert combine_vote(logits)[:, 1] == pytest.approx([2 / 3, 1 / 3])
    strict = np.array([[0.1, 0.9]] * 3)
    assert combine_vote(logits, strict)[:, 1] == pytest.approx([0.0, 0.0])


def test_one_layer_is_its_own_mean() -> None:
    logits = mirrored(np.linspace(-3, 3, 7)[:, None])
    assert combine_mean(logits)[:, 1] == pytest.approx(1 / (1 + np.exp(-np.linspace(-3, 3, 7))))


def test_stacking_beats_each_layer_and_gives_little_weight_to_one_that_knows_nothing() -> None:
    logits, labels, groups = planted()
    fresh, fresh_labels, _ = planted(2000, seed=1)
    stacker = fit_stacker(logits, labels, groups)
    effect = np.abs(stacker.weights * logits.std(axis=0))
    assert effect[2] < 0.25 * min(effect[0], effect[1])
    best_single = max(auc(fresh_labels, fresh[:, j]) for j in range(3))
    assert auc(fresh_labels, stacker.logits(fresh)) > best_single + 0.03


def test_stacking_does_not_depend_on_the_size_of_a_layers_logits() -> None:
    logits, labels, groups = planted()
    one, other = fit_stacker(logits, labels, groups), fit_stacker(logits * [1e4, 1.0, 1e-3], labels, groups)
    assert other.logits(logits * [1e4, 1.0, 1e-3]) == pytest.approx(one.logits(logits), rel=1e-4, abs=1e-4)


def test_stackers_of_two_classes_are_mirrors() -> None:
    logits, labels, groups = planted()
    first, second = fit_stackers(mirrored(logits), labels, groups)
    assert first.logits(-logits) == pytest.approx(-second.logits(logits))


def test_stacking_with_one_class_or_a_constant_layer_stays_finite() -> None:
    logits, labels, groups = planted()
    assert fit_stacker(logits, np.zeros_like(labels), groups).weights.tolist() == [0.0, 0.0, 0.0]
    logits[:, 2] = 7.0
    assert fit_stacker(logits, labels, groups).weights[2] == 0.0


def test_stackers_of_three_classes_are_fitted_one_against_the_rest() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 300)
    logits = rng.standard_normal((300, 2, 3)) + 2 * np.eye(3)[labels][:, None, :]
    found = combine_stacked(logits, fit_stackers(logits, labels, np.arange(300)))
    assert found.shape == (300, 3)
    assert (found.argmax(axis=1) == labels).mean() > 0.85


def complementary(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (n, 4, 2) of which the second repeats the first, the third adds to it and the fourth is noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    signal = 1.5 * (2 * labels - 1)
    first, third = (signal + 2 * rng.standard_normal(n) for _ in range(2))
    columns = np.stack([first, first + 0.01 * rng.standard_normal(n), third, rng.standard_normal(n)], axis=1)
    return mirrored(columns), labels, np.arange(n) // 2 % 5


def test_greedy_choice_takes_the_layer_that_adds_and_leaves_the_copy_and_the_noise() -> None:
    logits, labels, folds = complementary(4000, 0)
    taken = choose_greedily(logits, labels, folds)
    assert taken[0] in (0, 1)
    assert 2 in taken
    assert 3 not in taken
    assert not {0, 1} <= set(taken)


def test_greedy_choice_starts_where_told_and_stops_at_once_where_nothing_adds() -> None:
    logits, labels, folds = complementary(1000, 1)
    assert choose_greedily(logits, labels, folds, first=2)[0] == 2
    assert choose_greedily(logits[:, :2], labels, folds, first=1) == [1]
    perfect = mirrored(np.stack([10.0 * labels - 5, 20.0 * labels - 10], axis=1))
    assert choose_greedily(perfect, labels, folds) == [0]


def test_a_choice_without_an_auc_is_the_layer_given() -> None:
    logits, labels, folds = complementary(100, 2)
    assert choose_greedily(logits, np.zeros_like(labels), folds, first=3) == [3]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_what_was_combined_is_calibrated_on_rows_of_no_fit(n_classes: int) -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, n_classes, 3000)
    values = 3.0 * rng.standard_normal((3000, n_classes)) + 6.0 * np.eye(n_classes)[labels] + 7.0
    if n_classes == 2:
        values[:, 0] = -values[:, 1]
    half = len(labels) // 2
    found = calibrated_probabilities(values[half:], calibrations_of(values[:half], labels[:half]))
    for c in range(n_classes):
        assert expected_calibration_error(labels[half:] == c, found[:, c]) < 0.04
        assert expected_calibration_error(labels[half:] == c, 1 / (1 + np.exp(-values[half:, c]))) > 0.2
        assert auc(labels[half:] == c, found[:, c]) == pytest.approx(auc(labels[half:] == c, values[half:, c]))
    if n_classes == 2:
        assert (found.sum(axis=1) == 1.0).all()
