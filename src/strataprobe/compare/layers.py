"""The curve: for every layer and readout the cross-validated AUC, its confirmation on the test rows, and the control.

Two classes give the AUC of the second one; more give the mean over classes of the one-against-rest AUC. Accuracy is
that of the second class at its probe's threshold for two classes, of the class with the highest probability for more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from strataprobe.compare.aucs import auc_values
from strataprobe.compare.bands import band_of
from strataprobe.compare.controls import (
    DEFAULT_C,
    NULL_FOLD_FACTOR,
    Controls,
    Halves,
    ShuffledLabels,
    shuffle_labels,
    split_in_halves,
    train_controls,
)
from strataprobe.compare.geometry import shared_width, transfer_column, weights_of
from strataprobe.compare.measures import layer_measures
from strataprobe.metrics import AucEstimate, accuracy_interval, auc_interval, clustered_auc, folded_auc, macro_auc
from strataprobe.probes.files import Oof, TrainedProbes
from strataprobe.probes.parallel import in_threads, workers_for
from strataprobe.progress import Progress
from strataprobe.store import ActivationFolder, LayerRows, layer_file_name

Key = tuple[str, int]


@dataclass(frozen=True)
class TestRows:
    """What is known of the labelled test rows, whatever the layer: labels (n,), groups, ids."""

    __test__ = False
    labels: np.ndarray
    groups: list[str]
    ids: list[str]


@dataclass(frozen=True)
class Measured:
    """One layer and readout on the test rows, with its control and the AUC on each text given with ``--eval``.

    ``evals`` lacks the names that this layer was captured without. ``transfer`` (L,) holds the AUCs of the probes of all
    layers of the primary readout on this layer's test rows, None of other readouts, and where ``shared_width`` objects.
    """

    readout: str
    layer: int
    block_index: int
    logits: np.ndarray
    probabilities: np.ndarray
    called: np.ndarray
    controls: Controls
    evals: dict[str, float] = field(default_factory=dict)
    measures: dict[str, float | None] = field(default_factory=dict)
    transfer: np.ndarray | None = None


def labelled(rows: LayerRows) -> tuple[np.ndarray, np.ndarray]:
    """Activations (n, D) and labels (n,) of the rows that have a label."""
    keep = rows.labels >= 0
    return rows.activations[keep], rows.labels[keep]


def labelled_groups(rows: LayerRows) -> list[str]:
    """Groups of the rows that have a label."""
    return [group for group, label in zip(rows.groups, rows.labels, strict=True) if label >= 0]


def read_test_rows(folder: ActivationFolder, layer: int) -> TestRows:
    """Labels, groups and ids of the labelled test rows."""
    rows = folder.read(layer, "test")
    keep = np.flatnonzero(rows.labels >= 0)
    return TestRows(rows.labels[keep], labelled_groups(rows), [rows.ids[i] for i in keep])


def estimate_auc(labels: np.ndarray, logits: np.ndarray, groups: Any, folds: np.ndarray | None = None) -> AucEstimate:
    """AUCs of M columns of logits (n, C, M) together, within folds where these are given.

    Of class 1 for two classes, the mean over classes against the rest for more.
    """
    if logits.shape[1] > 2:
        return macro_auc(labels, logits, groups, folds)
    if folds is None:
        return clustered_auc(labels == 1, logits[:, 1, :], groups)
    return folded_auc(labels == 1, logits[:, 1, :], groups, folds)


def cross_validated(oof: Oof, measured: Sequence[Measured]) -> AucEstimate:
    """Mean of within-fold AUCs of the out-of-fold logits for each layer and readout, covariance over groups.

    The variance is inflated for what folds share. Without cross-validation the AUCs are of the validation rows.
    """
    stacked = np.stack([oof.logits[m.readout, m.layer] for m in measured], axis=2)
    estimate = estimate_auc(oof.labels, stacked, oof.groups, oof.folds)
    return estimate.inflated(fold_factors(oof, measured))


def fold_factors(oof: Oof, measured: Sequence[Measured]) -> np.ndarray:
    """What each variance (M,) is multiplied by for what folds share: see ``Halves``; 1 where there was one fit only."""
    return np.array([m.controls.fold_factor for m in measured]) if has_folds(oof) else np.ones(len(measured))


def null_factors(oof: Oof, measured: Sequence[Measured]) -> np.ndarray:
    """What each variance (M,) is multiplied by further to be that of labels independent of the text."""
    return (NULL_FOLD_FACTOR if has_folds(oof) else 1.0) / fold_factors(oof, measured)


def has_folds(oof: Oof) -> bool:
    """False where training did no cross-validation, so that the logits are of the validation rows."""
    return bool(len(np.unique(oof.folds)) > 1)


def on_test(measured: Sequence[Measured], rows: TestRows) -> AucEstimate:
    """AUCs of the trained probes on the test rows, column for column."""
    return estimate_auc(rows.labels, np.stack([m.logits for m in measured], axis=2), rows.groups)


def measure_layers(probes: TrainedProbes, folder: ActivationFolder, *, seed: int = 0) -> list[Measured]:
    """Apply every trained probe to the test and ``--eval`` rows and train its controls, several layers at a time.

    In the order of ``layer_keys``.
    """
    keys = layer_keys(probes)
    shared = _shared_rows(probes, folder, keys[0], seed)
    primary = [probes.sets[key] for key in keys if key[0] == probes.primary]
    weights = None if shared_width(primary) else weights_of(primary)
    found = {}

    def measure(key: Key) -> Measured:
        return _measure(probes, folder, key, shared, weights if key[0] == probes.primary else None)

    with Progress("comparing layers", len(keys), "layers") as progress:
        for key, measured in in_threads(measure, keys, workers_for(folder.n_entries)):
            found[key] = measured
            progress.advance()
    return [found[key] for key in keys]


@dataclass(frozen=True)
class _Shared:
    """What is the same for every layer: the shuffled labels, the halves, and the groups of the test rows."""

    shuffled: ShuffledLabels
    halves: Halves
    test_groups: list[str]


def _shared_rows(probes: TrainedProbes, folder: ActivationFolder, key: Key, seed: int) -> _Shared:
    splits = [folder.read(key[1], split, key[0]) for split in ("train", "val", "test")]
    labels = [labelled(rows)[1] for rows in splits]
    groups = [labelled_groups(rows) for rows in splits]
    shuffled = shuffle_labels(labels, groups, len(probes.class_names), seed=seed)
    return _Shared(shuffled, split_in_halves(labels[0], groups[0], labels[1], seed=seed), groups[2])


def _measure(
    probes: TrainedProbes, folder: ActivationFolder, key: Key, shared: _Shared, weights: np.ndarray | None
) -> Measured:
    readout, layer = key
    (x_train, _), (x_val, _), (x_test, y_test) = (
        labelled(folder.read(layer, split, readout)) for split in ("train", "val", "test")
    )
    probe_set = probes.sets[key]
    logits = np.asarray(probe_set.logits(x_test), dtype=np.float64)
    probabilities = np.asarray(probe_set.calibrated(logits), dtype=np.float64)
    thresholds = np.asarray(probe_set.thresholds)
    return Measured(
        readout,
        layer,
        folder.block_index(layer),
        logits,
        probabilities,
        called_classes(probabilities, thresholds),
        train_controls(x_train, x_val, x_test, shared.shuffled, shared.halves, penalty_of(probes, readout, layer)),
        _eval_aucs(probe_set, folder, readout, layer),
        layer_measures(y_test, probabilities, thresholds, shared.test_groups),
        None if weights is None else transfer_column(weights, x_test, y_test),
    )


def layer_keys(probes: TrainedProbes) -> list[Key]:
    """(readout, layer) of every probe set from layer 1 on: the primary readout first, layers ascending."""
    order = {name: i for i, name in enumerate(probes.readouts)}
    return sorted((key for key in probes.sets if key[1] >= 1), key=lambda key: (order[key[0]], key[1]))


def called_classes(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The class (n,) each row is put in: by class 1's threshold for two classes, the most probable for more."""
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= thresholds[1]).astype(np.int64)
    return probabilities.argmax(axis=1)


def penalty_of(probes: TrainedProbes, readout: str, layer: int) -> float:
    """The C the probe was trained with; the middle one where its classes differ; a default where none is recorded."""
    found = sorted(penalties_of(probes, readout, layer))
    return found[len(found) // 2]


def penalties_of(probes: TrainedProbes, readout: str, layer: int) -> list[float]:
    """The C of each class, a default where none is recorded."""
    details: Mapping[str, Any] = probes.manifest.details if probes.manifest is not None else {}
    value = details.get("layers", {}).get(readout, {}).get(str(layer), {}).get("C")
    values = [value.get(name) for name in probes.class_names] if isinstance(value, dict) else [value]
    known = [float(v) if isinstance(v, int | float) and v > 0 else DEFAULT_C for v in values]
    return known * len(probes.class_names) if len(known) == 1 else known


def _eval_aucs(probe_set: Any, folder: ActivationFolder, readout: str, layer: int) -> dict[str, float]:
    found = {}
    for name in folder.eval_names:
        if not (folder.path / layer_file_name(layer, name)).is_file():
            continue
        x, y = labelled(folder.read_eval(layer, name, readout))
        logits = np.asarray(probe_set.logits(x), dtype=np.float64)
        found[name] = float(auc_values(y, logits[:, :, None])[0])
    return found


def curve_entries(
    measured: Sequence[Measured], cross_validation: AucEstimate, test: AucEstimate, rows: TestRows, n_layers: int
) -> list[dict[str, Any]]:
    """The ``layers`` list of ``comparison.json``, None for values that do not exist; ``n_layers``: blocks of the model."""
    cv_low, cv_high = auc_interval(cross_validation)
    test_low, test_high = auc_interval(test)
    entries = []
    for j, m in enumerate(measured):
        accuracy, accuracy_low, accuracy_high = accuracy_interval(m.called == rows.labels, rows.groups)
        values = {
            "cv_auc": cross_validation.auc[j],
            "cv_auc_low": cv_low[j],
            "cv_auc_high": cv_high[j],
            "test_auc": test.auc[j],
            "test_auc_low": test_low[j],
            "test_auc_high": test_high[j],
            "test_accuracy": accuracy,
            "test_accuracy_low": accuracy_low,
            "test_accuracy_high": accuracy_high,
            "control_auc": m.controls.test_auc,
            "control_val_auc": m.controls.val_auc,
            "selectivity": test.auc[j] - m.controls.test_auc,
            "half_agreement": m.controls.agreement,
        }
        entries.append(
            {"layer": m.layer, "block_index": m.block_index, "readout": m.readout, "band": band_of(m.layer, n_layers)}
            | {name: finite(value) for name, value in values.items()}
            | m.measures
            | {"eval": {name: finite(value) for name, value in m.evals.items()}}
        )
    return entries


def finite(value: Any) -> float | None:
    """A plain float, None where it is not finite."""
    number = float(value)
    return number if np.isfinite(number) else None
