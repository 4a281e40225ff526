"""One self-contained HTML report of a comparison: no network, readable on a phone and in the dark.

Words and findings first, then the curve with its table, baselines, control, ensembles, the texts the best layer gets
most wrong, the page of the data audit, and how to reproduce it all.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from strataprobe.compare.audit_page import audit_page
from strataprobe.compare.interactive import plotly_figure
from strataprobe.compare.layers import Measured, TestRows
from strataprobe.compare.wording import (
    BASELINE_TITLES,
    best_entry,
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

N_EXAMPLES = 10
_LEVELS = ("error", "warning", "ok", "skipped")
_LAYER_COLUMNS = (
    "layer",
    "block_index",
    "readout",
    "cv_auc",
    "cv_auc_low",
    "cv_auc_high",
    "test_auc",
    "test_auc_low",
    "test_auc_high",
    "test_accuracy",
    "test_accuracy_low",
    "test_accuracy_high",
    "control_auc",
    "selectivity",
)


def report_html(
    document: dict[str, Any], examples: Sequence[dict[str, Any]] = (), audit: dict[str, Any] | None = None
) -> str:
    """The report of a comparison document; ``examples`` from ``wrong_examples``, ``audit`` from the data folder."""
    from plotly.offline import get_plotlyjs

    curves = curves_of(document)
    findings = sorted(document["findings"], key=lambda f: _LEVELS.index(f["level"]))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            document=document,
            title=figure_title(document),
            note=figure_note(document),
            model=model_title(document),
            summary=summary_words(document),
            findings=findings,
            open_findings=[f for f in findings if f["level"] in ("error", "warning")],
            curves=curves,
            eval_names=eval_names(document["layers"]),
            tied=set(document["tied_layers"]),
            baseline_titles=BASELINE_TITLES,
            examples=list(examples),
            best=best_entry(document),
            cross_validated_words=document["baselines"].get("tfidf", {}).get("cv_auc") is not None,
            page=audit_page(audit, document) if audit else None,
            csv_link=_csv_link(document),
            figure_json=_embedded(plotly_figure(document)),
            plotly_js=Markup(get_plotlyjs()),
        )
    )


@cache
def _environment() -> Environment:
    templates = resources.files("strataprobe.compare")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: (templates / name).read_text("utf-8")),
    )
    environment.filters |= {"three": three, "percent": percent, "code": _code, "breakable": _breakable}
    return environment


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
    words.append(
        f"Layer {best['layer']} (block index {best['block_index']}, readout {best['readout']}) is best: AUC "
        f"{interval_words(best, 'cv_auc')} in cross-validation and {interval_words(best, 'test_auc')} on the test "
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


def wrong_examples(
    document: dict[str, Any], measured: Sequence[Measured], rows: TestRows, texts: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The test texts that the best layer puts in the wrong class, the most confident first, ``N_EXAMPLES`` at most.

    Each has id, text, label, called (a class) and probability (of its label).
    """
    chosen = (document["primary_readout"], document["best_layer"])
    best = next((m for m in measured if (m.readout, m.layer) == chosen), None)
    if best is None:
        return []
    by_id = {str(row["id"]): str(row["text"]) for row in texts if row.get("split") == "test"}
    names = document["classes"]
    found = [
        {
            "id": rows.ids[i],
            "text": by_id.get(rows.ids[i], "(the text is not in texts.jsonl)"),
            "label": names[label],
            "called": names[best.called[i]],
            "probability": float(best.probabilities[i, label]),
        }
        for i, label in enumerate(rows.labels)
        if best.called[i] != label
    ]
    return sorted(found, key=lambda e: (e["probability"], e["id"]))[:N_EXAMPLES]


def _code(text: str) -> Markup:
    """Escaped text, with what stands between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))


def _breakable(text: str) -> Markup:
    """Escaped text that may be broken after underscores."""
    return Markup("_<wbr>").join(text.split("_"))


def _csv_link(document: dict[str, Any]) -> str:
    """The table of layers as CSV in a data: link."""
    names = eval_names(document["layers"])
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*_LAYER_COLUMNS, *(f"eval_{name}" for name in names)])
    for entry in document["layers"]:
        writer.writerow([*(entry[c] for c in _LAYER_COLUMNS), *(entry["eval"].get(name) for name in names)])
    return "data:text/csv;base64," + base64.b64encode(buffer.getvalue().encode()).decode()


def _embedded(value: Any) -> Markup:
    """JSON that is safe inside a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
