"""The page of the data audit shows what there is, leaves out what is not, and lets nothing become markup."""

from __future__ import annotations

import re
from typing import Any

import pytest

from strataprobe.compare.audit_page import audit_page
from strataprobe.compare.report import report_html

EVIL = "<script>alert(1)</script>"


def layer(k: int, value: float) -> dict[str, Any]:
    names = ("cv_auc", "cv_auc_low", "cv_auc_high", "test_auc", "test_auc_low", "test_auc_high", "test_accuracy")
    bounds = ("test_accuracy_low", "test_accuracy_high", "control_auc", "selectivity")
    own = {"layer": k, "block_index": k - 1, "readout": "last", "eval": {}}
    return own | dict.fromkeys(names + bounds, value)


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "recipe": "mood", "classes": ["down", "up"], "model": "a/model", "model_revision": None, "suffix": "",
        "readouts": ["last"], "primary_readout": "last", "best_layer": 2, "best_block_index": 1, "tied_layers": [2],
        "config": {"seed": 0}, "inputs": {"probes": "1", "activations": "2"}, "versions": {}, "ensembles": {},
        "n_texts": {"train": 8, "val": 2, "test": 2}, "layers": [layer(1, 0.6), layer(2, 0.95)], "findings": [],
        "baselines": {"tfidf": {"test_auc": 0.8, "test_auc_low": 0.7, "test_auc_high": 0.9, "cv_auc": 0.75,
                                "cv_auc_low": 0.65, "cv_auc_high": 0.85}},
    }  # fmt: skip


@pytest.fixture
def audit() -> dict[str, Any]:
    return {
        "format_version": 1, "n_texts": 1_234_567, "n_unlabelled": 7,
        "counts": {
            "label": {"down": 60, "up": 50}, "member": {}, "persona": {f"person {i}": 1 + i % 5 for i in range(240)},
            "language_style": {"diary": 30, "letter": 80}, "split": {"train": 80, "val": 20, "test": 10}, "groups": 55,
            "split_by_label": {"train": {"down": 40, "up": 40}, "val": {"down": 10, "up": 10}, "test": {"down": 10}},
        },
        "length_words": {"down": {"mean": 20.0, "p5": 10.0, "p95": 30.0}, "up": {"mean": 36.04, "p5": 22.0, "p95": 40.0}},
        "distinct": {"1-gram": 0.05, "2-gram": 0.5},
        "repeated_sentences": {"so it goes": 13, "well then": 4},
        "banned_words": {"n_texts": 2, "words": {"moody": 2}},
        "duplicates": {"exact": 3, "exact_across_splits": 0, "near": 5, "near_across_splits": 1},
        "leak": {"setup": "TF-IDF, GroupKFold(5)", "n_texts": 110, "auc": 0.7, "auc_folds": [0.6, 0.8],
                 "top_words": {"down": ["grey", "rain"], "up": ["sun"]}},
        "asked": {"answers": 200, "accepted": 110, "acceptance_rate": 0.55, "missing": 1,
                  "rejected": {"length": 30, "banned_words": 60}, "requests": 205, "retries": {"http 429": 5}},
        "judge": {"model": "judge:7b", "n": 110, "n_unclear": 4, "agreement": 0.87, "kappa": 0.74,
                  "by_class": {"down": 0.94, "up": 0.8}, "disagreements": ["mood-00007"]},
        "findings": [{"code": "G001", "level": "ok", "message": "fine."},
                     {"code": "G003", "level": "warning", "message": "3 texts repeat: remove them."}],
    }  # fmt: skip


def section(document: dict[str, Any], audit: dict[str, Any] | None) -> str:
    """The data audit of the report."""
    html = report_html(document, (), audit)
    return html[html.index('<section id="audit">') : html.index('<section id="reproduce">')]


def test_findings_come_first_the_gravest_of_them_on_top(document: dict[str, Any], audit: dict[str, Any]) -> None:
    html = section(document, audit)
    assert html.index("G003") < html.index("G001") < html.index("<h3>Classes</h3>")
    assert "3 texts repeat: remove them." in html


def test_every_part_of_a_whole_audit_has_its_place(document: dict[str, Any], audit: dict[str, Any]) -> None:
    html = section(document, audit)
    titles = [re.sub(":.*", "", title) for title in re.findall(r"<h3>(.*?)</h3>", html)]
    assert titles == ["Classes", "The leak", "Counts", "Wording", "Duplicates", "How the writing went", "The judge"]
    assert "1,234,567 texts in 55 groups of related texts: train 80, val 20, test 10. 7 have no label." in html
    assert "Not given with these texts: member." in html
    for words in ("55.0 %", "http 429", "205", "judge:7b", ".740", "mood-00007", "so it goes", "moody", "50.0 %"):
        assert words in html
    assert "Other values" not in html


def test_a_class_has_its_texts_by_split_and_a_strip_of_its_lengths(
    document: dict[str, Any], audit: dict[str, Any]
) -> None:
    found = audit_page(audit, document)["classes"]
    down, up = found["rows"]
    assert (down["texts"], down["splits"], up["splits"]) == ("60", ["40", "10", "10"], ["40", "10", "0"])
    assert (down["mean"], down["span"]) == ("20.0", "10 to 30")
    assert down["strip"] == {"line": ("42.0", "118.0"), "dot": "80.0", "ticks": []}
    assert up["strip"]["line"][1] == "156.0"
    assert found["note"] == "2 classes, 50 to 60 texts each. Mean length: 20.0 to 36.0 words."


def test_the_leak_stands_beside_the_auc_of_the_best_layer(document: dict[str, Any], audit: dict[str, Any]) -> None:
    found = audit_page(audit, document)["leak"]
    assert [(r["name"], r["cv"], r["test"]) for r in found["rows"]] == [
        ("bag of words, in the audit", 0.7, None),
        ("TF-IDF, folds of the layers", 0.75, 0.8), ("layer 2 (best)", 0.95, 0.95),
    ]  # fmt: skip
    assert found["rows"][0]["span"] == "folds .600 to .800"
    assert found["folds"] == [".600", ".800"]
    assert "layer 2 reaches .950 and the words alone .750: the layer is .200 above them" in found["difference"]
    document["baselines"]["tfidf"]["cv_auc"] = 0.97
    assert "the layer is .020 below them" in audit_page(audit, document)["leak"]["difference"]


def test_a_leak_that_was_not_measured_says_why(document: dict[str, Any], audit: dict[str, Any]) -> None:
    assert "did not measure" not in section(document, audit)
    audit["leak"] = {"setup": "TF-IDF", "n_texts": 9, "auc": None, "top_words": {}, "skipped": "there are few groups"}
    html = section(document, audit)
    assert "The audit did not measure the leak: there are few groups." in html
    assert "TF-IDF, folds of the layers" in html
    document |= {"best_layer": None, "baselines": {}}
    assert "The leak" not in section(document, audit)


def test_long_lists_are_folded_and_short_ones_are_not(document: dict[str, Any], audit: dict[str, Any]) -> None:
    html = section(document, audit)
    assert re.search(r'<summary>persona <span class="small">240 values, 1 to 5 texts each\.</span></summary>', html)
    assert "Texts and length by class</summary>" not in html
    assert html.count('<span class="name">person ') == 240
    for part in (audit["counts"]["label"], audit["leak"]["top_words"], audit["judge"]["by_class"]):
        part |= {f"act_{i}": ["word"] if part is audit["leak"]["top_words"] else 1 for i in range(45)}
    html = section(document, audit)
    for title in ("Texts and length by class", "The words that give each class away", "Agreement by class"):
        assert f"<details><summary>{title}</summary>" in html
    audit["counts"]["persona"] = {str(i): 1 for i in range(1000)}
    assert "and 700 more, see data/audit.json" in section(document, audit)


def test_the_longest_bar_is_full_and_shares_are_of_the_whole(document: dict[str, Any], audit: dict[str, Any]) -> None:
    page = audit_page(audit, document)
    assert page["asked"]["rejected"]["rows"] == [("banned words", "60", "100.0"), ("length", "30", "50.0")]
    assert page["distinct"]["rows"] == [("1-gram", "5.0 %", "5.0"), ("2-gram", "50.0 %", "50.0")]
    assert page["judge"]["by_class"]["rows"][0] == ("up", "80.0 %", "80.0")


def test_duplicates_that_spoil_the_test_are_marked(document: dict[str, Any], audit: dict[str, Any]) -> None:
    assert [row["bad"] for row in audit_page(audit, document)["duplicates"]] == [True, False, False, True]


def test_nothing_in_an_audit_can_become_markup(document: dict[str, Any], audit: dict[str, Any]) -> None:
    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: poisoned(v) for k, v in value.items()} | {EVIL: next(iter(value.values()), 1)}
        return [*value, EVIL] if isinstance(value, list) else EVIL if isinstance(value, str) else value

    kept = ("findings", "n_texts", "n_unlabelled", "format_version")
    evil = {k: v if k in kept else poisoned(v) for k, v in audit.items()} | {EVIL: EVIL}
    evil["findings"] = [{"code": EVIL, "level": "warning", "message": f"{EVIL} `{EVIL}`"}]
    html = section(document, evil)
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20


@pytest.mark.parametrize("gone", ["absent", "null", "of another form"])
def test_an_audit_with_any_part_missing_is_shown_all_the_same(
    document: dict[str, Any], audit: dict[str, Any], gone: str
) -> None:
    for part in list(audit):
        less = {k: v for k, v in audit.items() if k != part or gone != "absent"}
        if gone != "absent":
            less[part] = None if gone == "null" else ["other"]
        html = section(document, less)
        shown = gone == "of another form" and part not in ("findings", "format_version")
        assert ("Other values of the audit" in html) == shown, part
    for part in ("counts", "leak", "asked", "judge", "duplicates", "banned_words"):
        for inner in audit[part]:
            section(document, audit | {part: {k: v for k, v in audit[part].items() if k != inner}})
            section(document, audit | {part: audit[part] | {inner: None}})


def test_values_this_page_does_not_know_are_listed_as_they_are(document: dict[str, Any]) -> None:
    html = section(document, {"leak_auc": 0.71, "duplicates": 0, "by_class": {"a": [1, 2]}})
    assert '<td class="key">leak auc</td><td class="value">0.71</td>' in html
    assert '<td class="key">duplicates</td><td class="value">0</td>' in html
    assert "<h3>" not in html


def test_without_an_audit_the_section_says_so(document: dict[str, Any]) -> None:
    assert "There is no audit beside these activations" in section(document, None)
    assert "There is no audit" not in section(document, {"n_texts": 3})
