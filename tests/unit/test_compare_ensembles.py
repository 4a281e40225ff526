from __future__ import annotations

import numpy as np
import pytest

from strataprobe.compare.ensembles import combine_mean, combine_stacked, combine_vote, fit_stacker, fit_stackers
from strataprobe.metrics import auc


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
