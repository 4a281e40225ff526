"""Stage folders and their manifests: atomic, recognised, refused, verified."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from strataprobe.errors import StageError
from strataprobe.manifest import (
    Manifest,
    describe_difference,
    differing,
    read_json,
    read_manifest,
    record_files,
    sha256_bytes,
    sha256_json,
    verify_folder,
    write_atomic,
    write_json,
)
from strataprobe.stagefolder import StageFolder

KEY: dict[str, Any] = {"seed": 0, "texts_sha256": "ab"}


def manifest() -> Manifest:
    return Manifest(stage="train", config={"seed": 0}, inputs={"texts_sha256": "ab"})


def finished(out: Path, files: dict[str, bytes] | None = None) -> StageFolder:
    folder = StageFolder(out, "train", KEY)
    assert folder.begin() is False
    for name, data in (files or {"a.h5": b"one", "sub/b.pth": b"two"}).items():
        (folder.work / name).parent.mkdir(exist_ok=True)
        (folder.work / name).write_bytes(data)
    folder.commit(manifest())
    return folder


def test_a_stage_is_invisible_until_it_is_committed(tmp_path: Path) -> None:
    out = tmp_path / "probes"
    folder = StageFolder(out, "train", KEY)
    assert folder.finished() is None
    folder.begin()
    (folder.work / "a.h5").write_bytes(b"one")
    assert not out.exists()
    assert folder.finished() is None
    folder.commit(manifest())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["probes"]
    assert sorted(p.name for p in out.iterdir()) == ["a.h5", "manifest.json"]
    found = folder.finished()
    assert found is not None
    assert found.files["a.h5"].sha256 == sha256_bytes(b"one")


def test_a_manifest_names_versions_and_holds_no_path_or_host(tmp_path: Path) -> None:
    out = finished(tmp_path / "probes").final
    found = read_manifest(out, "train")
    assert found.versions["python"] == platform.python_version()
    assert {"torch", "transformers", "numpy"} <= found.versions.keys()
    text = (out / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert not platform.node() or f'"{platform.node()}"' not in text


def test_an_interrupted_stage_is_resumed_under_its_own_key_only(tmp_path: Path) -> None:
    out = tmp_path / "probes"
    first = StageFolder(out, "train", KEY)
    first.begin()
    (first.work / "part").write_bytes(b"1")
    assert StageFolder(out, "train", dict(reversed(KEY.items()))).begin() is True
    with pytest.raises(StageError, match=r"holds an unfinished 'train' with other options \(seed 0 there, 1 asked\)"):
        StageFolder(out, "train", {**KEY, "seed": 1}).begin()
    assert (first.work / "part").read_bytes() == b"1"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "probes").mkdir()
    assert verify_folder(finished(tmp_path / "probes").final) == []


def test_a_finished_stage_made_from_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    out = finished(tmp_path / "probes").final
    assert StageFolder(out, "train", KEY).finished() is not None
    with pytest.raises(StageError, match=r"made from something else \(texts_sha256 \"ab\" there, \"cd\" asked\)"):
        StageFolder(out, "train", {**KEY, "texts_sha256": "cd"}).finished()
    with pytest.raises(StageError, match="written by 'train', not by 'capture'"):
        StageFolder(out, "capture", KEY).finished()
    assert verify_folder(out) == []


@pytest.mark.parametrize("where", ["", ".", "/"])
def test_a_folder_without_a_name_of_its_own_is_one_sentence(where, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("kept")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="choose another --out"):
        StageFolder(Path(where), "generate", {}).finished()
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_of_other_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "mine.txt").write_text("mine")
    with pytest.raises(StageError, match=r"has no manifest.json"):
        StageFolder(tmp_path / "probes", "train", KEY).finished()
    assert (tmp_path / "probes" / "mine.txt").read_text() == "mine"


def test_a_stage_under_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StageError, match="could not be made: Not a directory; choose another --out"):
        StageFolder(tmp_path / "file" / "probes", "train", KEY).begin()


def test_an_intact_folder_has_no_problems(tmp_path: Path) -> None:
    assert verify_folder(finished(tmp_path / "probes").final) == []


@pytest.mark.parametrize("name", ["a.h5", "sub/b.pth"])
@pytest.mark.parametrize("offset", [0, 1, -1])
def test_one_flipped_bit_is_found(name: str, offset: int, tmp_path: Path) -> None:
    out = finished(tmp_path / "probes").final
    data = bytearray((out / name).read_bytes())
    data[offset] ^= 1
    (out / name).write_bytes(data)
    assert verify_folder(out) == [f"{name} has other contents than were written (sha256 differs)."]


def test_a_missing_and_a_short_file_are_found(tmp_path: Path) -> None:
    out = finished(tmp_path / "probes").final
    (out / "a.h5").unlink()
    (out / "sub" / "b.pth").write_bytes(b"tw")
    assert verify_folder(out) == ["a.h5 is missing.", "sub/b.pth has 2 bytes, 3 were written."]


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (None, "has no manifest.json: it is not a finished stage folder"),
        ("{", "cannot be read .*: it is damaged"),
        ("[]", "is damaged"),
        (b"\xff\xfe", "cannot be read .*: it is damaged"),
        ('{"format_version": 1}', "is damaged"),
        ('{"format_version": 99, "stage": "train", "config": {}}', "format version 99, this release reads 1"),
        ('{"format_version": 1, "stage": "train", "config": {}, "more": 1}', "is damaged"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_a_sentence(contents: Any, sentence: str, tmp_path: Path) -> None:
    if contents is not None:
        (tmp_path / "manifest.json").write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    with pytest.raises(StageError, match=sentence) as caught:
        read_manifest(tmp_path, "train")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="is not a folder: give the folder that 'capture' wrote"):
        read_manifest(tmp_path / "none", "capture")
    with pytest.raises(StageError, match="is not a folder: give the folder that one of the stages wrote"):
        read_manifest(tmp_path / "none")
    (tmp_path / ".none.partial").mkdir()
    with pytest.raises(StageError, match="none is not finished: run the command that began it again"):
        read_manifest(tmp_path / "none", "capture")


def test_hidden_files_and_the_manifest_are_not_recorded(tmp_path: Path) -> None:
    for name in ("a", ".b.tmp", "manifest.json", "stage_key.json"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".dir").mkdir()
    (tmp_path / ".dir" / "c").write_bytes(b"x")
    assert list(record_files(tmp_path)) == ["a"]


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "probe.json"
    write_atomic(path, "old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(StageError, match=r"could not be written: No space left on device; free some space"):
            write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["probe.json"]
    write_atomic(path, "new")
    assert path.read_text() == "new"


def test_a_write_below_a_file_or_under_a_name_too_long_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "a.json", tmp_path / "none" / "a.json", tmp_path / ("n" * 300)):
        with pytest.raises(StageError, match="could not be written"):
            write_atomic(path, "x")


def test_json_is_written_without_nan_and_read_back_as_it_was(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": "ü🙂"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert list(json.loads((tmp_path / "x.json").read_text("utf-8"))) == ["b", "a"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == value
    with pytest.raises(StageError, match="is missing: run the command that writes it first"):
        read_json(tmp_path / "none.json")


def test_a_digest_does_not_depend_on_key_order_but_on_every_value() -> None:
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1, "b": [2]}) != sha256_json({"a": 1, "b": [3]})


def test_differences_are_named_shortly() -> None:
    mine, theirs = {"a": 1, "b": 2, "c": 3, "d": 4, "same": 0}, {"a": 9, "b": 9, "c": "x" * 99, "same": 0}
    assert differing(mine, theirs) == ["a", "b", "c", "d"]
    sentence = describe_difference(mine, theirs)
    assert sentence.startswith("a 9 there, 1 asked; b 9 there, 2 asked; c ")
    assert sentence.endswith("...")
    assert len(sentence) < 160
    assert differing(mine, mine) == []
    deep, deeper = {"held": {"main": {"layers": [1], "n": 2}}}, {"held": {"main": {"layers": [1, 2], "n": 2}}}
    assert describe_difference(deep, deeper) == "held.main.layers [1, 2] there, [1] asked"
    assert describe_difference({"tokens": True}, {}) == "tokens nothing there, true asked"
