"""The user's own texts, taken over as they are into the form of folder that generate writes."""

import json
from pathlib import Path

import pytest

from strataprobe.dataset import read_dataset
from strataprobe.errors import DataError, StageError
from strataprobe.generate.adopt import adopt
from strataprobe.recipe import load_recipe

RECIPE = load_recipe("sentiment")


def rows_of(folder: Path) -> list[dict]:
    name = json.loads((folder / "manifest.json").read_text())["details"]["combined"]
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def test_adopted_texts_keep_their_rows_order_and_fields(tmp_path):
    source = tmp_path / "my texts.jsonl"
    given = [
        {"id": f"r{i}", "text": f"Text number {i} about {'cats' if i % 2 else 'dogs'} and thing {i * 7}.",
         "label": ["cat", "dog", "newt"][i % 3], "colour": "red"}
        for i in range(30)
    ]  # fmt: skip
    source.write_text("".join(json.dumps(row) + "\n" for row in given))
    manifest = adopt(source, tmp_path / "data", recipe=None)
    found = rows_of(tmp_path / "data")
    assert [(r["id"], r["text"], r["label"], r["colour"]) for r in found] == [
        (r["id"], r["text"], r["label"], r["colour"]) for r in given
    ]
    assert manifest.details == {
        "combined": "my-texts_combined_30.jsonl", "name": "my-texts", "counts": {"cat": 10, "dog": 10, "newt": 10}
    }  # fmt: skip
    assert {p.name for p in (tmp_path / "data").glob("*_10.jsonl")} == {
        "cat_my-texts_10.jsonl", "dog_my-texts_10.jsonl", "newt_my-texts_10.jsonl"
    }  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "data" / "manifest.json").read_text()
    assert read_dataset(tmp_path / "data").class_names == ["cat", "dog", "newt"]
    again = adopt(source, tmp_path / "data", recipe=None)
    assert again == manifest
    source.write_text(json.dumps(given[0]) + "\n")
    with pytest.raises(StageError, match="texts_sha256"):
        adopt(source, tmp_path / "data", recipe=None)


def test_classes_whose_names_a_file_name_cannot_hold_get_files_of_their_own(tmp_path):
    source = tmp_path / "mine.jsonl"
    lines = [{"text": f"Some words about {label}.", "label": label} for label in ("a/b", "a b", "A-B", "combined")]
    source.write_text("".join(json.dumps(row) + "\n" for row in lines))
    adopt(source, tmp_path / "data", recipe=None)
    class_files = [p for p in (tmp_path / "data").glob("*.jsonl") if "_4" not in p.name]
    assert len(class_files) == 4
    assert sorted(json.loads(p.read_text())["label"] for p in class_files) == ["A-B", "a b", "a/b", "combined"]
    with pytest.raises(DataError, match="is a folder"):
        adopt(tmp_path, tmp_path / "other", recipe=None)


def test_adopted_texts_may_lack_labels(tmp_path):
    source = tmp_path / "notes.txt"
    source.write_text("I went home.\nThe bus was late.\n")
    adopt(source, tmp_path / "data", recipe=None)
    found = rows_of(tmp_path / "data")
    assert [r["text"] for r in found] == ["I went home.", "The bus was late."]
    assert [r["label"] for r in found] == [None, None]
    audit = json.loads((tmp_path / "data" / "audit.json").read_text())
    assert audit["n_unlabelled"] == 2
    assert {f["code"]: f["level"] for f in audit["findings"]}["G005"] == "skipped"


def test_texts_adopted_under_a_recipe_are_audited_against_it(tmp_path):
    source = tmp_path / "mine.jsonl"
    lines = [{"text": "I am hopeful.", "label": "positive"}, {"text": "I lost my keys.", "label": "negative"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in lines))
    manifest = adopt(source, tmp_path / "data", recipe=RECIPE)
    assert manifest.details["combined"] == "sentiment_combined_2.jsonl"
    assert (tmp_path / "data" / "positive_sentiment_1.jsonl").is_file()
    audit = json.loads((tmp_path / "data" / "audit.json").read_text())
    assert audit["banned_words"] == {"n_texts": 1, "words": {"hopeful": 1}}
