"""The figure for a paper: AUC by layer with its interval, the control, the baselines, the chosen layer.

Drawn from ``comparison.json`` alone. Colours are Okabe and Ito's, told apart by colour-blind readers; line styles
differ as well, so the figure survives a black-and-white printer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from strataprobe.compare.curve_axes import (
    CONTROL_COLOUR,
    EVAL_COLOURS,
    READOUT_COLOURS,
    band_runs,
    spread,
    y_limits,
)
from strataprobe.compare.print_style import png_bytes
from strataprobe.compare.wording import (
    BASELINE_TITLES,
    curve_name,
    curves_of,
    eval_names,
    eval_values,
    figure_note,
    figure_title,
    model_title,
)

EVAL_DASHES = ((0, (1, 1)), (0, (3, 1, 1, 1)), (0, (5, 1)), (0, (1, 2)))
BASELINE_COLOUR = "#555555"
BAND_COLOUR = "#F4F5F6"
_LEFT = 0.085
_LEGEND_COLUMNS = 3


def layer_comparison_png(document: dict[str, Any]) -> bytes:
    """The figure of a comparison document as PNG bytes, 300 dpi; the same document gives the same bytes."""
    return png_bytes(lambda: layer_comparison_figure(document))


def layer_comparison_figure(document: dict[str, Any]) -> Figure:
    """The figure as a matplotlib object of its own, outside pyplot's global state."""
    figure = Figure(figsize=(7.2, 4.7))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((_LEFT, 0.30, 0.70, 0.55))
    curves = curves_of(document)
    low, high = y_limits(document)
    axes.set_ylim(low, high)
    _draw_bands(axes, curves[document["primary_readout"]])
    handles = _draw_readouts(axes, curves, curve_name(document))
    handles += _draw_evals(axes, document, curves)
    handles += _draw_control(axes, curves)
    _draw_baselines(axes, document)
    handles += _draw_choice(axes, document, curves)
    _finish_axes(axes, curves)
    _write_words(figure, document)
    top = 0.075 + 0.034 * -(-len(handles) // _LEGEND_COLUMNS)
    axes.set_position((_LEFT, top + 0.115, 0.70, 0.735 - top))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(_LEFT - 0.01, top),
        ncols=_LEGEND_COLUMNS,
        frameon=False,
        fontsize=7,
        handlelength=2.6,
        columnspacing=1.6,
        labelspacing=0.45,
        borderaxespad=0,
    )
    return figure


def numbers(entries: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """One column of the entries, nan where there is no value."""
    return np.array([np.nan if e[name] is None else e[name] for e in entries], dtype=np.float64)


def _draw_bands(axes: Axes, entries: Sequence[dict[str, Any]]) -> None:
    """Early, middle, late and final as faint stripes with their names above the curves; nothing for one layer."""
    if len(entries) < 2:
        return
    for i, (name, first, last) in enumerate(band_runs(entries)):
        if i % 2 == 0:
            axes.axvspan(first - 0.5, last + 0.5, facecolor=BAND_COLOUR, linewidth=0, zorder=0)
        place: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 6.2, "color": BASELINE_COLOUR}
        axes.text((first + last) / 2, 0.985, name, transform=axes.get_xaxis_transform(), **place)


def _draw_readouts(axes: Axes, curves: dict[str, list[dict[str, Any]]], name: str) -> list[Line2D]:
    handles = []
    for i, (readout, entries) in enumerate(curves.items()):
        colour = READOUT_COLOURS[i % len(READOUT_COLOURS)]
        layers = numbers(entries, "layer")
        low, high = numbers(entries, "cv_auc_low"), numbers(entries, "cv_auc_high")
        axes.fill_between(layers, low, high, color=colour, alpha=0.18 if i == 0 else 0.10, linewidth=0, zorder=2)
        if len(layers) == 1:
            span = [[entries[0]["cv_auc"] - low[0]], [high[0] - entries[0]["cv_auc"]]]
            axes.errorbar(layers, numbers(entries, "cv_auc"), yerr=span, fmt="none", color=colour, capsize=3, zorder=2)
        (line,) = axes.plot(
            layers,
            numbers(entries, "cv_auc"),
            color=colour,
            linewidth=1.6 if i == 0 else 1.1,
            linestyle="-" if i == 0 else (0, (4, 1.6)),
            marker="o" if i == 0 else "s",
            markersize=3.2 if i == 0 else 2.4,
            label=f"{readout}: {name}, 95 % band",
            zorder=5 - i * 0.1,
        )
        handles.append(line)
        if i == 0:
            (points,) = axes.plot(
                layers,
                numbers(entries, "test_auc"),
                linestyle="none",
                marker="o",
                markersize=4.2,
                markerfacecolor="none",
                markeredgecolor=colour,
                markeredgewidth=0.7,
                alpha=0.75,
                label=f"{readout}: held-out test",
                zorder=4,
            )
            handles.append(points)
    return handles


def _draw_evals(axes: Axes, document: dict[str, Any], curves: dict[str, list[dict[str, Any]]]) -> list[Line2D]:
    entries = curves[document["primary_readout"]]
    handles = []
    for i, name in enumerate(eval_names(entries)):
        values = [np.nan if value is None else value for value in eval_values(entries, name)]
        (line,) = axes.plot(
            numbers(entries, "layer"),
            values,
            color=EVAL_COLOURS[i % len(EVAL_COLOURS)],
            linestyle=EVAL_DASHES[(i + i // len(EVAL_COLOURS)) % len(EVAL_DASHES)],
            linewidth=1.2,
            marker="." if len(values) == 1 or np.isnan(values).any() else None,
            label=f"on {name}",
            zorder=3.5,
        )
        handles.append(line)
    return handles


def _draw_control(axes: Axes, curves: dict[str, list[dict[str, Any]]]) -> list[Line2D]:
    entries = next(iter(curves.values()))
    (line,) = axes.plot(
        numbers(entries, "layer"),
        numbers(entries, "control_auc"),
        color=CONTROL_COLOUR,
        linewidth=1.0,
        linestyle=(0, (1, 1.2)),
        marker="x",
        markersize=2.6,
        markeredgewidth=0.7,
        label="control: shuffled labels",
        zorder=3,
    )
    return [line]


def _draw_baselines(axes: Axes, document: dict[str, Any]) -> None:
    """Thin lines across, each named and valued in the right margin, the names pushed apart where they would overlap."""
    known = {k: b["test_auc"] for k, b in document["baselines"].items() if b["test_auc"] is not None}
    names = sorted(known, key=lambda k: known[k])
    low, high = axes.get_ylim()
    places = spread([known[k] for k in names], gap=0.058 * (high - low), low=low, high=high)
    for name, place in zip(names, places, strict=True):
        value = known[name]
        axes.axhline(value, color=BASELINE_COLOUR, linewidth=0.55, alpha=0.75, zorder=1)
        axes.annotate(
            f"{BASELINE_TITLES.get(name, name)}  {value:.3f}",
            xy=(1.0, value),
            xytext=(1.035, place),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            ha="left",
            fontsize=6.5,
            color=BASELINE_COLOUR,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": BASELINE_COLOUR, "linewidth": 0.45, "shrinkA": 1, "shrinkB": 0},
        )


def _draw_choice(axes: Axes, document: dict[str, Any], curves: dict[str, list[dict[str, Any]]]) -> list[Line2D]:
    best = document["best_layer"]
    if best is None or len(curves[document["primary_readout"]]) == 1:
        return []
    entry = next(e for e in curves[document["primary_readout"]] if e["layer"] == best)
    low, high = axes.get_ylim()
    foot = low + 0.018 * (high - low)
    bar: dict[str, Any] = {"color": "black", "linewidth": 2.4, "solid_capstyle": "butt"}
    tied = Line2D([], [], label="cannot be told apart from the best", **bar)
    for first, last in _runs(document["tied_layers"]):
        axes.plot([first - 0.38, last + 0.38], [foot, foot], zorder=6, **bar)
    axes.vlines(best, low, entry["cv_auc"], color="black", linewidth=0.6, linestyle=(0, (2, 2)), zorder=2.5)
    (star,) = axes.plot(
        [best],
        [entry["cv_auc"]],
        linestyle="none",
        marker="*",
        markersize=10,
        markerfacecolor="#F0E442",
        markeredgecolor="black",
        markeredgewidth=0.7,
        label=f"chosen: layer {best} (block index {entry['block_index']})",
        zorder=7,
    )
    return [star, tied]


def _runs(layers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive layers."""
    starts = [k for k in layers if k - 1 not in layers]
    ends = [k for k in layers if k + 1 not in layers]
    return list(zip(sorted(starts), sorted(ends), strict=True))


def _finish_axes(axes: Axes, curves: dict[str, list[dict[str, Any]]]) -> None:
    layers = sorted({e["layer"] for entries in curves.values() for e in entries})
    axes.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
    step = max(1, int(np.ceil(len(layers) / 18)))
    shown = sorted(layers[::-1][::step])
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.set_xlabel("layer (residual stream after the block)")
    axes.set_ylabel("AUC")
    ticks = MaxNLocator(nbins=7, steps=[1, 2, 5, 10]).tick_values(axes.get_ylim()[0], 1.0)
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if axes.get_ylim()[0] - 1e-9 <= t <= 1.0 + 1e-9]))
    axes.grid(axis="y", color="#E3E3E3", linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)
    above = axes.secondary_xaxis("top", functions=(_block_of, _layer_of))
    above.xaxis.set_major_locator(FixedLocator([layer - 1 for layer in shown]))
    above.set_xlabel("block index", fontsize=7, labelpad=3)
    above.tick_params(labelsize=7, width=0.5, length=2.5)
    above.spines["top"].set_linewidth(0.5)


def _block_of(layer: Any) -> Any:
    return layer - 1


def _layer_of(block_index: Any) -> Any:
    return block_index + 1


def _write_words(figure: Figure, document: dict[str, Any]) -> None:
    figure.text(_LEFT, 0.965, figure_title(document), fontsize=9.5, fontweight="bold", va="center")
    if document.get("model"):
        figure.text(0.985, 0.965, model_title(document), fontsize=7, color="#444444", va="center", ha="right")
    figure.text(
        _LEFT,
        0.012,
        figure_note(document).replace("`", '"'),
        fontsize=6.2,
        color="#444444",
        va="bottom",
        linespacing=1.35,
    )
