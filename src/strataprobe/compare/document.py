"""The comparison document: everything the figure and the report are made from, as plain JSON values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from strataprobe.compare.baselines import Baseline, measure_baselines
from strataprobe.compare.choice import LayerChoice, choose_layer, difference_low
from strataprobe.compare.controls import NULL_FOLD_FACTOR, cells_of, n_shuffles
from strataprobe.compare.ensembles import METHODS, combine_mean, combine_stacked, combine_vote, fit_stackers
from strataprobe.compare.findings import collect_findings
from strataprobe.compare.layers import (
    Measured,
    TestRows,
    cross_validated,
    curve_entries,
    estimate_auc,
    finite,
    on_test,
)
from strataprobe.metrics import Z95, AucEstimate, auc_interval
from strataprobe.probes.files import Oof, TrainedProbes
from strataprobe.progress import note
from strataprobe.recipe import Recipe
from strataprobe.store import ActivationFolder

FORMAT_VERSION = 2
ENSEMBLE_LAYERS = 3
# Standard errors above .5 that the mean AUC of shuffled labels does not reach by chance, many layers looked at.
_CONTROL_Z = 4.0


@dataclass(frozen=True)
class Sources:
    """What is compared: one probe set, its out-of-fold logits, its activations and, where known, its recipe."""

    probes: TrainedProbes
    oof: Oof
    folder: ActivationFolder
    recipe: Recipe | None
    name: str


def build_document(sources: Sources, measured: list[Measured], rows: TestRows, seed: int) -> dict[str, Any]:
    """The comparison document, all but ``inputs``, ``config``, ``versions`` and ``elapsed_s``."""
    probes, folder = sources.probes, sources.folder
    keys = [(m.readout, m.layer) for m in measured]
    curve, test = cross_validated(sources.oof, measured), on_test(measured, rows)
    entries = curve_entries(measured, curve, test, rows)
    choices = {}
    for readout in probes.readouts:
        columns = [j for j, key in enumerate(keys) if key[0] == readout]
        control = [measured[j].controls.val_auc for j in columns]
        to_null = [NULL_FOLD_FACTOR / measured[j].controls.fold_factor for j in columns]
        layers = [keys[j][1] for j in columns]
        choice = choose_layer(layers, _subset(curve, columns), control, to_null=to_null, seed=seed)
        for j, low in zip(columns, choice.simultaneous_low, strict=True):
            entries[j]["simultaneous_low"] = low
        choices[readout] = choice
    chosen = choices[probes.primary]
    best = next((m for m in measured if (m.readout, m.layer) == (probes.primary, chosen.best_layer)), None)
    note("compare: testing the baselines")
    baselines = measure_baselines(folder, probes.class_names, rows, sources.recipe, sources.oof, seed=seed)
    document: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "recipe": sources.name,
        "classes": probes.class_names,
        "model": folder.info["model_name"],
        "model_revision": folder.info["model_revision"],
        "prefix": folder.info["prefix"],
        "suffix": folder.info["suffix"],
        "template": folder.info["template"],
        "readouts": probes.readouts,
        "primary_readout": probes.primary,
        "best_layer": chosen.best_layer,
        "best_block_index": None if best is None else best.block_index,
        "tied_layers": chosen.tied_layers,
        "choices": {readout: _choice_entry(choice) for readout, choice in choices.items()},
        "n_texts": _counts(folder, probes.layers[-1]),
        "test_texts_by_class": _by_class(rows, probes.class_names),
        "layers": entries,
        "baselines": {b.name: _baseline_entry(b, best, rows) for b in baselines},
        "ensembles": _ensembles(sources, measured, curve, best, rows),
    }
    document["findings"] = collect_findings(document, _facts(sources, rows))
    return document


def _subset(estimate: AucEstimate, columns: list[int]) -> AucEstimate:
    return AucEstimate(
        estimate.auc[columns],
        estimate.covariance[np.ix_(columns, columns)],
        estimate.n_positive_groups,
        estimate.n_negative_groups,
    )


def _choice_entry(choice: LayerChoice) -> dict[str, Any]:
    return {
        "best_layer": choice.best_layer,
        "tied_layers": choice.tied_layers,
        "passing_layers": choice.passing_layers,
    }


def _counts(folder: ActivationFolder, layer: int) -> dict[str, int]:
    return {split: int((folder.read(layer, split).labels >= 0).sum()) for split in ("train", "val", "test")}


def _by_class(rows: TestRows, class_names: Sequence[str]) -> dict[str, int]:
    counts = Counter(rows.labels.tolist())
    return {name: counts[i] for i, name in enumerate(class_names)}


def _against(logits: np.ndarray, other: np.ndarray, rows: TestRows) -> dict[str, float | None]:
    """AUC of ``logits`` minus that of ``other`` on the same test rows, with a 95 % interval over groups."""
    estimate = estimate_auc(rows.labels, np.stack([logits, other], axis=2), rows.groups)
    if np.isnan(estimate.auc).any():
        return dict.fromkeys(("value", "low", "high"))
    low = difference_low(estimate, Z95)
    return {"value": float(estimate.auc[0] - estimate.auc[1]), "low": float(low[0, 1]), "high": float(-low[1, 0])}


def _baseline_entry(baseline: Baseline, best: Measured | None, rows: TestRows) -> dict[str, Any]:
    entry = baseline.entry(rows)
    if baseline.logits is None or best is None:
        return entry
    difference = _against(best.logits, baseline.logits, rows)
    return entry | {
        "best_minus_this": difference["value"],
        "best_minus_this_low": difference["low"],
        "best_minus_this_high": difference["high"],
    }


def _ensembles(
    sources: Sources, measured: list[Measured], curve: AucEstimate, best: Measured | None, rows: TestRows
) -> dict[str, Any]:
    """The primary readout's layers with the highest cross-validated AUCs, combined three ways, on the test rows."""
    primary = [j for j, m in enumerate(measured) if m.readout == sources.probes.primary]
    if len(primary) < 2 or np.isnan(curve.auc[primary]).any() or not len(rows.labels):
        return {}
    order = sorted(primary, key=lambda j: (-curve.auc[j], measured[j].layer))[:ENSEMBLE_LAYERS]
    members = sorted((measured[j] for j in order), key=lambda m: m.layer)
    sets = [sources.probes.sets[m.readout, m.layer] for m in members]
    raw = np.stack([m.logits for m in members], axis=1)
    calibrations = np.stack([s.calibrations for s in sets])
    calibrated = raw * calibrations[None, :, :, 0] + calibrations[None, :, :, 1]
    oof = np.stack([sources.oof.logits[m.readout, m.layer] for m in members], axis=1)
    probabilities = {
        "mean": combine_mean(calibrated),
        "vote": combine_vote(calibrated, np.stack([s.thresholds for s in sets])),
        "stacked": combine_stacked(raw, fit_stackers(oof, sources.oof.labels, sources.oof.groups)),
    }
    found = {}
    for method in METHODS:
        estimate = estimate_auc(rows.labels, probabilities[method][:, :, None], rows.groups)
        low, high = auc_interval(estimate)
        called = probabilities[method].argmax(axis=1)
        entry: dict[str, Any] = {
            "layers": [m.layer for m in members],
            "test_auc": finite(estimate.auc[0]),
            "test_auc_low": finite(low[0]),
            "test_auc_high": finite(high[0]),
            "test_accuracy": finite((called == rows.labels).mean()),
        }
        if best is not None:
            difference = _against(probabilities[method], best.logits, rows)
            entry |= {f"minus_best{'' if k == 'value' else '_' + k}": v for k, v in difference.items()}
        found[method] = entry
    return found


def _facts(sources: Sources, rows: TestRows) -> dict[str, Any]:
    """What the findings need beside the document."""
    recorded = sources.probes.manifest.details.get("layers", {})
    known = [(int(k), v["converged"]) for per in recorded.values() for k, v in per.items() if "converged" in v]
    folder, layer = sources.folder, sources.probes.layers[-1]
    learned = {g for split in ("train", "val") for g in folder.read(layer, split).groups}
    return {
        "control_limit": _control_limit(rows, len(sources.probes.class_names)),
        "unconverged": sorted({k for k, converged in known if not converged}) if known else None,
        "shared_groups": len(learned & set(folder.read(layer, "test").groups)),
    }


def _control_limit(rows: TestRows, n_classes: int) -> float | None:
    """A mean AUC of shuffled labels that chance does not reach: .5 and four standard errors (Mann-Whitney, no ties).

    Rows that share a shuffled label count once.
    """
    _, first = np.unique(cells_of(rows.labels, rows.groups), return_index=True)
    labels = rows.labels[first]
    sizes = [int((labels == c).sum()) for c in ([1] if n_classes == 2 else range(n_classes))]
    variances = [(len(labels) + 1) / (12 * m * (len(labels) - m)) for m in sizes if 0 < m < len(labels)]
    if not variances:
        return None
    return float(0.5 + _CONTROL_Z * np.sqrt(np.mean(variances) / (len(variances) * n_shuffles(n_classes))))
