from __future__ import annotations

import base64
import json
import re
from itertools import pairwise
from typing import Any

import pytest

from strataprobe.cli.compare import print_comparison
from strataprobe.compare.audit_values import audit_rows
from strataprobe.compare.curve_axes import spread
from strataprobe.compare.figures import layer_comparison_figure, layer_comparison_png
from strataprobe.compare.findings import collect_findings
from strataprobe.compare.interactive import plotly_figure
from strataprobe.compare.report import report_html, summary_words
from strataprobe.compare.wording import figure_note, interval_words, spaced, three


def entry(layer: int, value: float, readout: str = "last", **more: Any) -> dict[str, Any]:
    return {
        "layer": layer, "block_index": layer - 1, "readout": readout,
        "cv_auc": value, "cv_auc_low": value - 0.03, "cv_auc_high": min(value + 0.02, 1.0),
        "test_auc": value, "test_auc_low": value - 0.05, "test_auc_high": min(value + 0.03, 1.0),
        "test_accuracy": 0.9, "test_accuracy_low": 0.85, "test_accuracy_high": 0.95,
        "control_auc": 0.5, "control_val_auc": 0.5, "selectivity": value - 0.5, "simultaneous_low": value - 0.05,
        "eval": {"yelp": 0.7},
    } | more  # fmt: skip


def baseline(value: float | None, low: float = 0.1) -> dict[str, Any]:
    if value is None:
        return {"test_auc": None, "test_auc_low": None, "test_auc_high": None, "reason": "there was none"}
    return {
        "test_auc": value, "test_auc_low": value - 0.05, "test_auc_high": value + 0.01,
        "best_minus_this": low + 0.1, "best_minus_this_low": low, "best_minus_this_high": low + 0.2,
    }  # fmt: skip


@pytest.fixture
def document() -> dict[str, Any]:
    found: dict[str, Any] = {
        "recipe": "sentiment", "classes": ["negative", "positive"], "model": "a/model", "model_revision": "abc",
        "suffix": "\n\nThe answer is", "readouts": ["last", "mean"], "primary_readout": "last",
        "best_layer": 2, "best_block_index": 1, "tied_layers": [2, 3], "config": {"seed": 0},
        "inputs": {"probes": "12ab", "activations": "34cd"}, "versions": {"python": "3.11"}, "ensembles": {},
        "n_texts": {"train": 800, "val": 200, "test": 200}, "test_texts_by_class": {"negative": 100, "positive": 100},
        "layers": [entry(k, v, r) for r in ("last", "mean") for k, v in ((1, 0.55), (2, 0.95), (3, 0.94))],
        "baselines": {"majority": baseline(0.5), "tfidf": baseline(0.81), "zero_shot": baseline(None)},
    }  # fmt: skip
    found["findings"] = collect_findings(found, facts())
    return found


def facts(**more: Any) -> dict[str, Any]:
    return {"control_limit": 0.56, "unconverged": [], "shared_groups": 0} | more


def level(document: dict[str, Any], code: str, **more: Any) -> str:
    return next(f["level"] for f in collect_findings(document, facts(**more)) if f["code"] == code)


def test_findings_come_in_order_of_code_and_name_what_was_found(document: dict[str, Any]) -> None:
    codes = [f["code"] for f in document["findings"]]
    assert codes == [f"C{k:03d}" for k in range(1, 17)]
    assert "Layer 2 (block index 1) is the best" in document["findings"][0]["message"]
    assert "Layers 2-3 cannot be told apart" in document["findings"][1]["message"]


def test_perfect_layers_are_said_to_be_beyond_ranking(document: dict[str, Any]) -> None:
    assert level(document, "C003") == "ok"
    document["layers"][1]["cv_auc"] = document["layers"][2]["cv_auc"] = 1.0
    assert level(document, "C003") == "warning"


def test_a_baseline_as_good_as_the_best_layer_is_a_warning(document: dict[str, Any]) -> None:
    assert level(document, "C004") == "ok"
    document["baselines"]["tfidf"] = baseline(0.94, low=-0.05)
    assert level(document, "C004") == "warning"


def test_a_baseline_at_chance_gives_no_class_away_though_few_texts_cannot_tell_it_from_the_best_layer(
    document: dict[str, Any],
) -> None:
    document["baselines"]["length"] = baseline(0.506, low=-0.05)
    document["baselines"]["layer_0"] = baseline(0.458, low=-0.05)
    document["baselines"]["tfidf"] = baseline(0.94, low=-0.05)
    words, few = (f["message"] for f in collect_findings(document, facts()) if f["code"] == "C004")
    assert "the words alone give the class away" in words
    assert few == (
        "The test texts are too few to tell the best layer, AUC .950 (.900 to .980), from baselines that may be at "
        "chance: length (AUC .506), layer_0 (AUC .458); take more texts."
    )


def test_a_control_above_chance_is_a_warning(document: dict[str, Any]) -> None:
    assert level(document, "C005") == "ok"
    document["layers"][2]["control_auc"] = 0.7
    assert level(document, "C005") == "warning"


def test_a_small_test_set_is_a_warning_and_a_missing_class_an_error(document: dict[str, Any]) -> None:
    assert level(document, "C006") == "ok"
    document["test_texts_by_class"]["positive"] = 12
    assert level(document, "C006") == "warning"
    document["test_texts_by_class"]["positive"] = 0
    assert level(document, "C006") == "error"


def test_probes_that_did_not_converge_are_named(document: dict[str, Any]) -> None:
    assert level(document, "C007") == "ok"
    assert level(document, "C007", unconverged=[3]) == "warning"
    assert level(document, "C007", unconverged=None) == "skipped"


def test_a_test_auc_below_the_cross_validated_one_is_a_warning(document: dict[str, Any]) -> None:
    assert level(document, "C009") == "ok"
    document["layers"][1]["test_auc_high"] = 0.9
    assert level(document, "C009") == "warning"


def test_a_fall_on_text_from_elsewhere_is_a_warning(document: dict[str, Any]) -> None:
    assert level(document, "C010") == "warning"
    document["layers"][1]["eval"]["yelp"] = 0.9
    assert level(document, "C010") == "ok"
    for e in document["layers"]:
        e["eval"] = {}
    assert level(document, "C010") == "skipped"


def test_layers_captured_without_the_text_from_elsewhere_are_named_with_the_mend(document: dict[str, Any]) -> None:
    del document["layers"][2]["eval"]["yelp"]
    found = [f for f in collect_findings(document, facts()) if f["code"] == "C010"]
    assert [f["level"] for f in found] == ["warning", "skipped"]
    assert "On yelp, layer 2 reaches" in found[0]["message"]
    assert "Layer 3 was captured without yelp" in found[1]["message"]
    assert "--eval yelp=FILE" in found[1]["message"]
    del document["layers"][1]["eval"]["yelp"]
    (found_at_best,) = [f for f in collect_findings(document, facts()) if f["code"] == "C010"]
    assert found_at_best["level"] == "warning"
    assert "Layers 2-3 were captured without yelp" in found_at_best["message"]


def test_text_from_elsewhere_is_not_said_to_be_missing_where_there_is_no_best_layer(document: dict[str, Any]) -> None:
    document |= {"best_layer": None, "best_block_index": None, "tied_layers": []}
    (found,) = [f for f in collect_findings(document, facts()) if f["code"] == "C010"]
    assert found["message"] == "There is no best layer to try on text from elsewhere."


def test_a_layer_captured_without_the_text_from_elsewhere_is_drawn_and_marked(document: dict[str, Any]) -> None:
    assert "not captured" not in report_html(document)
    for k in (0, 2):
        del document["layers"][k]["eval"]["yelp"]
    assert report_html(document).count("not captured") == 2
    trace = next(t for t in plotly_figure(document)["data"] if t.get("name") == "on yelp")
    assert trace["y"] == [None, 0.7, None]
    assert trace["mode"] == "lines+markers"
    lines = layer_comparison_figure(document).axes[0].get_lines()
    line = next(line for line in lines if line.get_label() == "on yelp")
    assert line.get_marker() == "."
    assert [bool(v == v) for v in line.get_ydata()] == [False, True, False]


def test_groups_in_two_splits_are_an_error(document: dict[str, Any]) -> None:
    assert level(document, "C011") == "ok"
    assert level(document, "C011", shared_groups=4) == "error"


def test_without_a_best_layer_every_part_still_speaks(document: dict[str, Any]) -> None:
    document |= {"best_layer": None, "best_block_index": None, "tied_layers": []}
    document["findings"] = collect_findings(document, facts())
    assert "no best layer" in document["findings"][0]["message"]
    assert "No layer carries the concept" in " ".join(summary_words(document))
    wrong = {"n_tested": 9, "layers": [{"layer": 2, "n_wrong": 0, "worst": []}], "best": [], "shared": [], "texts": []}
    html = report_html(document, wrong)
    assert "There is no best layer" in html
    assert "Layer None" not in html
    assert len(layer_comparison_figure(document).axes) == 1


def test_a_model_or_a_text_with_dollar_signs_in_its_name_is_drawn_letter_by_letter(document: dict[str, Any]) -> None:
    document["model"] = document["recipe"] = "/home/my$\\frac$ model"
    assert layer_comparison_png(document).startswith(b"\x89PNG")


def test_the_report_starts_with_words_then_what_must_be_mended(document: dict[str, Any]) -> None:
    html = report_html(document)
    assert html.index("is best: AUC") < html.index(">warning<") < html.index(">ok<") < html.index(">skipped<")
    assert html.index("Findings") < html.index("AUC by layer</h2>") < html.index("<h2>Baselines")


def test_what_users_wrote_cannot_become_markup(document: dict[str, Any]) -> None:
    evil = "</script><script>alert(1)</script>"
    document["recipe"], document["model"] = evil, evil
    for e in document["layers"]:
        e["eval"] = {evil: 0.7}
    document["findings"] = collect_findings(document, facts())
    text = {"id": evil, "text": evil, "label": evil, "called": ["negative"], "probabilities": [0.01]}
    missed = {"layer": 2, "n_wrong": 1, "worst": [0]}
    wrong = {"n_tested": 9, "layers": [missed], "best": [0], "shared": [0], "texts": [text]}
    html = report_html(document, wrong, {evil: evil})
    assert "<script>alert" not in html
    assert html.count("</script>") == report_html(document).count("</script>") == 3


@pytest.mark.parametrize(
    ("template", "suffix", "readouts", "said"),
    [
        (
            "none",
            "\n\nThe answer is",
            ["last", "mean"],
            "where the suffix ends: the curve shows when the answer arrives there",
        ),
        ("chat", "", ["mean", "last"], "where the model would go on: the curve shows when the answer arrives there"),
        ("none", "\n\nThe answer is", ["mean"], None),
        ("none", "", ["last"], None),
    ],
)
def test_the_figure_and_the_report_say_where_last_reads(
    template: str, suffix: str, readouts: list[str], said: str | None, document: dict[str, Any]
) -> None:
    document |= {"template": template, "suffix": suffix, "readouts": readouts}
    assert ("`last` reads" in figure_note(document)) == (said is not None)
    if said:
        assert said in figure_note(document)
        assert said in report_html(document)


def test_the_table_of_the_figure_can_be_had_as_csv(document: dict[str, Any]) -> None:
    link = re.search(r'href="data:text/csv;base64,([^"]+)"', report_html(document))
    assert link is not None
    lines = base64.b64decode(link[1]).decode().splitlines()
    assert lines[0].startswith("layer,block_index,readout,cv_auc")
    assert lines[0].endswith("eval_yelp")
    assert len(lines) == 7


def test_the_interactive_figure_is_json_with_every_curve(document: dict[str, Any]) -> None:
    figure = plotly_figure(document)
    names = [t.get("name") for t in figure["data"]]
    assert {"last: cross-validation", "mean: cross-validation", "on yelp", "chosen layer"} <= set(names)
    assert json.loads(json.dumps(figure, allow_nan=False)) == figure


def test_a_curve_with_missing_values_is_drawn_all_the_same(document: dict[str, Any]) -> None:
    for name in ("test_auc", "test_auc_low", "test_auc_high", "control_auc"):
        document["layers"][0][name] = None
    document["layers"][0]["eval"]["yelp"] = None
    report_html(document)
    layer_comparison_figure(document)


def test_one_layer_alone_is_drawn_and_told(document: dict[str, Any]) -> None:
    document |= {"layers": [entry(2, 0.9)], "tied_layers": [2], "readouts": ["last"]}
    document["findings"] = collect_findings(document, facts())
    assert document["findings"][1]["level"] == "skipped"
    assert "better than all" not in report_html(document)
    layer_comparison_figure(document)


def test_labels_are_pushed_apart_and_keep_their_order() -> None:
    assert spread([0.1, 0.5, 0.9], gap=0.1, low=0, high=1) == [0.1, 0.5, 0.9]
    places = spread([0.80, 0.81, 0.82, 0.98, 0.99], gap=0.05, low=0.4, high=1.0)
    assert all(b - a >= 0.0499 for a, b in pairwise(places))
    assert places[-1] <= 1.0


def test_numbers_are_said_in_three_decimals() -> None:
    assert [three(v) for v in (0.5, 1.0, 0.9996)] == [".500", "1.000", "1.000"]
    assert [three(v) for v in (-0.0564, 0.0, None)] == ["-.056", ".000", "unknown"]
    assert interval_words(entry(1, 0.9), "cv_auc") == ".900 (.870 to .920)"
    assert spaced([1, 2, 3, 7]) == "1-3, 7"


def test_an_audit_of_any_shape_becomes_a_short_table() -> None:
    rows = audit_rows({"n_texts": 1400, "leak": {"auc": 0.51234, "words": ["a", "b"]}, "pairs": [{"x": 1}], "ok": True})
    assert rows == [
        ("n texts", "1,400"), ("leak, auc", "0.5123"), ("leak, words", "a, b"), ("pairs", "1 entries"), ("ok", "yes"),
    ]  # fmt: skip
    assert audit_rows({str(i): i for i in range(100)})[-1] == ("further values", "40, see data/audit.json")


def test_what_was_cross_validated_stands_beside_the_test_auc_and_the_best_layer(document: dict[str, Any]) -> None:
    plain = report_html(document)
    assert "TF-IDF is cross-validated as well" not in plain
    document["baselines"]["tfidf"] |= {"cv_auc": 0.777, "cv_auc_low": 0.702, "cv_auc_high": 0.841}
    html = report_html(document)
    assert "TF-IDF is cross-validated as well" in html
    row = re.search(r"<tr><td>TF-IDF</td>(.*?)</tr>", html)
    best = re.search(r'<tr class="best"><td>layer 2 \(best\)</td>(.*?)</tr>', html)
    assert row is not None
    assert best is not None
    assert row[1].startswith('<td>.777 <span class="soft">.702 to .841</span></td><td>.810 ')
    assert best[1].startswith('<td>.950 <span class="soft">.920 to .970</span></td><td>.950 ')


def test_a_cross_validation_that_could_not_be_had_leaves_its_cell_empty(document: dict[str, Any]) -> None:
    document["baselines"]["tfidf"] |= {"cv_auc": None, "cv_auc_low": None, "cv_auc_high": None}
    html = report_html(document)
    assert "<tr><td>TF-IDF</td><td></td><td>.810 " in html
    assert "TF-IDF is cross-validated as well" not in html


def test_every_part_of_the_report_can_be_gone_to(document: dict[str, Any]) -> None:
    html = report_html(document, (), {"n_texts": 3})
    targets = re.findall(r'<a href="#(\w+)">', html)
    assert "audit" in targets
    assert all(html.count(f'<section id="{name}">') == 1 for name in targets)


def test_the_terminal_shows_cross_validated_and_test_auc_of_the_words_and_the_best_layer(
    document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    document["baselines"]["tfidf"] |= {"cv_auc": 0.777, "cv_auc_low": 0.702, "cv_auc_high": 0.841}
    print_comparison(document)
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split("  ")[0].strip(): line.split() for line in lines}
    assert shown["tfidf"] == ["tfidf", "0.777", "0.702-0.841", "0.810"]
    assert shown["majority"] == ["majority", "-", "0.500"]
    assert shown["(best: layer 2)"][3:] == ["0.950", "0.920-0.970", "0.950"]
    document |= {"best_layer": None, "findings": []}
    print_comparison(document)
    assert "(best" not in capsys.readouterr().out
