"""Ridge probes of continuous targets: what ``train`` does on a layer where it would else tell classes apart.

Rows without a target are left out. One probe is fitted on train, its alpha chosen on val; the curve is cross-validation
over groups on both, alpha chosen inside each fold; the test rows measure it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.dataset import SPLITS
from strataprobe.errors import DataError, StageError
from strataprobe.probes.basis import feature_scale
from strataprobe.probes.calibration import IDENTITY
from strataprobe.probes.crossval import make_folds, say_fewer_folds
from strataprobe.probes.families.ridge import Ridge
from strataprobe.probes.layerfit import LayerResult
from strataprobe.probes.probe import REGRESSION
from strataprobe.probes.rows import Rows, measured_on, refuse_not_finite, rows_at
from strataprobe.probes.values import MEASURES, r2, spearman, value_summary
from strataprobe.store import ActivationFolder, LayerRows

DEFAULT_NAME = "score"
_LEAST_ROWS = 10


@dataclass(frozen=True)
class ValueTask:
    """One probe of the folder's continuous targets, named after the recipe, or "score"."""

    folder: ActivationFolder
    fitter: Ridge
    seed: int
    n_folds: int

    @property
    def device(self) -> str:
        """That of the family."""
        return self.fitter.device

    @property
    def names(self) -> list[str]:
        """The name of the value."""
        return [str(self.folder.info["recipe_name"]) or DEFAULT_NAME]

    def rows(self, layer: int, readout: str) -> Rows:
        """The rows with a target."""
        rows = _joined(read_value_splits(self.folder, layer, readout), self.n_folds)
        folds = rows.folds
        if self.n_folds:
            folds = make_folds(folds, rows.groups, self.names, self.seed, self.n_folds)
            say_fewer_folds(folds, self.n_folds)
        return Rows(rows.ids, rows.labels, rows.groups, folds, rows.targets)

    def fit(self, layer: int, readout: str, rows: Rows) -> LayerResult:
        """Fit and measure one layer."""
        splits = read_value_splits(self.folder, layer, readout)
        mine = _joined(splits, rows.n_folds)
        if mine.ids != rows.ids or rows.targets is None or not np.array_equal(targets_of(mine), rows.targets):
            raise StageError(
                f"{self.folder.file(layer)} holds other texts or scores than the layers before it: capture all layers "
                "together."
            )
        return fit_value_layer(splits, rows, self.fitter)

    def metrics(self, result: LayerResult) -> dict[str, Any]:
        """Test-split measurements of the value, and their means under ``average_``."""
        report = result.report
        per_action = [
            {"action": name, **measured, **extra}
            for name, measured, extra in zip(self.names, report["test"], report["classes"], strict=True)
        ]
        known = {key: [m[key] for m in per_action if m[key] is not None] for key in MEASURES}
        return {
            **{f"average_{key}": float(np.mean(values)) if values else None for key, values in known.items()},
            "total_training_time_seconds": report["elapsed_s"],
            **{key: report[key] for key in ("val_r2", "cv_r2", "cv_spearman", "n_train", "n_val", "n_test")},
            "per_action_metrics": per_action,
        }

    def details(self, result: LayerResult) -> dict[str, Any]:
        """alpha, and how well the layer does on rows that were left out."""
        keys = ("cv_r2", "cv_spearman", "val_r2", "val_spearman", "converged")
        return {"alpha": result.report["classes"][0]["alpha"], **{key: result.report[key] for key in keys}}


def has_targets(folder: ActivationFolder) -> bool:
    """Whether some text of the train split has a continuous target."""
    targets = folder.read(folder.layers[0], "train").targets
    return targets is not None and bool(np.isfinite(targets).any())


def fits_values(fitter: Ridge, folder: ActivationFolder) -> bool:
    """Whether ridge is to fit the folder's targets. Raises DataError when it is and there are none."""
    there = fitter.target != "classes" and has_targets(folder)
    if fitter.target == "values" and not there:
        raise DataError(f"{folder.path} has no continuous targets: capture texts that have a 'score'.")
    return there


def targets_of(rows: LayerRows | Rows) -> NDArray[np.float32]:
    """The targets (n,) of rows. Raises DataError when they have none."""
    if rows.targets is None:
        raise DataError("these rows have no continuous targets: capture texts that have a 'score'.")
    return rows.targets


def read_value_splits(folder: ActivationFolder, layer: int, readout: str) -> dict[str, LayerRows]:
    """Rows of the three splits that have a target.

    Raises DataError when a split has fewer than ten of them, or the same target throughout, and for activations that are
    not finite.
    """
    splits = {}
    for split in SPLITS:
        rows = folder.read(layer, split, readout)
        where = f"{folder.file(layer)}, split {split!r}"
        targets = targets_of(rows)
        kept = np.flatnonzero(np.isfinite(targets))
        if len(kept) < _LEAST_ROWS or np.ptp(targets[kept]) == 0:
            raise DataError(
                f"{where} has {len(kept)} text(s) with a score: every split needs at least {_LEAST_ROWS}, and not all of "
                "one score, so add scored texts."
            )
        splits[split] = rows_at(rows, kept)
        refuse_not_finite(splits[split], where, layer, readout)
    return splits


def _joined(splits: Mapping[str, LayerRows], n_folds: int) -> Rows:
    """The rows that the curve is measured on, all in fold 0."""
    parts = [splits[name] for name in measured_on(n_folds)]
    ids = [i for part in parts for i in part.ids]
    groups = [group for part in parts for group in part.groups]
    labels, folds = np.full(len(ids), -1, dtype=np.int64), np.zeros(len(ids), dtype=np.int64)
    return Rows(ids, labels, groups, folds, np.concatenate([targets_of(part) for part in parts]))


def fit_value_layer(splits: Mapping[str, LayerRows], rows: Rows, fitter: Ridge) -> LayerResult:
    """Fit on train, choose alpha on val, cross-validate on both, measure on test.

    The report's ``classes`` hold one entry, with alpha, cv_r2, cv_spearman, val_r2 and val_spearman; its ``test`` one, of
    ``value_summary``. ``oof`` (N, 1) are the values of rows that were left out.
    """
    started_s = time.monotonic()
    ridge = fitter.of_values()
    train, val, test = (splits[name] for name in SPLITS)
    fit = ridge.fit(train.activations, _column(train), val.activations, _column(val))
    val_values = fit.logits(val.activations)[:, 0]
    left_out = val_values
    if rows.n_folds:
        both = np.concatenate([train.activations, val.activations])
        left_out = cross_validated_values(ridge, both, targets_of(rows), rows.folds)
    measured = {
        **_of_folds(rows, left_out),
        "val_r2": r2(val.targets, val_values),
        "val_spearman": _known(spearman(val.targets, val_values)),
    }
    report = {
        "kind": REGRESSION,
        "classes": [fit.settings[0] | measured],
        **measured,
        "converged": True,
        "test": [value_summary(test.targets, fit.logits(test.activations)[:, 0], test.groups)],
        **{f"n_{name}": len(splits[name].ids) for name in SPLITS},
        "elapsed_s": time.monotonic() - started_s,
    }
    return LayerResult(
        weight=fit.weight,
        bias=fit.bias,
        threshold=np.array([0.5]),
        calibration=np.array([list(IDENTITY)]),
        oof=left_out[:, None].astype(np.float32),
        scale=feature_scale(train.activations),
        report=report,
    )


def cross_validated_values(
    ridge: Ridge, X: NDArray[Any], targets: NDArray[Any], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Values (N,) of each row from the probe fitted without its fold, alpha chosen on the next fold."""
    n = int(folds.max()) + 1
    values = np.empty(len(folds))
    Y = np.asarray(targets, dtype=np.float64)[:, None]
    for fold in range(n):
        rest = folds != fold
        held_out = folds[rest] == (fold + 1) % n if n > 2 else np.zeros(int(rest.sum()), dtype=bool)
        values[~rest] = ridge.fit_inside(X[rest], Y[rest], held_out).logits(X[~rest])[:, 0]
    return values


def _column(rows: LayerRows) -> NDArray[np.float64]:
    return targets_of(rows).astype(np.float64)[:, None]


def _of_folds(rows: Rows, values: NDArray[np.float64]) -> dict[str, float | None]:
    """``cv_r2`` of all rows together, and ``cv_spearman``, the mean over the folds that have one."""
    targets = targets_of(rows)
    each = [spearman(targets[own], values[own]) for own in (rows.folds == fold for fold in np.unique(rows.folds))]
    known = [value for value in each if np.isfinite(value)]
    return {"cv_r2": r2(targets, values), "cv_spearman": float(np.mean(known)) if known else None}


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
