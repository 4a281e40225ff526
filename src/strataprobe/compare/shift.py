"""What becomes of the best layer's probe on text of another kind: the shift table, trained on one text, tested on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from strataprobe.compare.ensemble_table import mean_ece
from strataprobe.compare.layers import called_classes, estimate_auc, finite
from strataprobe.compare.subsets import Labelled
from strataprobe.metrics import auc_interval
from strataprobe.probes.probe import ProbeSet


def shift_entry(
    trained_on: str,
    probe_set: ProbeSet | None,
    texts: Mapping[str, Labelled],
    curves: Mapping[str, Mapping[int, float | None]],
) -> dict[str, Any]:
    """The ``shift`` of ``comparison.json``: a row for each of ``texts``, the best layer's labelled rows, "test" first.

    ``curves`` holds the AUC on each text by layer, for ``best_layer``, the layer that would have been the best on that
    text, which only its labels could tell.
    """
    if probe_set is None:
        return {"trained_on": trained_on, "layer": None, "rows": [], "reason": "there is no best layer"}
    rows = [{"name": name} | _row(probe_set, own, curves.get(name, {})) for name, own in texts.items()]
    return {"trained_on": trained_on, "layer": probe_set.layer, "rows": rows}


def _row(probe_set: ProbeSet, own: Labelled, curve: Mapping[int, float | None]) -> dict[str, Any]:
    known = {layer: value for layer, value in curve.items() if value is not None}
    best = min(known, key=lambda layer: (-known[layer], layer), default=None)
    row: dict[str, Any] = {"n": len(own.labels)}
    row |= dict.fromkeys(("auc", "auc_low", "auc_high", "accuracy", "ece", "positive_share"))
    row |= {"best_layer": best, "best_auc": None if best is None else known[best]}
    if not len(own.labels):
        return row
    logits = np.asarray(probe_set.logits(own.X), dtype=np.float64)
    probabilities = probe_set.calibrated(logits)
    called = called_classes(probabilities, np.asarray(probe_set.thresholds))
    estimate = estimate_auc(own.labels, logits[:, :, None], own.groups)
    (low,), (high,) = auc_interval(estimate)
    return row | {
        "auc": finite(estimate.auc[0]),
        "auc_low": finite(low),
        "auc_high": finite(high),
        "accuracy": finite((called == own.labels).mean()),
        "ece": finite(mean_ece(own.labels, probabilities)),
        "positive_share": finite((own.labels == 1).mean()) if logits.shape[1] == 2 else None,
    }


def row_name(eval_name: str) -> str:
    """The name in the table of a text given with ``--eval``: "test" is that of the test texts."""
    return "eval_test" if eval_name == "test" else eval_name


def eval_curves(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float | None]]:
    """The AUC on each text by layer, from the ``layers`` entries of one readout."""
    found: dict[str, dict[int, float | None]] = {"test": {e["layer"]: e["test_auc"] for e in entries}}
    for e in entries:
        for name, value in e["eval"].items():
            found.setdefault(row_name(name), {})[e["layer"]] = value
    return found
