from __future__ import annotations

import numpy as np
import pytest

from strataprobe.compare.choice import choose_layer, difference_low, tied_with_the_best
from strataprobe.metrics import AucEstimate, clustered_auc, folded_auc

N_GROUPS = 100
FOLDS = np.repeat(np.arange(5), 2 * N_GROUPS // 5)
LABELS = np.tile([0, 1], N_GROUPS)
GROUPS = np.repeat(np.arange(N_GROUPS), 2)


def curve(shifts: list[float], rng: np.random.Generator, correlation: float = 0.6) -> AucEstimate:
    """Out-of-fold logits of layers that share noise, each with its own shift between the classes."""
    noise = np.sqrt(correlation) * rng.standard_normal((2 * N_GROUPS, 1))
    noise = noise + np.sqrt(1 - correlation) * rng.standard_normal((2 * N_GROUPS, len(shifts)))
    return folded_auc(LABELS, noise + LABELS[:, None] * np.array(shifts), GROUPS, FOLDS)


def test_pure_noise_yields_a_best_layer_in_about_one_of_twenty_data_sets() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        estimate = curve([0.0] * 6, rng)
        found += choose_layer(range(1, 7), estimate, [0.5] * 6).best_layer is not None
    assert found <= 0.09 * 200


def test_a_planted_layer_is_found() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        choice = choose_layer(range(1, 9), curve([0, 0, 0, 0, 1.5, 0, 0, 0], rng), [0.5] * 8)
        assert (choice.best_layer, choice.tied_layers) == (5, [5])
        assert 5 in choice.passing_layers


def test_a_concept_that_appears_at_layer_12_of_34_is_chosen_from_there_on() -> None:
    estimate = curve([0.0] * 11 + [2.5] * 23, np.random.default_rng(2), correlation=0.9)
    choice = choose_layer(range(1, 35), estimate, [0.5] * 34)
    assert choice.best_layer is not None
    assert choice.best_layer >= 12
    assert choice.tied_layers[0] == 12
    assert choice.passing_layers == list(range(12, 35))


def test_of_two_equal_layers_neither_is_called_better_in_nineteen_of_twenty_data_sets() -> None:
    rng = np.random.default_rng(3)
    apart = sum(not tied_with_the_best(curve([1.2, 1.2], rng)).all() for _ in range(200))
    assert apart <= 0.08 * 200


def test_a_clearly_worse_layer_is_not_tied() -> None:
    assert tied_with_the_best(curve([2.0, 0.5], np.random.default_rng(4))).tolist() == [True, False]


def test_numerical_ties_go_to_the_earliest_layer() -> None:
    logits = np.random.default_rng(5).standard_normal(200) + 2.0 * LABELS
    estimate = folded_auc(LABELS, np.stack([logits * 0, logits, 3 * logits, logits + 1], axis=1), GROUPS, FOLDS)
    choice = choose_layer([4, 5, 6, 7], estimate, [0.5] * 4)
    assert choice.best_layer == 5
    assert choice.tied_layers == [5, 6, 7]


def test_perfect_layers_tie_and_constant_ones_do_not() -> None:
    columns = np.stack([np.zeros(200), LABELS * 1.0, LABELS * 1.0, LABELS * 1.0], axis=1)
    choice = choose_layer([1, 2, 3, 4], folded_auc(LABELS, columns, GROUPS, FOLDS), [0.5] * 4)
    assert choice.best_layer == 2
    assert choice.tied_layers == [2, 3, 4]
    assert choice.passing_layers == [2, 3, 4]


def test_constant_layers_alone_have_no_best() -> None:
    estimate = folded_auc(LABELS, np.zeros((200, 3)), GROUPS, FOLDS)
    choice = choose_layer([1, 2, 3], estimate, [0.5] * 3)
    assert (choice.best_layer, choice.tied_layers, choice.passing_layers) == (None, [], [])


def test_a_layer_must_beat_its_own_control() -> None:
    estimate = curve([1.0, 1.0], np.random.default_rng(6))
    assert choose_layer([1, 2], estimate, [0.5, 0.5]).best_layer is not None
    assert choose_layer([1, 2], estimate, [0.9, 0.9]).best_layer is None
    assert choose_layer([1, 2], estimate, [0.9, 0.5]).passing_layers == [2]


def test_no_auc_at_all_means_no_best_layer() -> None:
    estimate = clustered_auc(np.zeros(10), np.zeros((10, 2)), np.arange(10))
    assert choose_layer([1, 2], estimate, [float("nan")] * 2).best_layer is None


def test_a_difference_has_an_interval_that_covers_it() -> None:
    rng = np.random.default_rng(7)
    true = 0.7602 - 0.6382  # the AUCs of shifts 1 and .5 between unit normals
    hits = 0
    for _ in range(200):
        low = difference_low(curve([1.0, 0.5], rng), 1.96)
        hits += int(low[0, 1] <= true <= -low[1, 0])
    assert 0.91 <= hits / 200 <= 0.99


def test_correlated_layers_are_told_apart_where_independent_ones_are_not() -> None:
    together = curve([1.4, 1.2], np.random.default_rng(8), correlation=0.99)
    apart = curve([1.4, 1.2], np.random.default_rng(8), correlation=0.0)
    assert difference_low(together, 1.96)[0, 1] > difference_low(apart, 1.96)[0, 1]


def test_a_layer_does_not_differ_from_itself() -> None:
    estimate = curve([1.0, 0.0], np.random.default_rng(9))
    assert np.diag(difference_low(estimate, 1.96)) == pytest.approx(0)
