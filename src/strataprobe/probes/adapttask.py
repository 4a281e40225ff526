"""Adapting one layer's probes to new rows, and measuring them before and after on both domains; see ``adapt``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.errors import DataError
from strataprobe.metrics import (
    auc_interval,
    classification_summary,
    clustered_auc,
    expected_calibration_error,
    macro_auc,
)
from strataprobe.probes.adaptfit import OldProbes, adapt_columns
from strataprobe.probes.basis import feature_scale
from strataprobe.probes.calibration import CalibrationRule, sigmoid
from strataprobe.probes.crossval import check_folds, class_columns, make_folds, say_fewer_folds
from strataprobe.probes.files import TrainedProbes
from strataprobe.probes.layerfit import LayerResult, calibrated
from strataprobe.probes.probe import ProbeSet
from strataprobe.probes.rows import Rows, check_same_rows, refuse_not_finite, refuse_unknown_labels, rows_at
from strataprobe.probes.tasks import aggregate_metrics
from strataprobe.store import ActivationFolder, LayerRows

# The rows are split into folds in so many ways, fewer the more there are: with ten of them one way is largely luck.
_MOST_FOLDINGS, _ENOUGH_ROWS = 4, 400
Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AdaptTask:
    """Old probes, new rows, and the rows of the ``old`` domain where there are any."""

    trained: TrainedProbes
    new: ActivationFolder
    old: ActivationFolder | None
    lacking: str
    seed: int
    n_folds: int
    rule: CalibrationRule
    device: str = "cpu"

    @property
    def names(self) -> list[str]:
        """The class names."""
        return self.trained.class_names

    def rows(self, layer: int, readout: str) -> Rows:
        """The labelled train and val rows, with their folds."""
        both = _joined([_labelled(self.new, layer, readout, split) for split in ("train", "val")])
        present = np.bincount(both.labels, minlength=len(self.names))
        if not present.all():
            raise DataError(
                f"{self.new.path} has no train or val text of class {self.names[int(present.argmin())]!r}: adapting "
                "takes a few of every class."
            )
        folds = make_folds(both.labels, both.groups, self.names, self.seed, self.n_folds)
        check_folds(folds, both.labels, self.names)
        say_fewer_folds(folds, self.n_folds)
        return Rows(both.ids, both.labels, both.groups, folds)

    def fit(self, layer: int, readout: str, rows: Rows) -> LayerResult:
        """Adapt one layer, calibrate it on rows left out, and measure it before and after."""
        started_s = time.monotonic()
        splits = {split: _labelled(self.new, layer, readout, split) for split in ("train", "val")}
        check_same_rows(splits, rows, self.new.file(layer))
        both = _joined(list(splits.values()))
        before = self.trained.sets[readout, layer]
        scale = self.trained.scales.get((readout, layer))
        scale = feature_scale(both.activations) if scale is None else scale
        n_classes = len(self.names)
        fit = adapt_columns(
            both.activations,
            class_columns(both.labels, n_classes),
            _old_columns(before, scale),
            self._foldings(rows),
        )
        priors = [
            calibration if setting["old_slope"] > 0 else None
            for calibration, setting in zip(_old_columns(before, scale).calibrations, fit.settings, strict=True)
        ]
        result = calibrated(fit, fit.held_out_logits, both.labels, None, rows, n_classes, scale, self.rule, priors)
        result.report["n_train"], result.report["n_val"] = (len(part.labels) for part in splits.values())
        self._measure(result, before, layer, readout, both)
        result.report["elapsed_s"] = time.monotonic() - started_s
        return result

    def metrics(self, result: LayerResult) -> dict[str, Any]:
        """Measurements by class on the new test rows, or on the rows left out."""
        return {**aggregate_metrics(self.names, result), "measured_on": result.report["adapted"]["new"]["measured_on"]}

    def details(self, result: LayerResult) -> dict[str, Any]:
        """How far each class went, and how well the layer does before and after."""
        report = result.report
        reach = {name: c["reach"] for name, c in zip(self.names, report["classes"], strict=True)}
        return {"reach": reach, **{key: report[key] for key in ("cv_auc", "val_auc", "converged", "adapted")}}

    def _foldings(self, rows: Rows) -> list[NDArray[np.int64]]:
        """The rows' own folds, and further ways to split them."""
        n = min(max(_ENOUGH_ROWS // len(rows.labels), 1), _MOST_FOLDINGS)
        found = [rows.folds]
        for i in range(1, n):
            folds = make_folds(rows.labels, rows.groups, self.names, self.seed + i, self.n_folds)
            with suppress(DataError):  # large groups can leave one way without a class
                check_folds(folds, rows.labels, self.names)
                found.append(folds)
        return found

    def _measure(self, result: LayerResult, before: ProbeSet, layer: int, readout: str, both: LayerRows) -> None:
        """Add to the report what is measured before and after on both domains."""
        test = _labelled(self.new, layer, readout, "test")
        whole = len(np.unique(test.labels)) == len(self.names)
        shown, after = (test, result.logits(test.activations)) if whole else (both, result.oof.astype(np.float64))
        probabilities = sigmoid(after * result.calibration[:, 0] + result.calibration[:, 1])
        report = result.report
        report.update(
            test=[
                classification_summary(shown.labels == c, probabilities[:, c], float(result.threshold[c]))
                | {"ece": expected_calibration_error(shown.labels == c, probabilities[:, c])}
                for c in range(len(self.names))
            ],
            val_auc=report["cv_auc"],
            n_test=len(test.labels),
        )
        new: dict[str, Any] = {
            "measured_on": "test" if whole else "rows left out in cross-validation",
            "n": len(shown.labels),
        }
        new["before"] = _measured(before.logits(shown.activations), before.calibrations, before.thresholds, shown)
        new["after"] = _measured(after, result.calibration, result.threshold, shown)
        report["adapted"] = {"new": new, "old": self._on_old(result, before, layer, readout)}

    def _on_old(self, result: LayerResult, before: ProbeSet, layer: int, readout: str) -> dict[str, Any]:
        if self.old is None:
            return {"skipped": self.lacking}
        test = _labelled(self.old, layer, readout, "test")
        return {
            "measured_on": "test",
            "n": len(test.labels),
            "before": _measured(before.logits(test.activations), before.calibrations, before.thresholds, test),
            "after": _measured(result.logits(test.activations), result.calibration, result.threshold, test),
        }


def _labelled(folder: ActivationFolder, layer: int, readout: str, split: str) -> LayerRows:
    """The labelled rows of a split; none where the file has no val or test rows. Raises DataError for values not finite."""
    if split != "train" and split not in folder.splits(layer):
        return LayerRows(np.zeros((0, folder.d_model), np.float32), np.zeros(0, np.int64), [], [], None)
    rows = folder.read(layer, split, readout)
    rows = rows_at(rows, np.flatnonzero(rows.labels >= 0))
    where = f"{folder.file(layer)}, split {split!r}"
    refuse_not_finite(rows, where, layer, readout)
    refuse_unknown_labels(rows, where, len(folder.class_names))
    return rows


def _joined(parts: Sequence[LayerRows]) -> LayerRows:
    return LayerRows(
        np.concatenate([part.activations for part in parts]),
        np.concatenate([part.labels for part in parts]),
        [name for part in parts for name in part.ids],
        [name for part in parts for name in part.groups],
        None,
    )


def _old_columns(probes: ProbeSet, scale: NDArray[np.float32]) -> OldProbes:
    """The columns that are fitted: of two classes the second alone."""
    fitted = slice(1, None) if len(probes) == 2 else slice(None)
    calibrations = [probe.fitted_calibration for probe in list(probes.values())[fitted]]
    return OldProbes(probes.weight[fitted], probes.bias[fitted], calibrations, scale)


def _measured(logits: Float64, calibrations: Float64, thresholds: Float64, rows: LayerRows) -> dict[str, Any]:
    """AUC with its interval, accuracy and ECE of logits (n, C), means over classes where there are more than two."""
    labels, groups = rows.labels, np.array(rows.groups)
    probabilities = sigmoid(logits * calibrations[:, 0] + calibrations[:, 1])
    two = logits.shape[1] == 2
    estimate = (
        clustered_auc(labels == 1, logits[:, 1], groups) if two else macro_auc(labels, logits[:, :, None], groups)
    )
    low, high = auc_interval(estimate)
    called = (probabilities[:, 1] >= thresholds[1]).astype(int) if two else probabilities.argmax(axis=1)
    ece = [expected_calibration_error(labels == c, probabilities[:, c]) for c in range(logits.shape[1])]
    values = {"auc": estimate.auc[0], "auc_low": low[0], "auc_high": high[0], "ece": np.mean(ece[1:] if two else ece)}
    values["accuracy"] = np.mean(called == labels)
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}
