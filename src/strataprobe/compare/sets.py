"""Several probe sets side by side: where each concept and each class of it peaks, and what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from strataprobe.compare.choice import choose_layer
from strataprobe.compare.controls import NULL_FOLD_FACTOR
from strataprobe.compare.document import Sources
from strataprobe.compare.layers import finite, has_folds
from strataprobe.compare.sets_findings import sets_findings
from strataprobe.compare.sets_overlap import overlap_of, shown_classes, why_no_overlap
from strataprobe.compare.wording import best_entry, curve_name, primary_entries
from strataprobe.metrics import auc_interval, folded_auc

FORMAT_VERSION = 1
# Names of folders that a run has already beside where its comparison is written.
_TAKEN = ("data", "activations", "probes")


@dataclass(frozen=True)
class Member:
    """One of several sets: its ``name`` here, what it was made from, and its own comparison document."""

    name: str
    sources: Sources
    document: Mapping[str, Any]


def unique_names(names: Sequence[str]) -> list[str]:
    """The recipe names, a number behind those that come again: ["mood", "mood"] -> ["mood", "mood-2"]."""
    found: list[str] = []
    for name in names:
        candidate, n = name, 1
        while candidate in found or candidate in _TAKEN:
            n += 1
            candidate = f"{name}-{n}"
        found.append(candidate)
    return found


def sets_document(
    members: Sequence[Member], published: Sequence[Mapping[str, Any]] = (), *, seed: int = 0
) -> dict[str, Any]:
    """The document of several sets, of published curves, or of both: ``format_version``, ``sets``, ``side_by_side``.

    ``sets`` holds each set's own document by name. ``side_by_side`` has ``axis`` ("layer", or "depth" where models have
    different numbers of layers), ``curves`` (a summary of each set), ``classes`` (by set, the curve and best layer of
    each class), ``overlap`` (of each pair of sets), ``published`` (see ``read_published``), and ``findings``.
    """
    numbers = _numbers_of_layers(members)
    depths = {*numbers.values(), *(int(p["n_layers"]) for p in published)}
    side: dict[str, Any] = {
        "axis": "layer" if len(depths) == 1 and len(numbers) < 2 else "depth",
        "curves": [_curve_summary(m, numbers[m.document["model"]]) for m in members],
        "classes": {m.name: _class_rows(m, numbers[m.document["model"]], seed) for m in members},
        "overlap": [_overlap(a, b, seed) for a, b in combinations(members, 2)],
        "published": list(published),
    }
    side["findings"] = sets_findings(side)
    return {
        "format_version": FORMAT_VERSION,
        "sets": {m.name: dict(m.document) for m in members},
        "side_by_side": side,
    }


def _numbers_of_layers(members: Sequence[Member]) -> dict[str, int]:
    """The number of layers of each model, as far as any of its folders tells."""
    found: dict[str, int] = {}
    for m in members:
        model = m.document["model"]
        found[model] = max(found.get(model, 0), m.sources.folder.n_layers)
    return found


def _curve_summary(member: Member, n_layers: int) -> dict[str, Any]:
    """Where one concept peaks: its best and tied layers, and the curve of its primary readout."""
    document, entries = member.document, primary_entries(dict(member.document))
    best = best_entry(dict(document))
    return {
        "name": member.name,
        "recipe": document["recipe"],
        "model": document["model"],
        "readout": document["primary_readout"],
        "suffix": document["suffix"],
        "measured_in": curve_name(document),
        "n_classes": len(document["classes"]),
        "n_texts": document["n_texts"],
        "n_layers": n_layers,
        "best_layer": document["best_layer"],
        "best_block_index": document["best_block_index"],
        "best_depth": None if best is None else best["layer"] / n_layers,
        "tied_layers": document["tied_layers"],
        "cv_auc": None if best is None else best["cv_auc"],
        "cv_auc_low": None if best is None else best["cv_auc_low"],
        "cv_auc_high": None if best is None else best["cv_auc_high"],
        "test_auc": None if best is None else best["test_auc"],
        "layers": [e["layer"] for e in entries],
        "aucs": [e["cv_auc"] for e in entries],
        "lows": [e["cv_auc_low"] for e in entries],
        "highs": [e["cv_auc_high"] for e in entries],
    }


def _class_rows(member: Member, n_layers: int, seed: int) -> list[dict[str, Any]]:
    """For each class (of two, the second): its cross-validated AUC at each layer, its best layer and those tied with it.

    ``class``, ``best_layer`` (None where no layer beats chance and control), ``best_block_index``, ``best_depth``,
    ``cv_auc`` with its interval at that layer, ``tied_layers``, and ``aucs``, one for each layer of the set's curve.
    """
    sources, entries = member.sources, primary_entries(dict(member.document))
    layers, oof = [e["layer"] for e in entries], sources.oof
    whole = NULL_FOLD_FACTOR if has_folds(oof) else 1.0
    factors = np.array([max(whole - (e["half_agreement"] or 0.0), 1.0) for e in entries])
    controls = [0.5 if e["control_val_auc"] is None else e["control_val_auc"] for e in entries]
    found = []
    for column in shown_classes(sources.probes.class_names):
        logits = np.stack([oof.logits[sources.probes.primary, k][:, column] for k in layers], axis=1)
        estimate = folded_auc(oof.labels == column, logits, oof.groups, oof.folds).inflated(factors)
        low, high = auc_interval(estimate)
        choice = choose_layer(layers, estimate, controls, to_null=list(whole / factors), seed=seed)
        best = choice.best_layer
        at = None if best is None else layers.index(best)
        found.append(
            {
                "class": sources.probes.class_names[column],
                "best_layer": best,
                "best_block_index": None if best is None else best - 1,
                "best_depth": None if best is None else best / n_layers,
                "cv_auc": None if at is None else finite(estimate.auc[at]),
                "cv_auc_low": None if at is None else finite(low[at]),
                "cv_auc_high": None if at is None else finite(high[at]),
                "tied_layers": choice.tied_layers,
                "aucs": [finite(v) for v in estimate.auc],
            }
        )
    return found


def _overlap(a: Member, b: Member, seed: int) -> dict[str, Any]:
    reason = why_no_overlap(a.sources, b.sources)
    names = {"a": a.name, "b": b.name}
    return names | ({"reason": reason} if reason else overlap_of(a.sources, b.sources, seed=seed))
