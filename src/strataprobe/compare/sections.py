"""The parts of the report that a comparison may or may not hold: each made ready for the page, or the reason it is not.

Nothing is escaped here but the figures; the template does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import floor
from typing import Any

from strataprobe.compare import tables
from strataprobe.compare.audit_values import strip_of
from strataprobe.compare.figures_svg import colour_scale, heat_map, hits, learning_curve, reliability
from strataprobe.compare.wording import best_entry, primary_entries, spaced

Part = dict[str, Any]

TITLES = {
    "measures": "Measures on the test texts",
    "bands": "Bands of layers",
    "ensembles": "Several layers together",
    "calibration": "Calibration",
    "geometry": "How the layers' directions lie",
    "learning": "Learning curve",
    "shift": "Text from elsewhere",
}
ENSEMBLE_TITLES = {
    "single": "best layer alone",
    "mean": "mean of calibrated logits",
    "vote": "vote",
    "stacked": "stacked on out-of-fold logits",
    "greedy": "greedy by validation",
}
N_DIAGRAMS = 6
_OLDER = "this comparison was made by an earlier version, which did not measure it; compare again to have it"


def optional_parts(document: Mapping[str, Any]) -> tuple[dict[str, Part], dict[str, str]]:
    """The parts that are there by name, and the reason for each that is not."""
    makers: dict[str, Callable[[Mapping[str, Any]], Part | str]] = {
        "measures": _measures,
        "bands": _bands,
        "ensembles": _ensembles,
        "calibration": _calibration,
        "geometry": _geometry,
        "learning": _learning,
        "shift": _shift,
    }
    made = {name: make(document) for name, make in makers.items()}
    parts = {name: part for name, part in made.items() if not isinstance(part, str)}
    return parts, {name: part for name, part in made.items() if isinstance(part, str)}


def wrong_part(wrong: Mapping[str, Any] | None, document: Mapping[str, Any]) -> Part | None:
    """Texts put in the wrong class, with a strip of the layers that do so; None where they were not looked for."""
    if not wrong or not wrong["layers"]:
        return None
    layers = [entry["layer"] for entry in wrong["layers"]]
    best = layers.index(document["best_layer"]) if document["best_layer"] in layers else None
    shown = []
    for text in wrong["texts"]:
        missed = [called != text["label"] for called in text["called"]]
        at_best = {} if best is None else {"called": text["called"][best], "probability": text["probabilities"][best]}
        names = spaced(k for k, m in zip(layers, missed, strict=True) if m)
        shown.append(dict(text) | at_best | {"n_wrong": sum(missed), "missed": names, "strip": hits(missed, best)})
    rows = [
        e | {"worst": [shown[i] | {"probability": shown[i]["probabilities"][j]} for i in e["worst"]]}
        for j, e in enumerate(wrong["layers"])
    ]
    return {
        "best": [shown[i] for i in wrong["best"]],
        "shared": [shown[i] for i in wrong["shared"]],
        "layers": rows,
        "n_layers": len(layers),
        "n_tested": wrong["n_tested"],
        "csv": tables.csv_link(tables.wrong_rows(wrong)) if shown else "",
    }


def strips(entries: Sequence[Mapping[str, Any]], name: str) -> tuple[float, list[Any]]:
    """Where the scale starts, a multiple of .05, and a strip from there to 1 for each entry (None without a value)."""
    known = [v for e in entries for v in (e.get(name), e.get(f"{name}_low")) if v is not None]
    start = max(0.0, floor(min(known, default=0.5) * 20 + 1e-9) / 20)
    start = min(start, 0.95)
    return start, [strip_of(e.get(f"{name}_low"), e.get(name), e.get(f"{name}_high"), start, 1.0) for e in entries]


def _content(document: Mapping[str, Any], name: str, needed: str) -> Any:
    """The value of that name where it holds what is needed, else the reason in words."""
    if name not in document:
        return _OLDER
    value = document[name]
    if isinstance(value, Mapping) and value.get(needed):
        return value
    if isinstance(value, Mapping) and value.get("reason"):
        return str(value["reason"])
    return "there is no best layer" if document["best_layer"] is None else "there was nothing to measure"


def _measures(document: Mapping[str, Any]) -> Part | str:
    entries = primary_entries(dict(document))
    if not any("test_auprc" in e for e in entries):
        return _OLDER
    if all(e.get(f"test_{name}") is None for e in entries for name in tables.MEASURES):
        return "the test texts lack a class"
    return {"entries": entries, "best": best_entry(dict(document))}


def _bands(document: Mapping[str, Any]) -> Part | str:
    if "bands" not in document:
        return _OLDER
    found = document["bands"]
    return {"rows": found} if found else "no layer was measured"


def _ensembles(document: Mapping[str, Any]) -> Part | str:
    found = document["ensembles"] or {}
    order = [*(name for name in ENSEMBLE_TITLES if name in found), *(n for n in found if n not in ENSEMBLE_TITLES)]
    entries = {name: found[name] for name in order if _measured(found[name])}
    if not entries:
        few = len(primary_entries(dict(document))) < 2
        return str(found.get("reason") or ("there is one layer only" if few else "they could not be measured"))
    start, drawn = strips(list(entries.values()), "test_auc")
    rows = [
        {
            "name": name,
            "title": ENSEMBLE_TITLES.get(name, name),
            "entry": e,
            "strip": strip,
            "layers": spaced(e["layers"]),
        }
        for (name, e), strip in zip(entries.items(), drawn, strict=True)
    ]
    tested = any(e.get("minus_best_p") is not None for e in entries.values())
    return {"rows": rows, "start": start, "tested": tested, "csv": tables.csv_link(tables.ensemble_rows(entries))}


def _measured(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.get("test_auc") is not None


def _calibration(document: Mapping[str, Any]) -> Part | str:
    found = _content(document, "calibration", "classes")
    if isinstance(found, str):
        return found
    rows = [{"name": name, "entry": e} for name, e in found["classes"].items()]
    # Where there are many classes, those whose probabilities can be trusted least are drawn.
    drawn = sorted(rows, key=lambda row: -(row["entry"]["ece"] or 0.0))[:N_DIAGRAMS]
    return {
        "layer": found["layer"],
        "rows": rows,
        "drawn": [
            {"name": row["name"], "figure": reliability(row["entry"]["bins"], title=f"reliability of {row['name']}")}
            for row in drawn
        ],
        "csv": tables.csv_link(tables.calibration_rows(found)),
    }


def _geometry(document: Mapping[str, Any]) -> Part | str:
    found = _content(document, "geometry", "cosine")
    if isinstance(found, str):
        return found
    layers = found["layers"]
    across = ("direction of layer", "direction of layer")
    return {
        "readout": found["readout"],
        "cosine": heat_map(found["cosine"], layers, centre=0.0, reach=1.0, axes=across),
        "cosine_scale": colour_scale("cosine-scale", ("-1", "0", "1")),
        "transfer": heat_map(
            found["transfer_auc"], layers, centre=0.5, reach=0.5, axes=("tested on layer", "probe of layer")
        ),
        "transfer_scale": colour_scale("transfer-scale", ("0", ".5", "1")),
        "csv": tables.csv_link(tables.geometry_rows(found)),
    }


def _learning(document: Mapping[str, Any]) -> Part | str:
    found = _content(document, "learning_curve", "points")
    if isinstance(found, str):
        return found
    own = [
        {
            "name": name,
            "entry": e,
            "figure": learning_curve(e["points"], title=f"AUC on {name}", level=e.get("generated_auc"))
            if e.get("points")
            else None,
        }
        for name, e in found.get("own", {}).items()
    ]
    return {
        "entry": found,
        "figure": learning_curve(found["points"], title="AUC on the test texts by number of training texts"),
        "repeats": sorted({p["n_repeats"] for p in found["points"] if p.get("n_repeats")}),
        "own": own,
        "csv": tables.csv_link(tables.learning_rows(found)),
    }


def _shift(document: Mapping[str, Any]) -> Part | str:
    found = _content(document, "shift", "rows")
    if isinstance(found, str):
        return found
    if not any(row["name"] != "test" for row in found["rows"]):
        return "no text from elsewhere was given; give some with --eval NAME=FILE when capturing"
    start, drawn = strips(found["rows"], "auc")
    rows = [{"entry": row, "strip": strip} for row, strip in zip(found["rows"], drawn, strict=True)]
    return {"entry": found, "rows": rows, "start": start, "csv": tables.csv_link(tables.shift_rows(found))}


def titles_of(names: Iterable[str]) -> list[tuple[str, str]]:
    """(name, title) in the order of the page."""
    return [(name, title) for name, title in TITLES.items() if name in set(names)]
