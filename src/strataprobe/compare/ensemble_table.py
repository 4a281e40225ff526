"""Ensembles of layers beside the best single layer on the test rows: what they gain, and what they cost to run.

Members are the primary readout's layers with the highest cross-validated AUCs; the greedy ensemble chooses its own. What
is chosen, weighted or calibrated is so on out-of-fold logits, so the test rows judge and never help.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from strataprobe.compare.ensembles import (
    calibrated_probabilities,
    calibrations_of,
    choose_greedily,
    combine_vote,
    fit_stackers,
    stacked_logits,
)
from strataprobe.compare.layers import Measured, TestRows, called_classes, estimate_auc, finite
from strataprobe.compare.paired import against
from strataprobe.metrics import auc_interval, expected_calibration_error
from strataprobe.probes.files import Oof
from strataprobe.probes.probe import ProbeSet

N_MEMBERS = 3


@dataclass(frozen=True)
class Ensemble:
    """Some of L layers as one, fitted on out-of-fold logits.

    ``members`` are positions among the L; ``combine`` turns raw logits (n, L, C) into values (n, C) that rank rows, and
    ``calibrations`` (C, 2) turn those into log-odds.
    """

    members: list[int]
    combine: Callable[[np.ndarray], np.ndarray]
    calibrations: np.ndarray

    def probabilities(self, raw: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (n, C) of raw logits (n, L, C)."""
        return calibrated_probabilities(self.combine(raw), self.calibrations)


def fit_ensembles(sets: Sequence[ProbeSet], oof: Oof, cv_auc: np.ndarray, first: int | None) -> dict[str, Ensemble]:
    """``mean``, ``vote``, ``stacked`` and ``greedy`` of L layers with cross-validated AUCs ``cv_auc`` (L,).

    The greedy one starts from position ``first``, the best layer.
    """
    raw = np.stack([oof.logits[s.readout, s.layer] for s in sets], axis=1).astype(np.float64)
    slopes, intercepts = np.moveaxis(np.stack([s.calibrations for s in sets]), 2, 0)
    thresholds = np.stack([s.thresholds for s in sets])
    top = sorted(np.argsort(-cv_auc, kind="stable")[:N_MEMBERS].tolist())
    greedy = sorted(choose_greedily(raw * slopes + intercepts, oof.labels, oof.folds, first=first))
    stackers = fit_stackers(raw[:, top], oof.labels, oof.groups)

    def calibrated(logits: np.ndarray, members: list[int]) -> np.ndarray:
        return (logits * slopes + intercepts)[:, members]

    combined: dict[str, tuple[list[int], Callable[[np.ndarray], np.ndarray]]] = {
        "mean": (top, lambda logits: calibrated(logits, top).mean(axis=1)),
        "vote": (top, lambda logits: combine_vote(calibrated(logits, top), thresholds[top])),
        "stacked": (top, lambda logits: stacked_logits(logits[:, top], stackers)),
        "greedy": (greedy, lambda logits: calibrated(logits, greedy).mean(axis=1)),
    }
    return {
        name: Ensemble(members, combine, calibrations_of(combine(raw), oof.labels))
        for name, (members, combine) in combined.items()
    }


def ensemble_entries(
    sets: Sequence[ProbeSet],
    oof: Oof,
    measured: Sequence[Measured],
    cv_auc: np.ndarray,
    best: Measured | None,
    rows: TestRows,
) -> dict[str, Any]:
    """The ``ensembles`` of ``comparison.json``: those of ``fit_ensembles``, and ``single``, the best layer.

    ``sets``, ``measured`` and ``cv_auc`` are those of one readout, layers ascending. ``cost_blocks`` is how many of the
    model's blocks must run. Empty where there is nothing to combine or to test.
    """
    if len(sets) < 2 or np.isnan(cv_auc).any() or not len(rows.labels):
        return {}
    layers = [m.layer for m in measured]
    raw = np.stack([m.logits for m in measured], axis=1)
    found = {}
    for name, ensemble in fit_ensembles(sets, oof, cv_auc, None if best is None else layers.index(best.layer)).items():
        values, probabilities = ensemble.combine(raw), ensemble.probabilities(raw)
        called = called_classes(probabilities, np.full(probabilities.shape[1], 0.5))
        found[name] = _entry([layers[j] for j in ensemble.members], values, probabilities, called, rows)
        found[name] |= _minus(values, best, rows)
    if best is not None:
        found["single"] = _entry([best.layer], best.logits, best.probabilities, best.called, rows)
        found["single"] |= _minus(None, best, rows)
    return found


def _entry(
    layers: list[int], logits: np.ndarray, probabilities: np.ndarray, called: np.ndarray, rows: TestRows
) -> dict[str, Any]:
    estimate = estimate_auc(rows.labels, logits[:, :, None], rows.groups)
    low, high = auc_interval(estimate)
    return {
        "layers": layers,
        "n_layers": len(layers),
        "cost_blocks": max(layers),
        "test_auc": finite(estimate.auc[0]),
        "test_auc_low": finite(low[0]),
        "test_auc_high": finite(high[0]),
        "test_accuracy": finite((called == rows.labels).mean()),
        "test_ece": finite(mean_ece(rows.labels, probabilities)),
    }


def _minus(logits: np.ndarray | None, best: Measured | None, rows: TestRows) -> dict[str, float | None]:
    """The ensemble's AUC minus the best layer's; None in place of ``logits`` is that layer itself."""
    if logits is None or best is None:
        return dict.fromkeys(("minus_best", "minus_best_low", "minus_best_high", "minus_best_p"))
    difference = against(logits, best.logits, rows)
    return {f"minus_best{'' if k == 'value' else '_' + k}": v for k, v in difference.items()}


def mean_ece(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """ECE of probabilities (n, C): of class 1 for two classes, the mean over classes against the rest for more."""
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return float(np.mean([expected_calibration_error(labels == c, probabilities[:, c]) for c in classes]))
