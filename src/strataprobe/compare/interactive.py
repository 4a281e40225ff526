"""The layer curve as an interactive figure of the report: plain values for plotly.js, no plotly import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strataprobe.compare.curve_axes import CONTROL_COLOUR, EVAL_COLOURS, READOUT_COLOURS, band_runs, spread, y_limits
from strataprobe.compare.wording import (
    BASELINE_TITLES,
    best_entry,
    curve_name,
    curves_of,
    eval_names,
    eval_values,
    interval_words,
    three,
)

_EVAL_DASHES = ("dot", "dashdot", "longdash", "longdashdot")


def plotly_figure(document: dict[str, Any]) -> dict[str, Any]:
    """The layer curve as plotly's JSON; its colours suit light and dark, the page sets text and grid."""
    curves, name = curves_of(document), curve_name(document)
    traces: list[dict[str, Any]] = []
    for i, (readout, entries) in enumerate(curves.items()):
        traces += _readout_traces(readout, entries, READOUT_COLOURS[i % len(READOUT_COLOURS)], name, primary=i == 0)
    primary = curves[document["primary_readout"]]
    layers = [e["layer"] for e in primary]
    for i, elsewhere in enumerate(eval_names(primary)):
        dash = _EVAL_DASHES[(i + i // len(EVAL_COLOURS)) % len(_EVAL_DASHES)]
        line = {"color": EVAL_COLOURS[i % len(EVAL_COLOURS)], "dash": dash, "width": 2}
        traces.append(_line(f"on {elsewhere}", layers, eval_values(primary, elsewhere), line))
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
    edges = [min(layers) - 0.5, max(layers) + 0.5]
    lines, labels = _baseline_lines(document, edges, low, high)
    traces += lines
    stripes, names = _bands(primary)
    layout = {
        "margin": {"l": 50, "r": 170, "t": 10, "b": 45},
        "annotations": labels + names,
        "shapes": stripes,
        "xaxis": {
            "title": {"text": "layer"},
            "range": edges,
            "dtick": -(-len(layers) // 18),
            "tick0": max(layers),
            "zeroline": False,
            "showgrid": False,
        },
        "yaxis": {"title": {"text": "AUC"}, "range": [low, high], "zeroline": False, "tickmode": "array"} | _ticks(low),
        "legend": {"orientation": "h", "y": -0.18, "yanchor": "top", "x": 0},
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }
    return {"data": traces, "layout": layout}


def _ticks(low: float) -> dict[str, Any]:
    """Ticks from ``low`` to 1, none in the margin above."""
    step = 0.05 if low >= 0.8 else 0.1
    values = [round(1 - k * step, 2) for k in range(11) if 1 - k * step >= low - 1e-9]
    return {"tickvals": values, "ticktext": [f"{v:.2f}" if step < 0.1 else f"{v:.1f}" for v in values]}


def _bands(entries: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Stripes for the bands of layers and their names; nothing for one layer."""
    runs = band_runs(entries) if len(entries) > 1 else []
    stripe = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 0}, "layer": "below"}
    stripes = [
        stripe | {"x0": first - 0.5, "x1": last + 0.5, "fillcolor": "rgba(128,138,148,0.08)"}
        for _, first, last in runs[::2]
    ]
    words = {
        "yref": "paper",
        "y": 1,
        "yanchor": "top",
        "xref": "x",
        "showarrow": False,
        "font": {"size": 11},
        "opacity": 0.7,
    }
    return stripes, [words | {"x": (first + last) / 2, "text": name} for name, first, last in runs]


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
    readout: str, entries: Sequence[dict[str, Any]], colour: str, name: str, *, primary: bool
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
            "name": f"{readout}: {name}",
            "legendgroup": readout,
            "line": {"color": colour, "width": 2.5 if primary else 1.8, "dash": "solid" if primary else "dash"},
            "text": [_hover(e, name) for e in entries],
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
                "text": [_hover(e, name) for e in entries],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    return traces


def _hover(entry: dict[str, Any], name: str) -> str:
    return (
        f"layer {entry['layer']} (block index {entry['block_index']})"
        f"<br>{name} {interval_words(entry, 'cv_auc')}<br>test {interval_words(entry, 'test_auc')}"
    )


def _line(name: str, x: Sequence[float], y: Sequence[float | None], line: dict[str, Any]) -> dict[str, Any]:
    shown = name.replace("<", "&lt;")
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(y) == 1 or None in y else "lines",
        "x": list(x),
        "y": list(y),
        "name": shown,
        "line": line,
        "hovertemplate": "%{y:.3f}<extra>" + shown + "</extra>",
    }
