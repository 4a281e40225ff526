"""Reading labelled texts: what is accepted, what is filled in, and the sentence for each bad row."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from strataprobe.content import check_text
from strataprobe.dataset import Text, fill_splits, read_dataset, to_jsonl
from strataprobe.errors import DataError
from strataprobe.recipe import Recipe, RecipeClass, load_recipe
from strataprobe.textfiles import iter_rows, parse_jsonl


def jsonl(path: Path, *rows: Any) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "texts.jsonl"


@pytest.mark.parametrize("name", ["label", "sentiment", "cognitive_action"])
def test_the_label_is_read_from_each_of_its_names(name: str, file: Path) -> None:
    data = read_dataset(jsonl(file, {"text": "a b", name: "zeta"}, {"text": "c d", name: "alpha"}, {"text": "e f"}))
    assert data.class_names == ["alpha", "zeta"]
    assert [r.label for r in data.rows] == ["zeta", "alpha", None]
    assert data.label_indices() == [1, 0, -1]


def test_a_recipes_own_label_field_comes_first(file: Path) -> None:
    recipe = Recipe(name="moods", label_field="mood", classes=(RecipeClass(name="up"), RecipeClass(name="down")))
    data = read_dataset(jsonl(file, {"text": "a", "label": "x", "mood": "up"}, {"text": "b", "mood": "down"}), recipe)
    assert [r.label for r in data.rows] == ["up", "down"]
    assert data.class_names == ["down", "up"]


def test_whole_numbers_are_labels_and_other_values_are_not(file: Path) -> None:
    assert read_dataset(jsonl(file, {"text": "a", "label": 1}, {"text": "b", "label": 0})).class_names == ["0", "1"]
    for bad in (0.5, ["a"], {"a": 1}):
        with pytest.raises(DataError, match=r"line 2: 'label' is \w+, a label must be a string or a whole number"):
            read_dataset(jsonl(file, {"text": "a", "label": "x"}, {"text": "b", "label": bad}))


def test_a_score_is_a_continuous_target(file: Path) -> None:
    data = read_dataset(jsonl(file, {"text": "a", "score": 1.5}, {"text": "b"}, {"text": "c", "score": -2}))
    assert [r.score for r in data.rows] == [1.5, None, -2.0]
    assert data.class_names == []


def test_no_row_is_dropped_changed_or_reordered(file: Path) -> None:
    texts = ["  b \n", "a", "a", "\u200b", "ü🙂\u2028x", "a" * 100_000, "\x00nul"]
    data = read_dataset(jsonl(file, *({"text": t, "mood": i} for i, t in enumerate(texts))))
    assert [r.text for r in data.rows] == texts
    assert [r.fields["mood"] for r in data.rows] == list(range(len(texts)))
    assert [r.id for r in data.rows] == [f"{i:06d}" for i in range(len(texts))]


def test_what_a_row_brings_is_kept(file: Path) -> None:
    row = {"id": "x1", "text": "a", "label": "l", "split": "test", "group": "g", "emotion": "joy"}
    data = read_dataset(jsonl(file, row, {"id": 7, "text": "b", "pair_id": 3, "split": "validation"}))
    assert data.rows[0].to_json() == row
    assert (data.rows[1].id, data.rows[1].group, data.rows[1].split) == ("7", "3", "val")
    written = to_jsonl(data.rows)
    assert read_dataset(jsonl(file, *written.splitlines())).sha256 == data.sha256


def test_near_duplicates_share_a_filled_in_group_and_others_do_not(file: Path) -> None:
    text = "We walked along the river until the lamps came on and the last boat left."
    data = read_dataset(
        jsonl(
            file, {"text": text}, {"text": "Nothing of the kind at all here."}, {"text": text.upper()}, {"text": text}
        )
    )
    groups = [r.group for r in data.rows]
    assert groups[0] == groups[2] == groups[3] != groups[1]
    assert len({r.split for r in data.rows if r.group == groups[0]}) == 1


def test_a_filled_in_group_never_takes_the_name_of_one_that_is_there(file: Path) -> None:
    data = read_dataset(jsonl(file, {"text": "one two three"}, {"text": "four five six", "group": "auto-000000"}))
    assert data.rows[0].group != data.rows[1].group


def test_a_group_that_has_a_split_gives_it_to_its_other_rows() -> None:
    rows = [Text("a", "x", split="test", group="g"), Text("b", "y", group="g")]
    fill_splits(rows, (0.7, 0.15, 0.15), 0)
    assert [r.split for r in rows] == ["test", "test"]


BAD_ROWS = {
    "not JSON": ('{"text": "a"', r"line 3 is not JSON \(.* at column 13\)"),
    "not an object": ('["a"]', r"line 3 is not a JSON object"),
    "no text": ({"label": "x"}, r"line 3 has no 'text'"),
    "null text": ({"text": None}, r"line 3 has no 'text'"),
    "text not a string": ({"text": 5}, r"line 3: 'text' is int, not a string"),
    "empty text": ({"text": ""}, r"line 3 has an empty text"),
    "white space alone": ({"text": " \n\t\u2003"}, r"line 3 has an empty text"),
    "half a surrogate pair": ('{"text": "a\\ud83d"}', r"line 3 holds half of a surrogate pair \(character 1\)"),
    "empty label": ({"text": "a", "label": ""}, r"line 3: 'label' is empty"),
    "score no number": ({"text": "a", "score": "high"}, r"line 3: 'score' is 'high', not a number"),
    "score not finite": ('{"text": "a", "score": NaN}', r"line 3: 'score' is nan; it must be finite"),
    "unknown split": ({"text": "a", "split": "training"}, r"line 3: split 'training' is none of train, val, test"),
    "an id twice": ({"text": "a", "id": "000000"}, r"line 3 has the id '000000' of .*line 1: ids must differ"),
    "an id with half a surrogate pair": ('{"text": "a", "id": "\\ud83d"}', r"line 3: 'id' "),
    "a group with half a surrogate pair": ('{"text": "a", "group": "\\ud83d"}', r"line 3: 'group' "),
    "a label with half a surrogate pair": ('{"text": "a", "label": "\\ud83d"}', r"line 3: 'label' "),
    "an id with a zero byte": ('{"text": "a", "id": "x\\u0000"}', r"line 3: 'id' "),
    "a group with a zero byte": ('{"text": "a", "group": "x\\u0000"}', r"line 3: 'group' "),
    "a label with a zero byte": ('{"text": "a", "label": "x\\u0000"}', r"line 3: 'label' "),
}


@pytest.mark.parametrize(("bad", "sentence"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row_is_named_by_file_and_line(bad: Any, sentence: str, file: Path) -> None:
    good = {"text": "fine", "label": "x"}
    with pytest.raises(DataError, match=sentence) as caught:
        read_dataset(jsonl(file, good, good, bad, good))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(read_dataset(jsonl(file, good, good, good)).rows) == 3


def test_a_class_that_the_recipe_does_not_have_is_named(file: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: class 'neutral' is none of the recipe's: negative, positive"):
        read_dataset(
            jsonl(file, {"text": "a", "label": "positive"}, {"text": "b", "label": "neutral"}), load_recipe("sentiment")
        )
    data = read_dataset(jsonl(file, {"text": "a", "sentiment": "positive"}), load_recipe("sentiment"))
    assert data.class_names == ["negative", "positive"]


def test_blank_lines_are_passed_over_and_still_counted(file: Path) -> None:
    with pytest.raises(DataError, match="line 4 is not JSON"):
        list(iter_rows(jsonl(file, {"text": "a"}, "", "  ", "{")))
    assert len(list(iter_rows(jsonl(file, {"text": "a"}, "", {"text": "b"})))) == 2


def test_files_that_are_missing_unknown_empty_or_not_utf8_are_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(DataError, match=r"is not a file: give a .jsonl"):
        list(iter_rows(tmp_path / "none.jsonl"))
    (tmp_path / "texts.doc").write_text("x")
    with pytest.raises(DataError, match="is of an unknown kind"):
        list(iter_rows(tmp_path / "texts.doc"))
    with pytest.raises(DataError, match="holds no texts"):
        read_dataset(jsonl(file))
    file.write_bytes('{"text": "Grüße"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8 \(byte \d+\)"):
        list(iter_rows(file))


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    for name, data in {
        "a.jsonl": '{"text": "a"}\r\n{"text": "b"}\r\n',
        "a.csv": "text\r\na\r\nb\r\n",
        "a.txt": "a\r\nb\r\n",
    }.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + data.encode())
        assert [row["text"] for _, row in iter_rows(tmp_path / name)] == ["a", "b"]


def test_csv_is_read_with_its_columns_and_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "texts.CSV"
    path.write_text('text,label,score\n"two\nlines",x,1.5\nplain,,\n', encoding="utf-8")
    data = read_dataset(path)
    assert [(r.text, r.label, r.score) for r in data.rows] == [("two\nlines", "x", 1.5), ("plain", None, None)]
    path.write_text("text,label\nplain,x\n,y\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 3 has no 'text'"):
        read_dataset(path)
    path.write_text("words,label\nplain,x\n", encoding="utf-8")
    with pytest.raises(DataError, match="has no column 'text'"):
        read_dataset(path)


def test_a_text_file_is_a_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("one\n\n  two \n", encoding="utf-8")
    assert list(iter_rows(path)) == [(f"{path}, line 1", {"text": "one"}), (f"{path}, line 3", {"text": "  two "})]


def test_parquet_is_read_with_its_missing_values_left_out(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas", reason="the parquet extra is not installed")
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    path = tmp_path / "texts.parquet"
    frame = {
        "text": ["a b", "c d"],
        "label": ["x", None],
        "score": [1.0, float("nan")],
        "tags": [["u", "v"], ["w", "z"]],
    }
    pd.DataFrame(frame).to_parquet(path)
    data = read_dataset(path)
    assert [(r.text, r.label, r.score) for r in data.rows] == [("a b", "x", 1.0), ("c d", None, None)]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_dataset(path)


def test_parquet_without_its_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DataError, match=r"pip install 'strataprobe\[parquet\]'"):
        list(iter_rows(tmp_path / "texts.parquet"))


def test_jsonl_may_come_from_anywhere() -> None:
    assert list(parse_jsonl(['{"text": "a"}', "\n"], "standard input")) == [("standard input, line 1", {"text": "a"})]
    with pytest.raises(DataError, match="standard input, line 2 is not JSON"):
        list(parse_jsonl(["{}", "x"], "standard input"))


def test_a_text_is_checked_and_given_back_unchanged() -> None:
    assert check_text(" a ", "here") == " a "
    with pytest.raises(DataError, match="here has an empty text"):
        check_text("   ", "here")


def test_the_digest_changes_with_what_decides_the_result_and_with_nothing_else(file: Path) -> None:
    rows = [{"text": "one two", "label": "x", "note": 1}, {"text": "three four", "label": "y"}]
    first = read_dataset(jsonl(file, *rows))
    assert read_dataset(jsonl(file, {**rows[0], "note": 2}, rows[1])).sha256 == first.sha256
    for changed in ({"text": "one too"}, {"label": "y"}, {"id": "q"}, {"group": "g"}, {"score": 1}):
        assert read_dataset(jsonl(file, {**rows[0], **changed}, rows[1])).sha256 != first.sha256
    assert read_dataset(jsonl(file, *rows[::-1])).sha256 != first.sha256


def test_every_real_file_is_read_whole_and_in_order(data_folder: Path) -> None:
    paths = sorted((data_folder / "real_text").glob("*.jsonl"))
    assert paths
    for path in paths[:3]:
        lines = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        assert [r.text for r in read_dataset(path).rows] == [row["text"] for row in lines]
