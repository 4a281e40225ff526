"""Bands of layers: early, middle and late are thirds of the model's blocks, and the last block is the final band.

Layer k of L is early where k <= L / 3, middle where k <= 2 L / 3, late above that and final where k = L. The output of
the last block is kept apart because it is shaped for the output head: what holds of late layers often fails there.
Where the activations do not tell how many blocks the model has, the highest layer there is stands for the last block.
"""

from __future__ import annotations

from typing import Any

BANDS = ("early", "middle", "late", "final")


def band_of(layer: int, n_layers: int) -> str:
    """The band of ``layer`` (1..L) in a model of ``n_layers`` blocks."""
    if layer >= n_layers:
        return "final"
    if 3 * layer <= n_layers:
        return "early"
    return "middle" if 3 * layer <= 2 * n_layers else "late"


def band_entries(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ``bands`` of ``comparison.json`` from the ``layers`` entries of one readout; bands without a layer left out.

    ``best_layer`` is the earliest of those with the highest cross-validated AUC.
    """
    found = []
    for band in BANDS:
        own = sorted((e for e in entries if e["band"] == band), key=lambda e: e["layer"])
        known = [e for e in own if e["cv_auc"] is not None]
        best = max(known, key=lambda e: e["cv_auc"], default=None)
        if own:
            found.append(
                {
                    "band": band,
                    "layers": [e["layer"] for e in own],
                    "best_layer": None if best is None else best["layer"],
                    "best_cv_auc": None if best is None else best["cv_auc"],
                    "mean_cv_auc": sum(e["cv_auc"] for e in known) / len(known) if known else None,
                }
            )
    return found
