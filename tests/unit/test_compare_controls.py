from __future__ import annotations

import numpy as np
import pytest

from strataprobe.compare.controls import Controls, shuffle_labels, split_in_halves, train_controls


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
