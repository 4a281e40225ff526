"""Stage folders: written under a temporary name by one process at a time, and renamed when complete."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from strataprobe.errors import StageError
from strataprobe.locks import release_lock, remove_stale_lock, take_lock
from strataprobe.manifest import (
    KEY_NAME,
    MANIFEST_NAME,
    Manifest,
    describe_difference,
    library_versions,
    read_json,
    read_manifest,
    record_files,
    write_json,
    write_manifest,
)


class StageFolder:
    """One stage's folder on its way to completion.

    ``key`` is everything that decides the contents, as JSON values. Work goes into ``work`` (a hidden sibling of
    ``final``); ``commit`` renames it. An interrupted folder is taken up again only under the same key.
    """

    def __init__(self, final: Path, stage: str, key: dict[str, Any]) -> None:
        final = final if final.name not in ("", "..") else final.resolve()
        if not final.name:
            raise StageError(f"{final} cannot be a stage folder: choose another --out.")
        self.final, self.stage, self.key = final, stage, json.loads(json.dumps(key))
        self.work = final.with_name(f".{final.name}.partial")

    def finished(self) -> Manifest | None:
        """The manifest when this very stage is complete, None when there is none yet.

        Raises StageError when ``final`` holds something else: another configuration, or files of the user's.
        """
        try:
            if not self.final.exists():
                return None
        except OSError as error:
            raise StageError(
                f"{self.final} cannot be used ({error.strerror or error}): choose another --out."
            ) from error
        if self.final.is_dir() and not any(self.final.iterdir()):
            return None
        if self.final.is_dir() and not (self.final / MANIFEST_NAME).exists():
            raise StageError(f"{self.final} has no {MANIFEST_NAME} and holds other files: choose another --out.")
        manifest = read_manifest(self.final, self.stage)
        theirs = {**manifest.config, **manifest.inputs}
        if theirs != self.key:
            raise StageError(
                f"{self.final} was made from something else ({describe_difference(self.key, theirs)}): "
                "choose another --out, or delete that folder."
            )
        if not (self.work / KEY_NAME).is_file():  # else files are being added, and some are newer than the manifest
            self._refuse_damaged(manifest)
        if (self.final / KEY_NAME).is_file():  # killed in the last moment of ``commit``
            (self.final / KEY_NAME).unlink()
        if not self.work.is_dir():
            remove_stale_lock(self.final)
        return manifest

    def _refuse_damaged(self, manifest: Manifest) -> None:
        """Raise StageError when a file is missing or has another size; ``verify_folder`` looks at every byte."""
        for name, record in manifest.files.items():
            path = self.final / name
            if not path.is_file() or path.stat().st_size != record.size_bytes:
                what = "has another size than was written" if path.is_file() else "is missing"
                raise StageError(f"{path} {what}: delete {self.final} and run the same command again.")

    def pending_key(self) -> dict[str, Any] | None:
        """The key of an interrupted attempt in ``work``, None when there is none.

        From here on no other process may write to this folder. Raises StageError when one is doing so, or when the
        attempt is another stage's.
        """
        if not (self.work / KEY_NAME).is_file():
            return None
        take_lock(self.final)
        if not (self.work / KEY_NAME).is_file():  # finished by another process before the lock was ours
            return None
        held = read_json(self.work / KEY_NAME)
        if not isinstance(held, dict) or not isinstance(held.get("key"), dict):
            raise StageError(f"{self.work / KEY_NAME} is damaged: delete that folder.")
        if held.get("stage") != self.stage:
            raise StageError(
                f"{self.work} holds an unfinished '{held.get('stage')}': finish it, or delete that folder."
            )
        return dict(held["key"])

    def take_over(self) -> None:
        """Make the interrupted attempt in ``work`` this one's own, whatever its key was."""
        write_json(self.work / KEY_NAME, {"stage": self.stage, "key": self.key})

    def begin(self) -> bool:
        """Make ``work`` ready; True when an interrupted attempt under the same key is being resumed.

        Raises StageError when an interrupted attempt under another key is there.
        """
        self._make(self.final.parent)
        take_lock(self.final)
        theirs = self.pending_key()
        if theirs is not None:
            if theirs == self.key:
                return True
            raise StageError(
                f"{self.work} holds an unfinished '{self.stage}' with other options "
                f"({describe_difference(self.key, theirs)}): finish it with those, or delete that folder."
            )
        self._make(self.work)
        self.take_over()
        return False

    def _make(self, folder: Path) -> None:
        try:
            if not folder.exists():
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StageError(f"{folder} could not be made: {error.strerror or error}; choose another --out.") from error

    def commit(self, manifest: Manifest) -> Manifest:
        """Record the files, write the manifest, and rename ``work`` to ``final``.

        The key goes last: until everything is in place, an attempt killed here can be taken up again.
        """
        manifest.files = record_files(self.work)
        manifest.versions = library_versions()
        write_manifest(self.work, manifest)
        if self.final.is_dir() and not any(self.final.iterdir()):
            self.final.rmdir()
        old = self.final.with_name(f".{self.final.name}.old")
        if self.final.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self.final, old)
        os.replace(self.work, self.final)
        shutil.rmtree(old, ignore_errors=True)
        (self.final / KEY_NAME).unlink(missing_ok=True)
        release_lock(self.final)
        return manifest
