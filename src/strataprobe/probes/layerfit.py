"""One layer and readout, from its rows to calibrated probes with their measurements; saved so that a rerun skips it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.dataset import SPLITS
from strataprobe.errors import DataError, StageError
from strataprobe.manifest import write_atomic
from strataprobe.metrics import auc, classification_summary, expected_calibration_error, folded_auc
from strataprobe.probes.calibration import Calibration, choose_threshold, fit_platt, sigmoid
from strataprobe.probes.crossval import (
    CrossValidated,
    check_folds,
    class_columns,
    cross_validate,
    make_folds,
    mirror_columns,
)
from strataprobe.probes.families import Fitter, LinearFit
from strataprobe.probes.files import pack, unpack
from strataprobe.probes.probe import Probe, ProbeSet
from strataprobe.store import ActivationFolder, LayerRows


@dataclass(frozen=True, eq=False)
class Rows:
    """What identifies the labelled train and val rows, in file order, and the fold of each; the same for all layers."""

    ids: list[str]
    labels: NDArray[np.int64]
    groups: list[str]
    folds: NDArray[np.int64]

    def group_indices(self) -> NDArray[np.int64]:
        """(N,) an index for each distinct group."""
        return np.unique(np.asarray(self.groups), return_inverse=True)[1].astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"ids": self.ids, "labels": self.labels.tolist(), "groups": self.groups, "folds": self.folds.tolist()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Rows:
        """From ``to_json``."""
        labels, folds = (np.array(value[k], dtype=np.int64) for k in ("labels", "folds"))
        return cls(list(value["ids"]), labels, list(value["groups"]), folds)


@dataclass(frozen=True, eq=False)
class LayerResult:
    """Probes of every class (two classes: mirrors) with their out-of-fold logits (N, C) and measurements.

    ``oof`` is on the scale of these probes' own logits, so both can be weighted or calibrated alike.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float64]
    threshold: NDArray[np.float64]
    calibration: NDArray[np.float64]
    oof: NDArray[np.float32]
    report: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the result atomically."""
        arrays = {k: getattr(self, k) for k in ("weight", "bias", "threshold", "calibration", "oof")}
        write_atomic(path, pack(arrays, self.report))

    @classmethod
    def load(cls, path: Path) -> LayerResult:
        """Read a result that ``save`` wrote. Raises ProbeError when it is damaged."""
        arrays, report = unpack(path)
        return cls(**arrays, report=report)

    def probe_set(self, class_names: Sequence[str], layer: int, readout: str, info: dict[str, Any]) -> ProbeSet:
        """The probes with everything needed to use them."""
        return ProbeSet(
            [
                Probe(
                    weight=self.weight[c],
                    bias=float(self.bias[c]),
                    action=name,
                    layer=layer,
                    block_index=layer - 1,
                    readout=readout,
                    prefix=info["prefix"],
                    suffix=info["suffix"],
                    template=info["template"],
                    model=info["model_name"],
                    model_revision=info["model_revision"],
                    threshold=float(self.threshold[c]),
                    calibration=Calibration(*self.calibration[c].tolist()),
                    extra=self.report["classes"][c] | {"recipe": info["recipe_name"], "class_names": list(class_names)},
                )
                for c, name in enumerate(class_names)
            ]
        )


def read_splits(folder: ActivationFolder, layer: int, readout: str, class_names: Sequence[str]) -> dict[str, LayerRows]:
    """Labelled rows of the three splits. Raises DataError when one lacks a class or has values that are not finite."""
    splits = {}
    for split in SPLITS:
        rows = folder.read(layer, split, readout)
        where = f"{folder.file(layer)}, split {split!r}"
        if not np.isfinite(rows.activations).all():
            raise DataError(
                f"{where}, readout {readout!r} holds values that are not finite: capture layer {layer} again."
            )
        if rows.labels.max(initial=-1) >= len(class_names):
            raise DataError(f"{where} has label {rows.labels.max()}, but there are {len(class_names)} class names.")
        present = set(rows.labels.tolist())
        missing = [name for c, name in enumerate(class_names) if c not in present]
        if missing:
            raise DataError(
                f"{where} has no text of class {missing[0]!r}: every split needs every class, so add "
                "labelled texts or drop the class."
            )
        kept = np.flatnonzero(rows.labels >= 0)
        splits[split] = (
            rows
            if len(kept) == len(rows.labels)
            else LayerRows(
                rows.activations[kept],
                rows.labels[kept],
                [rows.ids[i] for i in kept],
                [rows.groups[i] for i in kept],
                None if rows.targets is None else rows.targets[kept],
            )
        )
    return splits


def rows_of(splits: dict[str, LayerRows], class_names: Sequence[str], seed: int) -> Rows:
    """The rows to cross-validate over, train then val, with their folds. Raises DataError for too few groups."""
    train, val = splits["train"], splits["val"]
    labels = np.concatenate([train.labels, val.labels])
    groups = train.groups + val.groups
    folds = make_folds(labels, groups, class_names, seed)
    check_folds(folds, labels, class_names)
    return Rows(train.ids + val.ids, labels, groups, folds)


def check_same_rows(splits: dict[str, LayerRows], rows: Rows, where: Path) -> None:
    """Raise StageError when this layer's rows are not those of the other layers."""
    ids = splits["train"].ids + splits["val"].ids
    labels = np.concatenate([splits["train"].labels, splits["val"].labels])
    if ids != rows.ids or not np.array_equal(labels, rows.labels):
        raise StageError(f"{where} holds other texts or labels than the layers before it: capture all layers together.")


def fit_layer(splits: dict[str, LayerRows], rows: Rows, n_classes: int, fitter: Fitter) -> LayerResult:
    """Fit on train, choose and calibrate on val, cross-validate on both, measure on test."""
    started_s = time.monotonic()
    train, val, test = (splits[name] for name in SPLITS)
    fit = fitter.fit(
        train.activations,
        class_columns(train.labels, n_classes),
        val.activations,
        class_columns(val.labels, n_classes),
    )
    both = np.concatenate([train.activations, val.activations])
    crossed = cross_validate(fitter, both, class_columns(rows.labels, n_classes), rows.folds)
    val_logits = fit.logits(val.activations)
    result = calibrated(fit, val_logits, val.labels, crossed, rows, n_classes)
    _add_val_aucs(result.report, val_logits, class_columns(val.labels, n_classes))
    test_logits = test.activations.astype(np.float64) @ result.weight.T.astype(np.float64) + result.bias
    probabilities = sigmoid(test_logits * result.calibration[:, 0] + result.calibration[:, 1])
    metrics = [
        classification_summary(test.labels == c, probabilities[:, c], float(result.threshold[c]))
        | {"ece": expected_calibration_error(test.labels == c, probabilities[:, c])}
        for c in range(n_classes)
    ]
    counts = {"n_train": len(train.labels), "n_val": len(val.labels), "n_test": len(test.labels)}
    result.report.update(counts, test=metrics, elapsed_s=time.monotonic() - started_s)
    return result


def _add_val_aucs(report: dict[str, Any], logits: NDArray[np.float64], Y: NDArray[np.float64]) -> None:
    """Add ``val_auc`` to each class and their mean; one column for two classes is of both."""
    classes = report["classes"]
    for c, entry in enumerate(classes):
        k = c if Y.shape[1] == len(classes) else 0
        entry["val_auc"] = auc(Y[:, k], logits[:, k])
    report["val_auc"] = float(np.mean([entry["val_auc"] for entry in classes]))


def calibrated(
    fit: LinearFit,
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    crossed: CrossValidated,
    rows: Rows,
    n_classes: int,
) -> LayerResult:
    """All classes, each calibrated and its threshold chosen from ``logits`` (n, K) of rows it was not fitted on.

    Its report has ``cv_auc`` for each class, the mean of the AUCs within each fold, and their mean over classes. The
    out-of-fold log-odds become logits of these probes: what the calibration turns back into the log-odds.
    """
    Y = class_columns(labels, n_classes)
    oof = np.empty_like(crossed.logits)
    two = n_classes == 2
    calibration, threshold, classes = [], [], []
    for k in range(Y.shape[1]):
        platt = fit_platt(Y[:, k], logits[:, k])
        slope, intercept = platt.calibration
        calibration.append([slope, intercept])
        oof[:, k] = (crossed.logits[:, k] - intercept) / slope
        # of two classes the likelier one is active; a threshold off .5 would call the less likely one
        threshold.append(0.5 if two else choose_threshold(Y[:, k], sigmoid(slope * logits[:, k] + intercept)))
        own = folded_auc(rows.labels == (1 if two else k), crossed.logits[:, k], rows.group_indices(), rows.folds)
        classes.append(fit.settings[k] | {"cv_auc": float(own.auc[0]), "calibration_fallback": platt.fallback})
    if two:
        calibration.insert(0, list(Calibration(*calibration[0]).mirrored()))
        threshold.insert(0, 1.0 - threshold[0])
        classes.insert(0, dict(classes[0]))
    report = {
        "classes": classes,
        "cv_auc": float(np.mean([c["cv_auc"] for c in classes])),
        "converged": all(c.get("converged", True) for c in classes),
    }
    return LayerResult(
        weight=np.ascontiguousarray(mirror_columns(fit.weight.T, n_classes).T),
        bias=mirror_columns(fit.bias[None], n_classes)[0],
        threshold=np.array(threshold),
        calibration=np.array(calibration),
        oof=mirror_columns(oof, n_classes).astype(np.float32),
        report=report,
    )
