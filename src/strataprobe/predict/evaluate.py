"""How good are these probes on labelled text from elsewhere?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from strataprobe.dataset import Dataset, read_dataset
from strataprobe.errors import DataError, ProbeError
from strataprobe.metrics import AucEstimate, auc_interval, clustered_auc, macro_auc
from strataprobe.predict.inference import MultiProbeInference
from strataprobe.predict.overlap import note_seen
from strataprobe.probes.probe import REGRESSION
from strataprobe.probes.values import value_summary


def evaluate(inference: MultiProbeInference, data: str | Path | Dataset) -> dict[str, Any]:
    """AUC with its 95 % interval (over groups), and accuracy, on the rows that have a label; of regression probes how well
    their values match the rows that have a score.

    Returns ``n``, ``n_skipped`` (rows without a label), ``layer``, ``auc``, ``auc_low``, ``auc_high``, ``accuracy`` (a
    text counts as the class with the highest probability; with two classes, as the one past its threshold), and
    ``classes`` with the same numbers for each where there are more than two (``auc`` is then their mean). An AUC that
    cannot be measured because only one class is there is None. Of a regression probe: ``n``, ``n_skipped`` (rows without a
    score), ``layer``, and the numbers of ``value_summary``.

    Raises DataError when no row has a label (a score), or one has a class the probes do not know; ProbeError for several
    regression probes at once.
    """
    dataset = data if isinstance(data, Dataset) else read_dataset(data, keep_fields=False)
    if inference.probes.first.kind == REGRESSION:
        return _of_values(inference, dataset)
    names = inference.probes.class_names
    rows = [row for row in dataset.rows if row.label is not None]
    if not rows:
        raise DataError(f"{dataset.name} has no row with a label: evaluate needs labelled texts.")
    unknown = sorted({str(r.label) for r in rows} - set(names))
    if unknown:
        raise DataError(f"{dataset.name} has the class {unknown[0]!r}; the probes know {', '.join(names)}.")
    note_seen(inference.source.path, rows)
    labels = np.array([names.index(str(r.label)) for r in rows])
    groups = np.array([r.group for r in rows])
    logits = inference.logits([r.content for r in rows], lambda i: f"text {rows[i].id!r}")
    result: dict[str, Any] = {"n": len(rows), "n_skipped": len(dataset.rows) - len(rows), "layer": inference.layer}
    if len(names) == 2:
        result |= _one_class(labels == 1, logits[:, 1], groups)
        chosen = inference.probes.calibrated(logits)[:, 1] >= inference.probes.thresholds[1]
        result["accuracy"] = float(np.mean(chosen.astype(int) == labels))
        return result
    classes = {name: _one_class(labels == c, logits[:, c], groups) for c, name in enumerate(names)}
    probabilities = inference.probes.calibrated(logits)
    for c, name in enumerate(names):
        active = probabilities[:, c] >= inference.probes.thresholds[c]
        classes[name]["accuracy"] = float(np.mean(active == (labels == c)))
    estimate = macro_auc(labels, logits[:, :, None], groups)
    result |= _with_interval(estimate)
    result["accuracy"] = float(np.mean(probabilities.argmax(axis=1) == labels))
    result["classes"] = classes
    return result


def _of_values(inference: MultiProbeInference, dataset: Dataset) -> dict[str, Any]:
    rows = [row for row in dataset.rows if row.score is not None]
    names = inference.probes.class_names
    if len(names) > 1:
        raise ProbeError(f"these probes give {len(names)} values ({', '.join(names)}), and a row has one score.")
    if not rows:
        raise DataError(f"{dataset.name} has no row with a score: {names[0]!r} is a value, so evaluate needs 'score'.")
    note_seen(inference.source.path, rows)
    values = inference.logits([r.content for r in rows], lambda i: f"text {rows[i].id!r}")[:, 0]
    found = value_summary([r.score for r in rows], values, [r.group for r in rows])
    return {"n": len(rows), "n_skipped": len(dataset.rows) - len(rows), "layer": inference.layer, **found}


def _one_class(positive: np.ndarray, logits: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    return _with_interval(clustered_auc(positive.astype(int), logits, groups))


def _with_interval(estimate: AucEstimate) -> dict[str, Any]:
    """AUC and bounds as plain numbers; None where only one class is there."""
    values = (estimate.auc, *auc_interval(estimate))
    numbers = [float(np.asarray(v).reshape(-1)[0]) for v in values]
    return {name: None if np.isnan(v) else v for name, v in zip(("auc", "auc_low", "auc_high"), numbers, strict=True)}
