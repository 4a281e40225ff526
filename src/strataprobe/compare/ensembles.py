"""Several layers as one: the mean of calibrated logits, a vote, or a logistic regression on out-of-fold logits.

Functions on arrays, with L layers, C classes: logits (N, L, C) in, probabilities (N, C) out. Two classes are exact
mirrors: their probabilities sum to 1. Which layers to take is for the caller to say, or for ``choose_greedily``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strataprobe.compare.aucs import auc_values
from strataprobe.probes.calibration import fit_platt, sigmoid

METHODS = ("mean", "vote", "stacked")
# A further layer must raise the cross-validated AUC by more than this to be worth its place.
MIN_GAIN = 1e-3
MOST_TAKEN = 8
_STACK_CS = (0.001, 0.01, 0.1, 1.0)


def combine_mean(calibrated_logits: np.ndarray) -> np.ndarray:
    """Sigmoid of the mean of calibrated logits (slope * logit + intercept) over layers: (N, L, C) -> (N, C)."""
    return _mirrored(sigmoid(np.asarray(calibrated_logits, dtype=np.float64).mean(axis=1)))


def combine_vote(calibrated_logits: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
    """Share of layers whose probability reaches its threshold, (L, C) or .5: (N, L, C) -> (N, C).

    A layer exactly on its threshold gives half a vote.
    """
    probabilities = sigmoid(np.asarray(calibrated_logits, dtype=np.float64))
    bar = np.full(probabilities.shape[1:], 0.5) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    votes = (probabilities > bar) + 0.5 * (probabilities == bar)
    return _mirrored(votes.mean(axis=1))


@dataclass(frozen=True)
class Stacker:
    """One class: probability = sigmoid(weights . logits + bias), ``weights`` (L,) on the layers' raw logits."""

    weights: np.ndarray
    bias: float

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """(N, L) raw logits of the layers -> (N,)."""
        return np.asarray(logits, dtype=np.float64) @ self.weights + self.bias


def fit_stacker(oof_logits: np.ndarray, labels01: np.ndarray, groups: np.ndarray) -> Stacker:
    """L2 logistic regression on out-of-fold logits (N, L) of any layers; labels (N,) in {0, 1}, groups (N,).

    The strength of the penalty is the one with the least log loss in cross-validation over groups (at most 5 folds);
    with fewer than two groups it is the strongest.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    x, y = np.asarray(oof_logits, dtype=np.float64), np.asarray(labels01).astype(np.int64)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 1e-12)
    z = (x - mean) * inverse
    if len(np.unique(y)) < 2:
        return Stacker(np.zeros(x.shape[1]), 0.0)
    losses = np.zeros(len(_STACK_CS))
    n_folds = min(5, len(np.unique(groups)))
    folds = GroupKFold(n_folds).split(z, y, groups) if n_folds > 1 else ()
    for train, held in folds:
        if len(np.unique(y[train])) < 2:
            continue
        for i, c in enumerate(_STACK_CS):
            model = LogisticRegression(C=c, solver="newton-cholesky").fit(z[train], y[train])
            losses[i] += np.logaddexp(0.0, np.where(y[held] == 1, -1, 1) * model.decision_function(z[held])).sum()
    best = LogisticRegression(C=_STACK_CS[int(losses.argmin())], solver="newton-cholesky").fit(z, y)
    weights = best.coef_[0] * inverse
    return Stacker(weights, float(best.intercept_[0] - weights @ mean))


def fit_stackers(oof_logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> list[Stacker]:
    """One stacker a class from out-of-fold logits (N, L, C) and label indices (N,); for two classes exact mirrors."""
    n_classes = oof_logits.shape[2]
    if n_classes == 2:
        second = fit_stacker(oof_logits[:, :, 1], labels == 1, groups)
        return [Stacker(second.weights, -second.bias), second]
    return [fit_stacker(oof_logits[:, :, c], labels == c, groups) for c in range(n_classes)]


def combine_stacked(logits: np.ndarray, stackers: Sequence[Stacker]) -> np.ndarray:
    """Probabilities (N, C) of one stacker a class on raw logits (N, L, C)."""
    return _mirrored(sigmoid(stacked_logits(logits, stackers)))


def stacked_logits(logits: np.ndarray, stackers: Sequence[Stacker]) -> np.ndarray:
    """Logits (N, C) of one stacker a class on raw logits (N, L, C)."""
    return np.stack([s.logits(logits[:, :, c]) for c, s in enumerate(stackers)], axis=1)


def choose_greedily(
    calibrated_logits: np.ndarray, labels: np.ndarray, folds: np.ndarray, *, first: int | None = None
) -> list[int]:
    """Which of L layers to average: forward selection by cross-validated AUC (Caruana et al., ICML 2004).

    ``calibrated_logits`` (N, L, C) are out-of-fold, ``labels`` and ``folds`` (N,). It starts from ``first`` (the best
    layer unless given), adds the layer with which the mean logit has the highest AUC within folds, and stops when none
    adds more than ``MIN_GAIN``, or at ``MOST_TAKEN``. Returns positions in the order taken.
    """
    by_layer = np.moveaxis(np.asarray(calibrated_logits, dtype=np.float64), 1, 2)
    alone = auc_values(labels, by_layer, folds)
    if np.isnan(alone).any():
        return [0] if first is None else [first]
    taken = [int(np.argmax(alone)) if first is None else first]
    reached = float(alone[taken[0]])
    total = by_layer[:, :, taken[0]].copy()
    while len(taken) < min(by_layer.shape[2], MOST_TAKEN):
        value = auc_values(labels, total[:, :, None] + by_layer, folds)
        value[taken] = -np.inf
        best = int(np.argmax(value))
        if value[best] <= reached + MIN_GAIN:
            break
        reached = float(value[best])
        taken.append(best)
        total += by_layer[:, :, best]
    return taken


def calibrations_of(oof: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Slope and intercept (C, 2) that make log-odds of an ensemble's values (N, C) on rows that no probe was fitted on.

    Platt's scaling for each class, with label indices (N,); the values need only rank rows. Of two classes the
    first has none, as it is one minus the second.
    """
    if oof.shape[1] == 2:
        return np.array([(0.0, 0.0), fit_platt(labels == 1, oof[:, 1]).calibration])
    return np.array([fit_platt(labels == c, oof[:, c]).calibration for c in range(oof.shape[1])])


def calibrated_probabilities(values: np.ndarray, calibrations: np.ndarray) -> np.ndarray:
    """Probabilities (n, C) of an ensemble's values (n, C) by ``calibrations_of`` (C, 2)."""
    return _mirrored(sigmoid(values * calibrations[:, 0] + calibrations[:, 1]))


def _mirrored(probabilities: np.ndarray) -> np.ndarray:
    """The same, the first of two classes made exactly one minus the second."""
    if probabilities.shape[1] == 2:
        probabilities = np.stack([1.0 - probabilities[:, 1], probabilities[:, 1]], axis=1)
    return probabilities
