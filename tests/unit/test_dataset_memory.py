"""Rows of texts take little more memory than the texts, and their digest is that of all rows in one list."""

from __future__ import annotations

import copy
import json
import pickle
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest

from strataprobe import textfiles
from strataprobe.dataset import Dataset, Text, read_dataset
from strataprobe.errors import DataError
from strataprobe.manifest import sha256_json
from strataprobe.textfiles import iter_rows

N_ROWS = 10_000
TEXT = "Some sixty characters about a river, a lamp and number {:06d}."


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many") / "texts.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(N_ROWS):
            row = {"id": f"row-{i:06d}", "text": TEXT.format(i), "label": ["no", "yes"][i % 2]}
            row |= {"split": ["train", "val", "test"][i // 5 % 3], "group": f"scene-{i // 5:06d}"}
            file.write(json.dumps({**row, "domain": f"the domain of {i}", "style": "plain"}) + "\n")
    return path


def bytes_a_row(path: Path, keep_fields: bool) -> tuple[float, float]:
    """Held once all rows are read, and at the worst moment."""
    tracemalloc.start()
    try:
        data = read_dataset(path, keep_fields=keep_fields)
        held, peak = tracemalloc.get_traced_memory()
        assert len(data.rows) == N_ROWS
        return held / N_ROWS, peak / N_ROWS
    finally:
        tracemalloc.stop()


def test_a_row_takes_little_more_than_its_text_and_further_fields_are_held_on_request(many: Path) -> None:
    held, peak = bytes_a_row(many, keep_fields=False)
    assert held < 350
    assert peak < 500
    assert bytes_a_row(many, keep_fields=True)[0] > held + 100


def test_the_digest_takes_no_memory_to_speak_of_and_is_that_of_one_list(many: Path) -> None:
    data = read_dataset(many, keep_fields=False)
    tracemalloc.start()
    try:
        found = data.sha256
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
    assert found == sha256_json([(r.id, r.text, r.label, r.score, r.split, r.group) for r in data.rows])


@pytest.mark.parametrize("n", [0, 1, 999, 1000, 1001, 2001])
def test_the_digest_of_any_number_of_rows_is_that_of_one_list(n: int) -> None:
    rows = [
        Text(str(i), f"ü\u2028 {i}", None if i % 3 else "x", "test", "g", i / 7 if i % 2 else None) for i in range(n)
    ]
    assert Dataset("d", rows, ["x"]).sha256 == sha256_json(
        [(r.id, r.text, r.label, r.score, r.split, r.group) for r in rows]
    )


def test_names_that_are_equal_are_one_object(many: Path) -> None:
    rows = read_dataset(many, keep_fields=False).rows
    for name in ("label", "split", "group"):
        values = [getattr(row, name) for row in rows]
        assert len({id(v) for v in values}) == len(set(values)) > 1


def test_rows_without_further_fields_share_an_empty_mapping_that_cannot_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c", "mood": 1}\n')
    first, second, third = read_dataset(path).rows
    assert first.fields is second.fields is Text("d", "e").fields
    assert (first.fields, third.fields) == ({}, {"mood": 1})
    with pytest.raises(TypeError):
        first.fields["mood"] = 2  # type: ignore[index]
    for copied in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):  # noqa: S301
        assert copied == first


def test_rows_come_one_by_one_so_that_a_bad_one_is_met_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\nbroken\n')
    assert [row["text"] for _, row in islice(iter_rows(path), 2)] == ["a", "b"]
    with pytest.raises(DataError, match="line 3 is not JSON"):
        list(iter_rows(path))


def test_an_id_told_twice_names_both_lines_in_a_file_with_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"id": i, "text": "a"}) for i in ("b", "a", "c", "a", "b")]
    path.write_text("\n\n".join(lines))
    with pytest.raises(DataError, match=r"line 7 has the id 'a' of .*line 3: ids must differ"):
        read_dataset(path)
    path.write_text("\n\n".join(lines[:3]))
    assert len(read_dataset(path).rows) == 3


def test_parquet_values_do_not_depend_on_where_a_batch_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd = pytest.importorskip("pandas", reason="the parquet extra is not installed")
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    path = tmp_path / "texts.parquet"
    frame = {
        "text": ["a", "b", "c", "d", "e"],
        "label": [1, 0, None, 1, 0],
        "pair_id": [7, 7, None, 9, 9],
        "weight": [0.5, 1.0, 2.0, None, 4.0],
        "kept": [True, None, False, True, True],
        "day": pd.to_datetime(["2024-01-02", None, "2024-01-04", "2024-01-05", "2024-01-06"]),
        "kind": pd.Categorical(["u", "v", "u", "w", "w"]),
        "tags": [["u"], ["v", "w"], None, [], ["x"]],
    }
    whole_numbers = {"label": "Int64", "pair_id": "Int64"}
    pd.DataFrame(frame, index=[5, 3, 9, 1, 0]).astype(whole_numbers).to_parquet(path)
    rows = []
    for n in (4096, 2):
        monkeypatch.setattr(textfiles, "_PARQUET_ROWS_AT_ONCE", n)
        rows.append(list(iter_rows(path)))
    assert rows[0] == rows[1]
    assert [place for place, _ in rows[1]] == [f"{path}, row {i}" for i in range(1, 6)]
    assert rows[1][3][1] == {
        "text": "d", "label": 1, "pair_id": 9, "kept": True, "day": "2024-01-05T00:00:00", "kind": "w", "tags": []
    }  # fmt: skip
    assert sorted(rows[1][2][1]) == ["day", "kept", "kind", "text", "weight"]


def test_whole_numbers_stay_whole_where_a_parquet_column_has_gaps(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="the parquet extra is not installed")
    path = tmp_path / "texts.parquet"
    parquet.write_table(pa.table({"text": ["a", "b", "c"], "id": [2**60 + 1, None, 4], "group": [3, 3, None]}), path)
    assert [(r.id, r.group) for r in read_dataset(path).rows][:2] == [(str(2**60 + 1), "3"), ("000001", "3")]
