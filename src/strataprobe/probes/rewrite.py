"""A probes folder written anew with other calibrations and thresholds: whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strataprobe.errors import StageError
from strataprobe.locks import release_lock, take_lock
from strataprobe.manifest import KEY_NAME, MANIFEST_NAME, Manifest, read_json, read_manifest, write_json
from strataprobe.probes.files import TrainedProbes, write_probes
from strataprobe.probes.probe import ProbeSet
from strataprobe.probes.pth import save_folder
from strataprobe.stagefolder import StageFolder

METRICS_NAME = "aggregate_metrics.json"
# What was done, by layer, in the manifest's details; whose copy a folder is; and the digest it had when it was trained.
RECALIBRATED, COPY_OF, AS_TRAINED = "recalibrated", "copy_of", "as_trained"
_STAGE = "calibrate"


def restore(folder: Path) -> None:
    """Put ``folder`` back where a rewriting that was killed had just moved it aside. Raises StageError when one goes on."""
    aside = folder.with_name(f".{folder.name}.old")
    if folder.exists() or not (aside / MANIFEST_NAME).is_file():
        return
    take_lock(folder)
    try:
        if not folder.exists():
            os.replace(aside, folder)
    finally:
        release_lock(folder)


def rewrite(
    source: Path,
    trained: TrainedProbes,
    sets: Mapping[tuple[str, int], ProbeSet],
    record: dict[str, Any],
    out: Path | None = None,
) -> Manifest:
    """Write ``source``, whose probes are ``trained``, anew with these ``sets`` in place of its own; all else is copied.

    ``record`` says what was done; it is kept in the manifest for each layer of ``sets``, and in their measurements, which
    are not taken again. With ``out`` a copy is written there instead, over an earlier copy of the same folder if there is
    one. Raises StageError when ``out`` holds something else, another process writes there, or there is no space left;
    the folder is then as it was.
    """
    final = source if out is None else out
    stage = StageFolder(final, _STAGE, {"probes": trained.manifest.files_sha256, "record": record})
    if out is not None:
        _refuse_others(out, trained.manifest.files_sha256)
    if stage.pending_key() is not None:  # cheap to do again from the start
        shutil.rmtree(stage.work)
    stage.begin()
    try:
        _copy(source, stage.work)
        _replace_sets(source, stage.work, trained, sets, record)
        manifest = trained.manifest.model_copy(deep=True)
        done = manifest.details.setdefault(RECALIBRATED, {})
        done |= {str(layer): record for layer in sorted({layer for _, layer in sets})}
        manifest.details.setdefault(AS_TRAINED, trained.manifest.files_sha256)
        if out is not None:
            manifest.details[COPY_OF] = trained.manifest.files_sha256
        return stage.commit(manifest)
    except OSError as error:
        raise StageError(
            f"{stage.work} could not be written: {error.strerror or error}; free some space, then run the same command "
            "again."
        ) from error
    finally:
        shutil.rmtree(stage.work, ignore_errors=True)
        release_lock(final)


def _refuse_others(out: Path, source_sha256: str) -> None:
    """Raise StageError unless ``out`` is free, or an earlier copy of the same folder."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = (out / MANIFEST_NAME).is_file() and read_manifest(out).details.get(COPY_OF) == source_sha256
    if not ours:
        raise StageError(f"{out} is there already and is no copy of these probes: choose another --out.")


def _copy(source: Path, work: Path) -> None:
    """Copy all but the manifest and hidden files."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or name.as_posix() in (MANIFEST_NAME, KEY_NAME) or path.is_dir():
            continue
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, work / name)


def _replace_sets(
    source: Path,
    work: Path,
    trained: TrainedProbes,
    sets: Mapping[tuple[str, int], ProbeSet],
    record: dict[str, Any],
) -> None:
    for (readout, layer), probes in sets.items():
        place = work if readout == trained.primary else work / readout
        place = place / f"layer_{layer}"
        place.mkdir(parents=True, exist_ok=True)
        save_folder(place, probes)
        if (place / METRICS_NAME).is_file():
            known = _metrics(source / place.relative_to(work) / METRICS_NAME)
            write_json(place / METRICS_NAME, {**known, "measured_before": record})
    write_probes(work, {**trained.sets, **sets}, trained.info, trained.scales)


def _metrics(path: Path) -> dict[str, Any]:
    known = read_json(path)
    if not isinstance(known, dict):
        raise StageError(f"{path} holds no measurements: it was changed or damaged; run 'strataprobe train' again.")
    return known
