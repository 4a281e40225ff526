"""Figures of the report as inline SVG: no script draws them, and their colours are the page's, in light and in dark.

They are laid out for a phone, 360 units wide, so that their type stays legible there; a wide page shows them larger.
Classes of the elements ("line", "area", "grid", ...) get their colours in ``report_style.css.j2``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import floor, log10, sqrt
from typing import Any

from markupsafe import Markup

from strataprobe.metrics import Z95

Place = Callable[[float], float]
Grid = Sequence[Sequence[float | None]]

_WIDTH = 360.0
# Steps of strength in a heat map: one path each, so that 34 x 34 cells take a few kilobytes.
_LEVELS = 50
# With this many layers or fewer the cells have room for their values.
_N_WRITTEN = 8


def heat_map(values: Grid, layers: Sequence[int], *, centre: float, reach: float, axes: tuple[str, str]) -> Markup:
    """Cells of ``values`` (L, L), clear at ``centre`` and full at ``reach`` from it; below it in the second colour.

    ``axes`` names the columns and the rows. A value that is not there is a grey cell.
    """
    left, top, side = 38.0, 8.0, 312.0
    n = len(layers)
    cell = side / n
    # Neighbours share their rounded edges, or seams would show.
    edges = [round(side * k / n, 1) for k in range(n + 1)]
    cells: dict[tuple[str, int], list[str]] = defaultdict(list)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            kind, level = _shade(value, centre, reach)
            if level:
                x, y, wide, tall = edges[j], edges[i], edges[j + 1] - edges[j], edges[i + 1] - edges[i]
                cells[kind, level].append(f"M{left + x:.1f} {top + y:.1f}h{wide:.1f}v{tall:.1f}h-{wide:.1f}z")
    parts = [
        Markup('<path class="cell {}" fill-opacity="{}" d="{}"/>').format(
            kind, f"{level / _LEVELS:.2f}", "".join(paths)
        )
        for (kind, level), paths in sorted(cells.items())
    ]
    if n <= _N_WRITTEN:
        parts += [
            _value(left + (j + 0.5) * cell, top + (i + 0.5) * cell + 4, value, _shade(value, centre, reach)[1])
            for i, row in enumerate(values)
            for j, value in enumerate(row)
            if value is not None
        ]
    step = max(1, -(-n // 17))
    for i in sorted(range(n)[::-1][::step]):
        middle = (i + 0.5) * cell
        parts.append(_text(left + middle, top + side + 13, layers[i], "middle"))
        parts.append(_text(left - 5, top + middle + 4, layers[i], "end"))
    parts.append(Markup('<path class="frame" d="M{} {}h{}v{}h-{}z"/>').format(left, top, side, side, side))
    parts.append(_text(left + side / 2, top + side + 29, axes[0], "middle"))
    parts.append(_turned(11, top + side / 2, axes[1]))
    frame = Markup(' data-heat="{}" data-frame="{} {} {}"').format(n, left, top, side)
    return _figure(parts, top + side + 34, f"heat map: {axes[1]} against {axes[0]}", frame)


def _shade(value: float | None, centre: float, reach: float) -> tuple[str, int]:
    """The colour of a cell and how strong it is, 0 to ``_LEVELS``."""
    if value is None:
        return "none", _LEVELS
    level = round(min(abs(value - centre) / reach, 1.0) * _LEVELS)
    return ("above" if value >= centre else "under"), level


def colour_scale(name: str, marks: Sequence[str]) -> Markup:
    """The scale of a heat map: its lowest, clear and highest value. ``name`` is unique on the page."""
    stops = ('0" class="foot"', '.5" class="foot clear"', '.5" class="top clear"', '1" class="top"')
    parts = [
        Markup('<linearGradient id="{}">{}</linearGradient>').format(
            name, Markup("").join(Markup(f'<stop offset="{s}/>') for s in stops)
        ),
        Markup('<rect x="90" y="2" width="180" height="9" fill="url(#{})"/>').format(name),
        Markup('<path class="frame" d="M90 2h180v9h-180z"/>'),
    ]
    parts += [_text(x, 24, mark, "middle") for x, mark in zip((90, 180, 270), marks, strict=True)]
    return _figure(parts, 28, f"colours from {marks[0]} to {marks[-1]}")


def learning_curve(points: Sequence[Mapping[str, Any]], *, title: str, level: float | None = None) -> Markup:
    """AUC with its interval against the number of texts, on a scale of powers; ``level`` is a line to reach."""
    known = [p for p in points if p.get("auc") is not None]
    lows = [_or(p.get("low"), p["auc"]) for p in known] + ([] if level is None else [level])
    floor_y = max(0.0, floor((min(lows, default=0.5) - 0.01) * 20) / 20)
    left, top, width, height = 38.0, 10.0, 312.0, 190.0
    powers = [log10(max(p["n_texts"], 1)) for p in known]
    across = _scale(min(powers, default=0.0), max(powers, default=0.0), left + 10, left + width - 12)
    up = _scale(floor_y, 1.005, top + height, top)
    parts = _rules(floor_y, up, left, width)
    places = [(across(power), p) for power, p in zip(powers, known, strict=True)]
    if len(places) > 1:
        upper = [f"{x:.1f} {up(_or(p.get('high'), p['auc'])):.1f}" for x, p in places]
        lower = [f"{x:.1f} {up(_or(p.get('low'), p['auc'])):.1f}" for x, p in reversed(places)]
        parts.append(Markup('<path class="area" d="M{}Z"/>').format("L".join(upper + lower)))
    if level is not None:
        parts.append(Markup('<path class="level" d="M{} {}h{}"/>').format(left, f"{up(level):.1f}", width))
    line = "L".join(f"{x:.1f} {up(p['auc']):.1f}" for x, p in places)
    if line:
        parts.append(Markup('<path class="line" d="M{}"/>').format(line))
    for x, p in places:
        low, high = up(_or(p.get("low"), p["auc"])), up(_or(p.get("high"), p["auc"]))
        parts.append(Markup('<path class="whisker" d="M{} {}V{}"/>').format(f"{x:.1f}", f"{low:.1f}", f"{high:.1f}"))
        parts.append(Markup('<circle class="dot" cx="{}" cy="{}" r="3.5"/>').format(f"{x:.1f}", f"{up(p['auc']):.1f}"))
    parts += [_text(x, top + height + 14, f"{n:,}", "middle") for x, n in _apart((x, p["n_texts"]) for x, p in places)]
    parts.append(Markup('<path class="frame" d="M{} {}h{}"/>').format(left, top + height, width))
    parts += [
        _text(left + width / 2, top + height + 30, "labelled texts", "middle"),
        _turned(11, top + height / 2, "AUC"),
    ]
    return _figure(parts, top + height + 36, title)


def reliability(bins: Sequence[Mapping[str, Any]], *, title: str) -> Markup:
    """How often a probability came true: the observed share against the mean probability of each bin of texts."""
    left, top, side = 38.0, 8.0, 312.0
    across, up = _scale(0.0, 1.0, left, left + side), _scale(0.0, 1.0, top + side, top)
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = across(tick), up(tick)
        parts.append(Markup('<path class="grid" d="M{} {}h{}M{} {}v{}"/>').format(left, y, side, x, top, side))
        parts += [_text(left - 5, y + 4, _short(tick), "end"), _text(x, top + side + 14, _short(tick), "middle")]
    parts.append(Markup('<path class="even" d="M{} {}L{} {}"/>').format(left, top + side, left + side, top))
    known = [b for b in bins if b.get("predicted") is not None and b.get("observed") is not None and b.get("n")]
    places = [(f"{across(b['predicted']):.1f}", f"{up(b['observed']):.1f}") for b in known]
    if known:
        ends = [(across(b["predicted"]), *chance_range(b["predicted"], b["n"])) for b in known]
        edge = [f"{x:.1f} {up(high):.1f}" for x, _, high in ends] + [
            f"{x:.1f} {up(low):.1f}" for x, low, _ in ends[::-1]
        ]
        parts.append(Markup('<path class="chance" d="M{}Z"/>').format("L".join(edge)))
    parts += [Markup('<circle class="dot" cx="{}" cy="{}" r="4.5"/>').format(x, y) for x, y in places]
    parts.append(_text(left + side / 2, top + side + 30, "probability the probe gives", "middle"))
    parts.append(_turned(11, top + side / 2, "share that is so"))
    return _figure(parts, top + side + 36, title)


def chance_range(probability: float, n: int) -> tuple[float, float]:
    """Where the share among ``n`` unrelated texts falls about 95 % of the time when the probability is right."""
    half = Z95 * sqrt(max(probability * (1 - probability), 0.0) / n)
    return max(probability - half, 0.0), min(probability + half, 1.0)


def hits(wrong: Sequence[bool], best: int | None) -> Markup:
    """A cell for each layer, filled where it is wrong; ``best`` is the place of the best layer, marked below."""
    step = 6
    path = "".join(f"M{i * step} 0h{step - 1}v12h-{step - 1}z" for i, w in enumerate(wrong) if w)
    bed = "".join(f"M{i * step} 0h{step - 1}v12h-{step - 1}z" for i, w in enumerate(wrong) if not w)
    mark = "" if best is None else f'<path class="best" d="M{best * step} 14h{step - 1}v2h-{step - 1}z"/>'
    width = step * len(wrong)
    return Markup(
        f'<svg class="hits" viewBox="0 0 {width} 16" width="{width}" height="16" aria-hidden="true">'
        f'<path class="bed" d="{bed}"/><path class="hit" d="{path}"/>{mark}</svg>'
    )


def _figure(parts: Iterable[Markup], height: float, title: str, more: Markup | str = "") -> Markup:
    head = Markup('<svg class="figure" viewBox="0 0 {} {}" role="img" aria-label="{}"{}>')
    return head.format(f"{_WIDTH:g}", f"{height:g}", title, Markup(more)) + Markup("").join(parts) + Markup("</svg>")


def _text(x: float, y: float, words: Any, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(f"{x:.1f}", f"{y:.1f}", anchor, words)


def _value(x: float, y: float, value: float, level: int) -> Markup:
    kind = "value strong" if level > 0.55 * _LEVELS else "value"
    words = f"{value:.2f}".replace("0.", ".", 1)
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        kind, f"{x:.1f}", f"{y:.1f}", words
    )


def _turned(x: float, y: float, words: str) -> Markup:
    place = f"{x:.1f} {y:.1f}"
    return Markup('<text transform="translate({}) rotate(-90)" text-anchor="middle">{}</text>').format(place, words)


def _scale(first: float, last: float, start: float, end: float) -> Place:
    """Where a value between ``first`` and ``last`` lies between ``start`` and ``end``; the middle when they are one."""
    if last <= first:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - first) / (last - first) * (end - start)


def _rules(lowest: float, up: Place, left: float, width: float) -> list[Markup]:
    """Grid lines from ``lowest`` to 1, at most six, with their values."""
    step = next(s for s in (0.05, 0.1, 0.2, 0.25) if (1.0 - lowest) / s <= 6)
    ticks = [1.0 - k * step for k in range(7) if 1.0 - k * step >= lowest - 1e-9]
    parts = [Markup('<path class="grid" d="M{} {}h{}"/>').format(left, f"{up(t):.1f}", width) for t in ticks]
    return parts + [_text(left - 5, up(t) + 4, _short(t), "end") for t in ticks]


def _apart(labels: Iterable[tuple[float, int]], gap: float = 30.0) -> list[tuple[float, int]]:
    """Labels at least ``gap`` apart, the last one kept."""
    kept: list[tuple[float, int]] = []
    for x, n in reversed(list(labels)):
        if not kept or kept[-1][0] - x >= gap:
            kept.append((x, n))
    return kept[::-1]


def _short(tick: float) -> str:
    return f"{tick:.2f}".removeprefix("0").rstrip("0").rstrip(".") or "0"


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
