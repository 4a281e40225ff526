"""From logits to probabilities, and the probability from which a class counts as present.

Platt's scaling, p = sigmoid(slope * logit + intercept) with smoothed targets (Platt 1999), fitted by Newton's method
with step halving (Lin, Lin and Weng 2007); or temperature scaling, which fits the slope alone (Guo et al. 2017). A
``CalibrationRule`` says which, and how the threshold is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from strataprobe.errors import OptionError

METHODS = ("platt", "temperature")
MIN_ROWS = 5
# Standard deviations of a prior: of the slope as a share of it, and of the intercept. On 10 to 300 reviews they gave a
# lower log loss than no prior and than narrower ones, with equal classes and with one in five.
_PRIOR_SLOPE, _PRIOR_INTERCEPT = 0.5, 1.5
# From so many rows on a slope far above the prior's is believed: the prior is then as wide as that slope calls for.
_MANY_ROWS = 100
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


class Threshold(NamedTuple):
    """The probability from which a class counts as present, and what it cannot promise: "" when it can."""

    value: float
    caveat: str


@dataclass(frozen=True)
class CalibrationRule:
    """How probabilities and thresholds are made: ``method`` "platt" or "temperature" (intercept 0, so that a class and its
    opposite are treated alike); ``fpr``, the false-positive rate a threshold may have (None: it maximises F1).

    Raises OptionError for another method, and for a rate outside 0 to 1.
    """

    method: str = "platt"
    fpr: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(f"calibration {self.method!r} is not known: use {' or '.join(METHODS)}.")
        if self.fpr is not None and not 0 < self.fpr < 1:
            raise OptionError(
                f"a false-positive rate of {self.fpr} cannot be met: give one between 0 and 1, such as 0.01."
            )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def calibrate(self, labels01: Any, logits: Any, prior: Calibration | None = None) -> PlattFit:
        """The calibration for logits (n,) of rows with labels (n,) in {0, 1}; ``prior`` as in ``fit_platt``."""
        return (fit_platt if self.method == "platt" else fit_temperature)(labels01, logits, prior)

    def threshold(self, labels01: Any, probabilities: Any) -> Threshold:
        """The threshold for probabilities (n,) of rows with labels (n,) in {0, 1}."""
        if self.fpr is None:
            return Threshold(choose_threshold(labels01, probabilities), "")
        return threshold_at_fpr(labels01, probabilities, self.fpr)

    def thresholds(self, Y: Any, probabilities: Any, n_classes: int) -> list[Threshold]:
        """One for each of ``n_classes``, from Y (n, K) in {0, 1} and probabilities (n, K), K = 1 for two classes.

        Of two classes the likelier one is active, as a threshold off .5 would call the less likely one; a
        false-positive rate is met by each of the two on its own.
        """
        if n_classes != 2:
            return [self.threshold(Y[:, k], probabilities[:, k]) for k in range(n_classes)]
        if self.fpr is None:
            return [Threshold(0.5, "")] * 2
        y, p = np.asarray(Y)[:, 0], np.asarray(probabilities)[:, 0]
        return [self.threshold(1 - y, 1 - p), self.threshold(y, p)]


DEFAULT_RULE = CalibrationRule()


def sigmoid(z: Any) -> NDArray[np.float64]:
    """1 / (1 + exp(-z)) in float64, without overflow; sigmoid(z) + sigmoid(-z) is 1."""
    values = np.asarray(z, dtype=np.float64)
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, small) / (1.0 + small)


def fit_platt(labels01: Any, logits: Any, prior: Calibration | None = None) -> PlattFit:
    """Slope and intercept for logits (n,) of rows with labels (n,) in {0, 1}, best on rows no probe was fitted on.

    Fewer than five rows, or rows of one class only, give the identity (the prior). Logits that do not rank the class
    above the rest give slope 1 (the prior's) with a fitted intercept, since a negative slope would turn the probe round.
    With ``prior``, the calibration the same logits had on other text, a few rows move it a little and many move it
    freely. A calibration that was no fit (``PlattFit.fallback``) says nothing of the logits' scale and is no prior.
    """
    y, x = np.asarray(labels01).astype(bool), np.asarray(logits, dtype=np.float64)
    lacking = _lacking(y)
    if lacking:
        return _unfitted(prior, lacking)
    targets = _smoothed(y) if prior is None else y.astype(np.float64)
    centre, spread = float(x.mean()), float(x.std())
    if spread > 1e-12 * max(1.0, abs(centre)):
        share = _smoothed(y).mean()
        start = np.array([0.0, np.log(share) - np.log1p(-share)])
        scaling = np.array([[1 / spread, 0.0], [-centre / spread, 1.0]])
        pull = None if prior is None else _pull(prior, scaling, _stretch(prior, fit_platt, y, x))
        slope, intercept = _newton(np.stack([(x - centre) / spread, np.ones_like(x)]), targets, start, pull).tolist()
        if slope > 0:
            return PlattFit(Calibration(slope / spread, intercept - slope * centre / spread), "")
    slope = 1.0 if prior is None else prior.slope
    fitted = Calibration(slope, _intercept_only(slope * x, targets))
    return PlattFit(fitted, f"slope {slope:.3g}: the logits do not rank the class higher")


def fit_temperature(labels01: Any, logits: Any, prior: Calibration | None = None) -> PlattFit:
    """Slope for logits (n,) of rows with labels (n,) in {0, 1}; the intercept is 0; ``prior`` as in ``fit_platt``.

    Rows that ``fit_platt`` cannot use give the identity here too, and so do logits whose best slope is not positive.
    """
    y, x = np.asarray(labels01).astype(bool), np.asarray(logits, dtype=np.float64)
    lacking = _lacking(y)
    if lacking:
        return _unfitted(prior, lacking)
    size = float(np.sqrt(np.square(x).mean()))
    if size > 0:
        targets = _smoothed(y) if prior is None else y.astype(np.float64)
        pull = None if prior is None else _pull(prior, np.array([[1 / size]]), _stretch(prior, fit_temperature, y, x))
        slope = float(_newton(x[None] / size, targets, np.zeros(1), pull)[0])
        if slope > 0:
            return PlattFit(Calibration(slope / size, 0.0), "")
    return PlattFit(IDENTITY, "identity: the logits do not rank the class higher")


def _lacking(y: NDArray[np.bool_]) -> str:
    """Why rows with these labels cannot calibrate; "" when they can."""
    if len(y) < MIN_ROWS:
        return f"{len(y)} rows are too few to calibrate on"
    return "the rows are of one class only" if y.all() or not y.any() else ""


def _unfitted(prior: Calibration | None, lacking: str) -> PlattFit:
    return PlattFit(IDENTITY, f"identity: {lacking}") if prior is None else PlattFit(prior, f"kept: {lacking}")


def _smoothed(y: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Platt's targets (n,): a little inside 0 and 1, so that separable rows have a finite fit."""
    n_positive = int(y.sum())
    return np.where(y, (n_positive + 1) / (n_positive + 2), 1 / (len(y) - n_positive + 2))


def _stretch(prior: Calibration, fit: Callable[..., PlattFit], y: NDArray[np.bool_], x: NDArray[np.float64]) -> float:
    """How many times wider than usual the prior is for these rows."""
    free = fit(y, x) if len(y) >= _MANY_ROWS else PlattFit(prior, "")
    return 1.0 if free.fallback else max(1.0, free.calibration.slope / prior.slope)


def _pull(
    prior: Calibration, scaling: NDArray[np.float64], stretch: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (k, k) and centre (k,) for a point of which ``scaling`` @ point is the slope, or slope and intercept."""
    k = len(scaling)
    spread = stretch * np.array([_PRIOR_SLOPE * prior.slope, _PRIOR_INTERCEPT])[:k]
    return scaling.T @ np.diag(spread**-2.0) @ scaling, np.linalg.solve(scaling, np.array(prior)[:k])


def _loss(z: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    return float((np.logaddexp(0.0, z) - targets * z).sum())


def _newton(
    design: NDArray[np.float64],
    targets: NDArray[np.float64],
    point: NDArray[np.float64],
    pull: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> NDArray[np.float64]:
    """The point (k,), from this one on, at which sigmoid(point @ design) has the least cross-entropy against soft targets.

    ``design`` (k, n) has rows of size about 1; ``pull`` is the precision and centre of a normal prior.
    """
    precision, middle = (np.zeros((len(point), len(point))), point) if pull is None else pull

    def value_at(point: NDArray[np.float64]) -> float:
        away = point - middle
        return _loss(point @ design, targets) + float(away @ precision @ away) / 2

    value = value_at(point)
    for _ in range(_MAX_STEPS):
        p = sigmoid(point @ design)
        gradient = design @ (p - targets) + precision @ (point - middle)
        curvature = (design * (p * (1 - p))) @ design.T + precision + 1e-12 * np.eye(len(point))
        step = np.linalg.solve(curvature, -gradient)
        decrease = float(-gradient @ step)
        if decrease < 1e-16 * max(value, 1.0):
            break
        length = 1.0
        while length > 1e-10 and value_at(point + length * step) > value - 1e-4 * length * decrease:
            length /= 2
        if length <= 1e-10:
            break
        point = point + length * step
        value = value_at(point)
    return point


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


def threshold_at_fpr(labels01: Any, probabilities: Any, fpr: float) -> Threshold:
    """The smallest threshold at which no more than the share ``fpr`` of the negative rows is called.

    It lies midway between the highest negative probability that must not be called and the next one above. Fewer than
    1 / ``fpr`` negatives cannot show such a rate: the threshold is then above them all, and the caveat says so. One class
    only, or fewer than five rows: .5.
    """
    y, p = np.asarray(labels01).astype(bool), np.asarray(probabilities, dtype=np.float64)
    if len(y) < MIN_ROWS or y.all() or not y.any():
        return Threshold(0.5, f"{len(y)} rows, or rows of one class only, say nothing about a false-positive rate")
    negative = np.sort(p[~y])[::-1]
    n_allowed = min(int(np.floor(fpr * len(negative) * (1 + 1e-12))), len(negative) - 1)
    highest = negative[n_allowed]
    above = p[p > highest]
    value = (highest + (above.min() if len(above) else 1.0)) / 2
    value = value if value > highest else np.nextafter(highest, 2.0)
    caveat = "" if n_allowed else f"{len(negative)} negative rows cannot show a false-positive rate of {fpr:g}"
    return Threshold(float(value), caveat)
