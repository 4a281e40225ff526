"""How much an AUC varies by chance under two models of the logits, and under relations between rows.

A variance measured on few misplaced rows is itself a guess. What is known beside it is the AUC, the number of rows and
how alike the rows of a group are; from these the models say what variance to expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
# Relations between classes alone can cancel all variance in the model, but hardly in the world.
_LEAST_RATIO = 0.05


@dataclass(frozen=True)
class Expected:
    """What the relations between rows let one expect of the variance of M AUCs.

    ``ratio`` (M,) is the expected variance in units of ``exponential_variance`` with a row a group; ``degrees`` (M,)
    are the degrees of freedom of the variance measured over groups.
    """

    ratio: np.ndarray
    degrees: np.ndarray

    def columns(self, indices: Sequence[int]) -> Expected:
        """Of some of the columns."""
        return Expected(self.ratio[list(indices)], self.degrees[list(indices)])


@dataclass(frozen=True)
class Alike:
    """Correlation of logits, class means taken out, within a group: of rows of one class, and of different classes."""

    same_class: np.ndarray
    across: np.ndarray


def exponential_variance(value: np.ndarray, m: float, n: float) -> np.ndarray:
    """Variance of an AUC of ``value`` from m + n independent rows, exponential model.

    Hanley & McNeil (Radiology 143:29, 1982) in the form of Newcombe's method 5.
    """
    half = (m + n) / 2.0 - 1.0
    spread = 1.0 + half * (1.0 - value) / (2.0 - value) + half * value / (1.0 + value)
    return value * (1.0 - value) * spread / (m * n)


def binormal_variance(value: np.ndarray, m: float, n: float) -> np.ndarray:
    """Variance of an AUC of ``value`` (M,) from m + n independent rows with normal logits of equal variance."""
    single = Alike(np.zeros_like(value), np.zeros_like(value))
    return related_variance(value, np.array([[m, 0.0], [0.0, n]]), single)


def related_variance(value: np.ndarray, counts: np.ndarray, alike: Alike) -> np.ndarray:
    """``binormal_variance`` where rows of a group correlate as ``alike`` says; copies of a row count as one.

    ``counts`` (G, 2): rows of the class and of the others in each group. Two differences (class minus other) whose rows
    are related add their covariance, as in Obuchowski (Biometrics 53:567, 1997), here with the normal model's.
    """
    m, n = counts.sum(axis=0)
    mates = (counts * (counts - 1.0)).sum(axis=0)
    one = _excess(value, np.full_like(value, 0.5))
    copies = (1.0 + alike.same_class * mates[0] / m) * (1.0 + alike.same_class * mates[1] / n)
    single = one * (1.0 / m + 1.0 / n) + (value * (1.0 - value) - 2.0 * one) * copies / (m * n)
    together = _excess(value, alike.same_class / 2.0) * (mates[0] / m**2 + mates[1] / n**2)
    against = 2.0 * counts.prod(axis=1).sum() / (m * n) * _excess(value, -alike.across / 2.0)
    return np.maximum(single + together + against, 0.0)


def _excess(value: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """Covariance of two events of chance ``value``, each a standard normal below a bound, of that correlation.

    Plackett's integral of the bivariate density over the correlation (Biometrika 41:351, 1954).
    """
    from scipy.special import ndtri

    along = correlation[:, None] * (_NODES + 1.0) / 2.0
    density = np.exp(-(ndtri(value)[:, None] ** 2) / (1.0 + along)) / np.sqrt(1.0 - along**2)
    return correlation / 2.0 * (density * _WEIGHTS).sum(axis=1) / (2.0 * np.pi)


def expect(
    value: np.ndarray, labels: np.ndarray, columns: np.ndarray, groups: np.ndarray, folds: np.ndarray
) -> Expected:
    """What to expect for AUCs ``value`` (M,) of ``columns`` (N, M), ``labels`` (N,) bool, codes of groups and folds.

    Normal logits have a smaller variance near 1 than exponential ones, and how heavy the tails are is not known: the
    expected variance is the geometric mean of both, times what the relations change in the normal model. Each AUC is
    first drawn to .5 by one pair, so that none is 0 or 1.
    """
    counts = np.stack([np.bincount(groups[labels == k], minlength=groups.max() + 1) for k in (True, False)], axis=1)
    counts = counts.astype(np.float64)
    m, n = (counts > 0).sum(axis=0).astype(float)
    inner = (value * min(m, n) + 0.5) / (min(m, n) + 1.0)
    single = counts.sum(axis=1).max() <= 1
    zero = np.zeros_like(value)
    alike = Alike(zero, zero) if single else likeness(labels, columns, groups, folds, counts)
    one_a_group = binormal_variance(inner, m, n)
    ratio = related_variance(inner, counts, alike) / np.sqrt(one_a_group * exponential_variance(inner, m, n))
    ratio = np.maximum(ratio, _LEAST_RATIO)
    return Expected(ratio, _degrees(counts, alike.same_class, len(np.unique(folds))))


def likeness(
    labels: np.ndarray, columns: np.ndarray, groups: np.ndarray, folds: np.ndarray, counts: np.ndarray
) -> Alike:
    """Mean products of normal scores (ranks within class and fold) over the pairs of rows in one group.

    Only the order of the logits counts. Centring lowers the mean product by the variance of the class mean, which is
    added back.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    scores = np.zeros_like(columns)
    for fold in np.unique(folds):
        for k in (True, False):
            rows = np.flatnonzero((folds == fold) & (labels == k))
            if len(rows) > 1:
                normal = ndtri((rankdata(columns[rows], axis=0) - 0.5) / len(rows))
                spread = normal.std(axis=0)
                scores[rows] = np.divide(normal, spread, out=np.zeros_like(normal), where=spread > 1e-9)
    sums, squares = [], np.zeros(columns.shape[1])
    for k in (True, False):
        part = np.zeros((len(counts), columns.shape[1]))
        np.add.at(part, groups[labels == k], scores[labels == k])
        sums.append(part)
        squares += (part**2).sum(axis=0) - (scores[labels == k] ** 2).sum(axis=0)
    mates, size = (counts * (counts - 1.0)).sum(), counts.sum()
    same = squares / max(mates, 1.0)
    same = same + (1.0 + np.maximum(same, 0.0) * mates / size) / (size / 2.0)
    across = (sums[0] * sums[1]).sum(axis=0) / max(counts.prod(axis=1).sum(), 1.0)
    return Alike(np.clip(same, 0.0, 1.0), np.clip(across, -1.0, 1.0))


def _degrees(counts: np.ndarray, same_class: np.ndarray, n_folds: int) -> np.ndarray:
    """Satterthwaite's degrees of freedom (M,) of a sum of squares over groups, a mean lost for each class and fold."""
    total, squares = np.zeros_like(same_class), np.zeros_like(same_class)
    for column in counts.T:
        sizes, repeats = np.unique(column[column > 0], return_counts=True)
        share = sizes[:, None] * (1.0 + (sizes[:, None] - 1.0) * same_class) / column.sum() ** 2
        total += (repeats[:, None] * share).sum(axis=0)
        squares += (repeats[:, None] * share**2).sum(axis=0)
    return np.maximum(total**2 / squares - 2.0 * n_folds, 1.0)


def tail_design_effect(counts: np.ndarray, same_class: float, rate: float) -> float:
    """By how much groups of ``counts`` (G,) rows, normal and correlated, inflate the variance of a tail's share."""
    mates = float((counts * (counts - 1.0)).sum() / counts.sum())
    shared = float(_excess(np.array([rate]), np.array([same_class]))[0])
    return 1.0 + mates * shared / (rate * (1.0 - rate))
