"""Figures of the page of several sets as inline SVG, laid out for a phone; colours come from ``report_style.css.j2``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import copysign, floor, log10
from typing import Any

from markupsafe import Markup

from strataprobe.compare.sets_view import Curve, HeatGroup, axis_limits, axis_title, place_of

N_COLOURS = 5
_WIDTH = 360.0
_LEFT, _RIGHT = 38.0, 350.0
_LABELS = 128.0
_ROW = 13.0
_LONGEST_LABEL = 24
# Steps of strength in the heat map: one path each, so that 66 x 34 cells take a few kilobytes.
_LEVELS = 40


def colour(i: int) -> str:
    """The colour of the i-th curve, as the style sheet names it."""
    return f"var(--s{i % N_COLOURS})"


def curves_svg(curves: Sequence[Curve], side: Mapping[str, Any]) -> Markup:
    """AUC against layer, one line a curve with its band and a ring at its best layer; bars at the foot: tied layers."""
    known = [v for c in curves for v in [*c.values, *c.lows] if v is not None]
    lowest = max(0.0, floor((min([0.5, *known]) - 0.02) * 20) / 20)
    top, height = 8.0, 190.0
    foot = top + height
    parts = []
    for tick in [t / 10 for t in range(11) if t / 10 >= lowest - 1e-9]:
        y = _between(tick, lowest, 1.01, foot, top)
        parts += [_path("grid", f"M{_LEFT:g} {y:.1f}H{_RIGHT:g}"), _text(_LEFT - 5, y + 4, f"{tick:.1f}", "end")]
    for i, curve in enumerate(curves):
        points = [
            (_x(k, curve.n_layers, side), _between(v, lowest, 1.01, foot, top))
            for k, v in zip(curve.layers, curve.values, strict=True)
            if v is not None
        ]
        parts += _band(curve, side, lowest, top, foot, i)
        dashes = ' stroke-dasharray="5 3"' if curve.is_published else ""
        if not curve.is_sparse and points:
            parts.append(_line(points, i, dashes))
        parts += [_dot(x, y, i, 1.8) for x, y in points]
        if curve.best_layer is not None and curve.best_value is not None:
            x, y = _x(curve.best_layer, curve.n_layers, side), _between(curve.best_value, lowest, 1.01, foot, top)
            parts += [_dot(x, y, i, 4.2), _text(x, y - 7, curve.best_layer, "middle")]
        for k in curve.tied_layers:
            start, end = (_x(k + d, curve.n_layers, side) for d in (-0.5, 0.5))
            parts.append(
                Markup(
                    f'<path style="stroke:{colour(i)}" stroke-width="3" d="M{start:.1f} {foot - 3 - 4 * i:.1f}H{end:.1f}"/>'
                )
            )
    parts += _axis(side, foot)
    return _figure(parts, foot + 34, "AUC by layer; the values are in the table")


def collapse_svg(curves: Sequence[Curve], side: Mapping[str, Any]) -> Markup:
    """R² by layer on a scale of powers, with a line at 0, below which a probe is worse than the mean."""
    top, height = 8.0, 120.0
    foot = top + height
    low = _power(min(-1.0, *(v for c in curves for v in c.values if v is not None))) * 1.05
    ticks = [t for t in (1, 0, -1, -10, -100, -1000, -10000) if _power(t) >= low]
    places = {t: _between(_power(t), low, _power(1), foot, top) for t in ticks}
    parts = [_path("grid" if t else "even", f"M{_LEFT:g} {y:.1f}H{_RIGHT:g}") for t, y in places.items()]
    parts += [_text(_LEFT - 5, y + 4, f"{t:,}".replace("-", "−"), "end") for t, y in places.items()]
    for i, curve in enumerate(curves):
        points = [
            (_x(k, curve.n_layers, side), _between(_power(v), low, _power(1), foot, top))
            for k, v in zip(curve.layers, curve.values, strict=True)
            if v is not None
        ]
        parts += [_line(points, i)] if not curve.is_sparse else []
        parts += [_dot(x, y, i, 1.8) for x, y in points]
    return _figure([*parts, *_axis(side, foot)], foot + 34, "R² by layer; the values are in the table")


def _power(value: float) -> float:
    """A value on the scale of powers: log10(1 + size), with its sign."""
    return copysign(log10(1.0 + abs(value)), value)


def _line(points: Sequence[tuple[float, float]], i: int, more: str = "") -> Markup:
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return Markup(f'<path fill="none" style="stroke:{colour(i)}" stroke-width="1.8"{more} d="M{line}"/>')


def _band(curve: Curve, side: Mapping[str, Any], lowest: float, top: float, foot: float, i: int) -> list[Markup]:
    ends = [
        (_x(k, curve.n_layers, side), low, high)
        for k, low, high in zip(curve.layers, curve.lows, curve.highs, strict=False)
        if low is not None and high is not None
    ]
    if len(ends) < 2:
        return []
    upper = [f"{x:.1f} {_between(high, lowest, 1.01, foot, top):.1f}" for x, _, high in ends]
    lower = [f"{x:.1f} {_between(low, lowest, 1.01, foot, top):.1f}" for x, low, _ in reversed(ends)]
    return [Markup(f'<path style="fill:{colour(i)}" fill-opacity=".13" d="M{"L".join(upper + lower)}Z"/>')]


def heat_svg(groups: Sequence[HeatGroup], side: Mapping[str, Any], low: float) -> Markup:
    """Class by layer: clear at ``low``, full at 1; a dot at the best layer of each class."""
    cells: dict[int, list[str]] = defaultdict(list)
    parts, y = [], 4.0
    for group in groups:
        if len(group.rows) > 1:
            parts.append(_text(4, y + 10, group.name, "start"))
            y += _ROW + 2
        for row in group.rows:
            name = str(row["class"]) if len(group.rows) > 1 else f"{group.name}: {row['class']}"
            parts.append(_label(_LABELS - 4, y + 10, name))
            for layer, value in zip(group.layers, row["aucs"], strict=True):
                if value is None:
                    continue
                start, end = (_x(layer + d, group.n_layers, side, _LABELS) for d in (-0.5, 0.5))
                level = round(_LEVELS * min(max((value - low) / max(1.0 - low, 1e-9), 0.0), 1.0))
                cells[level].append(f"M{start:.1f} {y:.1f}H{end:.1f}v{_ROW:g}H{start:.1f}z")
            if row["best_layer"] is not None:
                x = _x(row["best_layer"], group.n_layers, side, _LABELS)
                parts.append(_ring(x, y + _ROW / 2))
            y += _ROW
        y += 6
    fills = [
        Markup(f'<path class="above" fill-opacity="{k / _LEVELS:.3f}" d="{"".join(found)}"/>')
        for k, found in sorted(cells.items())
        if k
    ]
    return _figure([*fills, *parts, *_axis(side, y, _LABELS)], y + 34, "AUC of each class by layer")


def scale_svg(low: float) -> Markup:
    """The colours of the heat map, from ``low`` to 1."""
    steps = [
        Markup(f'<rect class="above" fill-opacity="{k / 20:.2f}" x="{90 + 9 * k}" y="2" width="9" height="9"/>')
        for k in range(21)
    ]
    marks = [_text(94, 24, f"{low:.2f}", "middle"), _text(275, 24, "1", "middle"), _text(185, 24, "AUC", "middle")]
    return _figure([*steps, *marks], 28, f"colours from {low:.2f} to 1")


def overlap_svg(pair: Mapping[str, Any], n_layers: int, side: Mapping[str, Any], n_lines: int) -> Markup:
    """Size of the cosine of the strongest pairs by layer: filled dots beyond chance; dashed, what chance gives."""
    top, height = 8.0, 150.0
    foot = top + height
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _between(tick, 0.0, 1.02, foot, top)
        parts += [_path("grid", f"M{_LEFT:g} {y:.1f}H{_RIGHT:g}"), _text(_LEFT - 5, y + 4, f"{tick:g}", "end")]
    places = [_x(k, n_layers, side) for k in pair["layers"]]
    chance = [_between(v, 0.0, 1.02, foot, top) for v in pair["chance_mean"]]
    parts.append(_path("even", "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(places, chance, strict=True))))
    for i, found in enumerate(pair["pairs"][:n_lines]):
        a, b = pair["classes_a"].index(found["a"]), pair["classes_b"].index(found["b"])
        sizes = [abs(layer[a][b]) for layer in pair["cosine"]]
        above = [size > layer[a][b] for size, layer in zip(sizes, pair["bound"], strict=True)]
        points = [(x, _between(v, 0.0, 1.02, foot, top)) for x, v in zip(places, sizes, strict=True)]
        parts.append(_line(points, i))
        parts += [_dot(x, y, i, 2.6, filled=f) for (x, y), f in zip(points, above, strict=True)]
    parts += _axis(side, foot)
    return _figure(parts, foot + 34, f"directions of {pair['a']} and {pair['b']} by layer")


def _axis(side: Mapping[str, Any], y: float, left: float = _LEFT) -> list[Markup]:
    first, last = axis_limits(side)
    if side["axis"] == "layer":
        numbers = range(int(first + 0.5), int(last + 0.5))
        step = max(1, -(-len(numbers) // 12))
        ticks = [(float(k), str(k)) for k in sorted(list(numbers)[::-1][::step])]
    else:
        ticks = [(t / 4, f"{t / 4:g}") for t in range(5)]
    parts = [_path("frame", f"M{left:g} {y:.1f}H{_RIGHT:g}")]
    for at, words in ticks:
        parts.append(_text(_between(at, first, last, left, _RIGHT), y + 14, words, "middle"))
    return [*parts, _text((left + _RIGHT) / 2, y + 29, axis_title(side["axis"]), "middle")]


def _x(layer: float, n_layers: int, side: Mapping[str, Any], left: float = _LEFT) -> float:
    first, last = axis_limits(side)
    return _between(min(max(place_of(layer, n_layers, side["axis"]), first), last), first, last, left, _RIGHT)


def _between(value: float, first: float, last: float, start: float, end: float) -> float:
    return start + (value - first) / (last - first) * (end - start)


def _label(x: float, y: float, name: str) -> Markup:
    """The name of a row in small type, cut where it is too long; whole when pointed at."""
    short = name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…"
    words = '<text style="font-size:9.5px" x="{}" y="{}" text-anchor="end">{}<title>{}</title></text>'
    return Markup(words).format(f"{x:.1f}", f"{y:.1f}", short, name)


def _dot(x: float, y: float, i: int, radius: float, *, filled: bool = True) -> Markup:
    fill = colour(i) if filled else "var(--card)"
    return Markup(f'<circle style="fill:{fill};stroke:{colour(i)}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>')


def _ring(x: float, y: float) -> Markup:
    return Markup(f'<circle style="fill:var(--card);stroke:var(--ink)" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>')


def _path(name: str, d: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(name, d)


def _text(x: float, y: float, words: Any, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(f"{x:.1f}", f"{y:.1f}", anchor, words)


def _figure(parts: Iterable[Markup], height: float, title: str) -> Markup:
    head = Markup('<svg class="figure" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return head.format(f"{_WIDTH:g}", f"{height:g}", title) + Markup("").join(parts) + Markup("</svg>")
