"""Ways to fit one layer's probe for every C of the grid, and how far each ends from the optimum.

Every way starts from raw float32 activations and ends with weights and bias on standardised features; ours gives those on
raw ones, which are turned here, outside the time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bench.train.origin import OriginFit, train_origin
from bench.train.streams import make_stream
from strataprobe.probes.families.logistic import ROUGH
from strataprobe.probes.solver import LogisticPath, LogisticProblem, fit_logistic_path

Float64 = NDArray[np.float64]
Solutions = list[tuple[Float64, float]]
# The published training time of the origin is of 31,500 texts; its sentiment job has as many as ours: 700 a class.
N_TRAIN, N_VAL, N_TEST, N_FRESH = 980, 210, 210, 5_000
# So far apart that probes of 980 texts reach a test AUC of about .95 in 2,560 features.
BAYES_AUC = 0.999


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's rows, float32, with labels in {0, 1}: train, validation, and what no way fits."""

    X: NDArray[np.float32]
    y: Float64
    X_val: NDArray[np.float32]
    y_val: Float64
    X_test: NDArray[np.float32]
    y_test: Float64


def make_layer(width: int, norm: float = 3_000.0) -> Layer:
    """1,400 texts in the shape of a residual stream, and fresh ones beside the 210 test texts."""
    stream = make_stream("stream", width, auc=BAYES_AUC)
    parts: list[Any] = []
    for part, n in enumerate((N_TRAIN, N_VAL, N_TEST + N_FRESH)):
        labels = np.arange(n) % 2
        parts += [stream.rows(labels, 1, norm, part), labels.astype(np.float64)]
    return Layer(*parts)


@dataclass(frozen=True)
class Way:
    """A way to fit: ``run`` does it, ``solutions`` turns what it gives into weight (D,) and bias for each of ``Cs``.

    ``scale`` is what its seconds are multiplied by: how many fits there are for each that it does.
    """

    run: Callable[[Layer], Any]
    solutions: Callable[[Any, Layer], Solutions] | None
    Cs: tuple[float, ...] = ()
    scale: float = 1.0


def ways_of(Cs: tuple[float, ...], one_C: float) -> dict[str, Way]:
    """Ours first."""
    newton = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000}
    return {
        OURS: Way(lambda layer: fit_logistic_path(layer.X, layer.y, Cs), _of_path, Cs),
        OURS_ROUGH: Way(lambda layer: LogisticProblem(layer.X).solve(layer.y, Cs, tolerance=ROUGH), _of_path, Cs),
        DEFAULT: Way(lambda layer: one_at_a_time(layer, Cs), _as_they_are, Cs),
        EXACT_LBFGS: Way(lambda layer: one_at_a_time(layer, Cs, tol=1e-8, max_iter=100_000), _as_they_are, Cs),
        NEWTON: Way(lambda layer: one_at_a_time(layer, [one_C], **newton), _as_they_are, (one_C,), float(len(Cs))),
        GRAM_DEFAULT: Way(lambda layer: in_gram_basis(layer, Cs), _as_they_are, Cs),
        GRAM_NEWTON: Way(lambda layer: in_gram_basis(layer, Cs, **newton), _as_they_are, Cs),
        ORIGIN: Way(lambda layer: origin(layer, loader=True), None),
        ORIGIN_BARE: Way(lambda layer: origin(layer, loader=False), None),
    }


OURS = "strataprobe"
OURS_ROUGH = "strataprobe, as far as the choice of C needs"
DEFAULT = "scikit-learn, default (lbfgs), one fit at a time"
EXACT_LBFGS = "scikit-learn, lbfgs, tol 1e-8, 100,000 iterations"
NEWTON = "scikit-learn, newton-cholesky, tol 1e-12"
GRAM_DEFAULT = "scikit-learn in our Gram basis, default (lbfgs)"
GRAM_NEWTON = "scikit-learn in our Gram basis, newton-cholesky, tol 1e-12"
ORIGIN = "the origin's protocol, one setting"
ORIGIN_BARE = "the same without a DataLoader"


def one_at_a_time(layer: Layer, Cs: Sequence[float], **how: Any) -> Solutions:
    """As people use scikit-learn: standardise, then a fit for each C; in float64 where more than the default is asked."""
    X = layer.X.astype(np.float64) if how else layer.X
    return _fits(StandardScaler().fit_transform(X), layer.y, Cs, **how)


def in_gram_basis(layer: Layer, Cs: Sequence[float], **how: Any) -> Solutions:
    """As one does who knows that the solution lies in the rows' span: one decomposition, then fits on (N, r) features."""
    Z = StandardScaler().fit_transform(layer.X.astype(np.float64))
    squares, vectors = np.linalg.eigh(Z @ Z.T)
    keep = squares > squares[-1] * max(Z.shape) * np.finfo(np.float64).eps
    squares, vectors = squares[keep], vectors[:, keep]
    basis = Z.T @ (vectors / np.sqrt(squares))
    return [(basis @ w, b) for w, b in _fits(vectors * np.sqrt(squares), layer.y, Cs, **how)]


def origin(layer: Layer, *, loader: bool) -> OriginFit:
    """The origin's protocol."""
    return train_origin(layer.X, layer.y, layer.X_val, layer.y_val, loader=loader)


def _fits(Z: NDArray[Any], y: Float64, Cs: Sequence[float], **how: Any) -> Solutions:
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what it costs is in the table
        for C in Cs:
            model = LogisticRegression(C=C, **how).fit(Z, y)
            found.append((model.coef_[0].astype(np.float64), float(model.intercept_[0])))
    return found


def _as_they_are(found: Solutions, layer: Layer) -> Solutions:
    return found


def _of_path(path: LogisticPath, layer: Layer) -> Solutions:
    assert path.converged.all()
    scaler = StandardScaler().fit(layer.X.astype(np.float64))
    return [
        (w * scaler.scale_, float(b + w @ (scaler.mean_ - path.centre)))
        for w, b in zip(path.weight[:, 0], path.bias_at_centre[:, 0], strict=True)
    ]


def objectives(found: Solutions, Cs: Sequence[float], layer: Layer) -> Float64:
    """0.5 ||w||^2 + C * sum of log losses on features standardised in float64, for each solution."""
    Z = StandardScaler().fit_transform(layer.X.astype(np.float64))
    signs = 2 * layer.y - 1
    losses = [np.logaddexp(0, -signs * (Z @ w + b)).sum() for w, b in found]
    return np.array([0.5 * w @ w + C * loss for (w, _), C, loss in zip(found, Cs, losses, strict=True)])


def unseen_logits(found: Solutions, layer: Layer) -> Float64:
    """Logits (n, len(found)) of the rows that no way fits."""
    scaler = StandardScaler().fit(layer.X.astype(np.float64))
    Z = scaler.transform(layer.X_test.astype(np.float64))
    return np.stack([Z @ w + b for w, b in found], axis=1)
