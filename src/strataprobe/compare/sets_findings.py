"""What a comparison of several sets, or of published curves, found, in words.

| code | says |
| --- | --- |
| S001 | where each concept peaks |
| S002 | whether two concepts share the layers where they are best |
| S003 | where the classes of one recipe peak |
| S004 | whether the directions of two recipes overlap |
| S005 | what stands between two sets beside their concepts: another suffix, readout or model |
| S006 | where published curves peak |
| S007 | where published fits collapse |
| S008 | how our curve compares with the published one of the same concept |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from strataprobe.compare.published import curve_of
from strataprobe.compare.wording import Finding, as_finding, interval_words, spaced, three

_SHOWN = 3
# Published AUCs closer than this to the best one are called near it; they come without intervals.
_NEAR = 0.005
PEAK_METRICS = ("auc", "r2", "sign_acc")


def sets_findings(side: Mapping[str, Any]) -> list[Finding]:
    """Every finding of ``side_by_side``, in order of code."""
    curves = side["curves"]
    found = [_peak(curve) for curve in curves]
    found += [_shared(a, b) for a, b in combinations(curves, 2)]
    found += [f for name, rows in side["classes"].items() for f in _classes(name, rows)]
    found += [_overlap(pair) for pair in side["overlap"]]
    found += [f for a, b in combinations(curves, 2) for f in _apart(a, b)]
    for published in side["published"]:
        found += _published_peaks(published) + _collapse(published)
        found += [f for curve in curves for f in _beside_ours(curve, published)]
    return sorted(found, key=lambda f: f["code"])


def depth_words(layer: int, n_layers: int) -> str:
    """For example "layer 12 of 34"."""
    return f"layer {layer} of {n_layers}"


def _peak(curve: Mapping[str, Any]) -> Finding:
    name = curve["name"]
    if curve["best_layer"] is None:
        return as_finding("S001", "warning", f"{name}: no layer carries it beyond its control; see its own report.")
    return as_finding(
        "S001",
        "ok",
        f"{name} peaks at {depth_words(curve['best_layer'], curve['n_layers'])}, AUC "
        f"{interval_words(dict(curve), 'cv_auc')} in {curve['measured_in']}; that layer {_tied(curve)}.",
    )


def _tied(curve: Mapping[str, Any]) -> str:
    """What may be said of the best layer beside the others."""
    others = [k for k in curve["tied_layers"] if k != curve["best_layer"]]
    if others:
        return f"cannot be told from layer{'s' if len(others) > 1 else ''} {spaced(others)}"
    return "is the only one" if len(curve["layers"]) == 1 else "is better than every other"


def _shared(a: Mapping[str, Any], b: Mapping[str, Any]) -> Finding:
    names = f"{a['name']} and {b['name']}"
    if a["best_layer"] is None or b["best_layer"] is None:
        return as_finding("S002", "skipped", f"Whether {names} share layers cannot be said: one has no best layer.")
    if a["model"] != b["model"]:
        return as_finding(
            "S002",
            "ok",
            f"In share of depth, {a['name']} peaks at {a['best_depth']:.2f} and {b['name']} at {b['best_depth']:.2f}; "
            "layers of different models are not the same layers.",
        )
    both = sorted(set(a["tied_layers"]) & set(b["tied_layers"]))
    if both:
        few = "layer" if len(both) == 1 else "layers"
        words = (
            f"share their best layers as far as these texts can tell: {few} {spaced(both)} may be the best for both."
        )
        return as_finding("S002", "ok", f"{names} {words}")
    first, second = sorted((a, b), key=lambda c: c["best_layer"])
    return as_finding(
        "S002",
        "ok",
        f"{names} are best at different layers: {first['name']} at {spaced(first['tied_layers'])}, {second['name']} at "
        f"{spaced(second['tied_layers'])}, with no layer in both sets.",
    )


def _classes(name: str, rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    if len(rows) < 2:
        return []
    known = sorted((r for r in rows if r["best_layer"] is not None), key=lambda r: (r["best_layer"], -r["cv_auc"]))
    if not known:
        return [as_finding("S003", "warning", f"{name}: no class is above chance at any layer; add texts.")]
    layers = [r["best_layer"] for r in known]
    middle = layers[(len(layers) - 1) // 2]
    words = f"{name}: its classes peak from layer {layers[0]} to layer {layers[-1]}, half of them by layer {middle}"
    if layers[0] == layers[-1]:
        words = f"{name}: its classes all peak at layer {layers[0]}"
    else:
        words += f"; the earliest {_listed(known[:_SHOWN])}, the latest {_listed(known[::-1][:_SHOWN])}"
    missing = [str(r["class"]) for r in rows if r["best_layer"] is None]
    if missing:
        words += f"; {len(missing)} of {len(rows)} are above chance nowhere ({', '.join(missing[:_SHOWN])}"
        words += ", ...)" if len(missing) > _SHOWN else ")"
    always = set.intersection(*(set(r["tied_layers"]) for r in known))
    place = f"layer{'s' if len(always) > 1 else ''} {spaced(always)}"
    words += f"; any class may be best at {place}." if always else "; no layer may be best for all."
    return [as_finding("S003", "warning" if missing else "ok", words)]


def _listed(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{r['class']} ({r['best_layer']})" for r in rows)


def _overlap(pair: Mapping[str, Any]) -> Finding:
    names = f"{pair['a']} and {pair['b']}"
    if "reason" in pair:
        return as_finding("S004", "skipped", f"Directions of {names} were not compared: {_lower(pair['reason'])}")
    top = pair["pairs"][0]
    which = f"{top['a']} ({pair['a']}) and {top['b']} ({pair['b']})"
    strongest = f"{which} with cosine {signed(top['cosine'])} at layer {top['layer']}"
    if not top["above"]:
        return as_finding(
            "S004",
            "ok",
            f"Directions of {names} do not overlap beyond chance: the most alike are {strongest}, and probes of "
            f"shuffled labels reach {three(top['bound'])}.",
        )
    n, total = pair["n_pairs_above"], pair["n_pairs"]
    share = "the directions" if total == 1 else f"{n} of {total} pairs of directions"
    return as_finding(
        "S004",
        "ok",
        f"Directions of {names} overlap: {share} lie closer than probes of shuffled labels do at some layer, the "
        f"clearest {strongest} (shuffled labels reach {three(top['bound'])}); texts that hold both concepts give this as "
        "well as a direction that the model itself shares.",
    )


def signed(value: float) -> str:
    """Two decimals with the sign."""
    return f"{value:+.2f}".replace("0.", ".", 1)


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Finding]:
    differs = [
        f"{what} ({a[key]!r} and {b[key]!r})"
        for key, what in (("suffix", "suffix"), ("readout", "primary readout"), ("model", "model"))
        if a[key] != b[key]
    ]
    if not differs:
        return []
    return [
        as_finding(
            "S005",
            "warning",
            f"{a['name']} and {b['name']} differ in more than the concept, in {' and '.join(differs)}: where they "
            "peak may differ for that reason.",
        )
    ]


def _published_peaks(published: Mapping[str, Any]) -> list[Finding]:
    found = []
    for curve in curve_of(published, PEAK_METRICS):
        if curve["best_layer"] is None:
            continue
        values = np.array(curve["values"])
        subject = f"{published['name']}: the published {curve['title']} of {curve['concept'] or 'the probes'}"
        words = f"{subject} peaks at block index {curve['best_block_index']} (our layer {curve['best_layer']})"
        words += f", {number(curve['best_value'])}"
        if curve["metric"] == "auc":
            near = [k for k, v in zip(curve["layers"], values, strict=True) if v >= curve["best_value"] - _NEAR]
            words += f", and is within {three(_NEAR)} of that at our layers {spaced(near)}" if len(near) > 1 else ""
        lowest = int(values.argmin())
        words += f"; it is lowest at block index {curve['block_indexes'][lowest]}, {number(values[lowest])}."
        found.append(as_finding("S006", "ok", words if len(values) > 1 else f"{subject} is known at one layer only."))
    return found


def _collapse(published: Mapping[str, Any]) -> list[Finding]:
    found = []
    for curve in curve_of(published, ("r2",)):
        below = [b for b, v in zip(curve["block_indexes"], curve["values"], strict=True) if v < 0]
        if not below:
            continue
        values = dict(zip(curve["block_indexes"], curve["values"], strict=True))
        worst = min(below, key=lambda b: values[b])
        words = (
            f"{published['name']}: the R² of {curve['concept'] or 'the probes'} is below 0, worse than always answering "
            f"the mean, at {len(below)} of {len(values)} layers ({_blocks(below)}), and {number(values[worst])} at {worst}"
        )
        others = [c for c in curve_of(published, ("auc",)) if worst in c["block_indexes"]]
        for other in others:
            value = other["values"][other["block_indexes"].index(worst)]
            words += f", where the {other['title']} of {other['concept']} is {three(value)}"
        words += "; more likely a fit that went wrong than a layer without the concept."
        found.append(as_finding("S007", "warning", words))
    return found


def _blocks(indexes: Sequence[int]) -> str:
    return f"block index{'es' if len(indexes) > 1 else ''} {spaced(indexes)}"


def _beside_ours(curve: Mapping[str, Any], published: Mapping[str, Any]) -> list[Finding]:
    concept = str(curve["recipe"]).replace("_", " ")
    theirs = [c for c in curve_of(published, PEAK_METRICS) if c["concept"] == concept and c["best_layer"] is not None]
    if curve["best_layer"] is None or not theirs:
        return []
    other = theirs[0]
    depth = other["best_layer"] / published["n_layers"]
    return [
        as_finding(
            "S008",
            "ok",
            f"{concept}: ours peaks at {depth_words(curve['best_layer'], curve['n_layers'])} (depth "
            f"{curve['best_depth']:.2f}), a layer that {_tied(curve)}; the published {other['title']} "
            f"of {published['name']} at {depth_words(other['best_layer'], published['n_layers'])} (depth {depth:.2f}).",
        )
    ]


def number(value: float) -> str:
    """A published value: three decimals near 1, one where it is large."""
    return three(value) if abs(value) < 10 else f"{value:,.1f}"
