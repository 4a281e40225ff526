"""What one layer's probes are worth on the test rows beside AUC and accuracy, and whether two ways to call differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from strataprobe.classmeasures import auprc, calibration_error, f1, recall_at
from strataprobe.compare.choice import difference_low
from strataprobe.intervals import NOWHERE, Bounded
from strataprobe.metrics import clustered_auc, macro_auc


def layer_measures(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray, groups: Sequence[Any] | np.ndarray
) -> dict[str, float | None]:
    """``test_auprc``, ``test_f1``, ``test_recall_1fpr`` and ``test_ece`` of one layer, each with ``_low`` and ``_high``.

    ``labels`` (n,) int class indices, ``probabilities`` (n, C) calibrated, ``thresholds`` (C,) on them, ``groups``
    (n,) names of related rows. Two classes: of the second class; more: the mean over the classes that have rows of
    their own and others. F1 and its threshold are of the class against the rest; recall is the share of the class
    above the threshold that calls 1 % of the other rows. None where the value does not exist (a class is absent).
    """
    n_classes = probabilities.shape[1]
    candidates = [1] if n_classes == 2 else range(n_classes)
    present = [c for c in candidates if 0 < (labels == c).sum() < len(labels)]
    found: dict[str, Bounded] = dict.fromkeys(("auprc", "f1", "recall_1fpr", "ece"), NOWHERE)
    if present:
        own = np.stack([labels == c for c in present], axis=1)
        stated = np.asarray(probabilities, dtype=np.float64)[:, present]
        found = {
            "auprc": auprc(own, stated, groups),
            "f1": f1(own, stated >= np.asarray(thresholds)[present], groups),
            "recall_1fpr": recall_at(own, _log_odds(stated), groups),
            "ece": calibration_error(own, stated, groups),
        }
    return {
        f"test_{name}{end}": float(number) if np.isfinite(number) else None
        for name, bounded in found.items()
        for end, number in zip(("", "_low", "_high"), bounded, strict=True)
    }


def paired_p(
    logits_a: np.ndarray, logits_b: np.ndarray, labels: np.ndarray, groups: Sequence[Any] | np.ndarray
) -> float:
    """Two-sided p of no difference between the AUCs of two sets of logits on the same rows; nan where a class is absent.

    ``logits_a`` and ``logits_b`` are (n,) logits of class 1, or (n, C) for the mean over classes (of class 1 for two);
    ``labels`` (n,) class indices; ``groups`` (n,). It is below .05 just where the 95 % bounds of the difference
    (``choice.difference_low``) leave 0 out.
    """
    from scipy.stats import norm

    both = np.stack([np.asarray(logits_a, dtype=np.float64), np.asarray(logits_b, dtype=np.float64)], axis=-1)
    if both.ndim == 3 and both.shape[1] > 2:
        estimate = macro_auc(labels, both, groups)
    else:
        estimate = clustered_auc(np.asarray(labels) == 1, both[:, 1] if both.ndim == 3 else both, groups)
    if np.isnan(estimate.auc).any():
        return float("nan")
    better, worse = (0, 1) if estimate.auc[0] >= estimate.auc[1] else (1, 0)
    inner, outer = 0.0, 12.0
    for _ in range(24):
        z = (inner + outer) / 2.0
        inner, outer = (z, outer) if difference_low(estimate, z)[better, worse] > 0 else (inner, z)
    return float(min(2.0 * norm.sf((inner + outer) / 2.0), 1.0)) if inner > 0 else 1.0


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    inner = np.clip(probabilities, 1e-15, 1.0 - 1e-15)
    return np.log(inner) - np.log1p(-inner)
