"""What the figure and the page of several sets both draw, read out of their document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from strataprobe.compare.published import curve_of
from strataprobe.compare.sets_findings import PEAK_METRICS
from strataprobe.compare.wording import model_title

# Published metrics that share an axis with our AUCs.
SHARED_AXIS = ("auc", "sign_acc")
_LONGEST_TITLE = 60


@dataclass(frozen=True)
class Curve:
    """One curve: ``values`` at ``layers`` of a model of ``n_layers``; lows and highs where there is an interval."""

    name: str
    layers: list[int]
    values: list[float | None]
    n_layers: int
    best_layer: int | None
    lows: list[float | None] = field(default_factory=list)
    highs: list[float | None] = field(default_factory=list)
    tied_layers: list[int] = field(default_factory=list)
    is_published: bool = False

    @property
    def is_sparse(self) -> bool:
        """Whether the layers are too few and far between for a line from one to the next."""
        return len(self.layers) < 2 or self.layers[-1] - self.layers[0] > 4 * (len(self.layers) - 1)

    @property
    def best_value(self) -> float | None:
        """The value at the best layer."""
        return None if self.best_layer is None else self.values[self.layers.index(self.best_layer)]


@dataclass(frozen=True)
class HeatGroup:
    """The classes of one recipe, sorted by where they peak; ``rows`` have ``class``, ``aucs``, ``best_layer``."""

    name: str
    layers: list[int]
    n_layers: int
    rows: list[Mapping[str, Any]]


def auc_curves(side: Mapping[str, Any]) -> list[Curve]:
    """Our curves, then the published ones that share their axis."""
    ours = [
        Curve(
            f"{c['name']}: {c['measured_in']}, 95 % band",
            c["layers"],
            c["aucs"],
            c["n_layers"],
            c["best_layer"],
            c["lows"],
            c["highs"],
            c["tied_layers"],
        )
        for c in side["curves"]
    ]
    return ours + published_curves(side, SHARED_AXIS)


def published_curves(side: Mapping[str, Any], metrics: Sequence[str] = PEAK_METRICS) -> list[Curve]:
    """The published curves of these metrics."""
    return [
        Curve(
            f"{p['name']}, published: {c['concept'] + ', ' if c['concept'] else ''}{c['title']}",
            c["layers"],
            c["values"],
            p["n_layers"],
            c["best_layer"],
            is_published=True,
        )
        for p in side["published"]
        for c in curve_of(p, metrics)
    ]


def heat_groups(side: Mapping[str, Any]) -> list[HeatGroup]:
    """The classes of each recipe and of each published set that has them, best layer first."""
    found = [
        HeatGroup(c["name"], c["layers"], c["n_layers"], _by_peak(side["classes"][c["name"]], "cv_auc"))
        for c in side["curves"]
    ]
    for p in side["published"]:
        if p["classes"]:
            rows = _by_peak(p["classes"]["classes"], "best_auc")
            found.append(HeatGroup(f"{p['name']}, published", p["classes"]["layers"], p["n_layers"], rows))
    return found


def _by_peak(rows: Sequence[Mapping[str, Any]], auc: str) -> list[Mapping[str, Any]]:
    def place(row: Mapping[str, Any]) -> tuple[bool, int, float, str]:
        return row["best_layer"] is None, row["best_layer"] or 0, -(row[auc] or 0.0), str(row["class"])

    return sorted(rows, key=place)


def overlaps(side: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The pairs of sets whose directions were compared."""
    return [pair for pair in side["overlap"] if "reason" not in pair]


def place_of(layer: float, n_layers: int, axis: str) -> float:
    """Where a layer stands on the axis: its number, or its share of the depth."""
    return layer if axis == "layer" else layer / n_layers


def axis_title(axis: str) -> str:
    """The words below the axis."""
    if axis == "layer":
        return "layer (residual stream after the block)"
    return "layer as a share of the model's depth"


def axis_limits(side: Mapping[str, Any]) -> tuple[float, float]:
    """First and last place on the axis, half a layer beyond both ends."""
    curves = auc_curves(side) + published_curves(side)
    if side["axis"] != "layer":
        return 0.0, 1.0 + max(0.5 / c.n_layers for c in curves)
    layers = [k for c in curves for k in c.layers]
    return min(layers) - 0.5, max(layers) + 0.5


def models_title(side: Mapping[str, Any]) -> str:
    """The models of our sets, each once."""
    return ", ".join(dict.fromkeys(model_title(dict(c)) for c in side["curves"] if c["model"]))


def sets_title(side: Mapping[str, Any]) -> str:
    """One line that names what is compared."""
    names = [c["name"] for c in side["curves"]]
    if not names:
        return f"Published figures: {_joined([p['name'] for p in side['published']])}"
    theirs = " beside published figures" if side["published"] else ""
    return f"{_joined(names)}{theirs}: AUC by layer"


def _joined(names: Sequence[str]) -> str:
    words = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return words if len(words) <= _LONGEST_TITLE else f"{len(names)} sets"
