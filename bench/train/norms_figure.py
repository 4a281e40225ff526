"""The figure of ``python -m bench.train.norms``: AUC by the norm of a layer's activations."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from strataprobe.compare.print_style import png_bytes

# Okabe and Ito's colours; markers and line styles differ too, for a black-and-white printer
WAYS = {
    "strataprobe": ("strataprobe", "#0072B2", "o", "-"),
    "origin": ("origin's protocol", "#D55E00", "s", "-"),
    "origin, nothing rounded": ("the same weights, nothing rounded", "#D55E00", "s", (0, (2, 1.5))),
}
TITLES = {
    "mean": "A mean that all texts share",
    "stream": "In the shape of a residual stream",
    "plain": "Plain: no mean, every axis alike",
}


def draw(document: dict[str, Any]) -> bytes:
    """A panel a shape: medians of the repeats, with the span from the lowest to the highest; PNG bytes, 300 dpi."""
    return png_bytes(lambda: _figure(document))


def _figure(document: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(7.2, 3.1))
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(document["shapes"]), sharey=True))
    for axes, (shape, found) in zip(panels, document["shapes"].items(), strict=True):
        _draw_panel(axes, document, found)
        axes.set_title(TITLES[shape], fontsize=8, loc="left")
    panels[0].set_ylabel("AUC on fresh texts")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.06, 0.0), ncols=4, frameon=False, fontsize=7)
    figure.subplots_adjust(left=0.085, right=0.99, top=0.92, bottom=0.26, wspace=0.06)
    return figure


def _draw_panel(axes: Axes, document: dict[str, Any], found: dict[str, Any]) -> None:
    norms, bayes = document["norms"], document["bayes_auc"]
    axes.axhspan(bayes - document["allowed_gap"], bayes, color="#EEF1F4", linewidth=0)
    axes.axhline(bayes, color="#555555", linewidth=0.8, linestyle=(0, (5, 2)), label=f"best possible (Bayes), {bayes}")
    for way, (label, colour, marker, line) in WAYS.items():
        values = np.array(found["aucs"][way])
        low, high = values.min(axis=0), values.max(axis=0)
        if line == "-":
            axes.fill_between(norms, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            norms,
            found["medians"][way],
            color=colour,
            marker=marker,
            markersize=3.5,
            markerfacecolor=colour if line == "-" else "white",
            markeredgewidth=0.8,
            linewidth=1.2,
            linestyle=line,
            label=label,
        )
    axes.set_xscale("log")
    axes.set_xlabel("norm of the layer's activations")
    axes.set_xticks([10.0**k for k in range(1, 6)], ["10", "10²", "10³", "10⁴", "10⁵"])
    axes.minorticks_off()
    axes.set_ylim(min(0.68, axes.get_ylim()[0]), 1.0)
