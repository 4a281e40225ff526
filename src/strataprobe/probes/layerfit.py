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
from strataprobe.errors import ProbeError
from strataprobe.manifest import write_atomic
from strataprobe.metrics import auc, classification_summary, expected_calibration_error, folded_auc
from strataprobe.probes.basis import feature_scale
from strataprobe.probes.calibration import DEFAULT_RULE, Calibration, CalibrationRule, sigmoid
from strataprobe.probes.crossval import (
    CrossValidated,
    class_columns,
    cross_validate,
    mirror_columns,
)
from strataprobe.probes.families import Fit, Fitter, NetworkFit
from strataprobe.probes.files import network_tensors, pack, read_network, unpack
from strataprobe.probes.network import Network
from strataprobe.probes.probe import BINARY, Probe, ProbeSet
from strataprobe.probes.rows import Rows
from strataprobe.store import LayerRows

# What stands before the tensors of a saved network.
_RESULT = "result"


@dataclass(frozen=True, eq=False)
class LayerResult:
    """Probes of every class (two classes: mirrors) with their out-of-fold logits (N, C) and measurements.

    ``oof`` is on the scale of these probes' own logits, so both can be weighted or calibrated alike. Of a ``network``
    column c is the logit of class c, and the weights are zeros.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float64]
    threshold: NDArray[np.float64]
    calibration: NDArray[np.float64]
    oof: NDArray[np.float32]
    scale: NDArray[np.float32]
    report: dict[str, Any]
    network: Network | None = None

    def save(self, path: Path) -> None:
        """Write the result atomically."""
        arrays = {k: getattr(self, k) for k in ("weight", "bias", "threshold", "calibration", "oof", "scale")}
        if self.network is None:
            write_atomic(path, pack(arrays, self.report))
            return
        arrays |= network_tensors(self.network, _RESULT)
        write_atomic(path, pack(arrays, {**self.report, "network": self.network.config}))

    @classmethod
    def load(cls, path: Path) -> LayerResult:
        """Read a result that ``save`` wrote. Raises ProbeError when it is damaged, or of another release."""
        arrays, report = unpack(path)
        form = report.pop("network", None)
        network = None if form is None else read_network(arrays, form, _RESULT, path)
        own = {name: value for name, value in arrays.items() if not name.startswith(_RESULT)}
        try:
            return cls(**own, report=report, network=network)
        except TypeError as error:
            raise ProbeError(f"{path} is no saved fit of this release.") from error

    def logits(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Logits (n, C) of raw activations X (n, D)."""
        if self.network is not None:
            return self.network.logits(X)
        return X.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias

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
                    kind=self.report.get("kind", BINARY),
                    extra=self.report["classes"][c] | {"recipe": info["recipe_name"], "class_names": list(class_names)},
                    network=self.network,
                    output=c if self.network is not None else 0,
                )
                for c, name in enumerate(class_names)
            ]
        )


def fit_layer(
    splits: dict[str, LayerRows], rows: Rows, n_classes: int, fitter: Fitter, rule: CalibrationRule = DEFAULT_RULE
) -> LayerResult:
    """Fit on train, choose and calibrate on val, cross-validate on both, measure on test."""
    started_s = time.monotonic()
    train, val = splits["train"], splits["val"]
    fit = fitter.fit(
        train.activations,
        class_columns(train.labels, n_classes),
        val.activations,
        class_columns(val.labels, n_classes),
    )
    crossed = None
    if rows.n_folds:
        both = np.concatenate([train.activations, val.activations])
        crossed = cross_validate(fitter, both, class_columns(rows.labels, n_classes), rows.folds)
    result = measured(fit, crossed, splits, rows, n_classes, feature_scale(train.activations), rule)
    result.report["elapsed_s"] = time.monotonic() - started_s
    return result


def measured(
    fit: Fit,
    crossed: CrossValidated | None,
    splits: dict[str, LayerRows],
    rows: Rows,
    n_classes: int,
    scale: NDArray[np.float32],
    rule: CalibrationRule,
) -> LayerResult:
    """A fit on train, calibrated on val and measured on test."""
    train, val, test = (splits[name] for name in SPLITS)
    val_logits = fit.logits(val.activations)
    result = calibrated(fit, val_logits, val.labels, crossed, rows, n_classes, scale, rule)
    _add_val_aucs(result.report, val_logits, class_columns(val.labels, n_classes))
    probabilities = sigmoid(result.logits(test.activations) * result.calibration[:, 0] + result.calibration[:, 1])
    metrics = [
        classification_summary(test.labels == c, probabilities[:, c], float(result.threshold[c]))
        | {"ece": expected_calibration_error(test.labels == c, probabilities[:, c])}
        for c in range(n_classes)
    ]
    counts = {"n_train": len(train.labels), "n_val": len(val.labels), "n_test": len(test.labels)}
    result.report.update(counts, test=metrics)
    return result


def _add_val_aucs(report: dict[str, Any], logits: NDArray[np.float64], Y: NDArray[np.float64]) -> None:
    """Add ``val_auc`` to each class and their mean; one column for two classes is of both."""
    classes = report["classes"]
    for c, entry in enumerate(classes):
        k = c if Y.shape[1] == len(classes) else 0
        entry["val_auc"] = auc(Y[:, k], logits[:, k])
    report["val_auc"] = float(np.mean([entry["val_auc"] for entry in classes]))


def calibrated(
    fit: Fit,
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    crossed: CrossValidated | None,
    rows: Rows,
    n_classes: int,
    scale: NDArray[np.float32],
    rule: CalibrationRule = DEFAULT_RULE,
    priors: Sequence[Calibration | None] | None = None,
) -> LayerResult:
    """All classes, each calibrated and its threshold chosen from ``logits`` (n, K) of rows it was not fitted on.

    Its report has ``cv_auc`` for each class, the mean of the AUCs within each fold, and their mean over classes. The
    out-of-fold log-odds become logits of these probes: what the calibration turns back into the log-odds. Without
    cross-validation (``crossed`` None) they are ``logits`` themselves, and ``cv_auc`` is of those. ``priors`` (K,) are
    those of ``fit_platt``.
    """
    Y = class_columns(labels, n_classes)
    two = n_classes == 2
    fits = [rule.calibrate(Y[:, k], logits[:, k], prior) for k, prior in enumerate(priors or [None] * Y.shape[1])]
    slopes, intercepts = np.array([f.calibration for f in fits]).T
    oof = logits if crossed is None else (crossed.logits - intercepts) / slopes
    thresholds = rule.thresholds(Y, sigmoid(logits * slopes + intercepts), n_classes)
    calibration, classes = [list(f.calibration) for f in fits], []
    groups = rows.group_indices()
    for k in range(Y.shape[1]):
        own = folded_auc(rows.labels == (1 if two else k), oof[:, k], groups, rows.folds)
        classes.append(fit.settings[k] | {"cv_auc": float(own.auc[0]), "calibration_fallback": fits[k].fallback})
    if two:
        calibration.insert(0, list(fits[0].calibration.mirrored()))
        classes.insert(0, dict(classes[0]))
    for entry, threshold in zip(classes, thresholds, strict=True):
        if threshold.caveat:
            entry["threshold_caveat"] = threshold.caveat
    report = {
        "classes": classes,
        "cv_auc": float(np.mean([c["cv_auc"] for c in classes])),
        "converged": all(c.get("converged", True) for c in classes),
    }
    network = fit.network if isinstance(fit, NetworkFit) else None
    return LayerResult(
        weight=np.ascontiguousarray(mirror_columns(fit.weight.T, n_classes).T),
        bias=mirror_columns(fit.bias[None], n_classes)[0],
        threshold=np.array([t.value for t in thresholds]),
        calibration=np.array(calibration),
        oof=mirror_columns(oof, n_classes).astype(np.float32),
        scale=scale,
        report=report,
        network=network.mirrored() if network is not None and two else network,
    )
