"""The page of several sets: one self-contained HTML file without a script, readable on a phone and in the dark."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from typing import Any

from strataprobe.compare.audit_values import N_UNFOLDED
from strataprobe.compare.pages import environment, worst_first
from strataprobe.compare.reproduce import Reproduction
from strataprobe.compare.sets_svg import collapse_svg, colour, curves_svg, heat_svg, overlap_svg, scale_svg
from strataprobe.compare.sets_view import (
    auc_curves,
    heat_groups,
    models_title,
    overlaps,
    published_curves,
    sets_title,
)
from strataprobe.compare.tables import Rows, csv_link

N_PAIR_LINES = 4


def sets_html(document: Mapping[str, Any], again: Reproduction | None = None) -> str:
    """The page of a document of several sets."""
    side = document["side_by_side"]
    groups, curves, pairs = heat_groups(side), auc_curves(side), overlaps(side)
    collapsed = published_curves(side, ("r2",))
    known = [v for g in groups for row in g.rows for v in row["aucs"] if v is not None]
    low = floor(min([0.95, *known]) * 20) / 20
    depths = {c["name"]: c["n_layers"] for c in side["curves"]}
    return (
        environment()
        .get_template("sets.html.j2")
        .render(
            document=document,
            again=again,
            side=side,
            title=sets_title(side),
            models=models_title(side),
            findings=worst_first(side["findings"]),
            curves=curves,
            colours=[colour(i) for i in range(max(len(curves), len(collapsed)))],
            curve_figure=curves_svg(curves, side) if curves else "",
            collapsed=collapsed,
            collapse_figure=collapse_svg(collapsed, side) if collapsed else "",
            groups=groups,
            n_rows=sum(len(g.rows) for g in groups),
            n_unfolded=N_UNFOLDED,
            heat=heat_svg(groups, side, low) if groups else "",
            scale=scale_svg(low),
            overlaps=[(pair, overlap_svg(pair, depths[pair["a"]], side, N_PAIR_LINES)) for pair in pairs],
            pair_colours=[colour(i) for i in range(N_PAIR_LINES)],
            skipped=[pair for pair in side["overlap"] if "reason" in pair],
            links={
                "curves": csv_link(curve_rows(side)),
                "classes": csv_link(class_table(side)),
                "overlap": csv_link(overlap_rows(side)),
                "published": csv_link(published_rows(side)),
            },
        )
    )


def curve_rows(side: Mapping[str, Any]) -> Rows:
    """A row for each layer of each of our sets."""
    rows: Rows = [["set", "model", "readout", "layer", "block_index", "depth", "cv_auc", "cv_auc_low", "cv_auc_high"]]
    for c in side["curves"]:
        for layer, auc, low, high in zip(c["layers"], c["aucs"], c["lows"], c["highs"], strict=True):
            depth = layer / c["n_layers"]
            rows.append([c["name"], c["model"], c["readout"], layer, layer - 1, f"{depth:.4f}", auc, low, high])
    return rows


def class_table(side: Mapping[str, Any]) -> Rows:
    """A row for each class and layer."""
    rows: Rows = [["set", "class", "layer", "block_index", "auc", "is_best"]]
    for group in heat_groups(side):
        for row in group.rows:
            rows += [
                [group.name, row["class"], layer, layer - 1, auc, layer == row["best_layer"]]
                for layer, auc in zip(group.layers, row["aucs"], strict=True)
                if auc is not None
            ]
    return rows


def overlap_rows(side: Mapping[str, Any]) -> Rows:
    """A row for each pair of classes at each layer."""
    rows: Rows = [["set_a", "class_a", "set_b", "class_b", "layer", "cosine", "bound_of_chance"]]
    for pair in overlaps(side):
        for k, layer in enumerate(pair["layers"]):
            for i, a in enumerate(pair["classes_a"]):
                rows += [
                    [pair["a"], a, pair["b"], b, layer, pair["cosine"][k][i][j], pair["bound"][k][i][j]]
                    for j, b in enumerate(pair["classes_b"])
                ]
    return rows


def published_rows(side: Mapping[str, Any]) -> Rows:
    """A row for each published value."""
    rows: Rows = [["published", "concept", "metric", "block_index", "our_layer", "value"]]
    for p in side["published"]:
        for c in p["curves"]:
            points = zip(c["block_indexes"], c["layers"], c["values"], strict=True)
            rows += [[p["name"], c["concept"], c["metric"], block, layer, value] for block, layer, value in points]
    return rows
