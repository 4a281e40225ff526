"""The page and the figure of several sets, from documents made by hand."""

from __future__ import annotations

import base64
import csv
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from strataprobe.compare.sets_figure import sets_figure, sets_png
from strataprobe.compare.sets_findings import sets_findings
from strataprobe.compare.sets_page import sets_html

EVIL = "<script>alert(1)</script>"


def curve(name: str, n_layers: int, best: int | None, **change: Any) -> dict[str, Any]:
    layers = list(range(1, n_layers + 1))
    aucs: list[float | None] = [0.9 - 0.01 * abs(k - (best or 1)) for k in layers]
    at = None if best is None else aucs[best - 1]
    return {
        "name": name,
        "recipe": name,
        "model": "tiny",
        "readout": "last",
        "suffix": "",
        "measured_in": "cross-validation",
        "n_classes": 3,
        "n_texts": {"train": 70, "val": 15, "test": 15},
        "n_layers": n_layers,
        "best_layer": best,
        "best_block_index": None if best is None else best - 1,
        "best_depth": None if best is None else best / n_layers,
        "tied_layers": [] if best is None else [best],
        "cv_auc": at,
        "cv_auc_low": None if at is None else at - 0.02,
        "cv_auc_high": None if at is None else at + 0.02,
        "test_auc": at,
        "layers": layers,
        "aucs": aucs,
        "lows": [None if v is None else v - 0.02 for v in aucs],
        "highs": [None if v is None else v + 0.02 for v in aucs],
    } | change


def rows(names: list[str], n_layers: int) -> list[dict[str, Any]]:
    found = []
    for i, name in enumerate(names):
        best = 1 + i % n_layers
        aucs = [0.8 + 0.1 * (k == best) for k in range(1, n_layers + 1)]
        interval = {"cv_auc": 0.9, "cv_auc_low": 0.85, "cv_auc_high": 0.94}
        known = {"class": name, "best_layer": best, "best_block_index": best - 1, "best_depth": best / n_layers}
        found.append(known | interval | {"tied_layers": [best], "aucs": aucs})
    return found


def overlap(a: str, b: str, classes: tuple[list[str], list[str]], n_layers: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shape = (n_layers, len(classes[0]), len(classes[1]))
    pairs = [
        {"a": x, "b": y, "layer": 1, "cosine": -0.3, "bound": 0.2, "p": 0.001, "above": True}
        for x in classes[0]
        for y in classes[1]
    ]
    return {
        "a": a,
        "b": b,
        "readout": "last",
        "layers": list(range(1, n_layers + 1)),
        "classes_a": classes[0],
        "classes_b": classes[1],
        "cosine": rng.uniform(-0.5, 0.5, shape).tolist(),
        "bound": np.full(shape, 0.25).tolist(),
        "mean": [0.2] * n_layers,
        "highest": [0.4] * n_layers,
        "chance_mean": [0.1] * n_layers,
        "bound_mean": [0.25] * n_layers,
        "n_above": [1] * n_layers,
        "pairs": pairs[:20],
        "n_pairs": len(pairs),
        "n_pairs_above": 1,
    }


def made(n_layers: int = 34, n_classes: int = 45, name: str = "emotions") -> dict[str, Any]:
    """Two sets, one of many classes, with the overlap of their directions."""
    classes = [f"class_{i}_of_the_recipe" for i in range(n_classes)]
    side: dict[str, Any] = {
        "axis": "layer",
        "curves": [curve("mood", n_layers, min(2, n_layers)), curve(name, n_layers, n_layers)],
        "classes": {"mood": rows(["positive"], n_layers), name: rows(classes, n_layers)},
        "overlap": [overlap("mood", name, (["positive"], classes), n_layers)],
        "published": [],
    }
    side["findings"] = sets_findings(side)
    return {
        "format_version": 1,
        "sets": {"mood": {}, name: {}},
        "side_by_side": side,
        "inputs": {"mood: probes": "0" * 64},
        "config": {"seed": 0},
        "versions": {"python": "3"},
    }


class Reader(HTMLParser):
    """Tags that are open at the end, and what a page would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "srcset", "xlink:href")]
        self.fetched += [v or "" for k, v in attrs if k == "href" and tag != "a"]


def table(page: str, name: str) -> list[list[str]]:
    link = re.search(rf'href="data:text/csv;base64,([^"]+)" download="{name}"', page)
    assert link is not None
    return list(csv.reader(io.StringIO(base64.b64decode(link[1]).decode())))


def test_the_page_fetches_nothing_and_runs_no_script() -> None:
    reader = Reader(sets_html(made()))
    assert reader.fetched == []
    assert "script" not in reader.tags
    assert reader.tags.count("svg") == 4


def test_names_in_the_document_cannot_bring_a_script_into_the_page() -> None:
    page = sets_html(made(name=EVIL))
    assert "script" not in Reader(page).tags
    assert "alert(1)" in page


def test_every_figure_has_its_table() -> None:
    document = made()
    page = sets_html(document)
    assert len(table(page, "curves.csv")) == 1 + 2 * 34
    classes = table(page, "classes_by_layer.csv")
    assert len(classes) == 1 + 46 * 34
    assert sum(row[-1] == "True" for row in classes) == 46
    pairs = table(page, "overlap_of_directions.csv")
    assert len(pairs) == 1 + 45 * 34
    cosine = document["side_by_side"]["overlap"][0]["cosine"][0][0][0]
    assert float(pairs[1][5]) == pytest.approx(cosine, rel=1e-4)


def test_sixty_classes_of_34_layers_stay_a_small_page() -> None:
    assert len(sets_html(made(n_classes=60))) < 500_000


def test_the_figure_is_of_print_quality_and_the_same_each_time() -> None:
    document = made(n_layers=12, n_classes=5)
    one = sets_png(document)
    assert one == sets_png(document)
    assert int.from_bytes(one[16:20], "big") == 2160


def test_the_figure_grows_with_the_classes_and_names_each() -> None:
    few, many = sets_figure(made(n_classes=5)["side_by_side"]), sets_figure(made(n_classes=45)["side_by_side"])
    assert many.get_figheight() > few.get_figheight() + 4
    names = [t.get_text() for axes in many.axes for t in axes.get_yticklabels()]
    assert {"mood: positive", *(f"class_{i}_of_the_recipe" for i in range(45))} <= set(names)


@pytest.mark.parametrize("best", [None, 1])
def test_a_set_without_a_best_layer_and_a_model_of_one_layer_are_shown(best: int | None) -> None:
    document = made(n_layers=1, n_classes=2)
    side = document["side_by_side"]
    side["curves"][1] = curve("emotions", 1, best, aucs=[None] if best is None else [0.9])
    for row in side["classes"]["emotions"] if best is None else ():
        row |= {"best_layer": None, "tied_layers": [], "aucs": [None], "cv_auc": None}
    side["overlap"] = [{"a": "mood", "b": "emotions", "reason": "They have no layer in common."}]
    side["findings"] = sets_findings(side)
    page = sets_html(document)
    assert "They have no layer in common." in page
    assert sets_png(document).startswith(b"\x89PNG")
    levels = {f["code"]: f["level"] for f in side["findings"]}
    assert levels["S004"] == "skipped"
    assert (levels["S002"] == "skipped") == (best is None)


def test_classes_with_dollar_signs_in_their_names_are_drawn_letter_by_letter() -> None:
    document = made(n_layers=2, n_classes=2)
    document["side_by_side"]["classes"]["emotions"][0]["class"] = "costs $\\frac$"
    assert sets_png(document).startswith(b"\x89PNG")


def test_a_set_of_one_layer_is_not_said_to_beat_others() -> None:
    alone, first = made(n_layers=1, n_classes=3), made(n_layers=2, n_classes=3)
    one, two = ([f["message"] for f in d["side_by_side"]["findings"] if f["code"] == "S001"] for d in (alone, first))
    assert all(message.endswith("that layer is the only one.") for message in one)
    assert all(message.endswith("that layer is better than every other.") for message in two)
