"""The ledger: every answer is on disk before it counts, and whatever a kill leaves behind is gone on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from strataprobe.errors import StageError
from strataprobe.generate.ledger import Entry, Ledger

ENTRIES = [
    Entry("a-0", 1, "I walked — “home”.", "scripted", "quotes", "“", "it held quotation marks"),
    Entry("a-1", 1, "Ich ging\nnach Hause.\u2028Spät.", "scripted"),
    Entry("a-0", 2, "", "scripted", "empty", "no words", "there was no text in it"),
    Entry("a-0", 3, "I walked home. 😅", "scripted", parts=("I walked", "home")),
]


def written(path: Path) -> Path:
    """A ledger file with the entries."""
    with Ledger(path, "scripted") as ledger:
        for entry in ENTRIES:
            ledger.add(entry)
    return path


def test_entries_come_back_as_they_were_and_in_order(tmp_path: Path) -> None:
    ledger = Ledger(written(tmp_path / "ledger.jsonl"))
    assert ledger.entries == ENTRIES
    assert ledger.of("a-0") == [ENTRIES[0], ENTRIES[2], ENTRIES[3]]
    assert ledger.of("nobody") == []
    assert ledger.accepted("a-1") == ENTRIES[1]
    assert ledger.accepted("a-0") == ENTRIES[3]
    assert ledger.accepted("nobody") is None
    assert list(ledger.rejected()) == [ENTRIES[0], ENTRIES[2]]
    assert Ledger(tmp_path / "new.jsonl").entries == []


def test_a_cell_whose_last_answer_was_rejected_has_no_text(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.add(ENTRIES[0])
        assert ledger.accepted("a-0") is None
        ledger.add(ENTRIES[3])
        assert ledger.accepted("a-0") == ENTRIES[3]


def test_an_entry_is_on_disk_before_it_counts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        for n, entry in enumerate(ENTRIES, start=1):
            ledger.add(entry)
            assert path.read_bytes().count(b"\n") == n
            assert Ledger(tmp_path / "ledger.jsonl").entries == ledger.entries == ENTRIES[:n]


def test_an_entry_that_cannot_be_written_does_not_count(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with ledger:
        ledger.add(ENTRIES[0])
    with pytest.raises(ValueError, match="closed file"):
        ledger.add(ENTRIES[1])
    assert ledger.entries == ENTRIES[:1]


def test_a_file_cut_at_any_byte_gives_the_whole_lines_before_the_cut_and_can_be_added_to(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.jsonl").read_bytes()
    path = tmp_path / "ledger.jsonl"
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        n = whole[:size].count(b"\n")
        with Ledger(path) as ledger:
            assert ledger.entries == ENTRIES[:n], size
            assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:n])
            ledger.add(Entry("b", 1, "I slept."))
        assert Ledger(path).entries == [*ENTRIES[:n], Entry("b", 1, "I slept.")]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x00\x00\x00\n",
        b"\xff\xfe garbage\n",
        b"[1, 2]\n",
        b"null\n",
        b"7\n",
        b"\n",
        b"{}\n",
        b'{"cell": "a", "attempt": 1}\n',
        b'{"cell": "a", "attempt": 1, "text": "b", "mood": "c"}\n',
        b'{"cell": "a", "attempt": "1", "text": "b"}\n',
        b'{"cell": 3, "attempt": 1, "text": "b"}\n',
        b'{"cell": "a", "attempt": 1, "text": null}\n',
        b'{"cell": "a", "attempt": 1, "text": "b", "parts": 7}\n',
        b'{"cell": "a", "attempt": 1, "text": "b", "parts": [7]}\n',
    ],
)
def test_a_line_that_is_no_entry_is_named_and_nothing_is_cut_off(garbage: bytes, tmp_path: Path) -> None:
    whole = written(tmp_path / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "ledger.jsonl"
    damaged = b"".join([*whole[:2], garbage, *whole[2:]])
    path.write_bytes(damaged)
    with pytest.raises(StageError, match=r"ledger.jsonl, line 3 is damaged: take that line out"):
        Ledger(path)
    assert path.read_bytes() == damaged
    path.write_bytes(b"".join(whole))
    assert Ledger(path).entries == ENTRIES


def test_attempts_are_counted_anew_after_they_were_given_up_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.add(Entry("a", 1, "x", check="list"))
        assert (ledger.attempts("a"), ledger.gave_up) == (1, False)
    with Ledger(path) as ledger:
        assert ledger.attempts("a") == 1
        ledger.add(Entry("a", 2, "y", check="list"))
        ledger.give_up()
        assert (ledger.attempts("a"), ledger.gave_up) == (0, True)
    with Ledger(path) as ledger:
        assert (ledger.attempts("a"), ledger.gave_up, len(ledger.of("a"))) == (0, True, 2)
        ledger.add(Entry("a", 3, "z"))
        assert (ledger.attempts("a"), ledger.gave_up) == (1, False)


def test_a_line_holds_what_is_not_empty_and_one_line_alone(tmp_path: Path) -> None:
    lines = written(tmp_path / "ledger.jsonl").read_bytes().split(b"\n")
    assert len(lines) == len(ENTRIES) + 1
    assert json.loads(lines[1]) == {"cell": "a-1", "attempt": 1, "text": ENTRIES[1].text, "model": "scripted"}
    assert "“".encode() in lines[0]
