"""The rows a layer is fitted on: read from its file, the same for all layers, each in its fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.dataset import SPLITS
from strataprobe.errors import DataError, StageError
from strataprobe.probes.crossval import N_FOLDS, check_folds, make_folds, say_fewer_folds
from strataprobe.store import ActivationFolder, LayerRows


@dataclass(frozen=True, eq=False)
class Rows:
    """What identifies the labelled train and val rows, in file order, and the fold of each; the same for all layers.

    Without cross-validation these are the val rows alone, all in fold 0. Of rows with a continuous target, ``targets``
    (N,) float32 holds it; their labels are then -1.
    """

    ids: list[str]
    labels: NDArray[np.int64]
    groups: list[str]
    folds: NDArray[np.int64]
    targets: NDArray[np.float32] | None = None

    def group_indices(self) -> NDArray[np.int64]:
        """(N,) an index for each distinct group."""
        return np.unique(np.asarray(self.groups), return_inverse=True)[1].astype(np.int64)

    @property
    def n_folds(self) -> int:
        """How many folds there are; 0 without cross-validation."""
        n = int(self.folds.max(initial=0)) + 1
        return n if n > 1 else 0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        own = {"ids": self.ids, "labels": self.labels.tolist(), "groups": self.groups, "folds": self.folds.tolist()}
        return own if self.targets is None else {**own, "targets": self.targets.tolist()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Rows:
        """From ``to_json``."""
        labels, folds = (np.array(value[k], dtype=np.int64) for k in ("labels", "folds"))
        targets = np.array(value["targets"], dtype=np.float32) if "targets" in value else None
        return cls(list(value["ids"]), labels, list(value["groups"]), folds, targets)


def read_splits(folder: ActivationFolder, layer: int, readout: str, class_names: Sequence[str]) -> dict[str, LayerRows]:
    """Labelled rows of the three splits. Raises DataError when one lacks a class or has values that are not finite."""
    splits = {}
    for split in SPLITS:
        rows = folder.read(layer, split, readout)
        where = f"{folder.file(layer)}, split {split!r}"
        refuse_not_finite(rows, where, layer, readout)
        refuse_unknown_labels(rows, where, len(class_names))
        present = set(rows.labels.tolist())
        missing = [name for c, name in enumerate(class_names) if c not in present]
        if missing:
            raise DataError(
                f"{where} has no text of class {missing[0]!r}: every split needs every class, so add "
                "labelled texts or drop the class."
            )
        kept = np.flatnonzero(rows.labels >= 0)
        splits[split] = rows if len(kept) == len(rows.labels) else rows_at(rows, kept)
    return splits


def rows_at(rows: LayerRows, places: NDArray[np.int64]) -> LayerRows:
    """Some of the rows, in the order of ``places``."""
    ids, groups = ([names[i] for i in places] for names in (rows.ids, rows.groups))
    targets = None if rows.targets is None else rows.targets[places]
    return LayerRows(rows.activations[places], rows.labels[places], ids, groups, targets)


def refuse_not_finite(rows: LayerRows, where: object, layer: int, readout: str) -> None:
    """Raise DataError when the activations of ``where`` hold values that are not finite."""
    if not np.isfinite(rows.activations).all():
        raise DataError(f"{where}, readout {readout!r} holds values that are not finite: capture layer {layer} again.")


def refuse_unknown_labels(rows: LayerRows, where: object, n_classes: int) -> None:
    """Raise DataError when ``where`` has a label that is no index of a class."""
    if rows.labels.max(initial=-1) >= n_classes:
        raise DataError(f"{where} has label {rows.labels.max()}, but there are {n_classes} class names.")


def rows_of(splits: dict[str, LayerRows], class_names: Sequence[str], seed: int, n_folds: int = N_FOLDS) -> Rows:
    """The rows to cross-validate over, train then val, with their folds; the val rows alone for ``n_folds`` 0.

    Raises DataError for too few groups.
    """
    parts = [splits[name] for name in measured_on(n_folds)]
    labels = np.concatenate([part.labels for part in parts])
    groups = [group for part in parts for group in part.groups]
    folds = np.zeros(len(labels), dtype=np.int64)
    if n_folds:
        folds = make_folds(labels, groups, class_names, seed, n_folds)
        check_folds(folds, labels, class_names)
        say_fewer_folds(folds, n_folds)
    return Rows([i for part in parts for i in part.ids], labels, groups, folds)


def measured_on(n_folds: int) -> tuple[str, ...]:
    """The splits whose rows the curve is measured on: without cross-validation (0) val alone."""
    return ("train", "val") if n_folds else ("val",)


def check_same_rows(splits: dict[str, LayerRows], rows: Rows, where: Path) -> None:
    """Raise StageError when this layer's rows are not those of the other layers."""
    parts = [splits[name] for name in measured_on(rows.n_folds)]
    ids = [i for part in parts for i in part.ids]
    labels = np.concatenate([part.labels for part in parts])
    if ids != rows.ids or not np.array_equal(labels, rows.labels):
        raise StageError(f"{where} holds other texts or labels than the layers before it: capture all layers together.")
