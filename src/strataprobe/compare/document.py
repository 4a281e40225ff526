"""The comparison document: everything the figure and the report are made from, as plain JSON values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from strataprobe.compare.bands import band_entries
from strataprobe.compare.baselines import Baseline, measure_baselines
from strataprobe.compare.calibration_curve import calibration_entry
from strataprobe.compare.choice import LayerChoice, choose_layer
from strataprobe.compare.controls import cells_of, n_controls
from strataprobe.compare.ensemble_table import ensemble_entries
from strataprobe.compare.findings import collect_findings
from strataprobe.compare.geometry import geometry_entry
from strataprobe.compare.layers import (
    Measured,
    TestRows,
    cross_validated,
    curve_entries,
    has_folds,
    labelled,
    labelled_groups,
    null_factors,
    on_test,
    penalties_of,
)
from strataprobe.compare.learning import Trained, learning_entry
from strataprobe.compare.paired import against
from strataprobe.compare.shift import eval_curves, row_name, shift_entry
from strataprobe.compare.subsets import Labelled
from strataprobe.metrics import AucEstimate
from strataprobe.probes.files import Oof, TrainedProbes
from strataprobe.progress import note
from strataprobe.recipe import Recipe
from strataprobe.store import ActivationFolder, LayerRows, layer_file_name

FORMAT_VERSION = 4
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
    entries = curve_entries(measured, curve, test, rows, folder.n_layers)
    to_null = null_factors(sources.oof, measured)
    choices = {}
    for readout in probes.readouts:
        columns = [j for j, key in enumerate(keys) if key[0] == readout]
        control = [measured[j].controls.val_auc for j in columns]
        layers = [keys[j][1] for j in columns]
        choice = choose_layer(layers, _subset(curve, columns), control, to_null=to_null[columns].tolist(), seed=seed)
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
        "n_folds": len(np.unique(sources.oof.folds)) if has_folds(sources.oof) else 0,
        "layers": entries,
        "bands": band_entries([e for e in entries if e["readout"] == probes.primary]),
        "baselines": {b.name: _baseline_entry(b, best, rows) for b in baselines},
        "ensembles": _ensembles(sources, measured, curve, best, rows),
        "geometry": _geometry(probes, measured),
    }
    document |= _of_best(sources, best, entries, rows, seed)
    document["findings"] = collect_findings(document, _facts(sources, rows))
    return document


def _subset(estimate: AucEstimate, columns: list[int]) -> AucEstimate:
    return estimate.columns(columns)


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


def _baseline_entry(baseline: Baseline, best: Measured | None, rows: TestRows) -> dict[str, Any]:
    entry = baseline.entry(rows)
    if baseline.logits is None or best is None:
        return entry
    difference = against(best.logits, baseline.logits, rows)
    return entry | {
        "best_minus_this": difference["value"],
        "best_minus_this_low": difference["low"],
        "best_minus_this_high": difference["high"],
    }


def _ensembles(
    sources: Sources, measured: list[Measured], curve: AucEstimate, best: Measured | None, rows: TestRows
) -> dict[str, Any]:
    columns = [j for j, m in enumerate(measured) if m.readout == sources.probes.primary]
    own = [measured[j] for j in columns]
    sets = [sources.probes.sets[m.readout, m.layer] for m in own]
    return ensemble_entries(sets, sources.oof, own, curve.auc[columns], best, rows)


def _geometry(probes: TrainedProbes, measured: list[Measured]) -> dict[str, Any]:
    own = [m for m in measured if m.readout == probes.primary]
    sets = [probes.sets[m.readout, m.layer] for m in own]
    return geometry_entry(probes.primary, [m.layer for m in own], sets, [m.transfer for m in own])


def _of_best(
    sources: Sources, best: Measured | None, entries: list[dict[str, Any]], rows: TestRows, seed: int
) -> dict[str, Any]:
    """The sections about the best layer of the primary readout: its learning curve, shift and calibration."""
    probes, folder = sources.probes, sources.folder
    if best is None:
        absent: dict[str, Any] = {"layer": None, "readout": None, "points": [], "enough": None, "own": {}}
        return {
            "learning_curve": absent | {"reason": "there is no best layer"},
            "shift": shift_entry(sources.name, None, {}, {}),
            "calibration": calibration_entry(None, rows.labels, np.zeros((0, 0))),
        }
    probe_set = probes.sets[best.readout, best.layer]
    note("compare: measuring the learning curve and the shift")
    texts = {"test": _labelled(folder.read(best.layer, "test", best.readout))}
    for name in folder.eval_names:
        if (folder.path / layer_file_name(best.layer, name)).is_file():
            texts[row_name(name)] = _labelled(folder.read_eval(best.layer, name, best.readout))
    curves = eval_curves([e for e in entries if e["readout"] == best.readout])
    return {
        "learning_curve": _learning(sources, best, texts, seed),
        "shift": shift_entry(sources.name, probe_set, texts, curves),
        "calibration": calibration_entry(probe_set, rows.labels, best.probabilities),
    }


def _learning(sources: Sources, best: Measured, texts: dict[str, Labelled], seed: int) -> dict[str, Any]:
    place: dict[str, Any] = {"layer": best.layer, "readout": best.readout}
    family = sources.probes.manifest.config.get("probe", "logistic")
    if family != "logistic":
        absent: dict[str, Any] = {"points": [], "enough": None, "own": {}}
        return place | absent | {"reason": f"it is measured of logistic probes, and these are {family}"}
    pool = _labelled(sources.folder.read(best.layer, "train", best.readout))
    trained = Trained(best.logits, len(pool.labels), penalties_of(sources.probes, best.readout, best.layer))
    own = {name: rows for name, rows in texts.items() if name != "test"}
    logits_of = sources.probes.sets[best.readout, best.layer].logits
    return learning_entry(pool, texts["test"], trained, logits_of, own, place, seed=seed)


def _labelled(rows: LayerRows) -> Labelled:
    return Labelled(*labelled(rows), labelled_groups(rows))


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
    return float(0.5 + _CONTROL_Z * np.sqrt(np.mean(variances) / n_controls(n_classes)))
