"""Numbers that say how good a probe is, each with an interval that respects groups of related texts.

AUC is the chance that a row of the class has a higher logit than a row of another class, ties counted half. Its
covariance over many layers at once is DeLong's (Biometrics 44:837, 1988), the structural components summed by group
(Obuchowski, Biometrics 53:567, 1997). Its interval is of the score type (Newcombe, Statistics in Medicine 25:559,
2006), which stays honest near 1, where a percentile bootstrap or a Wald interval does not; ``bench/results/coverage.md``
shows how often it holds the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from strataprobe.aucvariance import Expected, expect, exponential_variance
from strataprobe.intervals import NOWHERE, Z95, drawn_to_expected, score_bounds, share_interval, student_over_normal


def auc(labels01: Any, logits: Any) -> float:
    """Area under the ROC curve of ``logits`` (N,) for ``labels01`` (N,) in {0, 1}; nan when one class is absent."""
    labels, columns = _checked(labels01, logits)
    if labels.all() or not labels.any():
        return float("nan")
    above, _ = _structural_components(labels, columns)
    return float(above.mean())


@dataclass(frozen=True)
class AucEstimate:
    """AUCs of M columns (layers) on the same rows.

    ``auc`` (M,) and ``covariance`` (M, M) are float64; ``n_positive_groups`` and ``n_negative_groups`` count the groups
    that hold each class. ``auc`` is nan, and ``covariance`` zero, when one class is absent. ``expected`` is what the
    relations between rows let one expect of the variances; without it, that of one row a group.
    """

    auc: np.ndarray
    covariance: np.ndarray
    n_positive_groups: float
    n_negative_groups: float
    expected: Expected | None = None

    @property
    def variance(self) -> np.ndarray:
        """Diagonal of ``covariance``, (M,)."""
        return np.diag(self.covariance)

    @property
    def correlation(self) -> np.ndarray:
        """(M, M) with ones on the diagonal; a column without variance is uncorrelated with the others."""
        sd = np.sqrt(self.variance)
        inverse = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 1e-12)
        result = np.clip(self.covariance * inverse[:, None] * inverse[None, :], -1.0, 1.0)
        np.fill_diagonal(result, 1.0)
        return result

    def inflated(self, factor: np.ndarray) -> AucEstimate:
        """The same AUCs with each column's variance multiplied by ``factor`` (M,); the correlations stay."""
        root = np.sqrt(factor)
        covariance = self.covariance * root[:, None] * root[None, :]
        expected = self.expected and Expected(self.expected.ratio * factor, self.expected.degrees)
        return AucEstimate(self.auc, covariance, self.n_positive_groups, self.n_negative_groups, expected)

    def columns(self, indices: Sequence[int]) -> AucEstimate:
        """The estimate of some of the columns."""
        kept = np.asarray(indices, dtype=np.intp)
        covariance = self.covariance[np.ix_(kept, kept)]
        expected = self.expected and self.expected.columns(indices)
        return AucEstimate(self.auc[kept], covariance, self.n_positive_groups, self.n_negative_groups, expected)


def clustered_auc(labels01: Any, logits: Any, groups: Any) -> AucEstimate:
    """AUC of each column of ``logits`` (N,) or (N, M), with a covariance over independent ``groups`` (N,)."""
    return folded_auc(labels01, logits, groups, np.zeros(len(labels01), dtype=np.int64))


def folded_auc(labels01: Any, logits: Any, groups: Any, folds: Any) -> AucEstimate:
    """Mean of the AUCs within each fold, with a covariance over groups.

    Logits of different folds come from different probes and cannot be pooled. A fold with m rows of the class and n
    others counts with weight m n / (m + n), close to the inverse of its variance; a fold without a class is left out.
    """
    labels, columns = _checked(labels01, logits)
    own, parts = _codes(groups), _codes(folds)
    means, influence, n_positive, n_negative = _influence(labels, columns, own, parts)
    expected = None if np.isnan(means).any() else expect(means, labels, columns, own, parts)
    return AucEstimate(means, influence.T @ influence, n_positive, n_negative, expected)


def macro_auc(labels: Any, logits: Any, groups: Any, folds: Any | None = None) -> AucEstimate:
    """Mean over classes of the one-against-rest AUC; classes absent from ``labels`` are left out.

    ``labels`` (N,) int; ``logits`` (N, C, M): column c of the second axis is the probe of class c.
    """
    codes, stacked = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    group_codes = _codes(groups)
    fold_codes = np.zeros(len(codes), dtype=np.int64) if folds is None else _codes(folds)
    present = [c for c in range(stacked.shape[1]) if 0 < (codes == c).sum() < len(codes)]
    parts = {c: _influence(codes == c, stacked[:, c, :], group_codes, fold_codes) for c in present}
    parts = {c: part for c, part in parts.items() if not np.isnan(part[0]).any()}
    if not parts:
        m = stacked.shape[2]
        return AucEstimate(np.full(m, np.nan), np.zeros((m, m)), 0.0, 0.0)
    influence = np.mean([p[1] for p in parts.values()], axis=0)
    own = [expect(p[0], codes == c, stacked[:, c, :], group_codes, fold_codes) for c, p in parts.items()]
    degrees = np.minimum(np.sum([e.degrees for e in own], axis=0), len(influence))
    return AucEstimate(
        np.mean([p[0] for p in parts.values()], axis=0),
        influence.T @ influence,
        sum(p[2] for p in parts.values()),
        float(np.mean([p[3] for p in parts.values()])),
        Expected(np.mean([e.ratio for e in own], axis=0), degrees),
    )


def auc_interval(estimate: AucEstimate, z: float = Z95) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds (M,), never outside 0 to 1; 95 % with the default ``z``. Nan where the AUC is.

    They are score bounds (``intervals.score_bounds``) with the variance r V(t): V is that of the Hanley-McNeil model with
    as many rows as there are groups, r the measured clustered variance relative to V(AUC), widened from z to Student's t
    by its degrees of freedom. Near 1, where few groups are ever misplaced and their variance is itself a guess, r is
    drawn towards what the relations between rows let one expect (``aucvariance.expect``). A constant column has an AUC
    of .5 exactly.
    """
    m, n = estimate.n_positive_groups, estimate.n_negative_groups
    value = estimate.auc
    if min(m, n) < 1:
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    model = exponential_variance(value, m, n)
    ratio = np.divide(estimate.variance, model, out=np.ones_like(model), where=model > 1e-12)
    expected = estimate.expected or Expected(np.ones_like(value), np.full_like(value, np.inf))
    ratio = drawn_to_expected(value, ratio, expected.ratio, min(m, n), student_over_normal(expected.degrees, z))
    ratio[(estimate.variance < 1e-18) & (np.abs(value - 0.5) < 1e-12)] = 0.0
    return score_bounds(value, lambda t: ratio * exponential_variance(t, m, n), z)


def accuracy_interval(correct: Any, groups: Any, z: float = Z95) -> tuple[float, float, float]:
    """Share of ``correct`` rows (N,) with its bounds over ``groups`` (N,): (accuracy, low, high); nan for no rows."""
    hits, codes = np.asarray(correct, dtype=np.float64), _codes(groups)
    if len(hits) == 0:
        return NOWHERE
    p = float(hits.mean())
    sums = np.bincount(codes, weights=hits - p)
    return share_interval(p, sums / len(hits), len(sums), z=z)


def classification_summary(labels01: Any, probabilities: Any, threshold: float = 0.5) -> dict[str, Any]:
    """accuracy, precision, recall, f1, auc_roc, auc_pr and confusion_matrix ([[tn, fp], [fn, tp]]) of one class.

    ``labels01`` (N,) in {0, 1}, ``probabilities`` (N,); a row is called when its probability reaches ``threshold``. A
    ratio without a denominator is 0; auc_roc and auc_pr are None when one class is absent.
    """
    from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

    labels = np.asarray(labels01).astype(np.int64)
    values = np.asarray(probabilities, dtype=np.float64)
    called = (values >= threshold).astype(np.int64)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, called, average="binary", pos_label=1, zero_division=0
    )
    both = 0 < labels.sum() < len(labels)
    return {
        "accuracy": float((called == labels).mean()) if len(labels) else 0.0,
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "auc_roc": auc(labels, values) if both else None,
        "auc_pr": float(average_precision_score(labels, values)) if both else None,
        "confusion_matrix": confusion_matrix(labels, called, labels=[0, 1]).tolist(),
    }


def expected_calibration_error(labels01: Any, probabilities: Any, n_bins: int = 10) -> float:
    """Mean gap between stated and observed frequency over ``n_bins`` bins with as many rows each; nan for no rows.

    ``labels01`` (N,) in {0, 1}, ``probabilities`` (N,) of that class; 0 is best, 1 worst. Rows of equal probability
    count with their common frequency, so that their order does not matter. Chance alone gives about
    0.8 sqrt(p (1 - p) ``n_bins`` / N), so compare it between like numbers of rows (after Naeini et al., AAAI 2015).
    """
    labels, values = np.asarray(labels01, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if len(values) == 0:
        return float("nan")
    _, level = np.unique(values, return_inverse=True)
    observed = (np.bincount(level, weights=labels) / np.bincount(level))[level]
    bins = np.array_split(np.argsort(values, kind="stable"), min(n_bins, len(values)))
    return float(sum(abs((observed[b] - values[b]).sum()) for b in bins) / len(values))


def _checked(labels01: Any, logits: Any) -> tuple[np.ndarray, np.ndarray]:
    labels, columns = np.asarray(labels01).astype(bool), np.asarray(logits, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if len(labels) != len(columns):
        raise ValueError(f"{len(labels)} labels for {len(columns)} rows of logits")
    if not np.isfinite(columns).all():
        raise ValueError("logits must be finite")
    return labels, columns


def _codes(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Equal values -> equal numbers 0..K-1."""
    return np.unique(np.asarray(values), return_inverse=True)[1].reshape(-1)


def _structural_components(labels: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of the class the share of others below it (m, M); for each other the share of the class above it."""
    from scipy.stats import rankdata

    positive, negative = columns[labels], columns[~labels]
    ranks = rankdata(columns, axis=0)
    above = (ranks[labels] - rankdata(positive, axis=0)) / len(negative)
    below = 1.0 - (ranks[~labels] - rankdata(negative, axis=0)) / len(positive)
    return above, below


def _influence(
    labels: np.ndarray, columns: np.ndarray, groups: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Fold-averaged AUC (M,), what each group adds to its error (G, M), and the number of groups with each class.

    The sum of squares over groups estimates the covariance: exactly DeLong's for groups of one row, Obuchowski's up to
    the small-sample factor of the cross term, and never indefinite.
    """
    usable = [f for f in np.unique(folds) if 0 < labels[folds == f].sum() < (folds == f).sum()]
    n_groups, width = int(groups.max(initial=-1)) + 1, columns.shape[1]
    if not usable:
        return np.full(width, np.nan), np.zeros((n_groups, width)), 0.0, 0.0
    sizes = np.array([[labels[folds == f].sum(), (~labels[folds == f]).sum()] for f in usable], dtype=np.float64)
    weights = sizes.prod(axis=1) / sizes.sum(axis=1)
    weights /= weights.sum()
    mean = np.full(width, 0.5)
    parts = [np.zeros((n_groups, width)), np.zeros((n_groups, width))]
    cells = [0, 0]
    for fold, weight in zip(usable, weights, strict=True):
        rows = np.flatnonzero(folds == fold)
        own = labels[rows]
        components = _structural_components(own, columns[rows])
        mean += weight * (components[0].mean(axis=0) - 0.5)
        for side, (mask, values) in enumerate(zip((own, ~own), components, strict=True)):
            np.add.at(parts[side], groups[rows[mask]], weight * (values - values.mean(axis=0)) / len(values))
            cells[side] += len(np.unique(groups[rows[mask]]))
    for side in (0, 1):
        parts[side] *= np.sqrt(cells[side] / max(cells[side] - len(usable), 1))
    n_with = [len(np.unique(groups[mask & np.isin(folds, usable)])) for mask in (labels, ~labels)]
    return mean, parts[0] + parts[1], float(n_with[0]), float(n_with[1])
