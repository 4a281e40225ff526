"""How well predicted values match continuous targets, each number with a 95 % interval over groups of related texts.

The error of each number is the sum over groups of its influence function (the infinitesimal jackknife), on a scale where
the number is close to normal: Fisher's z for correlations, the log-odds for the concordance, the logarithm for errors.
The quantile is Student's with as many degrees of freedom as there are groups but one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

MEASURES = ("r2", "pearson", "spearman", "mae", "concordance")
_OF_ORDER = ("pearson", "spearman", "concordance")
_NO_ERROR = 1e-9
_ROWS_AT_ONCE = 512


def value_summary(targets: Any, values: Any, groups: Any) -> dict[str, float | None]:
    """``r2``, ``pearson``, ``spearman``, ``mae`` and ``concordance``, each with ``_low`` and ``_high``.

    ``targets`` and ``values`` (n,) are finite, ``groups`` (n,) name related rows. ``concordance`` is the chance that of
    two texts with different targets the higher one has the higher value, ties of values counted half: the AUC of a
    continuous target. None where there is no such number: fewer than two rows, or targets (for a correlation: values)
    that are all the same; bounds are None too where there is one group only, or the order is perfect, as then no error
    can be told.
    """
    # as activation files hold targets, so that equal ones stay equal
    y, x = np.asarray(targets, dtype=np.float32).astype(np.float64), np.asarray(values, dtype=np.float64)
    if y.shape != x.shape or y.ndim != 1 or len(np.asarray(groups)) != len(y):
        raise ValueError(f"targets of shape {y.shape}, values of shape {x.shape} and {len(groups)} groups")
    if len(y) < 2:
        return {name + end: None for name in MEASURES for end in ("", "_low", "_high")}
    codes = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    found: dict[str, float | None] = {}
    found |= _bounded("r2", *_r2(y, x), codes)
    found |= _bounded("pearson", *_pearson(y, x), codes)
    found |= _bounded("spearman", *_spearman(y, x), codes)
    error = np.abs(y - x)
    found |= _bounded("mae", float(error.mean()), error - error.mean(), codes)
    return found | _bounded("concordance", *_concordance(y, x), codes)


def r2(targets: Any, values: Any) -> float:
    """1 - squared error / squared deviation from the mean target; nan where the targets are all the same."""
    return _r2(np.asarray(targets, dtype=np.float64), np.asarray(values, dtype=np.float64))[0]


def spearman(targets: Any, values: Any) -> float:
    """Rank correlation; nan where either does not vary."""
    return _spearman(np.asarray(targets, dtype=np.float64), np.asarray(values, dtype=np.float64))[0]


def _bounded(name: str, value: float, influence: Float64, codes: NDArray[np.int64]) -> dict[str, float | None]:
    """The number and its bounds; ``influence`` (n,) is what a row adds to it, times n."""
    from scipy.stats import t

    if not np.isfinite(value):
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    n_groups = int(codes.max()) + 1
    if n_groups < 2:
        return {name: value, f"{name}_low": None, f"{name}_high": None}
    sums = np.bincount(codes, weights=influence, minlength=n_groups) / len(codes)
    half = float(t.ppf(0.975, n_groups - 1)) * float(np.sqrt((sums**2).sum() * n_groups / (n_groups - 1)))
    if name in _OF_ORDER and half < _NO_ERROR:
        return {name: value, f"{name}_low": None, f"{name}_high": None}
    low, high = _on_its_scale(name, value, half)
    return {name: value, f"{name}_low": min(low, value), f"{name}_high": max(high, value)}


def _on_its_scale(name: str, value: float, half: float) -> tuple[float, float]:
    """Bounds ``half`` to each side on the scale where the number is close to normal, back on its own."""
    if name == "r2":  # 1 - r2, the share of squared error, on a logarithmic scale
        rest = max(1 - value, 1e-12)
        return 1 - rest * float(np.exp(half / rest)), 1 - rest * float(np.exp(-half / rest))
    if name == "mae":
        rest = max(value, 1e-300)
        return rest * float(np.exp(-half / rest)), rest * float(np.exp(half / rest))
    if name == "concordance":
        inside = min(max(value, 1e-12), 1 - 1e-12)
        centre, step = np.log(inside / (1 - inside)), half / (inside * (1 - inside))
        low, high = (float(1 / (1 + np.exp(-z))) for z in (centre - step, centre + step))
        return low, high
    inside = min(max(value, -1 + 1e-12), 1 - 1e-12)
    centre, step = np.arctanh(inside), half / (1 - inside**2)
    return float(np.tanh(centre - step)), float(np.tanh(centre + step))


def _r2(y: Float64, x: Float64) -> tuple[float, Float64]:
    errors, spread = np.square(y - x), np.square(y - y.mean())
    if spread.sum() <= 0:
        return float("nan"), np.zeros(len(y))
    share = errors.mean() / spread.mean()
    return float(1 - share), -(errors - share * spread) / spread.mean()


def _pearson(y: Float64, x: Float64) -> tuple[float, Float64]:
    if np.ptp(y) <= 0 or np.ptp(x) <= 0:
        return float("nan"), np.zeros(len(y))
    a, b = (y - y.mean()) / y.std(), (x - x.mean()) / x.std()
    value = float(np.clip((a * b).mean(), -1, 1))
    return value, a * b - value * (a**2 + b**2) / 2


def _spearman(y: Float64, x: Float64) -> tuple[float, Float64]:
    """Pearson's of the ranks, and its influence: a row moves its own ranks and those of all rows above it."""
    if np.ptp(y) <= 0 or np.ptp(x) <= 0:
        return float("nan"), np.zeros(len(y))
    a, b = _centred_ranks(y), _centred_ranks(x)
    va, vb = (a**2).mean(), (b**2).mean()
    value = float(np.clip((a * b).mean() / np.sqrt(va * vb), -1, 1))
    cross = a * b + _moved(y, b) + _moved(x, a)
    own_a, own_b = a**2 + 2 * _moved(y, a), b**2 + 2 * _moved(x, b)
    influence = (cross - cross.mean()) / np.sqrt(va * vb)
    influence -= value * ((own_a - own_a.mean()) / va + (own_b - own_b.mean()) / vb) / 2
    return value, influence


def _centred_ranks(v: Float64) -> Float64:
    """Ranks as shares of the rows, ties sharing theirs, less one half."""
    from scipy.stats import rankdata

    return np.asarray((rankdata(v) - 0.5) / len(v) - 0.5, dtype=np.float64)


def _moved(v: Float64, by: Float64) -> Float64:
    """For each row i the mean over rows j of by[j] * (1 where v[i] < v[j], 1/2 where equal)."""
    levels, where = np.unique(v, return_inverse=True)
    own = np.bincount(where, weights=by, minlength=len(levels))
    above = own[::-1].cumsum()[::-1] - own / 2
    return np.asarray(above[where] / len(v), dtype=np.float64)


def _concordance(y: Float64, x: Float64) -> tuple[float, Float64]:
    """Share of pairs with different targets that the values order alike, and its influence."""
    n = len(y)
    order = np.argsort(y, kind="stable")
    y, x = y[order], x[order]
    starts = np.flatnonzero(np.append(True, y[1:] != y[:-1]))
    sizes = np.diff(np.append(starts, n))
    pairs = (n - np.repeat(sizes, sizes)).astype(np.float64)
    if pairs.sum() <= 0:
        return float("nan"), np.zeros(n)
    parts = _parts(starts, n)
    alike = np.zeros(n)
    for part in parts:
        if y[part][0] != y[part][-1]:
            signs = np.sign(y[part, None] - y[None, part]) * np.sign(x[part, None] - x[None, part])
            alike[part] += signs.sum(axis=1)
    for side, ordered in ((1, parts), (-1, parts[::-1])):  # the parts with lower targets, then those with higher ones
        seen = np.empty(0)
        for part in ordered:
            lower, not_higher = (np.searchsorted(seen, x[part], end) for end in ("left", "right"))
            alike[part] += side * (lower - (len(seen) - not_higher))
            seen = np.sort(np.concatenate([seen, x[part]]), kind="stable")
    value = float((alike.sum() / pairs.sum() + 1) / 2)
    influence = np.empty(n)
    influence[order] = 2 * n * ((alike + pairs) / 2 - value * pairs) / pairs.sum()
    return value, influence


def _parts(starts: NDArray[np.int64], n: int) -> list[slice]:
    """Rows 0..n cut at some of ``starts``: parts of at most ``_ROWS_AT_ONCE`` rows, or of one target."""
    cuts = [0]
    for begin, end in pairwise([*starts.tolist(), n]):
        if end - cuts[-1] > _ROWS_AT_ONCE and begin > cuts[-1]:
            cuts.append(begin)
    return [slice(begin, end) for begin, end in pairwise([*cuts, n])]
