"""One self-contained HTML report of a comparison: no network, readable on a phone and in the dark.

Words and findings first, then the curve with its table, baselines, control, ensembles, the texts the best layer gets
most wrong, the data audit, and how to reproduce it all.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from strataprobe.compare.figures import CONTROL_COLOUR, EVAL_COLOURS, READOUT_COLOURS, spread, y_limits
from strataprobe.compare.layers import Measured, TestRows
from strataprobe.compare.wording import (
    BASELINE_TITLES,
    best_entry,
    curves_of,
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
_MAX_AUDIT_ROWS = 60
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
_EVAL_DASHES = ("dot", "dashdot", "longdash", "longdashdot")


def report_html(
    document: dict[str, Any], examples: Sequence[dict[str, Any]] = (), audit: dict[str, Any] | None = None
) -> str:
    """The report of a comparison document; ``examples`` from ``wrong_examples``, ``audit`` from the data folder."""
    from plotly.offline import get_plotlyjs

    template = resources.files("strataprobe.compare") / "report.html.j2"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"three": three, "percent": percent, "code": _code}
    curves = curves_of(document)
    findings = sorted(document["findings"], key=lambda f: _LEVELS.index(f["level"]))
    return environment.from_string(template.read_text("utf-8")).render(
        document=document,
        title=figure_title(document),
        note=figure_note(document),
        model=model_title(document),
        summary=summary_words(document),
        findings=findings,
        open_findings=[f for f in findings if f["level"] in ("error", "warning")],
        curves=curves,
        eval_names=sorted({name for e in document["layers"] for name in e["eval"]}),
        tied=set(document["tied_layers"]),
        baseline_titles=BASELINE_TITLES,
        examples=list(examples),
        audit=audit_rows(audit) if audit else [],
        audit_findings=_audit_findings(audit),
        csv_link=_csv_link(document),
        figure_json=_embedded(plotly_figure(document)),
        plotly_js=Markup(get_plotlyjs()),
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
    words.append(
        f"Layer {best['layer']} (block index {best['block_index']}, readout {best['readout']}) is best: AUC "
        f"{interval_words(best, 'cv_auc')} in cross-validation and {interval_words(best, 'test_auc')} on the test "
        f"texts, where {percent(best['test_accuracy'])} are put in the right class."
    )
    others = spaced(layer for layer in document["tied_layers"] if layer != best["layer"])
    if len(primary_entries(document)) > 1:
        tied = f"It cannot be told apart from layers {others}." if others != "none" else "It is better than all others."
        words.append(tied)
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


def plotly_figure(document: dict[str, Any]) -> dict[str, Any]:
    """The layer curve as plotly's JSON; its colours suit light and dark, the page sets text and grid."""
    curves = curves_of(document)
    traces: list[dict[str, Any]] = []
    for i, (readout, entries) in enumerate(curves.items()):
        traces += _readout_traces(readout, entries, READOUT_COLOURS[i % len(READOUT_COLOURS)], primary=i == 0)
    primary = curves[document["primary_readout"]]
    layers = [e["layer"] for e in primary]
    for i, name in enumerate(sorted({name for e in primary for name in e["eval"]})):
        line = {"color": EVAL_COLOURS[i % len(EVAL_COLOURS)], "dash": _EVAL_DASHES[i % len(_EVAL_DASHES)], "width": 2}
        traces.append(_line(f"on {name}", layers, [e["eval"].get(name) for e in primary], line))
    control = {"color": CONTROL_COLOUR, "dash": "dot", "width": 1.5}
    traces.append(_line("control: shuffled labels", layers, [e["control_auc"] for e in primary], control))
    best = best_entry(document)
    if best is not None:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [best["layer"]],
                "y": [best["cv_auc"]],
                "name": "chosen layer",
                "marker": {"symbol": "star", "size": 15, "color": "#F0E442", "line": {"color": "#000", "width": 1}},
                "hovertemplate": f"chosen: layer {best['layer']}<extra></extra>",
            }
        )
    low, high = y_limits(document)
    edges = [min(layers) - 0.6, max(layers) + 0.6]
    lines, labels = _baseline_lines(document, edges, low, high)
    traces += lines
    layout = {
        "margin": {"l": 50, "r": 170, "t": 10, "b": 45},
        "annotations": labels,
        "xaxis": {
            "title": {"text": "layer"},
            "range": edges,
            "dtick": -(-len(layers) // 18),
            "tick0": max(layers),
            "zeroline": False,
            "showgrid": False,
        },
        "yaxis": {"title": {"text": "AUC"}, "range": [low, high], "zeroline": False},
        "legend": {"orientation": "h", "y": -0.18, "yanchor": "top", "x": 0},
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }
    return {"data": traces, "layout": layout}


def _baseline_lines(
    document: dict[str, Any], edges: list[float], low: float, high: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A line for each baseline, and its name beside it; ``meta`` lets a narrow page put the names in the legend."""
    known = {k: b["test_auc"] for k, b in document["baselines"].items() if b["test_auc"] is not None}
    names = sorted(known, key=lambda k: known[k])
    places = spread([known[k] for k in names], gap=0.06 * (high - low), low=low, high=high)
    lines, labels = [], []
    for name, place in zip(names, places, strict=True):
        title = f"{BASELINE_TITLES.get(name, name)} {three(known[name])}"
        line = _line(title, edges, [known[name]] * 2, {"color": CONTROL_COLOUR, "width": 1})
        lines.append(line | {"showlegend": False, "meta": "baseline"})
        labels.append(
            {
                "x": 1.01,
                "xref": "paper",
                "xanchor": "left",
                "y": place,
                "yanchor": "middle",
                "showarrow": False,
                "text": title,
                "font": {"size": 12},
            }
        )
    return lines, labels


def _readout_traces(
    readout: str, entries: Sequence[dict[str, Any]], colour: str, *, primary: bool
) -> list[dict[str, Any]]:
    layers = [e["layer"] for e in entries]
    edge = {"type": "scatter", "mode": "lines", "x": layers, "line": {"width": 0}, "hoverinfo": "skip"}
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    band = {"showlegend": False, "legendgroup": readout}
    traces: list[dict[str, Any]] = [
        edge | band | {"y": [e["cv_auc_low"] for e in entries]},
        edge
        | band
        | {
            "y": [e["cv_auc_high"] for e in entries],
            "fill": "tonexty",
            "fillcolor": f"rgba({red},{green},{blue},0.18)",
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": layers,
            "y": [e["cv_auc"] for e in entries],
            "name": f"{readout}: cross-validation",
            "legendgroup": readout,
            "line": {"color": colour, "width": 2.5 if primary else 1.8, "dash": "solid" if primary else "dash"},
            "text": [_hover(e) for e in entries],
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]
    if primary:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": layers,
                "y": [e["test_auc"] for e in entries],
                "name": f"{readout}: held-out test",
                "marker": {"symbol": "circle-open", "size": 8, "color": colour},
                "text": [_hover(e) for e in entries],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    return traces


def _hover(entry: dict[str, Any]) -> str:
    return (
        f"layer {entry['layer']} (block index {entry['block_index']})"
        f"<br>cross-validation {interval_words(entry, 'cv_auc')}<br>test {interval_words(entry, 'test_auc')}"
    )


def _line(name: str, x: Sequence[float], y: Sequence[float | None], line: dict[str, Any]) -> dict[str, Any]:
    shown = name.replace("<", "&lt;")
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": list(y),
        "name": shown,
        "line": line,
        "hovertemplate": "%{y:.3f}<extra>" + shown + "</extra>",
    }


def audit_rows(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The plain values of a data audit as (name, value) pairs, nested names joined, long lists counted."""
    rows: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}, {key}" if prefix else str(key), inner)
        elif isinstance(value, list) and not all(isinstance(v, str | int | float) for v in value):
            rows.append((prefix, f"{len(value):,} entries"))
        elif isinstance(value, list):
            shown = ", ".join(_plain(v) for v in value[:10])
            rows.append((prefix, shown + (f" and {len(value) - 10:,} more" if len(value) > 10 else "") or "none"))
        else:
            rows.append((prefix, _plain(value)))

    walk("", {key: value for key, value in audit.items() if key not in ("findings", "format_version")})
    left_out = len(rows) - _MAX_AUDIT_ROWS
    shown = [(name.replace("_", " "), value) for name, value in rows[:_MAX_AUDIT_ROWS]]
    return shown + ([("further values", f"{left_out:,}, see data/audit.json")] if left_out > 0 else [])


def _audit_findings(audit: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """The audit's own coded findings, the gravest first; those of another form are left to the table."""
    found = (audit or {}).get("findings")
    usable = [f for f in found or [] if isinstance(f, Mapping) and {"code", "level", "message"} <= f.keys()]
    known = [{k: str(f[k]) for k in ("code", "level", "message")} for f in usable if f["level"] in _LEVELS]
    return sorted(known, key=lambda f: _LEVELS.index(f["level"]))


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _code(text: str) -> Markup:
    """Escaped text, with what stands between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))


def _csv_link(document: dict[str, Any]) -> str:
    """The table of layers as CSV in a data: link."""
    names = sorted({name for e in document["layers"] for name in e["eval"]})
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
