"""What the PNG and the interactive curve have in common: colours, limits, places of labels, runs of bands."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import Any

# Okabe and Ito's, told apart by colour-blind readers.
READOUT_COLOURS = ("#0072B2", "#D55E00", "#009E73")
EVAL_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#009E73")
CONTROL_COLOUR = "#7A7A7A"


def y_limits(document: dict[str, Any]) -> tuple[float, float]:
    """Limits that hold every curve, its band and the baselines, with .5 always in sight and a margin above 1."""
    names = ("cv_auc_low", "cv_auc", "test_auc", "control_auc")
    values = [e[name] for e in document["layers"] for name in names if e[name] is not None]
    values += [v for e in document["layers"] for v in e["eval"].values() if v is not None]
    values += [b["test_auc"] for b in document["baselines"].values() if b["test_auc"] is not None]
    low = max(0.0, floor((min([0.5, *values]) - 0.02) * 20) / 20)
    return low, 1.0 + 0.075 * (1.0 - low)


def band_runs(entries: Sequence[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Name, first and last layer of each band of these entries, layers ascending; none where bands are not known."""
    found: list[tuple[str, int, int]] = []
    for e in entries:
        name = str(e.get("band") or "")
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1], e["layer"])
        elif name:
            found.append((name, e["layer"], e["layer"]))
    return found


def spread(values: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Places for labels near ascending ``values``, at least ``gap`` apart and inside low..high where they fit."""
    places = [float(v) for v in values]
    for _ in range(200):
        moved = False
        for i in range(1, len(places)):
            lacking = gap - (places[i] - places[i - 1])
            if lacking > 1e-9:
                places[i - 1] -= lacking / 2
                places[i] += lacking / 2
                moved = True
        if places and places[-1] > high:
            places[-1] = high
        if places and places[0] < low:
            places[0] = low
        if not moved:
            break
    return places
