"""strataprobe calibrate: probabilities and thresholds redone on new text, the folder replaced whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import strataprobe as sp
from builders import save_model
from strataprobe.manifest import Manifest, read_manifest, verify_folder
from strataprobe.predict.recalibrate import recalibrate, summary_rows
from strataprobe.predict.sources import open_probes
from strataprobe.probes.calibration import IDENTITY
from strataprobe.probes.files import load_probes
from strataprobe.probes.probe import ProbeSet
from strataprobe.probes.rewrite import rewrite

Cli = Callable[..., tuple[int, str, str]]
COMMAND = "calibrate"
AS_FALLBACK = {"calibration_fallback": "slope 1: the logits do not rank the class higher"}


@pytest.fixture(scope="session")
def reviews(truth: Path) -> Path:
    """140 of the run's texts, one in seven of the positive class given the other label, three without any."""
    rows = [json.loads(line) for line in (truth / "texts.jsonl").read_text("utf-8").splitlines()[:140]]
    for i, row in enumerate(rows):
        row.pop("split", None)
        if row["label"] == "positive" and i % 7 == 0:
            row["label"] = "negative"
    for row in rows[:3]:
        row["label"] = None
    path = truth / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def probes(truth: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(truth / "run" / "probes", tmp_path / "probes"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_calibration_error_falls_and_the_weights_stay(
    cli: Cli, truth: Path, probes: Path, reviews: Path, tmp_path: Path
) -> None:
    before, old_files = load_probes(probes), contents(probes)
    status, out, err = cli(COMMAND, "--probes", probes, "--model", truth / "model", "--data", reviews, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert (document["n"], document["n_skipped"]) == (137, 3)
    layers = {(e["readout"], e["layer"]): e["classes"]["positive"] for e in document["layers"]}
    assert set(layers) == set(before.sets)
    last = layers[before.primary, 4]
    assert last["after"]["ece"] < last["before"]["ece"]
    assert last["after"]["threshold"] == 0.5
    after = load_probes(probes)
    assert verify_folder(probes) == []
    for key, old in before.sets.items():
        np.testing.assert_array_equal(after.sets[key].weight, old.weight)
        assert after.sets[key].calibrations[1, 0] == pytest.approx(layers[key]["after"]["slope"])
    kept = {"oof_logits.safetensors"}
    assert {name for name, data in contents(probes).items() if name in kept and data == old_files[name]} == kept
    pth = sp.MultiProbeInference(probes / "layer_4", truth / "model", 4).probes["positive"]
    assert pth.calibration == after.sets[before.primary, 4]["positive"].calibration
    record = after.manifest.details["recalibrated"]["4"]
    assert record["n"] == 137
    assert len(record["data_sha256"]) == 64
    noted = json.loads((probes / "layer_4" / "aggregate_metrics.json").read_text())
    assert noted.pop("measured_before") == record
    assert noted == json.loads(old_files["layer_4/aggregate_metrics.json"])


def test_calibrating_twice_gives_the_same_bytes(truth: Path, probes: Path, reviews: Path) -> None:
    recalibrate(probes, truth / "model", reviews)
    once = contents(probes)
    again = recalibrate(probes, truth / "model", reviews)
    assert contents(probes) == once
    entry = again["layers"][-1]["classes"]["positive"]
    assert entry["before"]["slope"] == entry["after"]["slope"]


def test_probes_whose_training_gave_no_calibration_are_calibrated_by_the_new_text_alone(
    truth: Path, probes: Path, reviews: Path
) -> None:
    fitted = recalibrate(probes, truth / "model", reviews, layer=4)["layers"][0]["classes"]["positive"]["after"]
    trained = load_probes(probes)
    key = (trained.primary, 4)
    unfitted = [
        replace(p, weight=p.weight / 1024, bias=p.bias / 1024, calibration=IDENTITY, extra=AS_FALLBACK)
        for p in trained.sets[key].values()
    ]
    rewrite(probes, trained, {key: ProbeSet(unfitted)}, {})
    document = recalibrate(probes, truth / "model", reviews, layer=4)
    found = document["layers"][0]["classes"]["positive"]
    assert found["after"]["slope"] == pytest.approx(1024 * fitted["slope"], rel=0.3)
    assert found["after"]["ece"] < found["before"]["ece"] / 2
    assert load_probes(probes).sets[key]["positive"].extra["calibration_fallback"] == found["caveat"] == ""
    again = recalibrate(probes, truth / "model", reviews, layer=4)
    assert again["layers"][0]["classes"]["positive"]["after"] == found["after"]


def test_a_false_positive_rate_gives_each_class_its_threshold_in_a_copy_of_one_layer(
    cli: Cli, truth: Path, probes: Path, reviews: Path, tmp_path: Path
) -> None:
    before = contents(probes)
    command = [COMMAND, "--probes", probes, "--model", truth / "model", "--data", reviews, "--fpr", 0.1, "--layer", 4]
    status, out, err = cli(*command, "--calibration", "temperature", "--out", tmp_path / "copy")
    assert status == 0, err
    assert "negative" in out
    table = [line for line in out.splitlines() if " > " in line and line.split()[0].isdigit()]
    assert table
    assert all(line.count(" > ") == 4 and len(line) <= 80 for line in table)  # no line is wrapped
    assert "137 texts with a label, 3 without were skipped" in out
    assert contents(probes) == before
    assert verify_folder(tmp_path / "copy") == []
    old, new = load_probes(probes), load_probes(tmp_path / "copy")
    mine = new.sets[new.primary, 4]
    assert (mine.calibrations[:, 1] == 0).all()
    assert mine.thresholds[0] != pytest.approx(1 - mine.thresholds[1])
    np.testing.assert_array_equal(new.sets[new.primary, 3].calibrations, old.sets[new.primary, 3].calibrations)
    assert cli(*command, "--out", tmp_path / "copy")[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    status, _, err = cli(*command, "--out", tmp_path / "mine")
    assert status == 2
    assert "choose another --out" in err


def test_the_rate_measured_on_rows_left_out_is_near_the_one_asked_for(truth: Path, probes: Path, reviews: Path) -> None:
    from strataprobe.probes.calibration import CalibrationRule

    document = recalibrate(probes, truth / "model", reviews, rule=CalibrationRule(fpr=0.1))
    rows = [row for row in summary_rows(document) if row["layer"] == 4]
    assert {row["class"] for row in rows} == {"negative", "positive"}
    for row in rows:
        assert row["after"]["fpr"] <= 0.2
    few = recalibrate(probes, truth / "model", reviews, rule=CalibrationRule(fpr=0.001), layer=4)
    assert "cannot show" in few["layers"][0]["classes"]["positive"]["caveat"]


def test_compare_takes_the_calibrated_folder(cli: Cli, truth: Path, copy_of_run: Path, reviews: Path) -> None:
    before = open_probes(copy_of_run / "probes")
    recalibrate(copy_of_run / "probes", truth / "model", reviews)
    after = open_probes(copy_of_run / "probes")
    assert before.best_reason == after.best_reason == "best_layer of comparison.json"
    status, _, err = cli("compare", "--probes", copy_of_run / "probes", "--out", copy_of_run, "--json")
    assert status == 0, err
    status, _, err = cli("verify", copy_of_run / "probes")
    assert status == 0, err


@pytest.mark.parametrize(
    ("contents_of", "parts"),
    [
        ('{"text": "word1 good1 ."}\n{"text": "word2 ."}\n', ("no row with a label",)),
        ('{"text": "word1 good1 .", "label": "positive"}\n' * 2, ("2 labelled texts", "at least 5")),
        ("".join(f'{{"text": "word{i} good1 .", "label": "positive"}}\n' for i in range(9)), ("'positive' only",)),
        ("".join(f'{{"text": "word{i} .", "label": "c{i % 2}"}}\n' for i in range(9)), ("'c0'", "negative, positive")),
    ],
)
def test_labels_that_cannot_calibrate_are_refused_in_a_sentence(
    cli: Cli, truth: Path, probes: Path, tmp_path: Path, contents_of: str, parts: tuple[str, ...]
) -> None:
    (tmp_path / "x.jsonl").write_text(contents_of)
    before = contents(probes)
    status, out, err = cli(COMMAND, "--probes", probes, "--model", truth / "model", "--data", tmp_path / "x.jsonl")
    assert (status, out) == (2, "")
    assert all(part in err.splitlines()[-1] for part in parts), err
    assert contents(probes) == before


def test_another_model_layer_or_rule_is_refused(
    cli: Cli, truth: Path, probes: Path, reviews: Path, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "model", "llama", n_layers=4)
    base = [COMMAND, "--data", reviews]
    for options, part in [
        (["--probes", probes, "--model", other], "another model"),
        (["--probes", probes, "--model", truth / "model", "--layer", 9], "no probes on layer 9"),
        (["--probes", probes / "layer_4", "--model", truth / "model"], "give the whole folder"),
        (["--probes", probes, "--model", truth / "model", "--fpr", 2], "between 0 and 1"),
        (["--probes", probes, "--model", truth / "model", "--calibration", "beta"], "platt or temperature"),
    ]:
        status, _, err = cli(*base, *options)
        assert status == 2, err
        assert part in err.splitlines()[-1]


def test_a_file_of_the_folder_that_is_missing_or_damaged_is_named(
    cli: Cli, truth: Path, probes: Path, reviews: Path
) -> None:
    command = (COMMAND, "--probes", probes, "--model", truth / "model", "--data", reviews, "--layer", 4)
    metrics, oof = probes / "layer_4" / "aggregate_metrics.json", probes / "oof_logits.safetensors"
    for damaged in ("{", "[]"):
        metrics.write_text(damaged)
        status, _, err = cli(*command)
        assert (status, err.count("Traceback")) == (2, 0)
        assert f"strataprobe: {metrics} " in err.splitlines()[-1]
    oof.unlink()
    status, _, err = cli(*command)
    assert status == 2
    assert err.splitlines()[-1] == f"strataprobe: {oof} is missing: run 'strataprobe train' again."


class Killed(BaseException):
    """Stands for the process dying."""


@pytest.mark.parametrize("survived", range(3))
def test_a_calibration_that_is_killed_leaves_the_old_probes_or_the_new_ones(
    monkeypatch: pytest.MonkeyPatch, truth: Path, probes: Path, reviews: Path, tmp_path: Path, survived: int
) -> None:
    before = contents(probes)
    whole = Path(shutil.copytree(probes, tmp_path / "whole"))
    recalibrate(whole, truth / "model", reviews)
    folders, real = [0], os.replace

    def dying(source: str | Path, target: str | Path) -> None:
        if Path(source).is_dir():
            if folders[0] == survived:
                raise Killed
            folders[0] += 1
        elif survived == 2 and Path(target).name == "probes.safetensors":
            raise Killed
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # what is cleaned up on the way out would stay
        with pytest.raises(Killed):
            recalibrate(probes, truth / "model", reviews)
    if survived != 1:
        assert contents(probes) == before
        assert verify_folder(probes) == []
    recalibrate(probes, truth / "model", reviews)
    assert contents(probes) == contents(whole)
    assert isinstance(read_manifest(probes), Manifest)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".probes")] == []
