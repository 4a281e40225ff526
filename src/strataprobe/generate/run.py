"""Run the generate stage: write texts with a backend, or adopt the user's own, into one finished folder.

Every accepted row is on disk before it counts; a restart under the same options writes only the cells that are
missing, and the files are the same bytes as an uninterrupted run's.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from strataprobe.dataset import Text, read_dataset, to_jsonl
from strataprobe.errors import DataError, OptionError
from strataprobe.generate.audit import audit
from strataprobe.generate.material import load_material
from strataprobe.generate.plan import Cell, make_plan, seeded
from strataprobe.generate.writer import Writer
from strataprobe.locks import release_lock
from strataprobe.manifest import Manifest, StageFolder, sha256_file, write_atomic, write_json
from strataprobe.progress import Progress, note
from strataprobe.recipe import Recipe

STAGE = "generate"
ACCEPTED_NAME = "accepted.jsonl"
_BACKENDS = ("builtin",)


def generate(
    recipe: Recipe, out: Path, *, backend: str = "builtin", n_per_class: int | None = None, seed: int = 0
) -> Manifest:
    """Write ``n_per_class`` texts for each class of ``recipe`` (its own number where None) into the folder ``out``.

    A finished folder made with the same options is left as it is; an interrupted one is completed. Raises OptionError
    for an unknown backend, a number below 1, a recipe the writer has no material for, or more texts than its material
    yields without repeating itself; StageError when ``out`` holds something else.
    """
    if backend not in _BACKENDS:
        raise OptionError(
            f"the backend {backend!r} is not available in this release, only {', '.join(_BACKENDS)}: use --backend "
            "builtin, or give texts written elsewhere with --data FILE."
        )
    n = recipe.n_per_class if n_per_class is None else n_per_class
    if n < 1:
        raise OptionError(f"--n-per-class is {n}, it must be at least 1.")
    material = load_material(recipe)
    config = {"recipe": recipe.to_json(), "backend": backend, "n_per_class": n, "seed": seed}
    stage = StageFolder(out, STAGE, config)
    done = stage.finished()
    if done is not None:
        note(f"generate: {out} is complete, skipped.")
        return done
    started_s = time.monotonic()
    stage.begin()
    plan = make_plan(recipe, material, n, seed)
    try:
        rows = _write_cells(stage.work / ACCEPTED_NAME, recipe, plan, Writer(recipe, material, seed))
    except OptionError:
        shutil.rmtree(stage.work)  # no restart under these options can end better
        release_lock(out)
        raise
    rows = _in_file_order(rows, len(recipe.class_names), seed)
    (stage.work / ACCEPTED_NAME).unlink()
    return _finish(stage, recipe.name, rows, recipe, config, {}, started_s)


def adopt(data_file: Path, out: Path, *, recipe: Recipe | None, seed: int = 0) -> Manifest:
    """Take over the user's own texts, labelled or not, into the same form of folder; nothing dropped or reordered.

    ``recipe`` names the concept; where it is None the file's stem does, and the classes are those found. Raises
    DataError for a bad row, naming its line.
    """
    started_s = time.monotonic()
    if data_file.is_dir():
        raise DataError(f"{data_file} is a folder: give a .jsonl, .csv, .parquet or .txt file of texts.")
    dataset = read_dataset(data_file, recipe, seed)
    name = recipe.name if recipe else _safe_name(data_file.stem)
    config = {"recipe": recipe.to_json() if recipe else None, "backend": "data", "n_per_class": None, "seed": seed}
    inputs = {"texts_sha256": sha256_file(data_file)}
    stage = StageFolder(out, STAGE, {**config, **inputs})
    done = stage.finished()
    if done is not None:
        note(f"generate: {out} is complete, skipped.")
        return done
    stage.begin()
    return _finish(stage, name, dataset.rows, recipe, config, inputs, started_s)


def _write_cells(path: Path, recipe: Recipe, plan: list[Cell], writer: Writer) -> list[Text]:
    """Write the cells that ``path`` does not hold yet, each row appended and flushed before it counts."""
    rows = _resume(path, recipe, plan, writer)
    if rows:
        note(f"generate: {len(rows):,} of {len(plan):,} texts were there already.")
    progress = Progress("write", len(plan), "texts", len(rows))
    with path.open("a", encoding="utf-8", newline="\n") as file, progress as bar:
        for cell in plan[len(rows) :]:
            written = writer.write(cell)
            if written is None:
                raise OptionError(
                    f"the builtin writer's variety runs out after {cell.pair:,} texts a class of {recipe.name!r}: ask"
                    f" for --n-per-class {cell.pair} at most, or give texts written elsewhere with --data FILE."
                )
            text, parts = written
            row = _row(recipe, cell, text)
            file.write(json.dumps({"row": row.to_json(), "parts": parts}, ensure_ascii=False) + "\n")
            file.flush()
            writer.remember(cell, text, parts)
            rows.append(row)
            bar.advance()
    return rows


def _resume(path: Path, recipe: Recipe, plan: list[Cell], writer: Writer) -> list[Text]:
    """The rows an interrupted run has accepted, in plan order; a torn last line is cut off the file."""
    if not path.exists():
        return []
    rows: list[Text] = []
    kept_bytes = 0
    with path.open("rb") as file:
        for line, cell in zip(file, plan, strict=False):
            entry = _parse(line)
            if entry is None or entry["row"].get("id") != cell.id(recipe):
                break
            rows.append(_row(recipe, cell, entry["row"]["text"]))
            writer.remember(cell, entry["row"]["text"], entry["parts"])
            kept_bytes += len(line)
    os.truncate(path, kept_bytes)
    return rows


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "row" in entry and "parts" in entry else None


def _row(recipe: Recipe, cell: Cell, text: str) -> Text:
    fields = {
        recipe.label_field: cell.label,
        recipe.member_field: cell.member,
        "domain": cell.scene.domain,
        "trigger": cell.scene.trigger,
        "language_style": cell.style,
    }
    return Text(cell.id(recipe), text, cell.label, cell.split, cell.group(recipe), fields=fields)


def _in_file_order(rows: list[Text], n_classes: int, seed: int) -> list[Text]:
    """Pairs in plan order, the texts of each in a seeded order, so that no class is always first."""
    ordered: list[Text] = []
    for start in range(0, len(rows), n_classes):
        pair = rows[start : start + n_classes]
        ordered += seeded(seed, "order", start).sample(pair, len(pair))
    return ordered


def _finish(
    stage: StageFolder,
    name: str,
    rows: list[Text],
    recipe: Recipe | None,
    config: dict[str, Any],
    inputs: dict[str, str],
    started_s: float,
) -> Manifest:
    """Write the class files, the combined file and the audit, and rename the folder into place."""
    counts = Counter(r.label for r in rows if r.label is not None)
    combined = f"{name}_combined_{len(rows)}.jsonl"
    write_atomic(stage.work / combined, to_jsonl(rows))
    taken = {combined.lower()}
    for label in sorted(counts):
        own = [r for r in rows if r.label == label]
        file_name = _unused_name(_safe_name(label), f"_{name}_{len(own)}.jsonl", taken)
        write_atomic(stage.work / file_name, to_jsonl(own))
    report = audit(rows, recipe)
    write_json(stage.work / "audit.json", report)
    for finding in report["findings"]:
        if finding["level"] in ("warning", "error"):
            note(f"generate: {finding['code']} {finding['message']}")
    details = {"combined": combined, "name": name, "counts": {label: counts[label] for label in sorted(counts)}}
    manifest = Manifest(
        stage=STAGE, config=config, inputs=inputs, details=details, elapsed_s=round(time.monotonic() - started_s, 3)
    )
    return stage.commit(manifest)


def _unused_name(start: str, end: str, taken: set[str]) -> str:
    """A file name for a class; two classes whose names differ only in what a file name cannot hold get a number."""
    name, number = start + end, 2
    while name.lower() in taken:
        name, number = f"{start}-{number}{end}", number + 1
    taken.add(name.lower())
    return name


def _safe_name(value: str) -> str:
    """A name that can stand in a file name; letters of any script stay, and a class keeps its own name inside the rows."""
    kept = "".join(c if c.isalnum() or c in "-_" else "-" for c in value).strip("-_")
    return kept[:60] or "texts"
