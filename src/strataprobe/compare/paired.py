"""The difference of two AUCs on the same rows, which share most of their chance."""

from __future__ import annotations

from math import erfc, sqrt

import numpy as np

from strataprobe.compare.choice import difference_low
from strataprobe.compare.layers import TestRows, estimate_auc
from strataprobe.metrics import Z95, AucEstimate

_LARGEST_Z = 8.0
_CORRECTIONS = 5


def against(logits: np.ndarray, other: np.ndarray, rows: TestRows) -> dict[str, float | None]:
    """AUC of ``logits`` (n, C) minus that of ``other`` on the test rows: ``value``, ``low`` and ``high``, 95 % over groups.

    ``p``, two-sided, is the level at which that interval would end at 0. All None where a class is absent.
    """
    estimate = estimate_auc(rows.labels, np.stack([logits, other], axis=2), rows.groups)
    if np.isnan(estimate.auc).any():
        return dict.fromkeys(("value", "low", "high", "p"))
    low = difference_low(estimate, Z95)
    value = float(estimate.auc[0] - estimate.auc[1])
    return {"value": value, "low": float(low[0, 1]), "high": float(-low[1, 0]), "p": _level(estimate, value)}


def _level(estimate: AucEstimate, value: float) -> float:
    """Twice the normal tail beyond the z at which the bound of the difference nearest to 0 is 0.

    The interval is nearly as wide as z is large, so few corrections find it.
    """
    if value == 0:
        return 1.0
    better, worse = (0, 1) if value > 0 else (1, 0)
    z = Z95
    for _ in range(_CORRECTIONS):
        width = abs(value) - float(difference_low(estimate, z)[better, worse])
        if width <= 0:
            return 0.0
        z = min(z * abs(value) / width, _LARGEST_Z)
    return erfc(z / sqrt(2.0))
