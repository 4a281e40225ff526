"""One self-contained HTML report of a comparison: no network, readable on a phone and in the dark.

Words and findings first, then the curve with its table, the measures, baselines and control, ensembles, calibration,
geometry, learning curve, text from elsewhere, the texts the layers get wrong, the page of the data audit, and how to
reproduce it all. Parts that the comparison does not hold are named at the end with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from strataprobe.compare.audit_page import audit_page
from strataprobe.compare.audit_values import N_UNFOLDED
from strataprobe.compare.interactive import plotly_figure
from strataprobe.compare.pages import environment, worst_first
from strataprobe.compare.reproduce import Reproduction
from strataprobe.compare.sections import TITLES, optional_parts, strips, titles_of, wrong_part
from strataprobe.compare.tables import baseline_rows, csv_link, layer_rows
from strataprobe.compare.wording import (
    BASELINE_TITLES,
    best_entry,
    cross_validates,
    curves_of,
    eval_names,
    figure_note,
    figure_title,
    interval_words,
    model_title,
    percent,
    primary_entries,
    spaced,
    three,
)

_ALWAYS = {"layers": "AUC by layer", "baselines": "Baselines and control", "wrong": "Texts the layers get wrong",
           "audit": "Data audit", "reproduce": "How to reproduce", "missing": "Not in this report"}  # fmt: skip
_ORDER = ("layers", "measures", "bands", "baselines", "ensembles", "calibration", "geometry", "learning", "shift",
          "wrong", "audit", "reproduce", "missing")  # fmt: skip
_TILES = {
    "cv_auc": "AUC, {cv}",
    "test_auc": "AUC, test",
    "test_auprc": "AUPRC",
    "test_accuracy": "accuracy",
    "test_f1": "F1",
    "test_recall_1fpr": "recall at 1 % false",
    "test_ece": "ECE",
}


def report_html(
    document: dict[str, Any],
    wrong: Mapping[str, Any] | None = None,
    audit: dict[str, Any] | None = None,
    again: Reproduction | None = None,
) -> str:
    """The report of a comparison document; ``wrong`` from ``wrong_examples``, ``audit`` from the data folder."""
    from plotly.offline import get_plotlyjs

    curves, best = curves_of(document), best_entry(document)
    findings = worst_first(document["findings"])
    parts, reasons = optional_parts(document)
    there = {*parts, *_ALWAYS} - (set() if reasons else {"missing"})
    cv_words = "cross-validated" if cross_validates(document) else "validation"
    start, drawn = strips([*([] if best is None else [best]), *document["baselines"].values()], "test_auc")
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            document=document,
            title=figure_title(document),
            note=figure_note(document),
            model=model_title(document),
            summary=summary_words(document),
            tiles=_tiles(best, cv_words),
            findings=findings,
            open_findings=[f for f in findings if f["level"] in ("error", "warning")],
            contents=[(name, (_ALWAYS | TITLES)[name]) for name in _ORDER if name in there],
            titles=TITLES,
            parts=parts,
            missing=[(words, reasons[name]) for name, words in titles_of(reasons)],
            cv_words=cv_words,
            n_unfolded=N_UNFOLDED,
            curves=curves,
            eval_names=eval_names(document["layers"]),
            tied=set(document["tied_layers"]),
            baseline_titles=BASELINE_TITLES,
            baseline_start=start,
            best_strip=None if best is None else drawn[0],
            baseline_strips=dict(zip(document["baselines"], drawn[0 if best is None else 1 :], strict=True)),
            baseline_csv=csv_link(baseline_rows(document)),
            control=_control(document),
            wrong=wrong_part(wrong, document),
            best=best,
            cross_validated_words=document["baselines"].get("tfidf", {}).get("cv_auc") is not None,
            page=audit_page(audit, document) if audit else None,
            again=again,
            facts=_facts(document),
            csv_link=csv_link(layer_rows(document)),
            figure_json=_embedded(plotly_figure(document)),
            plotly_js=Markup(get_plotlyjs()),
        )
    )


def summary_words(document: dict[str, Any]) -> list[str]:
    """A few sentences that tell the whole result, for the top of the report and for the terminal."""
    best, n = best_entry(document), document["n_texts"]
    classes = document["classes"]
    listed = " against ".join(classes) if len(classes) == 2 else f"{len(classes)} classes"
    model = model_title(document) or "a model"
    words = [
        f"Probes for {document['recipe']} ({listed}) were trained on {n['train']:,} texts, tuned on {n['val']:,} and "
        f"tested on {n['test']:,}, on layers {spaced(e['layer'] for e in document['layers'])} of {model}."
    ]
    if best is None:
        words.append("No layer carries the concept: none beats probes trained on shuffled labels.")
        return words
    measured = "in cross-validation" if cross_validates(document) else "on the validation texts"
    words.append(
        f"Layer {best['layer']} (block index {best['block_index']}, readout {best['readout']}) is best: AUC "
        f"{interval_words(best, 'cv_auc')} {measured} and {interval_words(best, 'test_auc')} on the test "
        f"texts, where {percent(best['test_accuracy'])} are put in the right class."
    )
    others = spaced(layer for layer in document["tied_layers"] if layer != best["layer"])
    if len(primary_entries(document)) > 1:
        layers = f"layer {others}" if others.isdecimal() else f"layers {others}"
        words.append("It is better than all others." if others == "none" else f"It cannot be told apart from {layers}.")
    known = {k: b["test_auc"] for k, b in document["baselines"].items() if b["test_auc"] is not None}
    if known.keys() - {"majority"}:
        top = max(known, key=lambda k: known[k])
        words.append(f"The strongest baseline, {BASELINE_TITLES.get(top, top)}, reaches {three(known[top])}.")
    return words


def _tiles(best: dict[str, Any] | None, cv_words: str) -> list[dict[str, str]]:
    """The measures of the best layer, each with its interval in words."""
    found = []
    for name, words in _TILES.items():
        if best is not None and best.get(name) is not None:
            low, high = best.get(f"{name}_low"), best.get(f"{name}_high")
            span = "" if low is None or high is None else f"{three(low)} to {three(high)}"
            found.append({"name": words.format(cv=cv_words), "value": three(best[name]), "span": span})
    return found


def _control(document: dict[str, Any]) -> dict[str, Any] | None:
    known = [e["control_auc"] for e in primary_entries(document) if e["control_auc"] is not None]
    return {"n": len(known), "low": min(known), "high": max(known)} if known else None


def _facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What went in, as names and words; backticks mark what is to be read letter by letter."""
    n, inputs = document["n_texts"], document["inputs"]
    rows = [
        ("texts", f"{n['train']:,} train, {n['val']:,} validation, {n['test']:,} test"),
        ("model", f"`{model_title(document)}`"),
        ("model revision", f"`{document['model_revision']}`" if document["model_revision"] else ""),
        ("readouts", ", ".join(document["readouts"])),
        ("prefix", _quoted(document.get("prefix"))),
        ("suffix", _quoted(document.get("suffix"))),
        ("template", str(document.get("template") or "")),
        ("seed", str(document["config"]["seed"])),
        ("probes, sha256 of their files", f"`{inputs['probes']}`"),
        ("activations, sha256 of their files", f"`{inputs['activations']}`"),
        ("versions", ", ".join(f"{name} {version}" for name, version in document["versions"].items())),
    ]
    return [(name, value) for name, value in rows if value]


def _quoted(text: str | None) -> str:
    return f"`{json.dumps(text, ensure_ascii=False)}`" if text else ""


def _embedded(value: Any) -> Markup:
    """JSON that is safe inside a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
