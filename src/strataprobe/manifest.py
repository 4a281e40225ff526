"""The ``manifest.json`` of a stage folder, and files that are written whole or not at all.

The manifest holds what decided the contents (``config``, ``inputs``, ``model``) and what was written (``files`` with
size and sha256), so that a finished stage can be recognised, skipped and verified.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from strataprobe.errors import StageError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
KEY_NAME = "stage_key.json"
_HASHES_AT_ONCE = min(4, os.cpu_count() or 1)
_LIBRARIES = ("strataprobe", "torch", "transformers", "tokenizers", "safetensors", "h5py", "numpy", "scikit-learn")


class FileRecord(BaseModel):
    """Size and sha256 of one file of a stage."""

    model_config = ConfigDict(extra="forbid")
    sha256: str
    size_bytes: int


class ModelIdentity(BaseModel):
    """Which weights: ``name`` as the user gave it, ``revision`` a commit hash or a digest of the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    revision: str


class Manifest(BaseModel):
    """Contents of ``manifest.json``; paths in ``files`` are relative to the folder, with forward slashes."""

    model_config = ConfigDict(extra="forbid")
    format_version: int = FORMAT_VERSION
    stage: str
    config: dict[str, Any]
    inputs: dict[str, str] = {}
    model: ModelIdentity | None = None
    files: dict[str, FileRecord] = {}
    versions: dict[str, str] = {}
    elapsed_s: float = 0.0
    details: dict[str, Any] = {}

    @property
    def files_sha256(self) -> str:
        """A digest of all the files' digests: other bytes anywhere, another digest."""
        return sha256_json({name: record.sha256 for name, record in self.files.items()})


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value, independent of key order."""
    return sha256_bytes(json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode())


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_file(path: Path) -> FileRecord:
    """Size and sha256 of a file."""
    return FileRecord(sha256=sha256_file(path), size_bytes=path.stat().st_size)


def record_files(folder: Path) -> dict[str, FileRecord]:
    """A record of every file below ``folder`` but the manifest and hidden files, sorted by path."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    names = {p.relative_to(folder).as_posix(): p for p in paths}
    wanted = [n for n in names if n not in (MANIFEST_NAME, KEY_NAME) and "/." not in f"/{n}"]
    with ThreadPoolExecutor(_HASHES_AT_ONCE) as pool:
        return dict(zip(wanted, pool.map(record_file, (names[n] for n in wanted)), strict=True))


def library_versions() -> dict[str, str]:
    """Versions of Python and the libraries that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@contextmanager
def atomic_file(path: Path, buffering: int = -1) -> Iterator[BinaryIO]:
    """Write a file aside, flush it to disk, and rename it into place: a reader sees the old file or the new one.

    What is written can be read again. ``buffering`` is that of ``open``. Raises StageError when there is no space left.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with aside.open("w+b", buffering) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise StageError(
            f"{path} could not be written: {error.strerror or error}; free some space or choose another "
            "--out, then run the same command again."
        ) from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file as ``atomic_file`` does."""
    with atomic_file(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically: indented, UTF-8, keys in the order given, no NaN."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of ours. Raises StageError when it is missing, cut short or not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise StageError(f"{path} is missing: run the command that writes it first.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StageError(
            f"{path} cannot be read ({error}): it is damaged; delete its folder and run the stage again."
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into ``folder``, atomically."""
    write_json(folder / MANIFEST_NAME, manifest.model_dump(mode="json"))


def _writer(stage: str | None) -> str:
    return f"'{stage}'" if stage else "one of the stages"


def read_manifest(folder: Path, stage: str | None = None) -> Manifest:
    """Read the manifest of a finished stage folder.

    Raises StageError when the folder or manifest is missing or damaged, belongs to another stage than ``stage``, or has
    a format version this release does not read.
    """
    if not folder.is_dir():
        begun = folder.with_name(f".{folder.name}.partial").is_dir() if folder.name else False
        found = "is not finished" if begun else "is not a folder"
        fix = "run the command that began it again" if begun else f"give the folder that {_writer(stage)} wrote"
        raise StageError(f"{folder} {found}: {fix}.")
    if not (folder / MANIFEST_NAME).is_file():
        inside = [p.parent.name for p in sorted(folder.glob(f"*/{MANIFEST_NAME}"))]
        hint = f"; give one of the folders in it ({', '.join(inside)})" if inside else ""
        raise StageError(f"{folder} has no {MANIFEST_NAME}: it is not a finished stage folder{hint}.")
    value = read_json(folder / MANIFEST_NAME)
    if isinstance(value, dict) and value.get("format_version") != FORMAT_VERSION:
        raise StageError(
            f"{folder / MANIFEST_NAME} has format version {value.get('format_version')!r}, this release "
            f"reads {FORMAT_VERSION}: use the release that wrote it, or run the stage again."
        )
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        raise StageError(
            f"{folder / MANIFEST_NAME} is damaged ({error.errors()[0]['msg']}): delete the folder and run "
            "the stage again."
        ) from error
    if stage is not None and manifest.stage != stage:
        raise StageError(f"{folder} was written by '{manifest.stage}', not by '{stage}': give the folder of '{stage}'.")
    return manifest


def verify_folder(folder: Path) -> list[str]:
    """Problems of a stage folder against its manifest, a sentence each; empty when every byte is as written."""
    manifest = read_manifest(folder)
    problems = []
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing.")
        elif path.stat().st_size != expected.size_bytes:
            problems.append(f"{name} has {path.stat().st_size:,} bytes, {expected.size_bytes:,} were written.")
        elif sha256_file(path) != expected.sha256:
            problems.append(f"{name} has other contents than were written (sha256 differs).")
    return problems


def differing(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names of the top-level entries that differ between two configurations, sorted."""
    return sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))


def _flat(value: dict[str, Any], place: str = "") -> dict[str, Any]:
    """Entries of nested objects under dotted names."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{place}{name}.") if isinstance(inner, dict) and inner else {f"{place}{name}": inner}
    return found


def describe_difference(mine: dict[str, Any], theirs: dict[str, Any]) -> str:
    """The first few differences between two configurations, short enough for a sentence."""

    def short(value: Any) -> str:
        text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else text[:57] + "..."

    asked, there = _flat(mine), _flat(theirs)
    names = differing(asked, there)
    parts = [f"{n} {short(there.get(n))} there, {short(asked.get(n))} asked" for n in names[:3]]
    return "; ".join(parts) + ("; ..." if len(names) > 3 else "")
