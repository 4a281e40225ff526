"""Copies of finished stages: exact, verified, restored, and never a damaged one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from strataprobe.backup import Backup
from strataprobe.errors import StageError
from strataprobe.manifest import Manifest, verify_folder
from strataprobe.stagefolder import StageFolder

STAGES = ("data", "activations")


def make(out: Path, stage: str, content: bytes = b"one") -> Path:
    folder = StageFolder(out / stage, "train", {"n": len(content)})
    folder.begin()
    (folder.work / "a.bin").write_bytes(content)
    folder.commit(Manifest(stage="train", config={"n": len(content)}))
    return out / stage


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "demo"


@pytest.fixture
def backup(tmp_path: Path, out: Path) -> Backup:
    make(out, "data")
    kept = Backup(tmp_path / "drive", out)
    kept.save_stage("data")
    return kept


def test_a_lost_stage_comes_back_as_it_was(backup: Backup, out: Path, tmp_path: Path) -> None:
    before = contents(out / "data")
    shutil.rmtree(out)
    assert Backup(tmp_path / "drive", out).restore(STAGES) == ["data"]
    assert contents(out / "data") == before
    assert verify_folder(out / "data") == []


def test_what_is_there_is_not_replaced_by_the_copy(backup: Backup, out: Path) -> None:
    shutil.rmtree(out / "data")
    make(out, "data", b"newer")
    assert backup.restore(STAGES) == []
    assert (out / "data" / "a.bin").read_bytes() == b"newer"


def test_a_newer_stage_replaces_the_copy_and_an_equal_one_does_not(backup: Backup, out: Path) -> None:
    copy = backup.place / "data" / "a.bin"
    before = copy.stat().st_mtime_ns
    backup.save_stage("data")
    assert copy.stat().st_mtime_ns == before
    shutil.rmtree(out / "data")
    make(out, "data", b"newer")
    backup.save_stage("data")
    assert copy.read_bytes() == b"newer"


def test_a_copy_with_a_flipped_byte_is_not_restored_and_that_is_said(
    backup: Backup, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(out)
    (backup.place / "data" / "a.bin").write_bytes(b"onE")
    assert backup.restore(STAGES) == []
    assert not (out / "data").exists()
    assert "the copy of data in" in capsys.readouterr().err


def test_a_copy_with_a_damaged_manifest_is_not_restored_and_that_is_said(
    backup: Backup, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(out)
    (backup.place / "data" / "manifest.json").write_text("{")
    assert backup.restore(STAGES) == []
    assert "is damaged and was not restored" in capsys.readouterr().err


def test_a_copy_that_is_not_exact_is_an_error_and_the_earlier_one_stays(
    backup: Backup, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(out, "activations")
    backup.save_stage("activations")
    earlier = verify_folder(backup.place / "activations")
    shutil.rmtree(out / "activations")
    make(out, "activations", b"new")
    real = shutil.copytree

    def bad_disk(source: Path, target: Path) -> None:
        real(source, target)
        (Path(target) / "a.bin").write_bytes(b"two")

    monkeypatch.setattr(shutil, "copytree", bad_disk)
    with pytest.raises(StageError, match=r"the copy of .*activations in .* is not exact .a.bin has other contents"):
        backup.save_stage("activations")
    assert earlier == verify_folder(backup.place / "activations") == []
    assert (backup.place / "activations" / "a.bin").read_bytes() == b"one"
    assert verify_folder(out / "activations") == []


def test_a_full_backup_disk_is_a_sentence_and_the_earlier_copy_stays(
    backup: Backup, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(out / "data")
    make(out, "data", b"newer")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full)
        with pytest.raises(StageError, match="No space left on device"):
            backup.save_stage("data")
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(StageError, match="No space left on device"):
            backup.save_files([out / "data" / "a.bin"])
    assert (backup.place / "data" / "a.bin").read_bytes() == b"one"
    assert [p.name for p in backup.place.iterdir()] == ["data"]


def test_single_files_are_copied(backup: Backup, out: Path) -> None:
    (out / "report.html").write_text("x")
    backup.save_files([out / "report.html"])
    assert (backup.place / "report.html").read_text() == "x"


def test_a_backup_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path, out: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StageError, match=r"--backup .*file cannot be used"):
        Backup(tmp_path / "file", out)


def test_nothing_is_restored_from_an_empty_backup(tmp_path: Path, out: Path) -> None:
    assert Backup(tmp_path / "drive", out).restore(STAGES) == []
    assert not out.exists()
