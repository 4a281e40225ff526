"""The difference of two AUCs on the same rows, which share most of their chance."""

from __future__ import annotations

import numpy as np

from strataprobe.compare.choice import difference_low
from strataprobe.compare.layers import TestRows, estimate_auc
from strataprobe.compare.measures import paired_p
from strataprobe.metrics import Z95


def against(logits: np.ndarray, other: np.ndarray, rows: TestRows) -> dict[str, float | None]:
    """AUC of ``logits`` (n, C) minus that of ``other`` on the test rows: ``value``, ``low`` and ``high``, 95 % over groups.

    ``p`` is two-sided, below .05 just where that interval leaves 0 out. All None where a class is absent.
    """
    estimate = estimate_auc(rows.labels, np.stack([logits, other], axis=2), rows.groups)
    if np.isnan(estimate.auc).any():
        return dict.fromkeys(("value", "low", "high", "p"))
    low = difference_low(estimate, Z95)
    return {
        "value": float(estimate.auc[0] - estimate.auc[1]),
        "low": float(low[0, 1]),
        "high": float(-low[1, 0]),
        "p": paired_p(logits, other, rows.labels, rows.groups),
    }
