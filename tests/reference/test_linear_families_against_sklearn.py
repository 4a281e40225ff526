"""The mass-mean and ridge families against scikit-learn's answers to the same questions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge as SklearnRidge

from strataprobe.probes.families.mass_mean import MassMean, MassMeanIid
from strataprobe.probes.families.ridge import ALPHA_GRID, Ridge, RidgeProblem

SHAPES = [(60, 200), (300, 30), (80, 80), (50, 51)]
CONSTANT, COPIED, COPY = 3, 4, 5


def problem(N: int, D: int, share: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw rows (N, D) float32 with a constant and a doubled feature, 0/1 labels (N, 1), and the rows standardised."""
    rng = np.random.default_rng([N, D])
    labels = (np.arange(N) < share * N).astype(np.float64)
    mixing = rng.normal(size=(D, D)) / np.sqrt(D)
    X = rng.normal(size=(N, D)) @ mixing + 0.3 * labels[:, None] * rng.normal(size=D)
    X = (X * rng.lognormal(size=D) * 5 + 3).astype(np.float32)
    X[:, CONSTANT], X[:, COPY] = 7, X[:, COPIED]
    exact = X.astype(np.float64)
    deviation = exact.std(axis=0)
    deviation[CONSTANT] = 1
    return X, labels[:, None], (exact - exact.mean(axis=0)) / deviation


def nothing_known(options: int = 1, columns: int = 1) -> np.ndarray:
    return np.full((options, columns), np.nan)


@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_mass_mean_iid_is_the_discriminant_of_scikit_learn_at_the_ledoit_wolf_shrinkage(N: int, D: int) -> None:
    X, Y, Z = problem(N, D)
    fit = MassMeanIid().refit(X, Y, nothing_known())
    varying = np.delete(Z, CONSTANT, axis=1)
    residual = varying - np.stack([varying[Y[:, 0] == c].mean(axis=0) for c in (0, 1)])[Y[:, 0].astype(int)]
    shrinkage = ledoit_wolf_shrinkage(residual, assume_centered=True)
    assert fit.settings[0]["shrinkage"] == pytest.approx(shrinkage, rel=1e-9)
    for solver in ("lsqr", "eigen"):
        theirs = LinearDiscriminantAnalysis(solver=solver, shrinkage=shrinkage).fit(varying, Y[:, 0])
        np.testing.assert_allclose(fit.logits(X)[:, 0], theirs.decision_function(varying), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_the_shrinkage_that_scikit_learn_chooses_class_by_class_gives_nearly_the_same_direction(N: int, D: int) -> None:
    X, Y, Z = problem(N, D)
    varying = np.delete(Z, CONSTANT, axis=1)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(varying, Y[:, 0])
    ours = MassMeanIid().refit(X, Y, nothing_known()).logits(X)[:, 0]
    assert np.corrcoef(ours, theirs.decision_function(varying))[0, 1] > 0.98
    plain = MassMean().refit(X, Y, nothing_known()).logits(X)[:, 0]
    assert np.corrcoef(plain, theirs.decision_function(varying))[0, 1] < 0.97


def test_mass_mean_is_the_difference_of_the_class_means_and_zero_midway() -> None:
    X, Y, Z = problem(90, 40)
    means = [X[Y[:, 0] == c].astype(np.float64).mean(axis=0) for c in (0, 1)]
    plain = MassMean().refit(X, Y, nothing_known())
    np.testing.assert_allclose(plain.weight[0], means[1] - means[0], rtol=1e-5, atol=1e-5)
    assert plain.logits((means[0] + means[1])[None] / 2)[0, 0] == pytest.approx(0, abs=1e-2)
    standardised = MassMean(standardise=True).refit(X, Y, nothing_known())
    of_z = [Z[Y[:, 0] == c].mean(axis=0) for c in (0, 1)]
    expected = (Z - (of_z[0] + of_z[1]) / 2) @ (of_z[1] - of_z[0])
    np.testing.assert_allclose(standardised.logits(X)[:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_ridge_is_that_of_scikit_learn_for_every_alpha(N: int, D: int) -> None:
    X, _, Z = problem(N, D)
    Y = np.random.default_rng(1).normal(size=(N, 2)) + Z[:, :2]
    mine = RidgeProblem(X)
    path, mean = mine.path(Y, ALPHA_GRID)
    np.testing.assert_allclose(mean.numpy(), Y.mean(axis=0), rtol=1e-12, atol=1e-12)
    for i, alpha in enumerate(ALPHA_GRID):
        theirs = SklearnRidge(alpha=alpha).fit(Z, Y)
        size = np.abs(theirs.coef_).max()
        np.testing.assert_allclose(path[i].numpy(), theirs.coef_, rtol=0, atol=1e-6 * size)
        each, _ = mine.each(Y, [alpha, alpha])
        np.testing.assert_allclose(each.numpy(), theirs.coef_, rtol=0, atol=1e-6 * size)


@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_ridge_predicts_what_scikit_learn_does_on_rows_it_has_not_seen(N: int, D: int) -> None:
    X, _, Z = problem(2 * N, D)
    target = Z[:, :5].sum(axis=1) + np.random.default_rng(2).normal(size=2 * N)
    train, val = slice(0, 2 * N, 2), slice(1, 2 * N, 2)
    fit = Ridge().of_values().fit(X[train], target[train, None], X[val], target[val, None])
    mean, deviation = X[train].astype(np.float64).mean(axis=0), X[train].astype(np.float64).std(axis=0)
    deviation[CONSTANT] = 1
    ours, theirs = ((X[part] - mean) / deviation for part in (train, val))
    best = []
    for alpha in ALPHA_GRID:
        model = SklearnRidge(alpha=alpha).fit(ours, target[train])
        best.append((model.score(theirs, target[val]), alpha, model.predict(theirs)))
    np.testing.assert_allclose(fit.option_merit[:, 0], [score for score, _, _ in best], rtol=1e-6, atol=1e-6)
    top = max(score for score, _, _ in best)
    _, alpha, values = next(found for found in best if found[0] >= top - 1e-3)
    assert fit.settings[0]["alpha"] == alpha
    np.testing.assert_allclose(fit.logits(X[val])[:, 0], values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fit.held_out_logits[:, 0], values, rtol=1e-5, atol=1e-5)


def test_ridge_fits_classes_as_plus_and_minus_one() -> None:
    X, Y, Z = problem(120, 40)
    fit = Ridge(alphas=[10.0]).refit(X, Y, nothing_known())
    theirs = SklearnRidge(alpha=10.0).fit(Z, 2 * Y[:, 0] - 1)
    np.testing.assert_allclose(fit.logits(X)[:, 0], theirs.predict(Z), rtol=1e-5, atol=1e-6)
    assert fit.settings == [{"alpha": 10.0}]
