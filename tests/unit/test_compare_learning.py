from __future__ import annotations

import numpy as np
import pytest

from strataprobe.compare.layers import estimate_auc
from strataprobe.compare.learning import Trained, learning_points, own_points
from strataprobe.compare.subsets import Labelled, draw_subsets, fit_subsets, own_penalties
from strataprobe.metrics import auc_interval
from strataprobe.probes.solver import fit_logistic_path

D = 30


def texts(n: int, strength: float, seed: int, *, n_classes: int = 2, turned: float = 0.0) -> Labelled:
    """Rows whose class lies along one axis each, ``turned`` towards further axes; a group holds one of each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    axes = np.eye(D)[:n_classes] * np.cos(turned) + np.eye(D)[n_classes : 2 * n_classes] * np.sin(turned)
    rows = rng.standard_normal((n, D)) + strength * axes[labels]
    return Labelled(rows.astype(np.float32), labels, [f"group-{i // n_classes}" for i in range(n)])


def trained_on(pool: Labelled, test: Labelled, C: float, n_classes: int = 2) -> Trained:
    Y = np.stack([pool.labels == c for c in range(n_classes)], axis=1).astype(float)
    return Trained(fit_logistic_path(pool.X, Y, [C]).logits(test.X)[:, 0, :], len(pool.labels), [C] * n_classes)


def test_more_texts_help_where_the_signal_is_weak_and_the_last_point_is_the_trained_probe() -> None:
    pool, test = texts(800, 0.7, 0), texts(400, 0.7, 1)
    found = learning_points(pool, test, trained_on(pool, test, 0.01))
    points = found["points"]
    assert [p["n_texts"] for p in points] == [20, 50, 100, 200, 400, 700, 800]
    assert [p["n_repeats"] for p in points] == [10] * 6 + [1]
    assert points[0]["auc"] < points[2]["auc"] < points[-1]["auc"]
    assert found["enough"] is None or found["enough"] > 100
    assert all(p["low"] < p["auc"] < p["high"] for p in points)


def test_few_texts_are_enough_where_the_signal_is_strong() -> None:
    pool, test = texts(400, 6.0, 0), texts(200, 6.0, 1)
    found = learning_points(pool, test, trained_on(pool, test, 0.01))
    assert found["enough"] in (20, 50)


def test_the_curve_of_noise_stays_at_chance_and_its_intervals_hold_it() -> None:
    inside = []
    for seed in range(10):
        pool, test = texts(150, 0.0, 2 * seed), texts(200, 0.0, 2 * seed + 1)
        points = learning_points(pool, test, trained_on(pool, test, 0.01))["points"]
        inside += [p["low"] < 0.5 < p["high"] for p in points]
    assert np.mean(inside) >= 0.85


def test_the_same_seed_gives_the_same_curve_and_another_seed_another() -> None:
    pool, test = texts(120, 1.0, 0), texts(100, 1.0, 1)
    trained = trained_on(pool, test, 0.01)
    again = [learning_points(pool, test, trained, seed=s) for s in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


def test_every_subset_is_the_fit_of_its_rows_alone_with_groups_kept_together() -> None:
    pool, test = texts(60, 1.0, 0), texts(40, 1.0, 1)
    draws = draw_subsets(pool, [10, 30], 2, seed=0)
    found = fit_subsets(draws, test.X, [[0.1, 0.1], [0.1, 0.1]], 2)
    assert found.shape == (40, 2, 2, 10)
    for order in draws.orders:
        assert sorted(order.tolist()) == list(range(60))
        assert len({pool.groups[i] for i in order[:10]}) == 5
    scale, mean = pool.X.std(axis=0, dtype=np.float64), pool.X.mean(axis=0, dtype=np.float64)
    from sklearn.linear_model import LogisticRegression

    rows = draws.orders[3][:30]
    Z = (pool.X - mean) / scale
    plain = LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-12).fit(Z[rows], pool.labels[rows])
    expected = plain.decision_function((test.X - mean) / scale)
    assert found[:, 1, 1, 3] == pytest.approx(expected, abs=1e-5)
    assert found[:, 0] == pytest.approx(-found[:, 1])


def test_three_classes_have_a_curve_of_their_mean() -> None:
    pool, test = texts(150, 3.0, 0, n_classes=3), texts(90, 3.0, 1, n_classes=3)
    points = learning_points(pool, test, trained_on(pool, test, 0.01, 3))["points"]
    assert [p["n_texts"] for p in points] == [30, 75, 150]
    assert points[-1]["auc"] > points[0]["auc"] > 0.8


def test_own_texts_match_a_probe_trained_on_another_direction_soon_and_one_trained_on_theirs_late() -> None:
    own = texts(600, 2.0, 5)
    far = np.eye(D)[9]
    near = np.eye(D)[1] - np.eye(D)[0]
    bad = own_points(own, lambda X: np.stack([-X @ far, X @ far], axis=1), [0.01, 0.01])
    good = own_points(own, lambda X: np.stack([-X @ near, X @ near], axis=1), [0.01, 0.01])
    assert bad["matching_n"] == 10
    assert good["matching_n"] is None or good["matching_n"] >= 100
    assert good["n_tested"] == 300
    assert [p["n_texts"] for p in good["points"]] == [10, 30, 100, 300]
    assert good["generated_auc"] > 0.95 > 0.65 > bad["generated_auc"]


def test_own_texts_that_are_too_few_say_so() -> None:
    found = own_points(texts(8, 2.0, 5), lambda X: X[:, :2], [0.01, 0.01])
    assert (found["points"], found["matching_n"]) == ([], None)
    assert "too few" in found["reason"]


def test_own_texts_choose_a_weaker_penalty_where_there_is_more_to_learn() -> None:
    own = texts(400, 3.0, 7)
    draws = draw_subsets(own, [10, 400], 2, seed=0)
    few, many = own_penalties(draws, [0.01, 0.01])
    assert many[0] >= few[0]
    noise = draw_subsets(texts(400, 0.0, 8), [400], 2, seed=0)
    assert own_penalties(noise, [0.01, 0.01]) == [[0.0003, 0.0003]]


def test_a_subset_without_a_class_ranks_nothing() -> None:
    pool = texts(60, 2.0, 0)
    rare = Labelled(pool.X, (np.arange(60) == 7).astype(np.int64), [str(i) for i in range(60)])
    found = fit_subsets(draw_subsets(rare, [5], 2, seed=0), pool.X, [[0.1, 0.1]], 2)
    assert (found == 0).all(axis=0).any()


def test_no_point_claims_more_texts_than_the_pool_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strataprobe.compare.subsets.MAX_POOL", 80)
    own, test = texts(400, 2.0, 5), texts(100, 2.0, 6)
    found = own_points(own, lambda X: X[:, :2], [0.01, 0.01])
    assert [p["n_texts"] for p in found["points"]] == [10, 30, 80]
    points = learning_points(own, test, trained_on(own, test, 0.01))["points"]
    assert [p["n_texts"] for p in points] == [20, 50, 400]


def test_the_last_point_has_the_interval_of_the_test_auc_where_groups_hold_copies_too() -> None:
    pool, test = texts(200, 3.0, 0), texts(60, 3.0, 1)
    rows = np.repeat(np.arange(60), 4)
    copies = Labelled(test.X[rows], test.labels[rows], [f"g{i}" for i in rows])
    trained = trained_on(pool, copies, 0.01)
    point = learning_points(pool, copies, trained)["points"][-1]
    estimate = estimate_auc(copies.labels, trained.logits[:, :, None], copies.groups)
    low, high = auc_interval(estimate)
    assert [point["low"], point["high"]] == pytest.approx([low[0], high[0]])
