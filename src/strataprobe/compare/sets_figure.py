"""The figure of several sets for a paper: curves on one axis, classes by layer, and how far directions overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from strataprobe.compare.print_style import png_bytes
from strataprobe.compare.sets_view import (
    Curve,
    HeatGroup,
    auc_curves,
    axis_limits,
    axis_title,
    heat_groups,
    models_title,
    overlaps,
    place_of,
    published_curves,
    sets_title,
)

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A")
HEAT_COLOURS = "cividis"
DASHES: tuple[Any, ...] = ((0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))
N_PAIR_LINES = 3
_WIDTH_IN = 7.2
_ROW_IN = 0.125
_LEFT_IN, _RIGHT_IN = 1.55, 0.85
_GREY = "#7A7A7A"


def sets_png(document: Mapping[str, Any]) -> bytes:
    """The figure of a document of several sets as PNG bytes, 300 dpi; the same document gives the same bytes."""
    return png_bytes(lambda: sets_figure(document["side_by_side"]))


def sets_figure(side: Mapping[str, Any]) -> Figure:
    """The figure as a matplotlib object of its own, panels below one another on one axis of layers."""
    groups = heat_groups(side)
    n_rows = sum(len(g.rows) for g in groups) + max(len(groups) - 1, 0)
    curves, collapsed, pairs = auc_curves(side), published_curves(side, ("r2",)), overlaps(side)
    heights = [("curves", 2.3 + 0.14 * len(curves))] if curves else []
    heights += [("r2", 1.25)] if collapsed else []
    heights += [("heat", max(_ROW_IN * n_rows, 0.35))] if groups else []
    heights += [("overlap", 1.45 + 0.14 * min(len(pairs) * (N_PAIR_LINES + 2), 12))] if pairs else []
    gap, top, bottom = 0.75, 0.55, 0.5
    total = top + bottom + sum(h for _, h in heights) + gap * (len(heights) - 1)
    figure = Figure(figsize=(_WIDTH_IN, total))
    FigureCanvasAgg(figure)
    edge = total - top
    draw = {
        "curves": lambda axes: _draw_curves(axes, curves, side["axis"]),
        "r2": lambda axes: _draw_collapse(axes, collapsed, side["axis"]),
        "heat": lambda axes: _draw_heat(figure, axes, groups, side["axis"]),
        "overlap": lambda axes: _draw_overlap(axes, pairs, side),
    }
    for i, (name, height) in enumerate(heights):
        legend = {"curves": 0.14 * len(curves), "overlap": 0.14 * min(len(pairs) * (N_PAIR_LINES + 2), 12)}.get(
            name, 0.0
        )
        box = (_LEFT_IN, edge - height + legend, _WIDTH_IN - _LEFT_IN - _RIGHT_IN, height - legend)
        axes = figure.add_axes((box[0] / _WIDTH_IN, box[1] / total, box[2] / _WIDTH_IN, box[3] / total))
        axes.set_xlim(*axis_limits(side))
        draw[name](axes)
        _finish(axes, side, f"({'abcd'[i]})" if len(heights) > 1 else "")
        edge -= height + gap
    figure.text(0.02, 1 - 0.17 / total, sets_title(side), fontsize=9.5, fontweight="bold", va="center")
    figure.text(0.985, 1 - 0.17 / total, models_title(side), fontsize=7, color="#444444", va="center", ha="right")
    return figure


def _draw_curves(axes: Axes, curves: Sequence[Curve], axis: str) -> None:
    known = [v for c in curves for v in [*c.values, *c.lows] if v is not None]
    axes.set_ylim(max(0.0, np.floor((min([0.5, *known]) - 0.02) * 20) / 20), 1.012)
    low, high = axes.get_ylim()
    n_ours = sum(not c.is_published for c in curves)
    for i, curve in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        x = [place_of(k, curve.n_layers, axis) for k in curve.layers]
        y = np.array(curve.values, dtype=np.float64)
        if curve.lows:
            band = np.array([curve.lows, curve.highs], dtype=np.float64)
            axes.fill_between(x, band[0], band[1], color=colour, alpha=0.15, linewidth=0, zorder=2)
        style: Any = DASHES[(i - n_ours) % len(DASHES)] if curve.is_published else "-"
        style = "none" if curve.is_sparse else style
        axes.plot(x, y, color=colour, linewidth=1.3, linestyle=style, marker="o", markersize=2.6, label=curve.name)
        _mark_best(axes, curve, axis, colour)
        for layer in curve.tied_layers:
            ends = [place_of(layer + d, curve.n_layers, axis) for d in (-0.5, 0.5)]
            foot = low + (0.018 + 0.022 * i) * (high - low)
            axes.plot(ends, [foot, foot], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=6)
    mixed = any(c.is_published and "sign" in c.name for c in curves)
    axes.set_ylabel("AUC, or as named below" if mixed else "AUC")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    _legend(axes, "bars at the foot: layers that cannot be told from the best" if n_ours else "")


def _mark_best(axes: Axes, curve: Curve, axis: str, colour: str) -> None:
    if curve.best_layer is None or curve.best_value is None:
        return
    x = place_of(curve.best_layer, curve.n_layers, axis)
    axes.plot(x, curve.best_value, marker="*", markersize=9, color=colour, markeredgecolor="black", markeredgewidth=0.6)
    axes.annotate(
        str(curve.best_layer),
        (x, curve.best_value),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        fontsize=6.5,
        zorder=8,
    )


def _draw_collapse(axes: Axes, curves: Sequence[Curve], axis: str) -> None:
    axes.set_yscale("symlog", linthresh=1.0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")  # the scale's own labels are maths
    axes.axhline(0.0, color=_GREY, linewidth=0.6)
    for i, curve in enumerate(curves):
        x = [place_of(k, curve.n_layers, axis) for k in curve.layers]
        y = np.array(curve.values, dtype=np.float64)
        axes.plot(
            x,
            y,
            color=COLOURS[(i + 1) % len(COLOURS)],
            linewidth=1.2,
            linestyle="none" if curve.is_sparse else "-",
            marker="o",
            markersize=2.4,
            label=curve.name,
        )
    lowest = min(v for c in curves for v in c.values if v is not None)
    axes.set_ylim(min(-1.0, 1.6 * lowest), 1.6)
    ticks = [t for t in (-1000, -100, -10, -1, 0, 1) if t >= min(-1.0, 1.6 * lowest)]
    axes.set_yticks(ticks, [f"{t:,}".replace("-", "−") for t in ticks])
    axes.set_ylabel("R² (−1 to 1 linear)")
    axes.legend(frameon=False, fontsize=6.5, loc="lower left")


def _draw_heat(figure: Figure, axes: Axes, groups: Sequence[HeatGroup], axis: str) -> None:
    known = [v for g in groups for row in g.rows for v in row["aucs"] if v is not None]
    low, high = np.floor(min([0.95, *known]) * 20) / 20, 1.0
    top, ticks, names = 0, [], []
    image = None
    for group in groups:
        size = len(group.rows)
        cells = np.full((size, group.n_layers), np.nan)
        for i, row in enumerate(group.rows):
            for layer, value in zip(group.layers, row["aucs"], strict=True):
                cells[i, layer - 1] = np.nan if value is None else value
        edges = [place_of(k + 0.5, group.n_layers, axis) for k in range(group.n_layers + 1)]
        image = axes.pcolormesh(edges, np.arange(top, top + size + 1), cells, cmap=HEAT_COLOURS, vmin=low, vmax=high)
        for i, row in enumerate(group.rows):
            if row["best_layer"] is not None:
                x = place_of(row["best_layer"], group.n_layers, axis)
                axes.plot(
                    x,
                    top + i + 0.5,
                    marker="*",
                    markersize=5,
                    color="white",
                    markeredgecolor="black",
                    markeredgewidth=0.4,
                )
            ticks.append(top + i + 0.5)
            names.append(f"{group.name}: {row['class']}" if size == 1 else str(row["class"]))
        if size > 1:
            axes.text(
                1.01,
                top + size / 2,
                group.name,
                transform=axes.get_yaxis_transform(),
                fontsize=6.5,
                rotation=90,
                va="center",
            )
        top += size + 1
    axes.set_ylim(top - 1, 0)
    axes.set_yticks(ticks, names, fontsize=6)
    axes.tick_params(axis="y", length=0)
    assert image is not None
    box = axes.get_position()
    bar_height = min(box.height, 1.3 / figure.get_figheight())
    bar = figure.add_axes((box.x1 + 0.045, box.y1 - bar_height, 0.012, bar_height))
    figure.colorbar(image, cax=bar)
    bar.tick_params(labelsize=6, width=0.5, length=2)
    bar.set_title("AUC", fontsize=6.5)


def _draw_overlap(axes: Axes, pairs: Sequence[Mapping[str, Any]], side: Mapping[str, Any]) -> None:
    n_layers = {c["name"]: c["n_layers"] for c in side["curves"]}
    for i, pair in enumerate(pairs):
        x = np.array([place_of(k, n_layers[pair["a"]], side["axis"]) for k in pair["layers"]])
        label = None if i else "shuffled labels, mean over pairs"
        axes.plot(x, pair["chance_mean"], color=_GREY, linewidth=0.9, linestyle=(0, (1, 1.2)), label=label)
        cosines, bounds = np.array(pair["cosine"]), np.array(pair["bound"])
        for j, found in enumerate(pair["pairs"][:N_PAIR_LINES]):
            at = (slice(None), pair["classes_a"].index(found["a"]), pair["classes_b"].index(found["b"]))
            size, colour = np.abs(cosines[at]), COLOURS[(i * N_PAIR_LINES + j) % len(COLOURS)]
            above, name = size > bounds[at], f"{pair['a']}: {found['a']} and {pair['b']}: {found['b']}"
            axes.plot(
                x, size, color=colour, linewidth=1.1, marker="o", markersize=3, markerfacecolor="white", label=name
            )
            axes.plot(x[above], size[above], color=colour, linestyle="none", marker="o", markersize=3.4)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("|cosine|")
    _legend(axes, "directions of two classes; filled: closer than chance allows (95 %, all pairs and layers at once)")


def _legend(axes: Axes, title: str) -> None:
    axes.legend(
        frameon=False,
        fontsize=6.5,
        loc="upper left",
        bbox_to_anchor=(0, -_inches(axes, 0.42)),
        borderaxespad=0,
        labelspacing=0.3,
        title=title or None,
        title_fontsize=6.5,
        alignment="left",
    )


def _inches(axes: Axes, length_in: float) -> float:
    """A length in inches as a share of the height of the axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return length_in / (axes.get_position().height * float(figure.get_figheight()))


def _finish(axes: Axes, side: Mapping[str, Any], letter: str) -> None:
    first, last = axis_limits(side)
    if side["axis"] == "layer":
        step = max(1, int(np.ceil((last - first) / 18)))
        axes.xaxis.set_major_locator(FixedLocator(list(range(int(np.ceil(last)) - 1, 0, -step))[::-1]))
    axes.set_xlabel(axis_title(side["axis"]))
    axes.set_axisbelow(True)
    if axes.get_ylabel():
        axes.grid(axis="y", color="#E3E3E3", linewidth=0.5, zorder=0)
    place = (-0.02, 1.0 + _inches(axes, 0.03))
    axes.text(*place, letter, transform=axes.transAxes, fontsize=8, fontweight="bold", ha="right", va="bottom")
