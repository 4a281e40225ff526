"""AUPRC, F1, recall at 1 % false positives and calibration error, each with 95 % bounds over groups of related texts.

Every function takes the labels of K classes, each against the rest, as columns, and gives the mean over classes; one
column is one class. The bounds hold for the value that the same probe would have on endless fresh texts of the same
kind. What a group adds to the error of a measure is its influence: the derivative of the measure by the weight of
the group's rows (Efron & Stein's infinitesimal jackknife).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from strataprobe.aucvariance import likeness, tail_design_effect
from strataprobe.intervals import NOWHERE, Z95, Bounded, share_interval

N_BINS = 10
_DRAWS = 200


def auprc(labels01: Any, logits: Any, groups: Any) -> Bounded:
    """Average precision: the mean over rows of the class of the precision where that row is the last one called.

    ``labels01`` (N, K) in {0, 1}, every column with both values; ``logits`` (N, K); ``groups`` (N,).
    """
    labels, values, codes = _checked(labels01, logits, groups)
    order = np.argsort(-values, axis=0, kind="stable")
    hits = np.take_along_axis(labels, order, axis=0).astype(np.float64)
    ordered = np.take_along_axis(values, order, axis=0)
    last = _last_of_equal(ordered)
    called = last + 1.0
    right = np.take_along_axis(np.cumsum(hits, axis=0), last, axis=0)
    precision = right / called
    m = hits.sum(axis=0)
    value = (hits * precision).sum(axis=0) / m
    by_right = _from_here_down(hits * (called - right) / called**2, ordered)
    by_wrong = _from_here_down(hits * right / called**2, ordered)
    own = np.where(hits > 0, precision - value + by_right, -by_wrong) / m
    influence = np.empty_like(own)
    np.put_along_axis(influence, order, own, axis=0)
    n_groups = _groups_with(labels, codes)
    by_group = _by_group(influence, codes).mean(axis=1)
    alike = [_same_class(labels[:, k], values[:, k], codes) for k in range(labels.shape[1])]
    return share_interval(float(value.mean()), by_group, n_groups, expected=_clumping(alike, n_groups))


def f1(labels01: Any, called: Any, groups: Any) -> Bounded:
    """2 TP / (2 TP + FP + FN) of the rows ``called`` (N, K) bool; 0 where nothing is right.

    With J, the share of right ones among the rows that are of the class or called, it is 2 J / (1 + J): its model
    variance is that of a share, carried over.
    """
    labels, calls, codes = _checked(labels01, called, groups)
    calls = calls > 0
    right, involved = labels & calls, labels | calls
    parts = (right * 2.0).sum(axis=0) + (labels ^ calls).sum(axis=0)
    value = 2.0 * right.sum(axis=0) / parts
    influence = (2.0 * right - value * (2.0 * right + (labels ^ calls))) / parts
    return share_interval(
        float(value.mean()),
        _by_group(influence, codes).mean(axis=1),
        _groups_with(involved, codes),
        variance=lambda t: t * (1.0 - t) * (2.0 - t) ** 2 / 2.0,
    )


def recall_at(labels01: Any, logits: Any, groups: Any, rate: float = 0.01) -> Bounded:
    """Share of the class above the lowest threshold that calls at most ``rate`` of the other rows.

    On n other rows that threshold is far from certain: the rate it has on endless rows follows a Beta distribution. The
    bounds join (Zou & Donner, Statistics in Medicine 27:1693, 2008) those of the recall at the threshold with those of
    the rate, carried over along a ROC curve that is straight on normal axes, of slope sd(others) / sd(class).
    """
    labels, values, codes = _checked(labels01, logits, groups)
    found = [_recall_of_one(labels[:, k], values[:, k], codes, rate) for k in range(labels.shape[1])]
    return _mean_of(found)


def calibration_error(labels01: Any, probabilities: Any, groups: Any) -> Bounded:
    """Mean gap between stated and observed frequency over bins of equally many rows (``N_BINS``), 0 to 1.

    The value is the plain one of ``metrics.expected_calibration_error``, which chance lifts above the truth; the bounds
    are of the truth, down to 0. The lower one is the multiple of the observed gaps that would give so high a value in
    one of forty samples; the upper one is the value less its bias, and 1.96 standard errors. Chance is binomial in each
    bin, and larger by what groups add to the variance of the gaps.
    """
    labels, stated, codes = _checked(labels01, probabilities, groups)
    n, n_classes = labels.shape
    n_groups, bins = int(codes.max()) + 1, _bins(stated)
    column = np.broadcast_to(np.arange(n_classes), labels.shape)
    gap, count, said = np.zeros((n_groups, n_classes, N_BINS)), np.zeros((n_groups, n_classes, N_BINS)), labels - stated
    np.add.at(gap, (codes[:, None], column, bins), said)
    np.add.at(count, (codes[:, None], column, bins), 1.0)
    gaps, rows = gap.sum(axis=0), count.sum(axis=0)
    mean = gaps / np.maximum(rows, 1.0)
    inflation = ((gap - count * mean) ** 2).sum() / max(((said - mean[column, bins]) ** 2).sum(), 1e-12)
    hits = np.zeros((n_classes, N_BINS))
    np.add.at(hits, (column, bins), labels.astype(np.float64))
    filled = np.maximum(rows, 1.0)
    stated_rate, careful = ((hits - gaps) / filled).clip(0.0, 1.0), (hits + 0.5) / (rows + 1.0)
    widest = np.where(np.abs(stated_rate - 0.5) < np.abs(careful - 0.5), stated_rate, careful)
    spread = np.sqrt(max(inflation, 1.0))
    drawn = [spread * _binomial_chance(rows, rate).reshape(-1, rows.size) for rate in (widest, hits / filled)]
    observed = np.abs(gaps).sum()
    bias = np.abs(gaps.ravel() + drawn[1]).sum(axis=1).mean() - observed
    error = spread * np.sqrt((rows * widest * (1.0 - widest)).sum())
    value = float(observed / (n * n_classes))
    high = float(observed - bias + Z95 * error) / (n * n_classes)
    return Bounded(value, min(_multiple(gaps.ravel(), drawn[0], 0.975), 1.0) * value, min(max(high, value), 1.0))


def _binomial_chance(rows: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Draws (R, K, bins) of the number of hits among ``rows`` (K, bins), less its mean."""
    n_draws = max(_DRAWS, 10 * _DRAWS // len(rows))
    return np.random.default_rng(0).binomial(rows.astype(np.int64), rate, (n_draws, *rows.shape)) - rows * rate


def _multiple(gaps: np.ndarray, drawn: np.ndarray, share: float) -> float:
    """The multiple of the gaps whose values, chance added, lie at or below the observed one in ``share`` of samples."""
    observed = np.abs(gaps).sum() + 1e-12

    def at_or_below(by: float) -> float:
        return float((np.abs(by * gaps + drawn).sum(axis=1) <= observed).mean())

    inner, outer = 0.0, 8.0
    if at_or_below(inner) <= share:
        return 0.0
    for _ in range(24):
        middle = (inner + outer) / 2.0
        inner, outer = (middle, outer) if at_or_below(middle) > share else (inner, middle)
    return (inner + outer) / 2.0


def _recall_of_one(labels: np.ndarray, values: np.ndarray, codes: np.ndarray, rate: float) -> Bounded:
    from scipy.special import ndtr, ndtri
    from scipy.stats import beta

    own, others = values[labels], np.sort(values[~labels])[::-1]
    allowed = int(np.floor(rate * len(others) + 1e-9))
    above = own > others[allowed]
    value = float(above.mean())
    influence = np.zeros((len(values), 1))
    influence[labels, 0] = (above - value) / len(own)
    n_groups = _groups_with(labels[:, None], codes)
    same, counts = _same_class(labels, values, codes)
    clumping = _clumping([(same, counts)], n_groups)
    at = share_interval(value, _by_group(influence, codes)[:, 0], n_groups, expected=clumping)
    effective = 1.0 / tail_design_effect(counts[:, 1], same, rate)
    shape = (allowed * effective + 1.0, (len(others) - allowed - 1) * effective + 1.0)
    rates = ndtri(np.clip(beta.ppf([0.025, 0.5, 0.975], *shape), 1e-9, 1.0 - 1e-9))
    slope = float(np.clip(others.std() / max(own.std(), 1e-12), 0.5, 2.0))
    least = 0.5 / len(own)
    normal = ndtri(np.clip([value, at.low, at.high], least, 1.0 - least))
    centre = normal[0] + slope * (ndtri(rate) - rates[1])
    down = np.hypot(normal[0] - normal[1], slope * (rates[2] - rates[1]))
    up = np.hypot(normal[2] - normal[0], slope * (rates[1] - rates[0]))
    low, high = float(ndtr(centre - down)), float(ndtr(centre + up))
    return Bounded(value, min(low, value), max(high, value, at.high if value > 1.0 - least else 0.0))


def _clumping(alike: list[tuple[float, np.ndarray]], n_groups: float) -> float:
    """Variance to expect of rows of K classes, in units of that of as many rows as there are groups of them.

    ``alike`` is what ``_same_class`` gives for each class. Mates in a group count as alike as their logits are: what a
    logit decides is never more alike.
    """
    n_rows = sum(float(counts[:, 0].sum()) for _, counts in alike)
    extra = sum(same * float((counts[:, 0] * (counts[:, 0] - 1.0)).sum()) for same, counts in alike)
    return n_groups / n_rows * (1.0 + extra / n_rows)


def _same_class(labels: np.ndarray, values: np.ndarray, codes: np.ndarray) -> tuple[float, np.ndarray]:
    """Correlation within groups and classes, and the rows (G, 2) of the class and of the others in each group."""
    counts = np.stack([np.bincount(codes[mask], minlength=codes.max() + 1) for mask in (labels, ~labels)], axis=1)
    if counts.max() <= 1:
        return 0.0, counts
    one_fold = np.zeros(len(values), dtype=np.int64)
    return float(likeness(labels, values[:, None], codes, one_fold, counts).same_class[0]), counts


def _mean_of(found: list[Bounded]) -> Bounded:
    """The mean of values of different classes, taken as independent, their one-sided distances added in squares."""
    if not found:
        return NOWHERE
    value, low, high = (np.array(part) for part in zip(*found, strict=True))
    centre, n = float(value.mean()), len(found)
    down, up = (float(np.sqrt(((bound - value) ** 2).sum())) / n for bound in (low, high))
    return Bounded(centre, max(centre - down, 0.0), min(centre + up, 1.0))


def _checked(labels01: Any, values: Any, groups: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, columns = np.asarray(labels01).astype(bool), np.asarray(values, dtype=np.float64)
    labels, columns = (part[:, None] if part.ndim == 1 else part for part in (labels, columns))
    if labels.shape != columns.shape or not np.isfinite(columns).all():
        raise ValueError(f"labels of shape {labels.shape} need finite values of that shape, not {columns.shape}")
    return labels, columns, np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)


def _by_group(influence: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums (G, K) over the rows of each group of ``influence`` (N, K)."""
    sums = np.zeros((int(codes.max()) + 1, influence.shape[1]))
    np.add.at(sums, codes, influence)
    return sums


def _groups_with(mask: np.ndarray, codes: np.ndarray) -> float:
    """Number of groups that hold a row of ``mask`` (N, K), summed over its columns."""
    return float((_by_group(mask.astype(np.float64), codes) > 0).sum())


def _last_of_equal(ordered: np.ndarray) -> np.ndarray:
    """For each row of sorted columns (N, K) the index of the last row with the same value."""
    n = len(ordered)
    ends = np.ones(ordered.shape, dtype=bool)
    ends[:-1] = ordered[1:] != ordered[:-1]
    index = np.where(ends, np.arange(n)[:, None], n - 1)
    return np.minimum.accumulate(index[::-1], axis=0)[::-1]


def _from_here_down(terms: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """For each row of columns sorted downwards the sum of ``terms`` over the rows whose value is not higher."""
    total = np.cumsum(terms[::-1], axis=0)[::-1]
    starts = np.ones(ordered.shape, dtype=bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(ordered))[:, None], 0), axis=0)
    return np.take_along_axis(total, first, axis=0)


def _bins(stated: np.ndarray) -> np.ndarray:
    """Bin 0 to ``N_BINS`` - 1 of each entry by its rank in its column (N, K); equal ones lie in the bin of their middle."""
    from scipy.stats import rankdata

    n = len(stated)
    of_rank = np.repeat(np.arange(N_BINS), [len(part) for part in np.array_split(np.arange(n), N_BINS)])
    return of_rank[np.floor(rankdata(stated, axis=0) - 0.5).astype(np.int64)]
