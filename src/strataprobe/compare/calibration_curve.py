"""The reliability diagram of a layer's probes: what they state on the test rows against what is so."""

from __future__ import annotations

from typing import Any

import numpy as np

from strataprobe.metrics import expected_calibration_error
from strataprobe.probes.probe import ProbeSet

N_BINS = 10


def reliability_bins(labels01: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> list[dict[str, float]]:
    """Bins with as many rows each, least probable first: mean ``predicted`` probability, ``observed`` share, ``n``.

    The bins of ``metrics.expected_calibration_error``: rows of equal probability count with their common share, so
    that their order does not matter.
    """
    if not len(probabilities):
        return []
    _, level = np.unique(probabilities, return_inverse=True)
    share = (np.bincount(level, weights=labels01.astype(np.float64)) / np.bincount(level))[level]
    bins = np.array_split(np.argsort(probabilities, kind="stable"), min(n_bins, len(probabilities)))
    return [
        {"predicted": float(probabilities[b].mean()), "observed": float(share[b].mean()), "n": len(b)} for b in bins
    ]


def calibration_entry(probe_set: ProbeSet | None, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """The ``calibration`` of ``comparison.json``: of the best layer's ``probabilities`` (n, C) on the test rows.

    Of two classes the second stands for both.
    """
    if probe_set is None or not len(labels):
        reason = "there is no best layer" if probe_set is None else "there are no test rows"
        return {"layer": None, "readout": None, "classes": {}, "reason": reason}
    names = probe_set.class_names
    classes = {}
    for c in [1] if len(names) == 2 else range(len(names)):
        slope, intercept = probe_set.calibrations[c].tolist()
        classes[names[c]] = {
            "bins": reliability_bins(labels == c, probabilities[:, c]),
            "ece": expected_calibration_error(labels == c, probabilities[:, c]),
            "slope": slope,
            "intercept": intercept,
            "threshold": float(probe_set.thresholds[c]),
        }
    return {"layer": probe_set.layer, "readout": probe_set.readout, "classes": classes}
