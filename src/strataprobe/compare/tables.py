"""The table behind each figure of the report, as CSV in a link that the page itself holds."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from strataprobe.compare.wording import eval_names

MEASURES = ("auprc", "f1", "recall_1fpr", "ece")
_CURVE_COLUMNS = (
    "layer", "block_index", "readout", "cv_auc", "cv_auc_low", "cv_auc_high", "test_auc", "test_auc_low",
    "test_auc_high", "test_accuracy", "test_accuracy_low", "test_accuracy_high", "control_auc", "selectivity",
)  # fmt: skip
_BASELINE_COLUMNS = ("cv_auc", "cv_auc_low", "cv_auc_high", "test_auc", "test_auc_low", "test_auc_high",
                     "best_minus_this", "best_minus_this_low", "best_minus_this_high", "reason")  # fmt: skip
_ENSEMBLE_COLUMNS = ("test_auc", "test_auc_low", "test_auc_high", "test_accuracy", "test_ece", "cost_blocks",
                     "minus_best", "minus_best_low", "minus_best_high", "minus_best_p")  # fmt: skip
_SHIFT_COLUMNS = ("name", "n", "positive_share", "auc", "auc_low", "auc_high", "accuracy", "ece", "best_layer",
                  "best_auc")  # fmt: skip
_POINT_COLUMNS = ("n_texts", "auc", "low", "high", "n_repeats")

Rows = list[Sequence[Any]]


def layer_rows(document: Mapping[str, Any]) -> Rows:
    """A row for each layer and readout: what the curve, the PNG and the table of measures show."""
    names = eval_names(document["layers"])
    measures = [f"test_{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    known = [column for column in ("band", *measures) if any(column in e for e in document["layers"])]
    rows: Rows = [[*_CURVE_COLUMNS, *known, *(f"eval_{name}" for name in names)]]
    for e in document["layers"]:
        rows.append(
            [*(e[c] for c in _CURVE_COLUMNS), *(e.get(c) for c in known), *(e["eval"].get(name) for name in names)]
        )
    return rows


def baseline_rows(document: Mapping[str, Any]) -> Rows:
    """A row for each baseline."""
    found = document["baselines"].items()
    return [["baseline", *_BASELINE_COLUMNS], *([name, *(b.get(c) for c in _BASELINE_COLUMNS)] for name, b in found)]


def ensemble_rows(ensembles: Mapping[str, Any]) -> Rows:
    """A row for each way to join layers."""
    header = ["method", "layers", *_ENSEMBLE_COLUMNS]
    return [
        header,
        *([name, _joined(e["layers"]), *(e.get(c) for c in _ENSEMBLE_COLUMNS)] for name, e in ensembles.items()),
    ]


def calibration_rows(calibration: Mapping[str, Any]) -> Rows:
    """A row for each bin of each class."""
    bins = [(name, b) for name, entry in calibration["classes"].items() for b in entry["bins"]]
    return [
        ["class", "predicted", "observed", "n"],
        *([name, b["predicted"], b["observed"], b["n"]] for name, b in bins),
    ]


def geometry_rows(geometry: Mapping[str, Any]) -> Rows:
    """A row for each pair of layers, the layer trained on first."""
    layers = geometry["layers"]
    rows: Rows = [["trained_on_layer", "tested_on_layer", "cosine", "transfer_auc"]]
    for i, first in enumerate(layers):
        rows += [
            [first, other, geometry["cosine"][i][j], geometry["transfer_auc"][i][j]] for j, other in enumerate(layers)
        ]
    return rows


def learning_rows(learning: Mapping[str, Any]) -> Rows:
    """A row for each number of texts, of the training texts and of each text from elsewhere."""
    curves = [("train", learning["points"])]
    curves += [(name, own["points"]) for name, own in learning.get("own", {}).items()]
    return [
        ["trained_on", *_POINT_COLUMNS],
        *([name, *(p.get(c) for c in _POINT_COLUMNS)] for name, points in curves for p in points),
    ]


def shift_rows(shift: Mapping[str, Any]) -> Rows:
    """A row for the test texts and for each text from elsewhere."""
    return [_SHIFT_COLUMNS, *([row.get(c) for c in _SHIFT_COLUMNS] for row in shift["rows"])]


def wrong_rows(wrong: Mapping[str, Any]) -> Rows:
    """A row for each text listed: the probability that each layer gives its label."""
    layers = [entry["layer"] for entry in wrong["layers"]]
    rows: Rows = [["id", "label", "text", *(f"layer_{k}" for k in layers)]]
    return rows + [[t["id"], t["label"], t["text"], *(f"{p:.4g}" for p in t["probabilities"])] for t in wrong["texts"]]


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV. Words that a spreadsheet would run as a formula get an apostrophe in front."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def csv_link(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV in a data: link."""
    return "data:text/csv;base64," + base64.b64encode(csv_text(rows).encode()).decode()


def _cell(cell: Any) -> Any:
    """Six digits of a number; words that cannot become a formula."""
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _joined(layers: Iterable[int]) -> str:
    return " ".join(map(str, layers))
