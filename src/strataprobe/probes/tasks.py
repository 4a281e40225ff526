"""What a training fits on every layer: probes that tell classes apart, or one that predicts a continuous target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from strataprobe.errors import DataError, OptionError
from strataprobe.probes.calibration import DEFAULT_RULE, CalibrationRule
from strataprobe.probes.families import Fitter
from strataprobe.probes.families.ridge import Ridge
from strataprobe.probes.layerfit import LayerResult, fit_layer
from strataprobe.probes.regression import ValueTask, fits_values, has_targets
from strataprobe.probes.rows import Rows, check_same_rows, read_splits, rows_of
from strataprobe.progress import note
from strataprobe.store import ActivationFolder


class Task(Protocol):
    """One training on one folder. ``names`` are those of its probes, sorted; ``fit`` is called from several threads."""

    @property
    def device(self) -> str:
        """Where fits are made."""

    @property
    def names(self) -> list[str]:
        """Class names, or the name of the value."""

    def rows(self, layer: int, readout: str) -> Rows:
        """The rows that the curve is measured on, with their folds. Raises DataError when there are too few."""

    def fit(self, layer: int, readout: str, rows: Rows) -> LayerResult:
        """Fit one layer. Raises StageError when its rows are not ``rows``, DataError when they cannot be fitted."""

    def metrics(self, result: LayerResult) -> dict[str, Any]:
        """Contents of the layer's ``aggregate_metrics.json``."""

    def details(self, result: LayerResult) -> dict[str, Any]:
        """What the manifest tells of the layer."""


def task_of(
    folder: ActivationFolder, fitter: Fitter, seed: int, n_folds: int, rule: CalibrationRule = DEFAULT_RULE
) -> Task:
    """The task that this family has on this folder: values where it is ridge and there are any, else classes.

    Raises DataError when there is only one class, OptionError when there are targets alone and the family fits none.
    """
    if isinstance(fitter, Ridge) and fits_values(fitter, folder):
        if folder.class_names and fitter.target == "auto":
            note(
                f"{folder.path} has classes and continuous targets: the targets are fitted (auto: the probe is ridge)."
            )
        if rule != DEFAULT_RULE:
            note("values have no probabilities: calibration and false-positive rate are ignored.")
        return ValueTask(folder, fitter, seed, n_folds)
    if not folder.class_names and has_targets(folder):
        raise OptionError(
            f"{folder.path} has continuous targets and no classes, which {fitter.name} cannot fit: use --probe ridge."
        )
    if len(folder.class_names) < 2:
        raise DataError(f"{folder.path} has {len(folder.class_names)} class(es): a probe tells at least two apart.")
    return ClassTask(folder, fitter, seed, n_folds, rule)


@dataclass(frozen=True)
class ClassTask:
    """A probe for every class of the folder, calibrated by ``rule``."""

    folder: ActivationFolder
    fitter: Fitter
    seed: int
    n_folds: int
    rule: CalibrationRule

    @property
    def device(self) -> str:
        """That of the family."""
        return self.fitter.device

    @property
    def names(self) -> list[str]:
        """The class names."""
        return self.folder.class_names

    def rows(self, layer: int, readout: str) -> Rows:
        """The labelled rows."""
        return rows_of(read_splits(self.folder, layer, readout, self.names), self.names, self.seed, self.n_folds)

    def fit(self, layer: int, readout: str, rows: Rows) -> LayerResult:
        """Fit, calibrate and measure one layer."""
        splits = read_splits(self.folder, layer, readout, self.names)
        check_same_rows(splits, rows, self.folder.file(layer))
        return fit_layer(splits, rows, len(self.names), self.fitter, self.rule)

    def metrics(self, result: LayerResult) -> dict[str, Any]:
        """Test-split measurements by class."""
        return aggregate_metrics(self.names, result)

    def details(self, result: LayerResult) -> dict[str, Any]:
        """C, and how well the layer does on rows that were left out."""
        report = result.report
        settings = {name: c.get("C") for name, c in zip(self.names, report["classes"], strict=True)}
        return {"C": settings, **{key: report[key] for key in ("cv_auc", "val_auc", "converged")}}


def aggregate_metrics(class_names: Sequence[str], result: LayerResult) -> dict[str, Any]:
    """Contents of ``aggregate_metrics.json``: test-split measurements by class at its threshold, and means.

    ``confusion_matrix`` has true_negative, false_positive, false_negative and true_positive; ``ece`` is the expected
    calibration error of the calibrated probabilities; ``val_auc`` is of the validation split, ``cv_auc`` of
    cross-validation over train and val.
    """
    report = result.report
    per_action = []
    columns = zip(class_names, result.threshold, report["test"], report["classes"], strict=True)
    for name, threshold, measured, extra in columns:
        (tn, fp), (fn, tp) = measured["confusion_matrix"]
        counts = {"true_negative": tn, "false_positive": fp, "false_negative": fn, "true_positive": tp}
        whole = {"action": name, **measured, "confusion_matrix": counts, **extra, "threshold": float(threshold)}
        per_action.append(whole)
    means = {
        key: float(np.mean([m[of] for m in per_action]))
        for key, of in (
            ("average_auc_roc", "auc_roc"),
            ("average_f1", "f1"),
            ("average_accuracy", "accuracy"),
            ("average_precision", "precision"),
            ("average_recall", "recall"),
            ("average_auc_pr", "auc_pr"),
            ("average_ece", "ece"),
        )
    }
    return {
        **means,
        "total_training_time_seconds": report["elapsed_s"],
        **{key: report[key] for key in ("val_auc", "cv_auc", "n_train", "n_val", "n_test")},
        "per_action_metrics": per_action,
    }
