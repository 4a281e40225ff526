"""How a comparison document is read and spoken of, in the figure, the findings and the report alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, Literal

from strataprobe.store import span

BASELINE_TITLES = {
    "majority": "majority",
    "length": "text length",
    "tfidf": "TF-IDF",
    "lexicon": "lexicon",
    "layer_0": "layer 0 (embeddings)",
    "zero_shot": "asking the model",
}


Level = Literal["ok", "warning", "error", "skipped"]
Finding = dict[str, str]


def as_finding(code: str, level: Level, message: str) -> Finding:
    """A finding: a permanent code, a level, and a sentence that says what to do."""
    return {"code": code, "level": level, "message": message}


def curves_of(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Entries of ``layers`` by readout, the primary one first, layers ascending."""
    found: dict[str, list[dict[str, Any]]] = {document["primary_readout"]: []}
    for entry in document["layers"]:
        found.setdefault(entry["readout"], []).append(entry)
    return {readout: sorted(entries, key=lambda e: e["layer"]) for readout, entries in found.items()}


def best_entry(document: dict[str, Any]) -> dict[str, Any] | None:
    """The entry of the best layer in the primary readout, None when there is no best layer."""
    return next((e for e in primary_entries(document) if e["layer"] == document["best_layer"]), None)


def primary_entries(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries of the primary readout, layers ascending."""
    return sorted(
        (e for e in document["layers"] if e["readout"] == document["primary_readout"]), key=lambda e: e["layer"]
    )


def eval_names(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the texts from elsewhere that any of these layers was captured with, sorted."""
    return sorted({name for e in entries for name in e["eval"]})


def eval_values(entries: Iterable[dict[str, Any]], name: str) -> list[float | None]:
    """AUC on one of them at each layer, None where there is none."""
    return [e["eval"].get(name) for e in entries]


def interval_words(entry: dict[str, Any], name: str) -> str:
    """For example ".912 (.880 to .936)"."""
    return f"{three(entry[name])} ({three(entry[name + '_low'])} to {three(entry[name + '_high'])})"


def three(value: float | None) -> str:
    """Three decimals without the leading zero; "unknown" for None."""
    if value is None:
        return "unknown"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:.3f}"


def spaced(layers: Iterable[int]) -> str:
    """Layer numbers in short form with room after commas: "1-3, 7"."""
    return span(layers).replace(",", ", ")


def cross_validates(document: Mapping[str, Any]) -> bool:
    """Whether the AUCs of the curve are of cross-validation, not of the validation texts alone."""
    return document.get("n_folds") != 0


def curve_name(document: Mapping[str, Any]) -> str:
    """What the curve is, for a legend."""
    return "cross-validation" if cross_validates(document) else "validation"


def figure_title(document: dict[str, Any]) -> str:
    """What the figure shows, in one line."""
    measure = "AUC by layer" if len(document["classes"]) == 2 else "AUC by layer, mean over classes against the rest"
    return f"{document['recipe']}: {measure}"


def model_title(document: dict[str, Any]) -> str:
    """The model's id, or the name of its folder."""
    name = str(document["model"])
    return PurePath(name).name if PurePath(name).is_absolute() else name


def figure_note(document: dict[str, Any]) -> str:
    """The small type below the figure: how many texts, and where `last` reads when more than the text is there."""
    n = document["n_texts"]
    cv = n["train"] + n["val"]
    words = f"Cross-validation over {cv:,} texts, related ones kept together"
    if not cross_validates(document):
        words = f"Trained on {n['train']:,} texts, measured on {n['val']:,} validation texts"
    words += f"; the {n['test']:,} test texts played no part in choosing the layer."
    if "last" in document["readouts"]:
        if document.get("template") == "chat":
            words += "\n`last` reads where the model would go on: the curve shows when the answer arrives there."
        elif document.get("suffix"):
            words += "\n`last` reads where the suffix ends: the curve shows when the answer arrives there."
    return words


def percent(value: float | None) -> str:
    """For example "93.5 %"."""
    return "unknown" if value is None else f"{100 * value:.1f} %"


def p_value(value: float | None) -> str:
    """For example ".031" or "< .001"; "" for None."""
    if value is None:
        return ""
    return "< .001" if value < 0.001 else three(value)
