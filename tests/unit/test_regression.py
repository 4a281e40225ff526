"""Training on continuous targets: what the folder holds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from strataprobe.errors import DataError, OptionError, ProbeError, StageError
from strataprobe.manifest import verify_folder
from strataprobe.predict.sources import open_probes
from strataprobe.probes.calibration import CalibrationRule
from strataprobe.probes.families.ridge import Ridge
from strataprobe.probes.files import load_oof, load_probes
from strataprobe.probes.probe import REGRESSION
from strataprobe.probes.pth import load_probe_folder
from strataprobe.probes.regression import cross_validated_values
from strataprobe.probes.run import train
from strataprobe.probes.values import MEASURES, r2, spearman, value_summary
from strataprobe.store import ActivationFolder
from train_folders import data_files, write_folder


def add_targets(
    folder: Path, *, signal_from: int = 2, missing: int = 10, labels: bool = True, recipe: str = ""
) -> Path:
    """Plant a target in a folder: on layers from ``signal_from`` a direction of the activations and some noise.

    The first ``missing`` rows of every split have none. Without ``labels`` no row has a class.
    """
    for path in sorted(folder.glob("layer_*_activations.h5")):
        with h5py.File(path, "r+") as file:
            layer = int(file.attrs["layer"])
            for number, split in enumerate(("train", "val", "test")):
                group = file[split]
                X = group["activations"][:]
                targets = np.random.default_rng(number).normal(size=len(X)).astype(np.float32)
                targets[:missing] = np.nan
                group["targets"] = targets
                if layer >= signal_from:
                    for name in [n for n in group if n.startswith("activations")]:
                        group[name][:, 0] = np.nan_to_num(targets) * 10.0**layer + 0.5 * group[name][:, 0]
                if not labels:
                    group["labels"][:] = -1
            file.attrs["recipe_name"] = recipe
            if not labels:
                file.attrs["label_names"] = np.array([], dtype=h5py.string_dtype())
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("values")
    folder = add_targets(write_folder(root / "activations", layers=(1, 2, 3)))
    train(folder, root / "probes", probe="ridge")
    return folder, root / "probes"


def test_the_layers_that_hold_the_target_are_found_and_the_other_is_not(trained: tuple[Path, Path]) -> None:
    details = load_probes(trained[1]).manifest.details
    assert details["class_names"] == ["score"]
    for readout in ("last", "mean"):
        layers = details["layers"][readout]
        assert layers["1"]["cv_r2"] < 0.1
        assert abs(layers["1"]["cv_spearman"]) < 0.3
        for k in "23":
            assert layers[k]["cv_r2"] > 0.6
            assert layers[k]["cv_spearman"] > 0.75
            assert layers[k]["val_r2"] > 0.6
            assert layers[k]["alpha"] in Ridge().alphas


def test_the_folder_holds_one_probe_a_layer_in_every_form(trained: tuple[Path, Path]) -> None:
    _, out = trained
    assert verify_folder(out) == []
    found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    layers = {
        f"{readout}layer_{k}/{name}"
        for readout in ("", "mean/")
        for k in (1, 2, 3)
        for name in ("probe_score.pth", "aggregate_metrics.json")
    }
    assert found == layers | {"manifest.json", "probes.safetensors", "oof_logits.safetensors"}
    loaded = load_probes(out)
    exported = load_probe_folder(out / "layer_2")
    assert exported.first.kind == loaded.sets["last", 2].first.kind == REGRESSION
    np.testing.assert_array_equal(exported.weight, loaded.sets["last", 2].weight)
    assert exported["score"].bias == loaded.sets["last", 2]["score"].bias
    assert exported["score"].extra["alpha"] == loaded.manifest.details["layers"]["last"]["2"]["alpha"]
    assert torch.load(out / "layer_2" / "probe_score.pth", weights_only=True)["metadata"]["kind"] == "regression"
    with pytest.raises(ProbeError, match="give values, not probabilities"):
        loaded.sets["last", 2].probabilities(np.zeros((1, 24)))
    assert loaded.scales["last", 2].shape == (24,)


def test_aggregate_metrics_are_those_of_the_test_rows_that_have_a_target(trained: tuple[Path, Path]) -> None:
    folder, out = trained
    rows = ActivationFolder.open(folder).read(2, "test")
    kept = np.isfinite(rows.targets)
    values = load_probes(out).sets["last", 2]["score"].logits(rows.activations[kept])
    groups = [g for g, k in zip(rows.groups, kept, strict=True) if k]
    metrics = json.loads((out / "layer_2" / "aggregate_metrics.json").read_text())
    (entry,) = metrics["per_action_metrics"]
    expected = value_summary(rows.targets[kept], values, groups)
    for name in MEASURES:
        assert metrics[f"average_{name}"] == entry[name] == pytest.approx(expected[name], rel=1e-4)
        assert entry[f"{name}_low"] < entry[name] < entry[f"{name}_high"]
    assert entry["action"] == "score"
    assert metrics["n_test"] == kept.sum()
    assert metrics["average_r2"] > 0.6


def test_the_values_of_rows_left_out_are_stored_with_their_targets(trained: tuple[Path, Path]) -> None:
    folder, out = trained
    oof = load_oof(out)
    store = ActivationFolder.open(folder)
    both = [store.read(2, split) for split in ("train", "val")]
    targets = np.concatenate([rows.targets for rows in both])
    kept = np.isfinite(targets)
    X = np.concatenate([rows.activations for rows in both])[kept]
    assert oof.targets is not None
    np.testing.assert_array_equal(oof.targets, targets[kept])
    assert (oof.labels == -1).all()
    for group in np.unique(oof.groups):
        assert len(np.unique(oof.folds[oof.groups == group])) == 1
    values = cross_validated_values(Ridge().of_values(), X, targets[kept], oof.folds)
    np.testing.assert_allclose(oof.logits["last", 2][:, 0], values, rtol=1e-4, atol=1e-5)
    layers = load_probes(out).manifest.details["layers"]["last"]["2"]
    assert layers["cv_r2"] == pytest.approx(r2(targets[kept], values), abs=1e-6)
    each = [spearman(oof.targets[oof.folds == f], values[oof.folds == f]) for f in range(5)]
    assert layers["cv_spearman"] == pytest.approx(np.mean(each), abs=1e-6)


def test_a_row_that_is_left_out_never_helps_to_predict_itself() -> None:
    rng = np.random.default_rng(0)
    X, targets = rng.normal(size=(100, 60)), rng.normal(size=100)
    folds = np.arange(100) % 5
    assert r2(targets, cross_validated_values(Ridge().of_values(), X, targets, folds)) < 0.1
    seen = Ridge(alphas=[0.1]).of_values().refit(X, targets[:, None], np.full((1, 1), np.nan))
    assert r2(targets, seen.logits(X)[:, 0]) > 0.5


def test_the_best_layer_is_that_of_the_highest_cross_validated_r2(trained: tuple[Path, Path]) -> None:
    source = open_probes(trained[1])
    layers = load_probes(trained[1]).manifest.details["layers"]["last"]
    assert str(source.best_layer) == max(layers, key=lambda k: layers[k]["cv_r2"])
    assert source.best_reason.startswith("highest cross-validated R2 in training, 0.")


def test_training_again_gives_the_same_bytes_and_a_finished_folder_is_left_alone(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, out = trained
    train(folder, tmp_path / "again", probe="ridge")
    assert data_files(tmp_path / "again") == data_files(out)
    before = (out / "manifest.json").stat().st_mtime_ns
    train(folder, out, probe="ridge")
    assert (out / "manifest.json").stat().st_mtime_ns == before


def test_an_interrupted_training_of_values_goes_on_to_the_same_bytes(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strataprobe.probes import regression

    fitted, real = [], regression.fit_value_layer

    def counted(*arguments: object) -> object:
        if len(fitted) == 2:
            raise KeyboardInterrupt
        fitted.append(1)
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(regression, "fit_value_layer", counted)
        with pytest.raises(KeyboardInterrupt):
            train(trained[0], tmp_path / "p", probe="ridge")
    train(trained[0], tmp_path / "p", probe="ridge")
    assert data_files(tmp_path / "p") == data_files(trained[1])


def test_the_probe_is_named_after_the_recipe(tmp_path: Path) -> None:
    folder = add_targets(write_folder(tmp_path / "a", layers=(2,), readouts=("last",)), recipe="valence")
    train(folder, tmp_path / "p", probe="ridge")
    assert load_probes(tmp_path / "p").class_names == ["valence"]
    assert (tmp_path / "p" / "layer_2" / "probe_valence.pth").is_file()


def test_classes_are_fitted_where_they_are_asked_for_and_where_there_are_no_targets(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", layers=(2,), readouts=("last",))
    train(folder, tmp_path / "classes", probe="ridge")
    assert load_probes(tmp_path / "classes").class_names == ["negative", "positive"]
    add_targets(folder)
    manifest = train(folder, tmp_path / "asked", probe="ridge", options={"target": "classes"})
    assert manifest.details["layers"]["last"]["2"]["cv_auc"] > 0.9
    train(folder, tmp_path / "logistic")
    assert load_probes(tmp_path / "logistic").class_names == ["negative", "positive"]


def test_without_cross_validation_the_curve_is_that_of_the_validation_rows(tmp_path: Path) -> None:
    folder = add_targets(write_folder(tmp_path / "a", layers=(2,), readouts=("last",)))
    manifest = train(folder, tmp_path / "p", probe="ridge", folds=0)
    entry = manifest.details["layers"]["last"]["2"]
    assert manifest.details["n_folds"] == 0
    assert entry["cv_r2"] == entry["val_r2"]
    oof = load_oof(tmp_path / "p")
    rows = ActivationFolder.open(folder).read(2, "val")
    assert len(oof.ids) == np.isfinite(rows.targets).sum() < len(rows.ids)


def test_targets_alone_are_for_ridge_and_logistic_says_so(tmp_path: Path) -> None:
    folder = add_targets(write_folder(tmp_path / "a", layers=(2,), readouts=("last",)), labels=False)
    with pytest.raises(OptionError, match=r"has continuous targets and no classes.*use --probe ridge") as caught:
        train(folder, tmp_path / "p")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "p").exists()
    train(folder, tmp_path / "p", probe="ridge")
    assert load_probes(tmp_path / "p").class_names == ["score"]


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (40, r"split 'val' has \d+ text\(s\) with a score: every split needs at least 10"),
        (500, "no continuous targets"),
    ],
)
def test_too_few_targets_are_refused(tmp_path: Path, missing: int, sentence: str) -> None:
    folder = add_targets(write_folder(tmp_path / "a", layers=(2,), readouts=("last",)), missing=missing)
    with pytest.raises(DataError, match=sentence):
        train(folder, tmp_path / "p", probe="ridge", options={"target": "values"})


def test_layers_with_other_targets_are_not_trained_together(tmp_path: Path) -> None:
    folder = add_targets(write_folder(tmp_path / "a", layers=(1, 2), readouts=("last",)))
    with h5py.File(folder / "layer_2_activations.h5", "r+") as file:
        file["train/targets"][20] = 7
    with pytest.raises(StageError, match="holds other texts or scores than the layers before it"):
        train(folder, tmp_path / "p", probe="ridge")


def test_a_layer_that_holds_what_is_not_finite_is_refused(tmp_path: Path) -> None:
    folder = add_targets(write_folder(tmp_path / "a", layers=(2,), readouts=("last",)))
    with h5py.File(folder / "layer_2_activations.h5", "r+") as file:
        file["val/activations"][12, 3] = np.inf
    with pytest.raises(DataError, match="not finite: capture layer 2 again"):
        train(folder, tmp_path / "p", probe="ridge")


def test_a_calibration_asked_for_values_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = add_targets(write_folder(tmp_path / "a", layers=(1,), readouts=("last",)))
    train(folder, tmp_path / "p", probe="ridge", folds=0)
    assert "no probabilities" not in capsys.readouterr().err
    train(folder, tmp_path / "q", probe="ridge", folds=0, calibration=CalibrationRule(fpr=0.01))
    assert "values have no probabilities" in capsys.readouterr().err
