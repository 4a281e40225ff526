"""Take over texts that the user has: labelled or not, into the same form of folder as generated ones."""

from __future__ import annotations

import time
from pathlib import Path

from strataprobe.dataset import read_dataset
from strataprobe.errors import DataError
from strataprobe.generate.audit import audit
from strataprobe.generate.folder import STAGE, safe_name, write_folder
from strataprobe.manifest import Manifest, sha256_file
from strataprobe.progress import note
from strataprobe.recipe import Recipe
from strataprobe.stagefolder import StageFolder


def adopt(data_file: Path, out: Path, *, recipe: Recipe | None, seed: int = 0) -> Manifest:
    """Take over the user's own texts, nothing dropped or reordered, into the folder ``out``.

    ``recipe`` names the concept; where it is None the file's stem does, and the classes are those found. Raises
    DataError for a bad row, naming its line.
    """
    started_s = time.monotonic()
    if data_file.is_dir():
        raise DataError(f"{data_file} is a folder: give a .jsonl, .csv, .parquet or .txt file of texts.")
    dataset = read_dataset(data_file, recipe, seed)
    name = recipe.name if recipe else safe_name(data_file.stem)
    config = {"recipe": recipe.to_json() if recipe else None, "backend": "data", "n_per_class": None, "seed": seed}
    inputs = {"texts_sha256": sha256_file(data_file)}
    stage = StageFolder(out, STAGE, {**config, **inputs})
    done = stage.finished()
    if done is not None:
        note(f"generate: {out} is complete, skipped.")
        return done
    stage.begin()
    manifest = Manifest(stage=STAGE, config=config, inputs=inputs)
    return write_folder(stage, manifest, name, dataset.rows, audit(dataset.rows, recipe), started_s)
