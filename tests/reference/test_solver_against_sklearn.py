"""The solver against scikit-learn's newton-cholesky, on the same standardised features."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from strataprobe.metrics import auc
from strataprobe.probes.families.logistic import C_GRID
from strataprobe.probes.solver import LogisticPath, LogisticProblem, fit_logistic_path

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
CS = sorted({*C_GRID, *(10.0**e for e in range(-5, 6))})


def problem(kind: str, seed: int, n_more: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels of one of 30 problems, and ``n_more`` rows that were not fitted; every third in float64."""
    rng = np.random.default_rng([seed, len(kind)])
    n, d = SHAPES[kind]
    n += n_more
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
    return X.astype(np.float64 if seed == 2 else np.float32), y


def objective(w: np.ndarray, b: float, Z: np.ndarray, y: np.ndarray, C: float) -> float:
    return float(0.5 * w @ w + C * np.logaddexp(0, -(2 * y - 1) * (Z @ w + b)).sum())


def reference(Z: np.ndarray, y: np.ndarray, C: float) -> LogisticRegression:
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(Z, y)


def standardised(path: LogisticPath, i: int, scaler: StandardScaler) -> tuple[np.ndarray, float]:
    """Weight and bias of C number i on standardised features, from those on raw ones."""
    w = path.weight[i, 0]
    return w * scaler.scale_, float(path.bias_at_centre[i, 0] + w @ (scaler.mean_ - path.centre))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", SHAPES)
def test_every_c_reaches_the_optimum_that_scikit_learn_finds(kind: str, seed: int) -> None:
    """The same objective, probabilities, and AUC on rows that were not fitted."""
    rows, labels = problem(kind, seed, 1000)
    n = SHAPES[kind][0]
    X, y = rows[:n], labels[:n]
    path = fit_logistic_path(X, y, CS)
    scaler = StandardScaler().fit(X.astype(np.float64))
    Z, Z_fresh = (scaler.transform(part.astype(np.float64)) for part in (X, rows[n:]))
    logits, logits_fresh = path.logits(X)[:, :, 0], path.logits(rows[n:])[:, :, 0]
    assert path.converged.all()
    for i, C in enumerate(CS):
        model = reference(Z, y, C)
        best = objective(model.coef_[0], model.intercept_[0], Z, y, C)
        assert objective(*standardised(path, i, scaler), Z, y, C) == pytest.approx(best, rel=1e-9)
        assert path.objective[i, 0] == pytest.approx(best, rel=1e-9)
        np.testing.assert_allclose(expit(logits[:, i]), model.predict_proba(Z)[:, 1], atol=1e-6)
        wanted = auc(labels[n:], model.decision_function(Z_fresh))
        assert auc(labels[n:], logits_fresh[:, i]) == pytest.approx(wanted, abs=1e-3)


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


@pytest.mark.parametrize("kind", ["wide", "tall", "rare", "constant", "separable tall"])
def test_rows_too_many_to_be_kept_in_float64_reach_the_same_optimum(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form that more than 16 million numbers take, here taken for few."""
    monkeypatch.setattr("strataprobe.probes.basis._KEPT_ENTRIES", 0)
    rows, labels = problem(kind, 0, 1000)
    n = SHAPES[kind][0]
    X, y = rows[:n], labels[:n]
    path = fit_logistic_path(X, y, CS)
    scaler = StandardScaler().fit(X.astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    assert path.converged.all()
    for i, C in enumerate(CS):
        model = reference(Z, y, C)
        best = objective(model.coef_[0], model.intercept_[0], Z, y, C)
        assert objective(*standardised(path, i, scaler), Z, y, C) == pytest.approx(best, rel=1e-9)
        wanted = auc(labels[n:], model.decision_function(scaler.transform(rows[n:].astype(np.float64))))
        assert auc(labels[n:], path.logits(rows[n:])[:, i, 0]) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("kind", ["wide", "tall"])
def test_a_given_scale_is_what_the_penalty_is_measured_in(kind: str) -> None:
    X, y = problem(kind, 7)
    scale = np.random.default_rng(1).uniform(0.2, 5, X.shape[1])
    Z = (X - X.mean(axis=0, dtype=np.float64)) / scale
    path = LogisticProblem(X, scale=scale).solve(y, [0.03, 1.0])
    for i, C in enumerate([0.03, 1.0]):
        model = reference(Z, y, C)
        np.testing.assert_allclose(path.weight[i, 0] * scale, model.coef_[0], atol=1e-6)
        np.testing.assert_allclose(path.logits(X)[:, i, 0], model.decision_function(Z), atol=1e-6)


@pytest.mark.parametrize("kind", ["wide", "tall"])
def test_an_offset_is_in_the_losses_and_not_in_the_logits(kind: str) -> None:
    """The gradient is zero with the offset, and is not without it."""
    X, y = problem(kind, 8)
    offset = np.random.default_rng(2).normal(size=len(y))
    scaler = StandardScaler().fit(X.astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    path = LogisticProblem(X).solve(y, [0.1], offset=offset)
    w, b = standardised(path, 0, scaler)

    def gradient(with_offset: np.ndarray) -> np.ndarray:
        slope = 0.1 * (expit(Z @ w + b + with_offset) - y)
        return np.append(w + Z.T @ slope, slope.sum())

    assert np.abs(gradient(offset)).max() < 1e-6
    assert np.abs(gradient(0 * offset)).max() > 1e-2
    np.testing.assert_allclose(path.logits(X)[:, 0, 0], Z @ w + b, atol=1e-9)
