"""Findings beyond the curve: ensembles, learning curve, geometry, shift, calibration, and a curve without folds.

Each is for a researcher who will quote it, so it says what was measured, on what, and what follows.
"""

from __future__ import annotations

from typing import Any

from strataprobe.compare.wording import Finding, as_finding, best_entry, spaced, three

ENSEMBLE_NAMES = {"mean": "mean logit", "vote": "vote", "stacked": "stacked regression", "greedy": "greedy choice"}
# A probe moved to a neighbouring layer that keeps this share of its AUC above .5 uses the same direction there.
_CARRIED = 0.9
# A fall or a calibration error that is worth a warning.
_FALL = 0.10
_BADLY_CALIBRATED = 0.10
_PERFECT = 0.9995
# The level of the test of the best ensemble, shared among all that were tried (Bonferroni).
_LEVEL = 0.05


def ensemble_findings(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    """The finding with code C012."""
    if "ensembles" not in document or "single" not in document["ensembles"]:
        return [as_finding("C012", "skipped", "Layers were not combined, as there are fewer than two or no best one.")]
    found = document["ensembles"]
    known = {k: e for k, e in found.items() if e["n_layers"] > 1 and e["minus_best"] is not None}
    if not known:
        return [
            as_finding("C012", "skipped", "Ensembles were not compared with the best layer: the test lacks a class.")
        ]
    single = found["single"]
    if single["test_auc"] >= _PERFECT:
        words = f"Layer {single['layers'][0]} alone makes no mistake that an ensemble could mend"
        return [as_finding("C012", "ok", f"{words}: its AUC on the test texts is {three(single['test_auc'])}.")]
    top = max(known, key=lambda name: (known[name]["minus_best"], -known[name]["cost_blocks"]))
    entry = known[top]
    words = (
        f"the {ENSEMBLE_NAMES[top]} of layers {spaced(entry['layers'])} reaches AUC {three(entry['test_auc'])} on the "
        f"test texts, {_signed(entry['minus_best'])} ({_signed(entry['minus_best_low'])} to "
        f"{_signed(entry['minus_best_high'])}) against layer {single['layers'][0]} alone, for {entry['cost_blocks']} "
        f"blocks in place of {single['cost_blocks']}"
    )
    if entry["minus_best"] > 0 and entry["minus_best_p"] * len(known) < _LEVEL:
        return [as_finding("C012", "ok", f"Several layers are better than one: {words}.")]
    return [as_finding("C012", "ok", f"No ensemble is better than the best layer for certain: {words}; use one layer.")]


def learning_findings(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    """The findings with code C013."""
    found = document.get("learning_curve") or {}
    points = [p for p in found.get("points", []) if p["auc"] is not None]
    if len(points) < 2:
        reason = found.get("reason", "the texts are too few")
        return [as_finding("C013", "skipped", f"There is no learning curve: {reason}.")]
    first, last = points[0], points[-1]
    rise = (
        f"the AUC goes from {three(first['auc'])} with {first['n_texts']:,} training texts to {three(last['auc'])} with "
        f"all {last['n_texts']:,}"
    )
    if found["enough"] is None:
        made = as_finding("C013", "warning", f"More texts would still help: {rise}, and it has not levelled off.")
    else:
        words = f"From {found['enough']:,} texts on the learning curve is flat (within .01)"
        made = as_finding("C013", "ok", f"{words}: {rise}.")
    return [made, *(_own_finding(name, own) for name, own in found.get("own", {}).items() if own["points"])]


def _own_finding(name: str, own: dict[str, Any]) -> Finding:
    last = own["points"][-1]
    where = f"On {name}, the trained probe (AUC {three(own['generated_auc'])}) is worth"
    if own["matching_n"] is None:
        return as_finding(
            "C013",
            "ok",
            f"{where} more than {last['n_texts']:,} labelled texts of that kind (AUC {three(last['auc'])}).",
        )
    few = own["matching_n"] == own["points"][0]["n_texts"]
    return as_finding(
        "C013",
        "warning" if few else "ok",
        f"{where} {'no more than ' if few else 'about '}{own['matching_n']:,} labelled texts of that kind, and with "
        f"{last['n_texts']:,} a probe of its own reaches {three(last['auc'])}.",
    )


def geometry_findings(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    """The finding with code C014."""
    found = document.get("geometry") or {}
    if found.get("transfer_auc") is None or document["best_layer"] not in found["layers"]:
        reason = found.get("reason", "there is no best layer")
        return [as_finding("C014", "skipped", f"Directions were not compared between layers: {reason}.")]
    layers, at = found["layers"], found["layers"].index(document["best_layer"])
    row = found["transfer_auc"][at]
    if row[at] is None:
        return [as_finding("C014", "skipped", "Directions were not compared between layers: the test lacks a class.")]
    passing = document.get("choices", {}).get(document["primary_readout"], {}).get("passing_layers", layers)
    first, last = _carried(found["transfer_auc"], at, [layer in passing for layer in layers])
    best = layers[at]
    if first == last:
        return [
            as_finding(
                "C014",
                "ok",
                f"The direction of layer {best} is its own: on the layers beside it, its probe loses more than a tenth "
                "of what it ranks above chance, so use each layer's probe on that layer only.",
            )
        ]
    others = [found["cosine"][at][j] for j in range(first, last + 1) if j != at and found["cosine"][at][j] is not None]
    least = f" (cosine {three(min(others))} or more)" if others else ""
    return [
        as_finding(
            "C014",
            "ok",
            f"One direction serves layers {layers[first]} to {layers[last]}: the probe of layer {best} ranks the test "
            f"texts there with AUC {three(min(v for v in row[first : last + 1] if v is not None))} or more{least}.",
        )
    ]


def _carried(transfer: list[list[float | None]], at: int, passing: list[bool]) -> tuple[int, int]:
    """The widest run of positions about ``at`` on which its probe keeps most of what the layer's own probe reaches.

    A layer that does not carry the concept, not ``passing``, ends it: chance is easily reached.
    """

    def good(j: int) -> bool:
        moved, own = transfer[at][j], transfer[j][j]
        return passing[j] and moved is not None and own is not None and moved - 0.5 >= _CARRIED * (own - 0.5)

    first = last = at
    while first > 0 and good(first - 1):
        first -= 1
    while last + 1 < len(transfer) and good(last + 1):
        last += 1
    return first, last


def shift_findings(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    """The findings with code C015: what text from elsewhere does to the layer's place, accuracy and calibration."""
    found = document.get("shift") or {}
    others = [row for row in found.get("rows", []) if row["name"] != "test" and row["auc"] is not None]
    if not others:
        reason = found.get("reason", "no labelled text from elsewhere was given")
        return [as_finding("C015", "skipped", f"There is no shift to measure: {reason}.")]
    best = best_entry(document)
    made = []
    for row in others:
        problems = []
        if row["best_layer"] is not None and row["best_auc"] - row["auc"] > _FALL:
            problems.append(f"layer {row['best_layer']} would reach AUC {three(row['best_auc'])}")
        if best is not None and row["ece"] is not None and row["ece"] > _BADLY_CALIBRATED:
            problems.append(
                f"its probabilities are off by {three(row['ece'])} on average and its accuracy is "
                f"{three(row['accuracy'])}, so calibrate on such text before using them"
            )
        if problems:
            message = f"Moved to {row['name']}, layer {found['layer']} ranks texts with AUC {three(row['auc'])}; "
            made.append(as_finding("C015", "warning", f"{message}{'; '.join(problems)}."))
    if made:
        return made
    names = ", ".join(row["name"] for row in others)
    words = f"Layer {found['layer']} holds on {names}: no other layer is far better there, and its probabilities hold."
    return [as_finding("C015", "ok", words)]


def calibration_findings(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    """The finding with code C016."""
    classes = (document.get("calibration") or {}).get("classes") or {}
    known = {name: entry["ece"] for name, entry in classes.items() if entry["ece"] is not None}
    if not known:
        return [as_finding("C016", "skipped", "Calibration was not measured, as there is no best layer.")]
    worst = max(known, key=lambda name: known[name])
    layer, value = document["calibration"]["layer"], three(known[worst])
    chance = f"chance alone gives about {three(_chance_ece(document, worst))} on so many"
    of_worst = "" if len(known) == 1 else f" at most (class {worst})"
    if _BADLY_CALIBRATED < known[worst] <= 2 * _chance_ece(document, worst):
        words = f"The test texts are too few to judge the probabilities of layer {layer}: off by {value} on average"
        return [as_finding("C016", "warning", f"{words}{of_worst}, and {chance}.")]
    if known[worst] <= _BADLY_CALIBRATED:
        words = f"The probabilities of layer {layer} can be taken at their word: off by {value} on average{of_worst}"
        return [as_finding("C016", "ok", f"{words} on the test texts; {chance}.")]
    words = f"The probabilities of layer {layer} are off by {value} on average{of_worst} on the test texts"
    return [as_finding("C016", "warning", f"{words}: calibrate again on more labelled texts before relying on them.")]


def _chance_ece(document: dict[str, Any], name: str) -> float:
    """What a calibrated probe's ECE would be about, see ``metrics.expected_calibration_error``."""
    n, own = document["n_texts"]["test"], document["test_texts_by_class"].get(name, 0)
    share = own / n if n else 0.0
    bins = len(document["calibration"]["classes"][name]["bins"])
    return float(0.8 * (share * (1 - share) * bins / n) ** 0.5) if n else 0.0


def fold_findings(document: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    """The finding with code C017, where training did no cross-validation."""
    if document.get("n_folds", 1):
        return []
    n = document["n_texts"]["val"]
    return [
        as_finding(
            "C017",
            "warning",
            f"Training did no cross-validation: the curve is of the {n:,} validation texts, on which C and calibration "
            "were chosen, so it is a little too high and its intervals are wide; train with folds before quoting it.",
        )
    ]


def _signed(value: float) -> str:
    """For example "+.012"."""
    return f"{'-' if value < 0 else '+'}{three(abs(value))}"
