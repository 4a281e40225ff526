"""``--backup`` copies each finished stage and brings it back on a machine that has lost everything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import known_truth
from demo import in_process


def test_a_run_goes_on_from_its_backup(tmp_path: Path) -> None:
    known_truth.write(tmp_path, concept_block=1, n_layers=3, n_texts=120)
    base = ("run", "--data", tmp_path / "texts.jsonl", "--model", tmp_path / "model", "--out", tmp_path / "run")
    done = in_process(*base, "--backup", tmp_path / "drive")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["checks"]["backup_made"] == "ok"
    copied = {p.name for p in (tmp_path / "drive" / "run").iterdir()}
    assert {"data", "activations", "probes", "comparison.json", "report.html", "run.json"} <= copied

    before = {p.name: p.read_bytes() for p in (tmp_path / "run" / "activations").iterdir()}
    shutil.rmtree(tmp_path / "run")
    done = in_process(*base, "--backup", tmp_path / "drive")
    assert done.returncode == 0, done.stderr
    assert "activations restored" in done.stderr
    assert "capture: 1" not in done.stderr
    assert {p.name: p.read_bytes() for p in (tmp_path / "run" / "activations").iterdir()} == before


def test_a_damaged_backup_is_not_restored(tmp_path: Path) -> None:
    known_truth.write(tmp_path, concept_block=1, n_layers=3, n_texts=120)
    base = ("run", "--data", tmp_path / "texts.jsonl", "--model", tmp_path / "model", "--out", tmp_path / "run")
    assert in_process(*base, "--backup", tmp_path / "drive").returncode == 0
    path = tmp_path / "drive" / "run" / "activations" / "layer_2_activations.h5"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    good = (tmp_path / "run" / "activations" / "layer_2_activations.h5").read_bytes()
    shutil.rmtree(tmp_path / "run")
    done = in_process(*base, "--backup", tmp_path / "drive")
    assert done.returncode == 0, done.stderr
    assert "damaged and was not restored" in done.stderr
    assert (tmp_path / "run" / "activations" / "layer_2_activations.h5").read_bytes() == good
