"""AUCs alone, without their covariance, of many columns at once: for searching and for tables that need no interval."""

from __future__ import annotations

import numpy as np


def auc_values(labels: np.ndarray, logits: np.ndarray, folds: np.ndarray | None = None) -> np.ndarray:
    """AUCs (M,) of M columns of logits (n, C, M) for label indices (n,); nan where no fold holds two classes.

    Two classes: of class 1; more: the mean over classes against the rest. Within ``folds`` (n,), where these are given,
    with the weights of ``metrics.folded_auc``.
    """
    classes = [1] if logits.shape[1] == 2 else range(logits.shape[1])
    found = [_one_class(labels == c, logits[:, c, :], folds) for c in classes if 0 < (labels == c).sum() < len(labels)]
    known = [values for values in found if not np.isnan(values).any()]
    return np.mean(known, axis=0) if known else np.full(logits.shape[2], np.nan)


def _one_class(positive: np.ndarray, columns: np.ndarray, folds: np.ndarray | None) -> np.ndarray:
    from scipy.stats import rankdata

    total, weight = np.zeros(columns.shape[1]), 0.0
    for fold in [None] if folds is None else np.unique(folds):
        rows = slice(None) if fold is None else folds == fold
        own = positive[rows]
        m, n = float(own.sum()), float((~own).sum())
        if m and n:
            ranks = rankdata(columns[rows], axis=0)[own].sum(axis=0)
            total += m * n / (m + n) * (ranks - m * (m + 1) / 2) / (m * n)
            weight += m * n / (m + n)
    return total / weight if weight else np.full(columns.shape[1], np.nan)
