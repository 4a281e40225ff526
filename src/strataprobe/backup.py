"""Copies of finished stages in another folder, each verified: a disk that outlives this machine or notebook."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from strataprobe.errors import StageError
from strataprobe.manifest import MANIFEST_NAME, verify_folder
from strataprobe.progress import note


class Backup:
    """``folder/<name of out>`` mirrors the finished stages of ``out``."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.out = out
        self.place = folder / out.resolve().name
        if self.place.resolve() == out.resolve() or folder.resolve() == out.resolve():
            raise StageError(f"--backup {folder} is the output folder itself: choose a folder elsewhere.")
        try:
            self.place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StageError(
                f"--backup {folder} cannot be used ({error.strerror or error}): choose a folder that can be written."
            ) from error

    def restore(self, stages: tuple[str, ...]) -> list[str]:
        """Bring back finished stages that ``out`` lacks; their names. A damaged copy is passed over, and that is said."""
        restored = []
        for stage in stages:
            source, target = self.place / stage, self.out / stage
            if target.exists() or not (source / MANIFEST_NAME).is_file():
                continue
            try:
                damaged = bool(verify_folder(source))
            except StageError:
                damaged = True
            if damaged:
                note(f"backup: the copy of {stage} in {self.place} is damaged and was not restored.")
                continue
            self.out.mkdir(parents=True, exist_ok=True)
            _copy_folder(source, target)
            note(f"backup: {stage} restored from {self.place}")
            restored.append(stage)
        return restored

    def save_stage(self, stage: str) -> None:
        """Copy one finished stage, unless a sound copy is there. Raises StageError when the copy is not exact."""
        source, target = self.out / stage, self.place / stage
        same = (target / MANIFEST_NAME).is_file() and (
            (target / MANIFEST_NAME).read_bytes() == (source / MANIFEST_NAME).read_bytes()
        )
        if not same or verify_folder(target):
            _copy_folder(source, target)

    def save_files(self, paths: list[Path]) -> None:
        """Copy single files of ``out``. Raises StageError when there is no space left."""
        for path in paths:
            aside = self.place / f".{path.name}.tmp"
            try:
                shutil.copyfile(path, aside)
                os.replace(aside, self.place / path.name)
            except OSError as error:
                aside.unlink(missing_ok=True)
                raise StageError(
                    f"{self.place / path.name} could not be written ({error.strerror or error}): free some space there."
                ) from error


def _copy_folder(source: Path, target: Path) -> None:
    aside = target.with_name(f".{target.name}.copy")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        shutil.copytree(source, aside)
        problems = verify_folder(aside)
        if problems:  # an earlier copy is better than this one
            shutil.rmtree(aside, ignore_errors=True)
            raise StageError(f"the copy of {source} in {target.parent} is not exact ({problems[0]}): check that disk.")
        if target.exists():
            shutil.rmtree(target)
        os.replace(aside, target)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise StageError(
            f"{target} could not be written ({error.strerror or error}): free some space there."
        ) from error
