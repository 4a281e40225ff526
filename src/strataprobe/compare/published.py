"""Curves that others published, read beside our own: a table of metrics by layer, or folders of metrics as brije wrote.

Their number of a layer is a block index, so their layer k is our layer k + 1. Metrics are taken as given; there are no
intervals, as nothing published says how the texts group.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strataprobe.errors import DataError
from strataprobe.manifest import sha256_bytes, sha256_json
from strataprobe.recipe import builtin_recipes, load_recipe

# The number of blocks of Gemma 3 4B, which the public figures are of.
PUBLISHED_BLOCKS = 34
AGGREGATE_NAME = "aggregate_metrics.json"
CONCEPTS = {"cog": "cognitive actions", "sent": "sentiment"}
TITLES = {
    "auc": "mean AUC",
    "f1": "mean F1",
    "acc": "mean accuracy",
    "precision": "mean precision",
    "recall": "mean recall",
    "sign_acc": "accuracy of the sign",
    "r2": "R²",
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "mean_pred": "mean prediction",
    "std_pred": "standard deviation of predictions",
}
# Whether more is better, for the metrics that have a best layer.
_HIGHER = {"auc": True, "f1": True, "acc": True, "precision": True, "recall": True, "sign_acc": True, "r2": True}
_HIGHER |= {"mse": False, "mae": False}
_AGGREGATES = {
    "average_auc_roc": "auc",
    "average_f1": "f1",
    "average_accuracy": "acc",
    "average_precision": "precision",
    "average_recall": "recall",
}
_VALUES = {"r2": "r2", "accuracy": "sign_acc", "mse": "mse", "mae": "mae"}
_VALUES |= {"mean_prediction": "mean_pred", "std_prediction": "std_pred"}
_LAYER_FOLDER = re.compile(r"layer_(\d{1,6})")
_VALUES_FILE = re.compile(r"layer_(\d{1,6})(?:_\w+)?_metrics\.json")

# metric by layer by (concept, metric)
_Curves = dict[tuple[str, str], dict[int, float]]


def read_published(path: str | Path, n_blocks: int = PUBLISHED_BLOCKS) -> dict[str, Any]:
    """What was published in ``path``, as plain values for ``comparison.json``.

    ``path`` is a tab-separated table (column ``layer``, then columns like ``cog_auc`` or ``sent_r2``), a folder
    ``layer_K`` with ``aggregate_metrics.json``, or a folder of such folders and of ``layer_K_metrics.json`` files.
    ``n_blocks`` counts the blocks of the model the figures are of. The result has ``name``, ``sha256``, ``n_layers``,
    ``curves`` (each with ``concept``, ``metric``, ``title``, ``higher_is_better``, ``layers``, ``block_indexes``,
    ``values``, and ``best_layer``, ``best_block_index``, ``best_value`` where a best one makes sense), and ``classes``:
    None, or ``layers`` and, for each class, ``class``, ``aucs``, ``best_layer`` and ``best_auc``. Raises DataError when
    nothing can be read there, and for a block index beyond the model.
    """
    path = Path(path)
    if path.is_dir():
        curves, classes, digest = _read_folder(path)
    else:
        data = _read_bytes(path)
        curves, classes, digest = _read_table(path, data), {}, sha256_bytes(data)
    beyond = [block for points in curves.values() for block in points if block >= n_blocks]
    if beyond:
        raise DataError(
            f"{path} has block index {max(beyond)}, and a model of {n_blocks} blocks ends at {n_blocks - 1}: say how "
            "many there are with --published-blocks."
        )
    return {
        "name": path.resolve().stem if path.is_file() else path.resolve().name,
        "sha256": digest,
        "n_layers": n_blocks,
        "curves": [_curve(concept, metric, points) for (concept, metric), points in curves.items()],
        "classes": _class_rows(classes),
    }


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"--published {path} cannot be read: {error.strerror or error}; correct the path.") from error


def _read_table(path: Path, data: bytes) -> _Curves:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: give a tab-separated table of metrics by layer.") from error
    header = [name.strip() for name in lines[0].split("\t")] if lines else []
    if len(header) < 2 or header[0] != "layer" or len(set(header)) < len(header):
        raise DataError(
            f"{path}, line 1 is not the header of a table of metrics by layer: the first column is 'layer', then a "
            "column for each metric, each name once, separated by tabs."
        )
    curves: _Curves = {split_column(name): {} for name in header[1:]}
    seen: set[int] = set()
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {number} has {len(cells)} cells, the header has {len(header)}: mend the line."
            )
        if not cells[0].isdecimal() or int(cells[0]) in seen:
            raise DataError(f"{path}, line {number}: {cells[0]!r} is not a block index, or one given twice: mend it.")
        block = int(cells[0])
        seen.add(block)
        for name, cell in zip(header[1:], cells[1:], strict=True):
            if cell:
                curves[split_column(name)][block] = _number(cell, f"{path}, line {number}, column {name}")
    if not seen:
        raise DataError(f"{path} has a header and no layer below it: give a table with a line for each layer.")
    return curves


def split_column(name: str) -> tuple[str, str]:
    """Concept and metric of a column: "cog_auc" -> ("cognitive actions", "auc"); a name without "_" has no concept."""
    prefix, underscore, metric = name.partition("_")
    return (CONCEPTS.get(prefix, prefix), metric) if underscore and metric else ("", name)


def _number(cell: Any, place: str) -> float:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{place}: {str(cell)[:40]!r} is not a finite number: mend it, or leave the cell empty.")
    return value


def _read_folder(path: Path) -> tuple[_Curves, dict[str, dict[int, float]], str]:
    """Curves, AUC by block index by class, and a digest of the files they were read from."""
    files = {f"{entry.parent.name}/{entry.name}": entry for entry in sorted(path.glob(f"layer_*/{AGGREGATE_NAME}"))}
    files |= {e.name: e for p in (path, *sorted(path.iterdir())) if p.is_dir() for e in sorted(p.glob("layer_*.json"))}
    if (path / AGGREGATE_NAME).is_file():
        files[f"{path.resolve().name}/{AGGREGATE_NAME}"] = path / AGGREGATE_NAME
    curves: _Curves = {}
    classes: dict[str, dict[int, float]] = {}
    digests = {}
    for name, file in files.items():
        folder, values_file = _LAYER_FOLDER.fullmatch(name.partition("/")[0]), _VALUES_FILE.fullmatch(file.name)
        if folder is None and values_file is None:
            continue
        data = _read_bytes(file)
        values, digests[name] = _object(file, data), sha256_bytes(data)
        if folder is not None:
            block, known, wanted = int(folder[1]), _concept_of(values), _AGGREGATES
            for entry in _actions(values):
                auc = _number(entry.get("auc_roc"), f"{file}, class {entry['action']}")
                classes.setdefault(str(entry["action"]), {})[block] = auc
        else:
            assert values_file is not None
            block, known, wanted = int(values_file[1]), file.resolve().parent.name.removesuffix("_regression"), _VALUES
        for key, metric in wanted.items():
            if key in values:
                curves.setdefault((known, metric), {})[block] = _number(values[key], f"{file}, {key}")
    if not curves:
        raise DataError(
            f"{path} holds no layer_K/{AGGREGATE_NAME} and no layer_K_metrics.json: give a folder of published metrics "
            "or a tab-separated table."
        )
    return curves, classes, sha256_json(digests)


def _object(file: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise DataError(f"{file} is not JSON: it is damaged or cut short; fetch it again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{file} is not an object of metrics: fetch it again.")
    if "cv_auc" in value and "n_train" in value:
        raise DataError(f"{file} is one of our own, whose layers are numbered from 1: give its folder with --probes.")
    return value


def _actions(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = values.get("per_action_metrics")
    return [e for e in found if isinstance(e, dict) and "action" in e] if isinstance(found, list) else []


def _concept_of(values: Mapping[str, Any]) -> str:
    """The recipe of ours that most of the classes belong to; a count of the classes where there is none."""
    names = {str(e["action"]) for e in _actions(values)}
    for recipe in builtin_recipes():
        if 2 * len(names & {c.name for c in load_recipe(recipe).classes}) > max(len(names), 1):
            return recipe.replace("_", " ")
    return f"{len(names)} classes" if names else ""


def _curve(concept: str, metric: str, points: Mapping[int, float]) -> dict[str, Any]:
    blocks = sorted(points)
    higher = _HIGHER.get(metric)
    best = None
    if higher is not None and blocks:
        best = (max if higher else min)(blocks, key=lambda b: points[b])
    return {
        "concept": concept,
        "metric": metric,
        "title": TITLES.get(metric, metric.replace("_", " ")),
        "higher_is_better": higher,
        "layers": [b + 1 for b in blocks],
        "block_indexes": blocks,
        "values": [points[b] for b in blocks],
        "best_layer": None if best is None else best + 1,
        "best_block_index": best,
        "best_value": None if best is None else points[best],
    }


def _class_rows(classes: Mapping[str, Mapping[int, float]]) -> dict[str, Any] | None:
    if not classes:
        return None
    blocks = sorted({b for points in classes.values() for b in points})
    rows = []
    for name, points in sorted(classes.items()):
        best = max(sorted(points), key=lambda b: points[b])
        rows.append(
            {
                "class": name,
                "best_layer": best + 1,
                "best_block_index": best,
                "best_auc": points[best],
                "aucs": [points.get(b) for b in blocks],
            }
        )
    return {"layers": [b + 1 for b in blocks], "classes": rows}


def curve_of(published: Mapping[str, Any], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The published curves of these metrics, in the order of the metrics."""
    return [c for metric in metrics for c in published["curves"] if c["metric"] == metric]
