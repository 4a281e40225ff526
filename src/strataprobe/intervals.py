"""From a value between 0 and 1 and its variance to honest bounds, for one value and for many at once.

Bounds are of the score type: every candidate t is judged with the variance that t would have, so they stay within 0 to
1 and honest near both ends, where a Wald interval or a percentile bootstrap is too narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054
# How many informative groups the expected variance counts for beside the one that was measured.
_PRIOR_GROUPS = 2.0

Variance = Callable[[np.ndarray], np.ndarray]


class Bounded(NamedTuple):
    """A value with its lower and upper bound; all nan where there is none."""

    value: float
    low: float
    high: float


NOWHERE = Bounded(float("nan"), float("nan"), float("nan"))


def score_bounds(value: np.ndarray, variance: Variance, z: float = Z95) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (M,): the values t farthest from ``value`` (M,) that differ from it by z sqrt(variance(t)) at most.

    Where t is so near 1 (0) that nothing could lie z standard errors above (below) it, all of the error is allotted to
    the other side, as in Blaker's intervals (Canadian Journal of Statistics 28:783, 2000).
    """
    from scipy.stats import norm

    one_sided = float(norm.isf(min(2.0 * norm.sf(z), 0.5)))
    bounds = []
    for end in (0.0, 1.0):
        inner, outer = value.astype(np.float64), np.full_like(value, end, dtype=np.float64)
        for _ in range(44):
            middle = (inner + outer) / 2.0
            sd = np.sqrt(variance(middle))
            room = np.divide(np.abs(end - middle), sd, out=np.full_like(sd, z), where=sd > 0)
            inside = np.abs(value - middle) <= np.clip(room, one_sided, z) * sd
            inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
        bounds.append((inner + outer) / 2.0)
    return bounds[0], bounds[1]


def drawn_to_expected(
    value: np.ndarray, ratio: np.ndarray, expected: np.ndarray, n_groups: float, widening: np.ndarray
) -> np.ndarray:
    """Measured relative to modelled variance, drawn to what is expected where few groups inform it.

    ``ratio``, ``expected`` and ``widening`` are (M,): ``n_groups`` groups at a value p inform like 4 p (1 - p) times as
    many at one half. ``widening`` is Student's t over the normal z.
    """
    informative = 4.0 * value * (1.0 - value) * n_groups
    return (informative * ratio * widening**2 + _PRIOR_GROUPS * expected) / (informative + _PRIOR_GROUPS)


def student_over_normal(degrees: np.ndarray, z: float) -> np.ndarray:
    """By how much Student's t with these degrees of freedom exceeds the normal ``z`` of the same tail."""
    from scipy.stats import norm, t

    return np.asarray(t.isf(norm.sf(z), degrees)) / z


def binomial_variance(value: np.ndarray) -> np.ndarray:
    """Variance of a share from one row."""
    return value * (1.0 - value)


def share_interval(
    value: float,
    influence: np.ndarray,
    n_groups: float,
    *,
    variance: Variance = binomial_variance,
    expected: float = 1.0,
    z: float = Z95,
) -> Bounded:
    """``value`` with score bounds, its variance measured over groups.

    ``influence`` (G,) is what each group adds to the error of the value; ``n_groups`` of them can add anything.
    ``variance`` is that of one group in the model, ``expected`` the multiple of it that is expected beforehand. For
    independent rows the bounds are Wilson's, with Student's t.
    """
    if not n_groups or np.isnan(value):
        return NOWHERE
    point, n = np.array([min(max(value, 0.0), 1.0)]), float(n_groups)
    measured = float((influence**2).sum()) * n / max(n - 1.0, 1.0)
    model = variance(point) / n
    ratio = np.divide(measured, model, out=np.ones_like(model), where=model > 1e-12)
    widening = student_over_normal(np.array([max(n - 1.0, 1.0)]), z)
    ratio = drawn_to_expected(point, ratio, np.array([expected]), n, widening)
    low, high = score_bounds(point, lambda t: ratio * variance(t) / n, z)
    return Bounded(float(value), float(low[0]), float(high[0]))


def max_t_quantile(correlation: np.ndarray, *, level: float = 0.95, n_draws: int = 20_000, seed: int = 0) -> float:
    """Critical value for M one-sided statements at once: the ``level`` quantile of the largest of M correlated normals.

    ``correlation`` (M, M); Gaussian simulation with a fixed ``seed``.
    """
    draws = _gaussian_draws(correlation, n_draws, seed)
    return float(np.quantile(draws.max(axis=1), level))


def max_t_pairs_quantile(covariance: np.ndarray, *, level: float = 0.95, n_draws: int = 10_000, seed: int = 0) -> float:
    """Critical value for all pairwise differences of M correlated estimates at once, two-sided."""
    draws = _gaussian_draws(covariance, n_draws, seed)
    variance = np.diag(covariance)
    largest = np.zeros(n_draws)
    for j in range(1, len(variance)):
        spread = np.sqrt(np.maximum(variance[:j] + variance[j] - 2 * covariance[:j, j], 0.0))
        usable = spread > 1e-9 * max(float(np.sqrt(variance.max())), 1e-12)
        if usable.any():
            difference = np.abs(draws[:, :j] - draws[:, j : j + 1])[:, usable] / spread[usable]
            np.maximum(largest, difference.max(axis=1), out=largest)
    return max(float(np.quantile(largest, level)), Z95)


def _gaussian_draws(covariance: np.ndarray, n_draws: int, seed: int) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.random.default_rng(seed).standard_normal((n_draws, len(values))) @ root.T
