"""From logits to probabilities, and the probability from which a class counts as present.

Platt's scaling, p = sigmoid(slope * logit + intercept) with smoothed targets (Platt 1999), fitted by Newton's method
with step halving (Lin, Lin and Weng 2007).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_ROWS = 5
_MAX_STEPS = 100


class Calibration(NamedTuple):
    """probability = sigmoid(slope * logit + intercept); the slope is positive."""

    slope: float
    intercept: float

    def mirrored(self) -> Calibration:
        """The calibration of the opposite class, whose logit is the negative of this one's."""
        return Calibration(self.slope, -self.intercept)


IDENTITY = Calibration(1.0, 0.0)


class PlattFit(NamedTuple):
    """A calibration and, where it is not the plain fit, why: "" when it is."""

    calibration: Calibration
    fallback: str


def sigmoid(z: Any) -> NDArray[np.float64]:
    """1 / (1 + exp(-z)) in float64, without overflow; sigmoid(z) + sigmoid(-z) is 1."""
    values = np.asarray(z, dtype=np.float64)
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, small) / (1.0 + small)


def fit_platt(labels01: Any, logits: Any) -> PlattFit:
    """Slope and intercept for logits (n,) of rows with labels (n,) in {0, 1}, best on rows no probe was fitted on.

    Fewer than five rows, or rows of one class only, give the identity. Logits that do not rank the class above the rest
    give slope 1 with a fitted intercept, since a negative slope would turn the probe round.
    """
    y = np.asarray(labels01).astype(bool)
    x = np.asarray(logits, dtype=np.float64)
    if len(y) < MIN_ROWS:
        return PlattFit(IDENTITY, f"identity: {len(y)} rows are too few to calibrate on")
    if y.all() or not y.any():
        return PlattFit(IDENTITY, "identity: the rows are of one class only")
    n_positive = int(y.sum())
    targets = np.where(y, (n_positive + 1) / (n_positive + 2), 1 / (len(y) - n_positive + 2))
    centre, spread = float(x.mean()), float(x.std())
    if spread > 1e-12 * max(1.0, abs(centre)):
        slope, intercept = _newton((x - centre) / spread, targets)
        if slope > 0:
            return PlattFit(Calibration(slope / spread, intercept - slope * centre / spread), "")
    return PlattFit(Calibration(1.0, _intercept_only(x, targets)), "slope 1: the logits do not rank the class higher")


def _loss(z: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    return float((np.logaddexp(0.0, z) - targets * z).sum())


def _newton(x: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, float]:
    """Minimise the cross-entropy of sigmoid(slope * x + intercept) against soft targets; x is standardised."""
    design = np.stack([x, np.ones_like(x)])
    share = targets.mean()
    point = np.array([0.0, np.log(share) - np.log1p(-share)])
    value = _loss(point @ design, targets)
    for _ in range(_MAX_STEPS):
        p = sigmoid(point @ design)
        gradient = design @ (p - targets)
        curvature = (design * (p * (1 - p))) @ design.T + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, -gradient)
        decrease = float(-gradient @ step)
        if decrease < 1e-16 * max(value, 1.0):
            break
        length = 1.0
        while length > 1e-10 and _loss((point + length * step) @ design, targets) > value - 1e-4 * length * decrease:
            length /= 2
        if length <= 1e-10:
            break
        point = point + length * step
        value = _loss(point @ design, targets)
    return float(point[0]), float(point[1])


def _intercept_only(x: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """The intercept at which the mean probability is the mean target, by bisection: it rises with the intercept."""
    low, high = -float(x.max()) - 40.0, -float(x.min()) + 40.0
    for _ in range(200):
        middle = (low + high) / 2
        if sigmoid(x + middle).mean() < targets.mean():
            low = middle
        else:
            high = middle
    return (low + high) / 2


def choose_threshold(labels01: Any, probabilities: Any) -> float:
    """The probability t that maximises F1 of "p >= t"; of equally good ones the nearest to .5.

    For a class against the rest, whose base rate is low. Between two neighbouring probabilities every t decides alike:
    .5 is taken where it lies there, else the middle. One class only, or fewer than five rows: .5.
    """
    y = np.asarray(labels01).astype(bool)
    p = np.asarray(probabilities, dtype=np.float64)
    if len(y) < MIN_ROWS or y.all() or not y.any():
        return 0.5
    levels, where = np.unique(p, return_inverse=True)
    positive = np.bincount(where, weights=y, minlength=len(levels))
    negative = np.bincount(where, weights=~y, minlength=len(levels))
    # Entry i: rows at or above level i; the last entry: no row.
    tp = np.append(np.cumsum(positive[::-1])[::-1], 0.0)
    fp = np.append(np.cumsum(negative[::-1])[::-1], 0.0)
    fn = y.sum() - tp
    quality = 2 * tp / (2 * tp + fp + fn)
    edges = np.concatenate([[0.0], levels, [1.0]])
    low, high = edges[:-1], edges[1:]
    candidates = np.where((low < 0.5) & (high >= 0.5), 0.5, (low + high) / 2)
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    return float(candidates[best[np.argmin(np.abs(candidates[best] - 0.5))]])
