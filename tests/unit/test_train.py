"""The train stage on small folders with a planted direction."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from strataprobe.errors import DataError, OptionError, ProbeError, StageError
from strataprobe.manifest import verify_folder
from strataprobe.metrics import auc, expected_calibration_error
from strataprobe.probes.files import load_oof, load_probes
from strataprobe.probes.pth import load_probe_folder
from strataprobe.probes.run import train
from strataprobe.store import ActivationFolder
from train_folders import SUFFIX, data_files, write_folder

AGGREGATE_KEYS = {
    "average_auc_roc",
    "average_f1",
    "average_accuracy",
    "average_precision",
    "average_recall",
    "total_training_time_seconds",
    "per_action_metrics",
}
ACTION_KEYS = {"action", "accuracy", "precision", "recall", "f1", "auc_roc", "auc_pr", "confusion_matrix"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("trained")
    activations = write_folder(root / "activations", layers=(0, 1, 2, 3), signal_from=2, unlabelled=4)
    train(activations, root / "probes")
    return activations, root / "probes"


def test_the_folder_holds_the_documented_files(trained: tuple[Path, Path]) -> None:
    _, out = trained
    found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    expected = {"manifest.json", "probes.safetensors", "oof_logits.safetensors"}
    for folder in ("", "mean/"):
        for k in (1, 2, 3):
            names = ("probe_negative.pth", "probe_positive.pth", "aggregate_metrics.json")
            expected |= {f"{folder}layer_{k}/{name}" for name in names}
    assert found == expected
    assert verify_folder(out) == []
    assert not out.with_name(".probes.partial").exists()


def test_the_manifest_tells_each_layers_measurements(trained: tuple[Path, Path]) -> None:
    manifest = load_probes(trained[1]).manifest
    assert manifest.details["class_names"] == ["negative", "positive"]
    layers = manifest.details["layers"]
    assert list(layers) == ["last", "mean"]
    assert list(layers["last"]) == ["1", "2", "3"]
    for entry in layers["last"].values():
        assert {"C", "cv_auc", "val_auc", "converged"} <= set(entry)
        assert entry["converged"] is True


def test_a_planted_direction_is_found_and_noise_is_not(trained: tuple[Path, Path]) -> None:
    for readout in ("last", "mean"):
        layers = load_probes(trained[1]).manifest.details["layers"][readout]
        assert abs(layers["1"]["cv_auc"] - 0.5) < 0.15
        assert layers["2"]["cv_auc"] > 0.95
        assert layers["3"]["cv_auc"] > 0.95


def test_aggregate_metrics_are_those_of_the_test_split(trained: tuple[Path, Path]) -> None:
    activations, out = trained
    metrics = json.loads((out / "layer_2" / "aggregate_metrics.json").read_text())
    assert set(metrics) >= AGGREGATE_KEYS
    rows = ActivationFolder.open(activations).read(2, "test")
    kept = rows.labels >= 0
    probes = load_probes(out).sets["last", 2]
    p = probes.probabilities(rows.activations[kept])
    for c, entry in enumerate(metrics["per_action_metrics"]):
        assert set(entry) >= ACTION_KEYS | {"C", "val_auc", "cv_auc", "threshold"}
        truth, called = rows.labels[kept] == c, p[:, c] >= probes.thresholds[c]
        assert entry["accuracy"] == pytest.approx((truth == called).mean())
        assert entry["auc_roc"] == pytest.approx(auc(truth, p[:, c]))
        assert entry["ece"] == pytest.approx(expected_calibration_error(truth, p[:, c]), abs=1e-9)
        assert 0 < entry["ece"] < 0.3
        matrix = entry["confusion_matrix"]
        assert matrix["true_positive"] == int((truth & called).sum())
        assert sum(matrix.values()) == kept.sum()
    mean = np.mean([entry["auc_roc"] for entry in metrics["per_action_metrics"]])
    assert metrics["average_auc_roc"] == pytest.approx(mean)
    assert metrics["average_ece"] == pytest.approx(np.mean([e["ece"] for e in metrics["per_action_metrics"]]))


def test_the_two_probes_of_two_classes_are_exact_mirrors(trained: tuple[Path, Path]) -> None:
    for probes in load_probes(trained[1]).sets.values():
        np.testing.assert_array_equal(probes.weight[0], -probes.weight[1])
        assert probes.bias[0] == -probes.bias[1]
        assert probes.calibrations[0, 0] == probes.calibrations[1, 0]
        assert probes.calibrations[0, 1] == -probes.calibrations[1, 1]
        X = np.random.default_rng(0).normal(size=(30, 24)) * 1000
        np.testing.assert_allclose(probes.probabilities(X).sum(axis=1), 1.0, atol=1e-12)
        p = probes.probabilities(X)
        np.testing.assert_array_equal(p[:, 0] >= probes.thresholds[0], p[:, 1] < probes.thresholds[1])


def test_the_export_and_the_safetensors_are_the_same_probes(trained: tuple[Path, Path]) -> None:
    loaded = load_probes(trained[1])
    for (readout, layer), probes in loaded.sets.items():
        folder = trained[1] / ("" if readout == "last" else readout) / f"layer_{layer}"
        exported = load_probe_folder(folder, layer=layer)
        assert (exported.layer, exported.block_index, exported.readout) == (layer, layer - 1, readout)
        assert exported.first.suffix == SUFFIX
        np.testing.assert_array_equal(exported.weight, probes.weight)
        for name in probes:
            assert exported[name].bias == probes[name].bias
            assert exported[name].calibration == probes[name].calibration
            assert exported[name].threshold == probes[name].threshold
            assert exported[name].extra == probes[name].extra


def test_out_of_fold_logits_are_of_labelled_rows_and_groups_never_straddle_folds(trained: tuple[Path, Path]) -> None:
    activations, out = trained
    oof, folder = load_oof(out), ActivationFolder.open(activations)
    splits = [folder.read(1, split) for split in ("train", "val")]
    labels = np.concatenate([s.labels for s in splits])
    ids = [i for s in splits for i in s.ids]
    assert oof.ids == [i for i, label in zip(ids, labels, strict=True) if label >= 0]
    np.testing.assert_array_equal(oof.labels, labels[labels >= 0])
    assert {k: v.shape for k, v in oof.logits.items()} == dict.fromkeys(oof.logits, (len(oof.ids), 2))
    assert set(oof.folds) == {0, 1, 2, 3, 4}
    for group in np.unique(oof.groups):
        assert len(set(oof.folds[oof.groups == group])) == 1


def test_out_of_fold_logits_are_on_the_scale_of_the_layers_own_probe(trained: tuple[Path, Path]) -> None:
    activations, out = trained
    oof, loaded, folder = load_oof(out), load_probes(out), ActivationFolder.open(activations)
    for readout in ("last", "mean"):
        for layer in (2, 3):
            probes = loaded.sets[readout, layer]
            fresh = probes.logits(folder.read(layer, "test", readout).activations)[:, 1]
            assert 0.5 < oof.logits[readout, layer][:, 1].std() / fresh.std() < 2
            p = probes.calibrated(oof.logits[readout, layer])
            assert p[:, 1].mean() == pytest.approx(oof.labels.mean(), abs=0.08)
            np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)


def test_layers_whose_activations_are_ten_thousand_times_larger_give_the_same_probabilities(tmp_path: Path) -> None:
    small = write_folder(tmp_path / "a", layers=(1,), readouts=("last",))
    large = tmp_path / "b"
    large.mkdir()
    (large / "layer_1_activations.h5").write_bytes((small / "layer_1_activations.h5").read_bytes())
    with h5py.File(large / "layer_1_activations.h5", "r+") as file:
        for split in ("train", "val", "test"):
            file[split]["activations"][:] *= 1e4
    train(small, tmp_path / "pa")
    train(large, tmp_path / "pb")
    X = ActivationFolder.open(small).read(1, "test").activations
    one, other = (load_probes(tmp_path / p).sets["last", 1] for p in ("pa", "pb"))
    np.testing.assert_allclose(one.probabilities(X), other.probabilities(X * np.float32(1e4)), atol=1e-4)


def test_more_than_two_classes_are_each_against_the_rest(tmp_path: Path) -> None:
    names = ("anger", "fear", "joy")
    folder = write_folder(tmp_path / "a", layers=(1,), class_names=names, n=360, strength=4.0)
    details = train(folder, tmp_path / "p").details
    probes = load_probes(tmp_path / "p").sets["last", 1]
    assert probes.class_names == list(names)
    assert set(details["layers"]["last"]["1"]["C"]) == set(names)
    assert details["layers"]["last"]["1"]["cv_auc"] > 0.9
    X = ActivationFolder.open(folder).read(1, "test")
    assert (probes.logits(X.activations).argmax(axis=1) == X.labels).mean() > 0.8


def test_brijes_files_with_nothing_but_activations_and_labels_are_trained_on(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", layers=(1,), readouts=("last",))
    with h5py.File(folder / "layer_1_activations.h5", "r+") as file:
        for name in list(file.attrs):
            del file.attrs[name]
        for split in file:
            del file[split]["ids"], file[split]["groups"]
    train(folder, tmp_path / "p", numbering="brije")
    loaded = load_probes(tmp_path / "p")
    assert loaded.layers == [2]
    assert loaded.sets["last", 2].block_index == 1
    assert (tmp_path / "p" / "layer_2" / "probe_class_1.pth").is_file()


def test_one_readout_alone_becomes_the_primary_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", layers=(1,))
    train(folder, tmp_path / "p", readout="mean")
    assert load_probes(tmp_path / "p").readouts == ["mean"]
    assert load_probe_folder(tmp_path / "p" / "layer_1").readout == "mean"


def rename_readouts(folder: Path, names: list[str]) -> None:
    with h5py.File(folder / "layer_1_activations.h5", "r+") as file:
        for old, new in zip(file.attrs["readouts"][1:], names[1:], strict=True):
            for split in file:
                file[split].move(f"activations_{old}", f"activations_{new}".replace("/", "_"))
        file.attrs["readouts"] = names


@pytest.mark.parametrize("name", ["../../mine", "/tmp/mine", "..", "a/b", "", "last\n", "mean." * 60])
def test_a_readout_whose_name_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "a" / "b" / "c", layers=(1,))
    rename_readouts(folder, ["last", name])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StageError, match="no folder can be named after"):
        train(folder, tmp_path / "out" / "p")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_readout_of_another_name_is_trained_on(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", layers=(1,))
    rename_readouts(folder, ["last", "last-text"])
    train(folder, tmp_path / "p")
    assert load_probes(tmp_path / "p").readouts == ["last", "last-text"]
    assert load_probe_folder(tmp_path / "p" / "last-text" / "layer_1").readout == "last-text"


def test_a_class_with_a_long_name_is_trained_on(tmp_path: Path) -> None:
    names = ("감정" * 40 + "가", "감정" * 40 + "나")
    train(write_folder(tmp_path / "a", layers=(1,), readouts=("last",), class_names=names), tmp_path / "p")
    assert load_probes(tmp_path / "p").class_names == list(names)
    assert load_probe_folder(tmp_path / "p" / "layer_1").class_names == list(names)


def test_training_twice_gives_identical_files_and_a_finished_folder_is_left_alone(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a")
    train(folder, tmp_path / "one")
    train(folder, tmp_path / "a longer name")
    assert data_files(tmp_path / "one") == data_files(tmp_path / "a longer name")
    before = (tmp_path / "one" / "manifest.json").stat().st_mtime_ns
    train(folder, tmp_path / "one")
    assert (tmp_path / "one" / "manifest.json").stat().st_mtime_ns == before


def test_further_layers_are_added_to_a_finished_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", layers=(1, 2, 3))
    train(folder, tmp_path / "p", layers=[1, 2])
    assert load_probes(tmp_path / "p").layers == [1, 2]
    train(folder, tmp_path / "p")
    train(folder, tmp_path / "whole")
    assert load_probes(tmp_path / "p").layers == [1, 2, 3]
    assert data_files(tmp_path / "p") == data_files(tmp_path / "whole")


def test_other_activations_or_options_are_refused_not_mixed_in(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", layers=(1,))
    train(folder, tmp_path / "p")
    before = data_files(tmp_path / "p")
    with pytest.raises(StageError, match="seed 0 there, 1 asked"):
        train(folder, tmp_path / "p", seed=1)
    other = write_folder(tmp_path / "b", layers=(1, 2), seed=9)
    with pytest.raises(StageError, match="other activations"):
        train(other, tmp_path / "p")
    assert data_files(tmp_path / "p") == before


def test_an_unknown_probe_layer_or_readout_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", layers=(0, 1))
    with pytest.raises(OptionError, match="no probe is called 'magic'; there are: logistic"):
        train(folder, tmp_path / "p", probe="magic")
    for layers in ([0], [7], []):
        with pytest.raises(OptionError, match="has layers 1"):
            train(folder, tmp_path / "p", layers=layers)
    with pytest.raises(OptionError, match="has: last, mean"):
        train(folder, tmp_path / "p", readout="middle")
    assert not (tmp_path / "p").exists()


def edit(folder: Path, split: str, column: str, change) -> None:
    with h5py.File(folder / "layer_1_activations.h5", "r+") as file:
        file[split][column][...] = change(file[split][column][...])


def test_activations_that_are_not_finite_are_refused_naming_the_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", layers=(1,))
    edit(folder, "val", "activations", lambda a: np.where(np.arange(len(a))[:, None] == 3, np.inf, a))
    with pytest.raises(DataError, match=r"layer_1_activations\.h5.*not finite"):
        train(folder, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    edit(folder, "val", "activations", lambda a: np.where(np.isfinite(a), a, 0))
    train(folder, tmp_path / "p")
    assert load_probes(tmp_path / "p").layers == [1]


def test_a_split_that_lacks_a_class_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", layers=(1,))
    edit(folder, "test", "labels", lambda a: np.ones_like(a))
    with pytest.raises(DataError, match="'test' has no text of class 'negative'"):
        train(folder, tmp_path / "p")


def test_a_class_whose_texts_are_all_related_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", layers=(1,))
    for split in ("train", "val"):
        edit(folder, split, "groups", lambda a: np.full(a.shape, b"one", dtype=object))
    with pytest.raises(DataError, match="at least two"):
        train(folder, tmp_path / "p")


def test_layers_of_different_texts_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", layers=(1, 2))
    edit(folder, "train", "ids", lambda a: np.array([b"x" + i for i in a], dtype=object))
    with pytest.raises(StageError, match="other texts or labels"):
        train(folder, tmp_path / "p")


def test_damaged_probe_files_are_refused(tmp_path: Path) -> None:
    train(write_folder(tmp_path / "a", layers=(1,), readouts=("last",)), tmp_path / "p")
    path = tmp_path / "p" / "probes.safetensors"
    whole = path.read_bytes()
    for content, message in (
        (whole[:-10], "cannot be read"),
        (whole[:-10] + b"0123456789", "sha256 differs"),
        (b"", "cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(ProbeError, match=message):
            load_probes(tmp_path / "p")
    path.unlink()
    with pytest.raises(ProbeError, match="is missing"):
        load_probes(tmp_path / "p")
    (tmp_path / "p" / "oof_logits.safetensors").write_bytes(b"x")
    with pytest.raises(ProbeError, match="cannot be read"):
        load_oof(tmp_path / "p")
    with pytest.raises(StageError, match="not a folder"):
        load_probes(tmp_path / "none")


def test_an_exported_probe_runs_as_a_linear_layer(trained: tuple[Path, Path]) -> None:
    activations, out = trained
    content = torch.load(out / "layer_2" / "probe_positive.pth", weights_only=True, map_location="cpu")
    assert content["model_config"] == {"input_dim": 24}
    rows = ActivationFolder.open(activations).read(2, "test")
    state = content["model_state_dict"]
    logits = torch.from_numpy(rows.activations) @ state["linear.weight"][0] + state["linear.bias"]
    kept = rows.labels >= 0
    assert auc(rows.labels[kept], logits.numpy()[kept]) > 0.95
