"""The whole pipeline on a decoder whose concept is written by a known block: the curve must say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import known_truth
from demo import in_process


def curve(folder: Path, concept_block: int | None, readouts: str = "last,mean") -> dict[str, Any]:
    """comparison.json of a run on the 34-layer decoder."""
    known_truth.write(folder, concept_block, n_layers=34, n_texts=400)
    done = in_process(
        "run",
        "--data",
        folder / "texts.jsonl",
        "--model",
        folder / "model",
        "--out",
        folder / "run",
        "--readout",
        readouts,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "run" / "comparison.json").read_text())


def of_readout(comparison: dict[str, Any], readout: str) -> dict[int, dict[str, Any]]:
    return {entry["layer"]: entry for entry in comparison["layers"] if entry["readout"] == readout}


@pytest.mark.slow
def test_the_curve_steps_up_at_the_layer_after_the_block_that_writes_the_concept(tmp_path: Path) -> None:
    comparison = curve(tmp_path, concept_block=11)
    last, mean = of_readout(comparison, "last"), of_readout(comparison, "mean")
    assert sorted(last) == sorted(mean) == list(range(1, 35))
    for layer in range(1, 12):
        assert last[layer]["cv_auc"] < 0.6, layer
        assert last[layer]["simultaneous_low"] < 0.5, layer
    for layer in range(12, 35):
        assert last[layer]["cv_auc"] > 0.95, layer
    assert all(entry["cv_auc"] > 0.95 for entry in mean.values())
    assert comparison["primary_readout"] == "last"
    assert comparison["best_layer"] == 12 or 12 in comparison["tied_layers"]
    assert min(comparison["tied_layers"]) == 12
    assert last[12]["block_index"] == 11


@pytest.mark.slow
def test_without_the_concept_no_layer_is_called_best_and_a_finding_says_why(tmp_path: Path) -> None:
    comparison = curve(tmp_path, concept_block=None, readouts="last")
    assert comparison["best_layer"] is None
    assert comparison["tied_layers"] == []
    first = next(finding for finding in comparison["findings"] if finding["code"] == "C001")
    assert first["level"] in ("warning", "error")
    assert "control" in first["message"] or "chance" in first["message"]
    for entry in of_readout(comparison, "last").values():
        assert entry["cv_auc"] < 0.6
