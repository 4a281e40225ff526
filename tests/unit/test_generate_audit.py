"""The audit finds what is wrong with a set of texts, and says nothing where nothing is."""

import json
import random

import pytest

from strataprobe.dataset import Text
from strataprobe.generate.audit import audit
from strataprobe.generate.leak import bag_of_words_leak
from strataprobe.recipe import load_recipe

NOUNS = ("lamp", "river", "stone", "window", "pencil", "orange", "candle", "mountain", "ticket", "basket", "ladder")


def texts(n: int, give_away: float, seed: int = 0, classes: tuple[str, ...] = ("down", "up")) -> list[Text]:
    """``n`` random texts a class; a word that names the class stands in a share ``give_away`` of them."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        for label in classes:
            words = [rng.choice(NOUNS) + str(rng.randrange(9)) for _ in range(12)]
            if rng.random() < give_away:
                words[3] = f"word{label}"
            split = ("train", "val", "test")[i % 3]
            rows.append(Text(f"{i}-{label}", " ".join(words), label, split, f"g{i}"))
    return rows


def findings(report: dict) -> dict[str, str]:
    return {f["code"]: f["level"] for f in report["findings"]}


def test_clean_texts_have_no_warnings_but_for_what_is_not_measured():
    report = audit(texts(60, 0.0), None)
    skipped = {"G002", "G009", "G010", "G011"}
    codes = [f"G{i:03d}" for i in range(1, 13)]
    assert findings(report) == {code: "skipped" if code in skipped else "ok" for code in codes}
    json.dumps(report, allow_nan=False)


def test_a_word_that_gives_the_class_away_is_measured_and_named():
    leak = bag_of_words_leak(texts(60, 1.0))
    assert leak["auc"] > 0.95
    assert leak["top_words"]["up"][0] == "wordup"
    assert bag_of_words_leak(texts(60, 0.0))["auc"] < 0.65
    assert findings(audit(texts(60, 1.0), None))["G005"] == "warning"


def test_the_leak_is_macro_averaged_over_more_than_two_classes():
    leak = bag_of_words_leak(texts(40, 1.0, classes=("a", "b", "c")))
    assert leak["auc"] > 0.9
    assert set(leak["top_words"]) == {"a", "b", "c"}


def test_a_set_too_small_to_measure_says_so():
    leak = bag_of_words_leak(texts(5, 1.0))
    assert leak["auc"] is None
    assert "fewer than 20" in leak["skipped"]


def test_copies_and_copies_across_splits_are_counted():
    rows = texts(20, 0.0)
    rows.append(Text("copy", rows[0].text, rows[1].label, "test", "other"))
    rows.append(Text("near", rows[4].text + " more", rows[4].label, "train", "another"))
    duplicates = audit(rows, None)["duplicates"]
    assert duplicates["exact"] == duplicates["exact_across_splits"] == duplicates["exact_with_other_label"] == 1
    assert duplicates["near"] == 2
    assert duplicates["near_across_splits"] == 2
    assert findings(audit(rows, None))["G004"] == "warning"


def test_lengths_and_sizes_that_differ_by_class_are_warned_of():
    rows = texts(30, 0.0)
    for row in rows:
        if row.label == "up":
            row.text += " and many more words at the end"
    assert findings(audit(rows, None))["G007"] == "warning"
    assert findings(audit([r for i, r in enumerate(rows) if i % 8 == 0 or r.label == "up"], None))["G001"] == "warning"


def test_words_of_the_recipe_are_counted_under_it():
    rows = texts(30, 0.0)
    rows[0].text += " I was saddened."
    for row in rows:
        row.label = {"up": "positive", "down": "negative"}[row.label or ""]
    report = audit(rows, load_recipe("sentiment"))
    assert report["banned_words"] == {"n_texts": 1, "words": {"saddened": 1}}
    assert findings(report)["G002"] == "warning"


def test_a_sentence_that_stands_in_many_groups_is_warned_of_and_one_that_a_group_shares_is_not():
    rows = texts(30, 0.0)
    for row in rows:
        row.text += ". The scene of " + row.group + " was quiet."
    assert audit(rows, None)["repeated_sentences"] == {}
    for row in rows[:20]:
        row.text += " That was the end of it."
    report = audit(rows, None)
    assert report["repeated_sentences"] == {"that was the end of it": 10}
    assert findings(report)["G012"] == "ok"
    rows[20].text += " That was the end of it!"
    report = audit(rows, None)
    assert report["repeated_sentences"] == {"that was the end of it": 11}
    assert findings(report)["G012"] == "warning"


@pytest.mark.parametrize(
    ("asked", "missing", "acceptance"),
    [
        (None, "skipped", "skipped"),
        ({"answers": 60, "accepted": 60, "acceptance_rate": 1.0, "missing": 0, "rejected": {}}, "ok", "ok"),
        (
            {"answers": 99, "accepted": 49, "acceptance_rate": 0.49, "missing": 2, "rejected": {"list": 50}},
            "warning",
            "warning",
        ),
        ({"answers": 0, "accepted": 0, "acceptance_rate": None, "missing": 0, "rejected": {}}, "ok", "skipped"),
    ],
)
def test_missing_texts_and_many_rejections_are_warned_of(asked, missing, acceptance):
    report = audit(texts(30, 0.0), None, asked=asked)
    assert report["asked"] == asked
    assert (findings(report)["G009"], findings(report)["G010"]) == (missing, acceptance)


@pytest.mark.parametrize(("agreement", "level"), [(0.81, "ok"), (0.8, "ok"), (0.79, "warning")])
def test_a_judge_who_disagrees_is_warned_of(agreement, level):
    judge = {"model": "second", "n": 60, "n_unclear": 0, "agreement": agreement, "by_class": {"up": 0.9, "down": 0.6}}
    report = audit(texts(30, 0.0), None, judge=judge)
    assert findings(report)["G011"] == level
    message = next(f["message"] for f in report["findings"] if f["code"] == "G011")
    assert ("least for down" in message) == (level == "warning")


def test_rows_without_a_label_or_without_words_do_not_trip_the_audit():
    rows = [Text("a", "!!!", None, "train", "g"), Text("b", "?", "x", "test", "h")]
    report = audit(rows, None)
    assert report["n_unlabelled"] == 1
    assert audit([Text("a", "word", None, "train", "g")], None)["leak"]["auc"] is None
