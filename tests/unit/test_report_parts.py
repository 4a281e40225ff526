"""The parts of the report beside the curve: each is drawn with its table, or named with the reason it is not."""

from __future__ import annotations

import base64
import csv
import io
import re
from typing import Any

import numpy as np
import pytest

from report_documents import full_document, wrong_texts
from strataprobe.compare.controls import Controls
from strataprobe.compare.curve_axes import band_runs
from strataprobe.compare.figures import layer_comparison_figure
from strataprobe.compare.figures_svg import chance_range, heat_map, hits, learning_curve, reliability
from strataprobe.compare.interactive import plotly_figure
from strataprobe.compare.layers import Measured, TestRows
from strataprobe.compare.report import report_html, summary_words
from strataprobe.compare.sections import N_DIAGRAMS, TITLES, optional_parts, strips
from strataprobe.compare.tables import csv_text
from strataprobe.compare.wording import p_value
from strataprobe.compare.wrong import wrong_examples

EVIL = "</script><script>alert(1)</script>"


@pytest.fixture
def document() -> dict[str, Any]:
    return full_document(6)


def tables_of(html: str) -> dict[str, list[list[str]]]:
    """The CSV files that a report holds, by name."""
    links = re.findall(r'href="data:text/csv;base64,([^"]+)" download="([^"]+)"', html)
    return {name: list(csv.reader(io.StringIO(base64.b64decode(data).decode()))) for data, name in links}


def section(html: str, name: str) -> str:
    start = html.index(f'<section id="{name}">')
    return html[start : html.index("</section>", start)]


def test_every_part_is_there_with_its_place_in_the_contents(document: dict[str, Any]) -> None:
    html = report_html(document, wrong_texts(document), {"n_texts": 3})
    listed = re.findall(r'<li><a href="#(\w+)">', html)
    assert set(TITLES) < set(listed)
    assert all(html.count(f'<section id="{name}">') == 1 for name in listed)
    assert [html.index(f'<section id="{name}">') for name in listed] == sorted(
        html.index(f'<section id="{name}">') for name in listed
    )
    assert "Not in this report" not in html


def test_every_figure_has_its_table(document: dict[str, Any]) -> None:
    found = tables_of(report_html(document, wrong_texts(document)))
    kinds = ("baselines", "ensembles", "calibration", "geometry", "learning_curve", "shift", "wrong_texts")
    assert set(found) == {f"sentiment_{kind}.csv" for kind in ("layer_comparison", *kinds)}
    layers = found["sentiment_layer_comparison.csv"]
    assert len(layers) == 1 + 12
    assert {"band", "test_auprc", "test_f1_low", "test_recall_1fpr_high", "test_ece", "eval_yelp"} <= set(layers[0])
    assert len(found["sentiment_geometry.csv"]) == 1 + 36
    assert found["sentiment_geometry.csv"][2][:2] == ["1", "2"]
    assert float(found["sentiment_geometry.csv"][2][3]) == pytest.approx(
        document["geometry"]["transfer_auc"][0][1], rel=1e-5
    )
    assert {row[0] for row in found["sentiment_learning_curve.csv"][1:]} == {
        "train",
        "amazon",
        "imdb",
        "tweets",
        "yelp",
    }
    assert [row[0] for row in found["sentiment_ensembles.csv"]] == [
        "method",
        "single",
        "mean",
        "vote",
        "stacked",
        "greedy",
    ]


def test_a_part_that_is_not_there_is_named_with_its_reason(document: dict[str, Any]) -> None:
    del document["geometry"]
    document["learning_curve"] = {"layer": None, "points": [], "reason": "it is measured of logistic probes"}
    document["calibration"] = None
    document["ensembles"] = {}
    document["layers"] = [{k: v for k, v in e.items() if "auprc" not in k} for e in document["layers"]]
    html = report_html(document)
    gone = ("geometry", "learning", "calibration", "ensembles", "measures")
    assert all(f'<section id="{name}">' not in html and f'href="#{name}"' not in html for name in gone)
    left_out = section(html, "missing")
    assert all(TITLES[name].replace("'", "&#39;") in left_out for name in gone)
    assert "made by an earlier version" in left_out
    assert "it is measured of logistic probes" in left_out
    assert 'href="#missing"' in html
    assert '<section id="bands">' in html


def test_text_from_elsewhere_that_was_not_given_is_said_how_to_give(document: dict[str, Any]) -> None:
    document["shift"]["rows"] = document["shift"]["rows"][:1]
    parts, reasons = optional_parts(document)
    assert "shift" not in parts
    assert "--eval NAME=FILE" in reasons["shift"]


def test_the_measures_of_the_best_layer_head_the_page(document: dict[str, Any]) -> None:
    html = report_html(document)
    tiles = re.findall(r"<li><b>(.*?)</b>(.*?)<br>(.*?)</li>", html)
    names = ["AUC, cross-validated", "AUC, test", "AUPRC", "accuracy", "F1", "recall at 1 % false", "ECE"]
    assert [name for _, _, name in tiles] == names
    assert html.index("<li><b>") < html.index("<h2>Findings</h2>")
    document |= {"best_layer": None, "best_block_index": None, "tied_layers": []}
    assert "<li><b>" not in report_html(document)


def test_a_curve_without_cross_validation_is_called_so(document: dict[str, Any]) -> None:
    def names() -> str:
        labels = " ".join(str(line.get_label()) for line in layer_comparison_figure(document).axes[0].get_lines())
        return labels + " ".join(str(t.get("name")) for t in plotly_figure(document)["data"])

    assert "last: cross-validation" in names()
    document["n_folds"] = 0
    assert "cross-validation" not in names()
    assert "last: validation" in names()
    assert "on the validation texts" in " ".join(summary_words(document))
    assert "AUC, validation" in report_html(document)


def test_long_tables_are_folded_and_short_ones_are_not(document: dict[str, Any]) -> None:
    assert "<summary>All 6 layers</summary>" not in report_html(document)
    assert report_html(full_document(13)).count("<summary>All 13 layers</summary>") == 2


def test_what_users_wrote_cannot_become_markup_in_any_part() -> None:
    document = full_document(4, classes=("negative", EVIL), evals=(EVIL,))
    document["shift"]["trained_on"] = document["suffix"] = EVIL
    document["learning_curve"]["own"][EVIL + "2"] = {"points": [], "reason": EVIL}
    document["geometry"] = {"layers": [1], "cosine": None, "reason": EVIL}
    document["bands"][0]["band"] = document["layers"][0]["band"] = EVIL
    wrong = wrong_texts(document)
    wrong["texts"][0] |= {"id": EVIL, "text": EVIL}
    html = report_html(document, wrong)
    assert "<script>alert" not in html
    assert html.count("</script>") == 3


def test_the_same_document_gives_the_same_page(document: dict[str, Any]) -> None:
    wrong = wrong_texts(document)
    assert report_html(document, wrong) == report_html(document, wrong)


def test_a_heat_map_has_a_colour_for_each_side_of_its_centre_and_grey_for_what_is_not_there() -> None:
    drawn = str(heat_map([[1.0, 0.5], [0.2, None]], [3, 4], centre=0.5, reach=0.5, axes=("tested", "trained")))
    assert re.findall(r'class="cell (\w+)" fill-opacity="([\d.]+)"', drawn) == [
        ("above", "1.00"),
        ("none", "1.00"),
        ("under", "0.60"),
    ]
    assert re.findall(r'<text class="value[^>]*>([^<]*)', drawn) == ["1.00", ".50", ".20"]


def test_a_large_heat_map_has_no_room_for_values_and_few_paths() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (34, 34)).tolist()
    drawn = str(heat_map(values, list(range(1, 35)), centre=0.0, reach=1.0, axes=("a", "b")))
    assert 'class="value' not in drawn
    assert drawn.count("<path") <= 101
    assert drawn.count("M") >= 34 * 34 - 34
    assert len(drawn) < 40_000


def test_the_cells_of_a_heat_map_leave_no_seams() -> None:
    drawn = str(heat_map([[1.0] * 7] * 7, list(range(7)), centre=0.0, reach=1.0, axes=("a", "b")))
    cells = re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)", drawn)
    ends = {(round(float(x) + float(w), 1)) for x, _, w, _ in cells}
    starts = {float(x) for x, _, _, _ in cells}
    assert len(ends | starts) == 8


def test_the_dots_of_a_reliability_diagram_lie_where_they_should() -> None:
    bins: list[dict[str, Any]] = [
        {"predicted": 0.5, "observed": 1.0, "n": 20},
        {"predicted": None, "observed": None, "n": 0},
    ]
    drawn = str(reliability(bins, title="x"))
    assert re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn) == [("194.0", "8.0")]
    low, high = chance_range(0.5, 100)
    assert (round(low, 3), round(high, 3)) == (0.402, 0.598)
    assert chance_range(0.01, 5)[0] == 0.0


def test_a_learning_curve_has_a_dot_for_each_point_and_a_line_to_reach() -> None:
    points: list[dict[str, Any]] = [
        {"n_texts": 10, "auc": 0.7, "low": 0.6, "high": 0.75},
        {"n_texts": 100, "auc": 0.9, "low": 0.85, "high": 0.93},
        {"n_texts": 1000, "auc": None, "low": None, "high": None},
    ]
    drawn = str(learning_curve(points, title="x", level=0.85))
    assert drawn.count("<circle") == 2
    assert drawn.count('class="level"') == 1
    assert 'class="level"' not in str(learning_curve(points[:1], title="x"))
    assert "<circle" not in str(learning_curve([], title="x"))


def test_only_the_worst_of_many_classes_are_drawn() -> None:
    document = full_document(4, classes=tuple(f"class_{i}" for i in range(15)), evals=())
    html = section(report_html(document), "calibration")
    worst = sorted(document["calibration"]["classes"].items(), key=lambda item: -item[1]["ece"])[:N_DIAGRAMS]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert [c.replace("<wbr>", "") for c in captions] == [name for name, _ in worst]
    assert "<summary>All 15 classes</summary>" in html


def test_words_in_a_table_cannot_become_a_formula() -> None:
    assert csv_text([["=1+1", "@x", "-y", "plain", -0.25, 1 / 3]]) == "'=1+1,'@x,'-y,plain,-0.25,0.333333\n"


def test_strips_start_at_a_multiple_below_every_value() -> None:
    start, drawn = strips([{"auc": 0.9, "auc_low": 0.87, "auc_high": 0.95}, {"auc": None}], "auc")
    assert start == 0.85
    assert drawn[1] is None
    assert drawn[0] is not None
    assert [p_value(v) for v in (None, 0.0004, 0.031)] == ["", "< .001", ".031"]


def test_bands_are_runs_of_layers() -> None:
    entries = full_document(6)["layers"][:6]
    assert band_runs(entries) == [("early", 1, 2), ("middle", 3, 4), ("late", 5, 5), ("final", 6, 6)]
    assert band_runs([{"layer": 1}]) == []


def test_the_texts_each_layer_gets_wrong_are_found() -> None:
    rows = TestRows(np.array([0, 0, 1, 1]), ["a", "b", "c", "d"], ["t0", "t1", "t2", "t3"])
    given = {1: [0.6, 0.4, 0.9, 0.7], 2: [0.6, 0.1, 0.2, 0.7], 3: [0.1, 0.2, 0.3, 0.3]}
    measured = [_measured(rows, layer, positive) for layer, positive in given.items()]
    measured.append(_measured(rows, 1, [0.9, 0.9, 0.1, 0.1], readout="mean"))
    document = {"primary_readout": "last", "best_layer": 2, "classes": ["negative", "positive"]}
    texts = [{"id": f"t{i}", "text": f"text {i}", "split": "test"} for i in range(4)]
    found = wrong_examples(document, measured, rows, texts)
    by_place = [t["id"] for t in found["texts"]]
    assert [by_place[i] for i in found["best"]] == ["t2", "t0"]
    assert [by_place[i] for i in found["shared"]] == ["t2", "t0"]
    assert [(e["layer"], e["n_wrong"], [by_place[i] for i in e["worst"]]) for e in found["layers"]] == [
        (1, 1, ["t0"]), (2, 2, ["t2", "t0"]), (3, 2, ["t2", "t3"]),
    ]  # fmt: skip
    first = found["texts"][by_place.index("t2")]
    assert (first["text"], first["label"], first["called"]) == (
        "text 2",
        "positive",
        ["positive", "negative", "negative"],
    )
    assert first["probabilities"] == pytest.approx([0.9, 0.2, 0.3])
    perfect = wrong_examples(document, [_measured(rows, 2, [0.1, 0.1, 0.9, 0.9])], rows, texts)
    assert (perfect["best"], perfect["shared"], perfect["texts"], perfect["layers"][0]["n_wrong"]) == ([], [], [], 0)


def _measured(rows: TestRows, layer: int, positive: list[float], readout: str = "last") -> Measured:
    p = np.array(positive)
    called = (p >= 0.5).astype(np.int64)
    both = np.stack([1 - p, p], axis=1)
    return Measured(readout, layer, layer - 1, both, both, called, Controls(0.5, 0.5, 0.0))


def test_the_layers_that_miss_a_text_are_cells_in_a_row() -> None:
    drawn = str(hits([True, False, True], best=1))
    assert re.findall(r'class="(\w+)" d="([^"]*)"', drawn) == [
        ("bed", "M6 0h5v12h-5z"), ("hit", "M0 0h5v12h-5zM12 0h5v12h-5z"), ("best", "M6 14h5v2h-5z"),
    ]  # fmt: skip
    html = section(report_html(full_document(34), wrong_texts(full_document(34))), "wrong")
    assert html.count('<svg class="hits"') == 10
    assert "of 34 layers" in html
