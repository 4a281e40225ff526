"""Rows with ``messages`` in place of ``text``: what a conversation is read as, and the sentence for each bad one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from strataprobe.content import check_content
from strataprobe.dataset import read_dataset, to_jsonl
from strataprobe.errors import DataError
from strataprobe.generate.adopt import adopt
from strataprobe.manifest import sha256_json


def said(*contents: str) -> list[dict[str, Any]]:
    return [{"role": ["user", "assistant"][i % 2], "content": content} for i, content in enumerate(contents)]


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "chats.jsonl"


def test_a_conversation_is_kept_and_its_text_is_that_of_its_last_message(file: Path) -> None:
    chat = [{"role": "system", "content": "Be kind."}, *said("Hi. ", " Hello\n")]
    data = read_dataset(jsonl(file, {"messages": chat, "label": "x", "mood": 1}, {"text": "plain", "label": "y"}))
    first, second = data.rows
    assert (first.messages, first.content, first.text) == (chat, chat, " Hello\n")
    assert first.whole_text == "Be kind.\nHi. \n Hello\n"
    assert (second.messages, second.content, second.text, second.whole_text) == (None, "plain", "plain", "plain")
    assert (dict(first.fields), dict(second.fields)) == ({"mood": 1}, {})


def test_where_a_row_has_both_the_text_counts_and_null_is_no_text(file: Path) -> None:
    chat = said("Hi.", "Hello.")
    data = read_dataset(jsonl(file, {"text": "mine", "messages": chat}, {"text": None, "messages": chat}))
    assert [r.content for r in data.rows] == ["mine", chat]
    assert dict(data.rows[0].fields) == {"messages": chat}
    assert [sorted(r.to_json()) for r in data.rows] == [
        ["group", "id", "label", "messages", "split", "text"],
        ["group", "id", "label", "messages", "split"],
    ]


def test_parts_that_are_all_text_are_joined_and_keys_that_are_null_are_left_out() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two", "image_url": None}]
    given = [{"role": "user", "content": parts, "tool_calls": None, "name": None}, *said("x", "y")[1:]]
    assert check_content(given, "here") == said("one two", "y")
    assert check_content(" a ", "here") == " a "


USER = {"role": "user", "content": "Hi."}
BAD_MESSAGES = {
    "empty list": ([], r"line 2 has an empty list of messages"),
    "not a list": ("Hi.", r"line 2: 'messages' is str, not a list of messages"),
    "one message alone": (USER, r"line 2: 'messages' is dict, not a list"),
    "strings": ([USER, "Hi."], r"line 2, message 2 is str, not an object with 'role' and 'content'"),
    "no role": ([{"content": "Hi."}], r"line 2, message 1 has no 'role' that is a name"),
    "role no string": ([{**USER, "role": 1}], r"message 1 has no 'role' that is a name"),
    "blank role": ([{**USER, "role": " "}], r"message 1 has no 'role' that is a name"),
    "role with half a pair": ([{**USER, "role": "\ud83d"}], r"message 1 has no 'role' that is a name"),
    "no content": ([USER, {"role": "assistant"}], r"message 2 has no 'content'"),
    "null content": ([{"role": "user", "content": None}], r"message 1 has no 'content'"),
    "content no string": ([{"role": "user", "content": 5}], r"message 1: 'content' is int, not a string"),
    "blank content": ([{"role": "user", "content": " \n"}, USER], r"message 1 has an empty content"),
    "no parts": ([{"role": "user", "content": []}], r"message 1 has an empty content"),
    "half a pair": ([{"role": "user", "content": "a\ud83d"}], r"message 1 holds half of a surrogate pair"),
    "tool calls": (
        [{**USER, "tool_calls": [{"id": "a\nb"}]}],
        r"message 1 holds 'tool_calls': only 'role' and 'content'",
    ),
    "a picture": (
        [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
        r"message 1 has a part of type 'image': only text can be read",
    ),
    "a bare part": (
        [{"role": "user", "content": ["Hi."]}],
        r"message 1 has a part of type None: only text can be read",
    ),
    "text that is none": (
        [{"role": "user", "content": [{"type": "text"}]}],
        r"a part of type 'text' that holds no text",
    ),
    "ends in a system message": ([USER, {"role": "system", "content": "x"}], r"ends with a message of role 'system'"),
}


@pytest.mark.parametrize(("bad", "sentence"), BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
def test_a_bad_conversation_is_named_by_file_line_and_message(bad: Any, sentence: str, file: Path) -> None:
    good = {"messages": [USER]}
    lines = [json.dumps(row) for row in (good, {"messages": bad}, good)]
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=sentence) as caught:
        read_dataset(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(read_dataset(jsonl(file, good, good, good)).rows) == 3


def test_a_row_without_text_is_told_that_messages_would_do(file: Path) -> None:
    with pytest.raises(DataError, match=r"line 1 has no 'text': every row needs one, or 'messages' in its place"):
        read_dataset(jsonl(file, {"label": "x", "messages": None}))


def test_the_digest_knows_every_message_and_is_that_of_the_text_alone_where_there_are_none(file: Path) -> None:
    row = {"id": "a", "label": "x", "split": "train", "group": "g"}
    digests = [
        read_dataset(jsonl(file, {**row, **content})).sha256
        for content in (
            {"text": "Hello."},
            {"messages": said("Hi.", "Hello.")},
            {"messages": said("Ho.", "Hello.")},
            {"messages": [{"role": "system", "content": "Hi."}, said("Hi.", "Hello.")[1]]},
        )
    ]
    assert len(set(digests)) == 4
    assert digests[0] == sha256_json([["a", "Hello.", "x", None, "train", "g"]])
    assert digests[1] == sha256_json([["a", "Hello.", "x", None, "train", "g", said("Hi.", "Hello.")]])


def test_near_duplicates_are_looked_for_in_all_of_a_conversation(file: Path) -> None:
    long = "We walked along the river until the lamps came on and the last boat left."
    other = "Nothing of the kind was ever said by anyone who lived in that town then."
    data = read_dataset(
        jsonl(
            file,
            {"messages": said(long, "I see.")},
            {"messages": said(other, "I see.")},
            {"messages": said(long, "Ah.")},
        )
    )
    groups = [r.group for r in data.rows]
    assert groups[0] == groups[2] != groups[1]


def test_conversations_that_are_taken_over_stay_what_they_were(file: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "messages": said(f"What about thing {i * 7}?", f"It is {i}."),
            "label": ["x", "y"][i % 2],
            "score": i / 4,
            "n": i,
        }
        for i in range(12)
    ]
    rows += [{"text": "A plain one.", "label": "x", "messages": said("a")}, {"text": "Another.", "label": "y"}]
    given = read_dataset(jsonl(file, *rows))
    adopt(file, tmp_path / "data", recipe=None)
    taken = read_dataset(tmp_path / "data")
    assert taken.rows == given.rows
    assert taken.sha256 == given.sha256
    again = tmp_path / "again.jsonl"
    again.write_text(to_jsonl(taken.rows), encoding="utf-8")
    assert read_dataset(again).sha256 == given.sha256


def test_parquet_holds_conversations_as_lists_of_structs(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="the parquet extra is not installed")
    chat = [{**m, "tool_calls": None} for m in said("Hi.", "Hello.")]
    called = [{**chat[0], "tool_calls": ["f"]}]
    path = tmp_path / "chats.parquet"
    parquet.write_table(pa.table({"text": [None, "plain"], "messages": [chat, None]}), path)
    assert [r.content for r in read_dataset(path).rows] == [said("Hi.", "Hello."), "plain"]
    parquet.write_table(pa.table({"messages": [chat, called]}), path)
    with pytest.raises(DataError, match="row 2, message 1 holds 'tool_calls'"):
        read_dataset(path)
