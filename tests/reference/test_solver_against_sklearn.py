"""The solver against scikit-learn's newton-cholesky, on the same standardised features."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from strataprobe.probes.families.logistic import C_GRID
from strataprobe.probes.solver import LogisticProblem, fit_logistic_path

SHAPES = {
    "wide": (60, 150),
    "tall": (300, 30),
    "square": (80, 80),
    "rare": (400, 40),
    "collinear": (120, 60),
    "constant": (90, 40),
    "separable": (80, 160),
    "separable tall": (200, 15),
    "large features": (100, 150),
    "shifted": (100, 130),
}


def problem(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, len(kind)])
    n, d = SHAPES[kind]
    X = rng.normal(size=(n, d))
    y = (rng.random(n) < (0.03 if kind == "rare" else 0.5)).astype(float)
    y[:3] = [0, 1, 1]
    X[:, 0] += 1.5 * y
    if kind.startswith("separable"):
        X[:, 0] += 12 * y
    if kind == "collinear":
        X[:, d // 2 :] = 2 * X[:, : d // 2] + 1
    if kind == "constant":
        X[:, 3], X[:, 5] = 7.3, 1e4
    if kind == "large features":
        X[:, :3] *= 1000
    if kind == "shifted":
        X += 10
    return X.astype(np.float32), y


def objective(w: np.ndarray, b: float, Z: np.ndarray, y: np.ndarray, C: float) -> float:
    return float(0.5 * w @ w + C * np.logaddexp(0, -(2 * y - 1) * (Z @ w + b)).sum())


def reference(Z: np.ndarray, y: np.ndarray, C: float) -> LogisticRegression:
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(Z, y)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", SHAPES)
def test_every_c_reaches_the_optimum_that_scikit_learn_finds(kind: str, seed: int) -> None:
    X, y = problem(kind, seed)
    path = fit_logistic_path(X, y, C_GRID)
    scaler = StandardScaler().fit(X.astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    assert path.converged.all()
    for i, C in enumerate(C_GRID):
        model = reference(Z, y, C)
        best = objective(model.coef_[0], model.intercept_[0], Z, y, C)
        w, b = path.weight[i, 0] * scaler.scale_, path.bias[i, 0] + path.weight[i, 0] @ scaler.mean_
        assert objective(w, b, Z, y, C) <= best * (1 + 1e-9)
        assert path.objective[i, 0] == pytest.approx(best, rel=1e-9)
        probabilities = 1 / (1 + np.exp(-path.logits(X)[:, i, 0]))
        np.testing.assert_allclose(probabilities, model.predict_proba(Z)[:, 1], atol=1e-6)


def test_many_columns_together_are_the_same_as_each_alone() -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(90, 120))
    Y = (rng.random((90, 4)) < [0.5, 0.2, 0.1, 0.5]).astype(float)
    together = fit_logistic_path(X, Y, C_GRID)
    for k in range(4):
        alone = fit_logistic_path(X, Y[:, k], C_GRID)
        np.testing.assert_allclose(together.logits(X)[:, :, k], alone.logits(X)[:, :, 0], atol=1e-5)


def test_rows_left_out_with_nan_do_not_enter_the_losses() -> None:
    X, y = problem("wide", 4)
    masked = y.copy()
    masked[40:] = np.nan
    path = LogisticProblem(X).solve(masked, [0.1, 1.0])
    scaler = StandardScaler().fit(X.astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    for i, C in enumerate([0.1, 1.0]):
        model = reference(Z[:40], y[:40], C)
        expected = Z @ model.coef_[0] + model.intercept_[0]
        np.testing.assert_allclose(path.logits(X)[:, i, 0], expected, atol=1e-5)


def test_row_weights_count_as_repeated_rows_do() -> None:
    X, y = problem("tall", 5)
    counts = np.random.default_rng(0).integers(1, 4, len(y))
    weighted = LogisticProblem(X).solve(y, [0.3], weights=counts)
    scaler = StandardScaler().fit(X.astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    model = reference(np.repeat(Z, counts, axis=0), np.repeat(y, counts), 0.3)
    np.testing.assert_allclose(weighted.logits(X)[:, 0, 0], Z @ model.coef_[0] + model.intercept_[0], atol=1e-5)


def test_one_c_for_each_column_is_the_entry_of_the_path() -> None:
    rng = np.random.default_rng(6)
    X, Y = rng.normal(size=(50, 70)), (rng.random((50, 3)) < 0.4).astype(float)
    solved = LogisticProblem(X)
    path, each = solved.solve(Y, [0.01, 0.1, 1.0]), solved.solve_each(Y, [1.0, 0.01, 0.1])
    for k, i in enumerate([2, 0, 1]):
        np.testing.assert_allclose(each.weight[0, k], path.weight[i, k], atol=1e-6)
    assert each.Cs == (1.0, 0.01, 0.1)
