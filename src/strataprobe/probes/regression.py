"""Ridge probes of continuous targets: what ``train`` does on a layer where it would else tell classes apart.

Rows without a target are left out. One probe is fitted on train, its alpha chosen on val; the curve is cross-validation
over groups on both, alpha chosen inside each fold; the test rows measure it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.dataset import SPLITS
from strataprobe.errors import DataError, OptionError, StageError
from strataprobe.probes.calibration import IDENTITY
from strataprobe.probes.crossval import N_FOLDS, make_folds
from strataprobe.probes.families import Fitter
from strataprobe.probes.families.ridge import Ridge
from strataprobe.probes.layerfit import LayerResult
from strataprobe.probes.solver import feature_scale
from strataprobe.probes.values import MEASURES, r2, spearman, value_summary
from strataprobe.store import ActivationFolder, LayerRows

DEFAULT_NAME = "score"
_LEAST_ROWS = 10


@dataclass(frozen=True, eq=False)
class ValueRows:
    """What identifies the train and val rows that have a target, and the fold of each; without folds the val rows."""

    ids: list[str]
    targets: NDArray[np.float32]
    groups: list[str]
    folds: NDArray[np.int64]

    @property
    def n_folds(self) -> int:
        """How many folds there are; 0 without cross-validation."""
        n = int(self.folds.max(initial=0)) + 1
        return n if n > 1 else 0

    def group_indices(self) -> NDArray[np.int64]:
        """(N,) an index for each distinct group."""
        return np.unique(np.asarray(self.groups), return_inverse=True)[1].astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; a float32 is exact in them."""
        return {"ids": self.ids, "targets": self.targets.tolist(), "groups": self.groups, "folds": self.folds.tolist()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ValueRows:
        """From ``to_json``."""
        targets, folds = np.array(value["targets"], dtype=np.float32), np.array(value["folds"], dtype=np.int64)
        return cls(list(value["ids"]), targets, list(value["groups"]), folds)


def fits_values(fitter: Fitter, folder: ActivationFolder) -> bool:
    """Whether this family is to fit the folder's continuous targets.

    Raises OptionError when another family is given targets and no classes, DataError when there are no targets and
    only values were asked for.
    """
    there = has_targets(folder)
    if isinstance(fitter, Ridge):
        if fitter.target == "values" and not there:
            raise DataError(f"{folder.path} has no continuous targets: capture texts with a 'score', or fit classes.")
        return there and fitter.target != "classes"
    if there and not folder.class_names:
        raise OptionError(
            f"{folder.path} has continuous targets and no classes, which {fitter.name} cannot fit: use --probe ridge."
        )
    return False


def has_targets(folder: ActivationFolder) -> bool:
    """Whether some text of the train split has a target."""
    targets = folder.read(folder.layers[0], "train").targets
    return targets is not None and bool(np.isfinite(targets).any())


def value_name(folder: ActivationFolder) -> str:
    """What the probe is called: after the recipe, or "score"."""
    return str(folder.info["recipe_name"]) or DEFAULT_NAME


def read_value_splits(folder: ActivationFolder, layer: int, readout: str) -> dict[str, LayerRows]:
    """Rows of the three splits that have a target, with ``targets`` (n,) float32.

    Raises DataError when a split has fewer than ten of them or the same target throughout, and for values that are
    not finite.
    """
    splits = {}
    for split in SPLITS:
        rows = folder.read(layer, split, readout)
        where = f"{folder.file(layer)}, split {split!r}"
        targets = np.full(len(rows.labels), np.nan, dtype=np.float32) if rows.targets is None else rows.targets
        kept = np.flatnonzero(np.isfinite(targets))
        if len(kept) < _LEAST_ROWS or np.ptp(targets[kept]) == 0:
            raise DataError(
                f"{where} has {len(kept)} text(s) with a score: every split needs at least {_LEAST_ROWS}, not all of "
                "them the same, so add scored texts."
            )
        if not np.isfinite(rows.activations[kept]).all():
            raise DataError(
                f"{where}, readout {readout!r} holds values that are not finite: capture layer {layer} again."
            )
        splits[split] = LayerRows(
            rows.activations[kept],
            rows.labels[kept],
            [rows.ids[i] for i in kept],
            [rows.groups[i] for i in kept],
            targets[kept],
        )
    return splits


def value_rows_of(splits: Mapping[str, LayerRows], name: str, seed: int, n_folds: int = N_FOLDS) -> ValueRows:
    """The rows to cross-validate over, train then val, with their folds; the val rows alone for ``n_folds`` 0.

    Raises DataError when there are fewer than two groups.
    """
    ids, targets, groups = _joined(splits, n_folds)
    folds = np.zeros(len(ids), dtype=np.int64)
    if n_folds:
        folds = make_folds(folds, groups, [name], seed, n_folds)
    return ValueRows(ids, targets, groups, folds)


def check_same_value_rows(splits: Mapping[str, LayerRows], rows: ValueRows, where: Path) -> None:
    """Raise StageError when this layer's rows are not those of the other layers."""
    ids, targets, _ = _joined(splits, rows.n_folds)
    if ids != rows.ids or not np.array_equal(targets, rows.targets):
        raise StageError(f"{where} holds other texts or scores than the layers before it: capture all layers together.")


def _joined(splits: Mapping[str, LayerRows], n_folds: int) -> tuple[list[str], NDArray[np.float32], list[str]]:
    """Ids, targets and groups of the rows the curve is measured on."""
    parts = [splits[name] for name in (("train", "val") if n_folds else ("val",))]
    targets = np.concatenate([_targets(part) for part in parts])
    return [i for part in parts for i in part.ids], targets, [g for part in parts for g in part.groups]


def _targets(rows: LayerRows) -> NDArray[np.float32]:
    if rows.targets is None:
        raise DataError("these rows have no targets: read them with read_value_splits.")
    return rows.targets


def fit_value_layer(splits: Mapping[str, LayerRows], rows: ValueRows, fitter: Ridge) -> LayerResult:
    """Fit on train, choose alpha on val, cross-validate on both, measure on test.

    The report's ``classes`` hold one entry, with alpha, cv_r2, cv_spearman, val_r2 and val_spearman; its ``test`` one, of
    ``value_summary``.
    """
    started_s = time.monotonic()
    ridge = fitter.of_values()
    train, val, test = (splits[name] for name in SPLITS)
    fit = ridge.fit(train.activations, _column(train), val.activations, _column(val))
    val_values = fit.logits(val.activations)[:, 0]
    left_out = val_values
    if rows.n_folds:
        both = np.concatenate([train.activations, val.activations])
        left_out = cross_validated_values(ridge, both, rows.targets, rows.folds)
    measured = {
        **_of_folds(rows, left_out),
        "val_r2": r2(val.targets, val_values),
        "val_spearman": _known(spearman(val.targets, val_values)),
    }
    report = {
        "kind": "regression",
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
    return _targets(rows).astype(np.float64)[:, None]


def _of_folds(rows: ValueRows, values: NDArray[np.float64]) -> dict[str, float | None]:
    """``cv_r2`` of all rows together, and ``cv_spearman``, the mean over the folds that have one."""
    each = [spearman(rows.targets[own], values[own]) for own in (rows.folds == f for f in np.unique(rows.folds))]
    known = [value for value in each if np.isfinite(value)]
    return {"cv_r2": r2(rows.targets, values), "cv_spearman": float(np.mean(known)) if known else None}


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def value_metrics(names: Sequence[str], result: LayerResult) -> dict[str, Any]:
    """Contents of ``aggregate_metrics.json``: test-split measurements of the value, and their means under ``average_``."""
    report = result.report
    per_action = [
        {"action": name, **measured, **extra}
        for name, measured, extra in zip(names, report["test"], report["classes"], strict=True)
    ]
    known = {key: [m[key] for m in per_action if m[key] is not None] for key in MEASURES}
    return {
        **{f"average_{key}": float(np.mean(values)) if values else None for key, values in known.items()},
        "total_training_time_seconds": report["elapsed_s"],
        **{key: report[key] for key in ("val_r2", "cv_r2", "cv_spearman", "n_train", "n_val", "n_test")},
        "per_action_metrics": per_action,
    }


def value_details(result: LayerResult) -> dict[str, Any]:
    """What the manifest tells of one layer."""
    report = result.report
    keys = ("cv_r2", "cv_spearman", "val_r2", "val_spearman", "converged")
    return {"alpha": report["classes"][0]["alpha"], **{key: report[key] for key in keys}}
