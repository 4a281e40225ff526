"""Old probes as prior: a few rows move them little, many rows move them where the new text is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from strataprobe.errors import DataError, OptionError, ProbeError, StageError, StrataprobeError
from strataprobe.layerfile import write_layer_file
from strataprobe.manifest import verify_folder
from strataprobe.probes import adapttask
from strataprobe.probes.adapt import _check_fit, adapt
from strataprobe.probes.adaptfit import OldProbes, adapt_columns
from strataprobe.probes.adapttask import AdaptTask
from strataprobe.probes.calibration import DEFAULT_RULE, Calibration, CalibrationRule
from strataprobe.probes.files import load_oof, load_probes
from strataprobe.probes.probe import REGRESSION, ProbeSet
from strataprobe.probes.run import train
from strataprobe.store import ActivationFolder, layer_file_name

D = 24
TWO, THREE = ("negative", "positive"), ("angry", "calm", "sad")


def directions(seed: int, n_classes: int = 2) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(D, n_classes)))[0].T


def write_rows(
    path: Path,
    planted: np.ndarray,
    sizes: dict[str, int],
    *,
    names: tuple[str, ...] = TWO,
    strength: float = 2.5,
    offset: float = 0.0,
    seed: int = 0,
    suffix: str = "",
    layers: tuple[int, ...] = (1,),
) -> Path:
    """Layer files whose texts of class c lie along ``planted[c]``, each a group of its own, classes in turn."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    attrs = {"model_name": "tiny", "model_revision": "abc", "label_names": list(names), "readouts": ["mean"]}
    attrs |= {"prefix": "", "suffix": suffix, "template": "none", "recipe_name": "sentiment"}
    for layer in layers:
        splits = {}
        for split, n in sizes.items():
            labels = np.arange(n) % len(names)
            X = 10 * (rng.normal(size=(n, D)) + strength * planted[labels] + offset)
            ids = [f"{split}-{i}" for i in range(n)]
            splits[split] = {"activations": {"mean": X.astype("f4")}, "labels": labels, "ids": ids, "groups": ids}
        where = {"layer": layer, "block_index": layer - 1}
        write_layer_file(path / layer_file_name(layer), splits=splits, attrs={**attrs, **where})
    return path


def old_probes(place: Path, names: tuple[str, ...] = TWO) -> Path:
    """Probes of 300 texts along ``directions(0)``, their activations beside them."""
    sizes = {"train": 180, "val": 60, "test": 60}
    train(
        write_rows(place / "activations", directions(0, len(names)), sizes, names=names),
        place / "probes",
        folds=0,
        options={"Cs": [0.01, 0.1]},
    )
    return place / "probes"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return old_probes(tmp_path_factory.mktemp("old"))


def adapted_of(manifest, layer: int = 1) -> dict:
    return manifest.details["layers"]["mean"][str(layer)]["adapted"]


def turned(share: float) -> np.ndarray:
    """Directions between those the old probes know (0) and others (1)."""
    return np.sqrt(1 - share**2) * directions(0) + share * directions(7)


@pytest.mark.parametrize("n", [10, 60])
def test_with_next_to_no_reach_the_old_probe_comes_back(n: int) -> None:
    rng = np.random.default_rng(n)
    X, y = rng.normal(size=(n, D)).astype("f4"), np.arange(n) % 2
    weight = rng.normal(size=(1, D)).astype("f4")
    X += (0.4 * (2 * y - 1)[:, None] * weight).astype("f4")
    known = OldProbes(weight, np.array([0.25]), [Calibration(1.5, 0.1)], np.ones(D, dtype="f4"))
    found = adapt_columns(X, y[:, None].astype(float), known, [np.arange(n) // 2 % 5], reaches=(1e-7,))
    np.testing.assert_allclose(found.weight, weight, rtol=1e-6)
    assert np.ptp(found.logits(X) - (X @ weight.T.astype(float))) < 1e-4  # only the intercept is free
    free = OldProbes(weight * 0, np.zeros(1), known.calibrations, known.scale)
    assert np.abs(adapt_columns(X, y[:, None].astype(float), free, [np.arange(n) // 2 % 5]).weight).max() > 0.05


def test_a_calibration_that_was_no_fit_is_no_prior(old: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, D)).astype("f4"), np.arange(60) % 2
    weight = np.full((1, D), 1e-3, dtype="f4")
    X += ((2 * y - 1)[:, None] * 0.2).astype("f4")
    slopes = []
    for calibration in (None, Calibration(1.0, 0.0)):
        known = OldProbes(weight, np.zeros(1), [calibration], np.ones(D, dtype="f4"))
        slopes.append(adapt_columns(X, y[:, None].astype(float), known, [np.arange(60) // 2 % 5]).settings[0])
    assert slopes[0]["old_slope"] > 100 > 3 > slopes[1]["old_slope"]
    probes = load_probes(old).sets["mean", 1]
    assert adapttask._old_columns(probes, probes.weight[0]).calibrations == [probes["positive"].calibration]
    unfitted = ProbeSet([replace(p, extra={"calibration_fallback": "slope 1"}) for p in probes.values()])
    assert adapttask._old_columns(unfitted, probes.weight[0]).calibrations == [None]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_ten_labelled_rows_work_and_do_no_harm(old: Path, tmp_path: Path, share: float) -> None:
    new = write_rows(tmp_path / "new", turned(share), {"train": 10, "test": 400}, seed=3)
    found = adapted_of(adapt(old, new, tmp_path / "probes"))
    assert found["new"]["measured_on"] == "test"
    assert found["new"]["n"] == 400
    assert found["new"]["after"]["auc"] >= found["new"]["before"]["auc"] - 0.01
    assert found["old"]["after"]["auc"] >= found["old"]["before"]["auc"] - 0.02


def test_many_rows_move_the_probe_to_the_new_text_and_both_domains_are_reported(old: Path, tmp_path: Path) -> None:
    new = write_rows(tmp_path / "new", directions(7), {"train": 200, "val": 50, "test": 400}, offset=0.5, seed=4)
    found = adapted_of(adapt(old, new, tmp_path / "probes"))
    assert found["new"]["before"]["auc"] < 0.75
    assert found["new"]["after"]["auc"] > 0.93
    assert found["new"]["after"]["ece"] < found["new"]["before"]["ece"]
    assert found["old"]["before"]["auc"] > found["old"]["after"]["auc"]
    assert found["old"]["n"] == 60


def test_a_probe_that_ranks_the_new_text_the_wrong_way_is_left_behind(old: Path, tmp_path: Path) -> None:
    new = write_rows(tmp_path / "new", -directions(0), {"train": 150, "test": 300}, seed=5)
    manifest = adapt(old, new, tmp_path / "probes")
    found = adapted_of(manifest)
    assert found["new"]["before"]["auc"] < 0.1
    assert found["new"]["after"]["auc"] > 0.93
    probes = load_probes(tmp_path / "probes")
    assert probes.sets["mean", 1]["positive"].extra["old_slope"] == 0.0


def test_the_result_is_an_ordinary_probes_folder(old: Path, tmp_path: Path) -> None:
    new = write_rows(tmp_path / "new", turned(0.3), {"train": 30, "val": 10, "test": 60}, seed=6)
    manifest = adapt(old, new, tmp_path / "probes")
    assert verify_folder(tmp_path / "probes") == []
    probes, oof = load_probes(tmp_path / "probes"), load_oof(tmp_path / "probes")
    assert oof.logits["mean", 1].shape == (40, 2)
    assert manifest.details["n_train"] == 30
    names = {p.relative_to(tmp_path / "probes").as_posix() for p in (tmp_path / "probes").rglob("*") if p.is_file()}
    assert {"layer_1/probe_positive.pth", "layer_1/aggregate_metrics.json", "probes.safetensors"} <= names
    again = adapt(old, new, tmp_path / "probes")
    assert again.files == manifest.files
    onward = adapted_of(adapt(tmp_path / "probes", new, tmp_path / "onward"))
    assert "skipped" in onward["old"]
    np.testing.assert_array_equal(probes.scales["mean", 1], load_probes(old).scales["mean", 1])


def test_rows_left_out_are_measured_where_there_are_no_test_rows(old: Path, tmp_path: Path) -> None:
    new = write_rows(tmp_path / "new", turned(0.3), {"train": 24}, seed=8)
    found = adapted_of(adapt(old, new, tmp_path / "probes"))
    assert "left out" in found["new"]["measured_on"]
    assert found["new"]["n"] == 24
    assert found["new"]["after"]["auc"] is not None


def test_without_the_old_deviations_those_of_the_new_rows_are_taken(old: Path, tmp_path: Path) -> None:
    new = ActivationFolder.open(write_rows(tmp_path / "new", turned(0.3), {"train": 40, "test": 40}, seed=9))
    trained = replace(load_probes(old), scales={})
    task = AdaptTask(trained, new, None, "not asked for", 0, 5, DEFAULT_RULE)
    result = task.fit(1, "mean", task.rows(1, "mean"))
    np.testing.assert_allclose(result.scale, new.read(1, "train", "mean").activations.std(axis=0), rtol=1e-4)


def test_three_classes_and_a_rule_for_thresholds(tmp_path: Path) -> None:
    probes = old_probes(tmp_path / "old", THREE)
    new = write_rows(
        tmp_path / "new", directions(0, 3), {"train": 90, "test": 150}, names=THREE, offset=0.3, seed=10, layers=(1, 2)
    )
    manifest = adapt(probes, new, tmp_path / "probes", calibration=CalibrationRule("temperature", fpr=0.05))
    found = adapted_of(manifest)
    assert found["new"]["after"]["auc"] >= found["new"]["before"]["auc"] - 0.005
    assert manifest.config["layers"] == [1]
    assert manifest.config["calibration"] == {"method": "temperature", "fpr": 0.05}
    assert (load_probes(tmp_path / "probes").sets["mean", 1].calibrations[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("change", "options", "error", "sentence"),
    [
        ({"names": ("bad", "good")}, {}, ProbeError, "labels of the same names"),
        ({"suffix": "\n\nIt is"}, {}, ProbeError, "as the old one was"),
        ({"layers": (2,)}, {}, OptionError, "cannot be adapted"),
        ({}, {"layers": [3]}, OptionError, "layer 3 cannot be adapted"),
        ({}, {"readout": "last"}, OptionError, "readout 'last' cannot be adapted"),
        ({}, {"folds": 0}, OptionError, "give 2 or more"),
        ({"sizes": {"train": 1, "test": 20}}, {}, DataError, "no train or val text of class 'positive'"),
        ({"sizes": {"train": 2, "test": 20}}, {}, DataError, "at least two"),
    ],
)
def test_what_cannot_be_adapted_is_said_in_a_sentence(
    old: Path, tmp_path: Path, change: dict, options: dict, error: type[StrataprobeError], sentence: str
) -> None:
    new = write_rows(tmp_path / "new", directions(0), **{"sizes": {"train": 20, "test": 20}, **change})
    with pytest.raises(error, match=sentence) as caught:
        adapt(old, new, tmp_path / "probes", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "probes").exists()


def test_probes_of_values_are_not_adapted_and_the_sentence_says_what_they_are(old: Path) -> None:
    trained = load_probes(old)
    values = [replace(p, kind=REGRESSION) for p in trained.sets["mean", 1].values()]
    new = ActivationFolder.open(old.parent / "activations")
    with pytest.raises(ProbeError, match="give values, and only those of classes are adapted"):
        _check_fit(replace(trained, sets={("mean", 1): ProbeSet(values)}), new, old)


def test_new_rows_with_bad_values_or_labels_are_refused_in_every_split(old: Path, tmp_path: Path) -> None:
    sizes = {"train": 20, "val": 10, "test": 10}
    for split in sizes:
        new = write_rows(tmp_path / split, directions(0), sizes)
        with h5py.File(new / layer_file_name(1), "r+") as file:
            file[split]["activations"][3, 2] = np.nan
            file[split]["labels"][2] = 7
        with pytest.raises(DataError, match=f"split '{split}'.*not finite"):
            adapt(old, new, tmp_path / "probes")
        with h5py.File(new / layer_file_name(1), "r+") as file:
            file[split]["activations"][3, 2] = 0
        with pytest.raises(DataError, match=f"split '{split}' has label 7"):
            adapt(old, new, tmp_path / "probes")


def test_a_split_that_cannot_be_read_is_not_taken_for_one_that_is_not_there(old: Path, tmp_path: Path) -> None:
    new = write_rows(tmp_path / "new", directions(0), {"train": 20, "val": 10})
    with h5py.File(new / layer_file_name(1), "r+") as file:
        del file["val"]["activations"]
    with pytest.raises(StageError, match="has no val/activations"):
        adapt(old, new, tmp_path / "probes")
