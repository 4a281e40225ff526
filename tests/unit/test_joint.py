"""Joint probes of several recipes: what sharing gives, that it is left where there is nothing to share, and its files."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from strataprobe.dataset import SPLITS
from strataprobe.errors import OptionError
from strataprobe.manifest import verify_folder
from strataprobe.metrics import auc
from strataprobe.probes import joint
from strataprobe.probes.crossval import class_columns
from strataprobe.probes.files import load_oof, load_probes
from strataprobe.probes.joint import LayerOfRecipes, train_joint
from strataprobe.probes.overlap import numbered, texts_by_id
from strataprobe.probes.run import train
from strataprobe.probes.shared import Choice, Part, Sharing, fit_chosen, fit_parts
from strataprobe.progress import silence
from strataprobe.store import ActivationFolder, LayerRows
from train_folders import data_files, write_folder

CS = (1e-3, 1e-2)


def recipes(
    seed: int, *, shared: bool, n: int = 30, n_recipes: int = 4, n_classes: int = 4
) -> list[tuple[Part, np.ndarray, np.ndarray]]:
    """Recipes of rows around class means that lie in a plane of 3 of 96 dimensions, or anywhere; with 100 fresh rows."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(96, 3)))[0]
    found = []
    for _ in range(n_recipes):
        means = rng.normal(size=(n_classes, 3)) @ basis.T if shared else rng.normal(size=(n_classes, 96)) / 32**0.5
        splits = []
        for rows in (n, 10, 100):
            labels = np.repeat(np.arange(n_classes), rows)
            Z = 1.1 * means[labels] + rng.normal(size=(len(labels), 96))
            splits.append((Z, class_columns(labels, n_classes)))
        (Z, Y), (Z_val, Y_val), (Z_new, Y_new) = splits
        found.append((Part(torch.from_numpy(Z), Y, torch.from_numpy(Z_val), Y_val), Z_new, Y_new))
    return found


def gain(seed: int, *, shared: bool) -> tuple[float, Sharing]:
    """How much higher the mean AUC is on fresh rows than without sharing, and what was shared."""
    drawn = recipes(seed, shared=shared)
    parts = [part for part, _, _ in drawn]
    choice, together = fit_parts(parts, CS)
    alone = fit_chosen(parts, Choice(Sharing(), 1e-3), [[1e-3] * part.Y.shape[1] for part in parts])
    means = [
        np.mean([
            auc(Y[:, k], Z @ fit.weight[k])
            for (_, Z, Y), fit in zip(drawn, fits, strict=True)
            for k in range(Y.shape[1])
        ])
        for fits in (together, alone)
    ]  # fmt: skip
    return float(means[0] - means[1]), choice.sharing


def test_classes_that_share_a_subspace_gain_from_it() -> None:
    found = [gain(seed, shared=True) for seed in range(2)]
    assert all(sharing.rank >= 2 for _, sharing in found)
    assert np.mean([difference for difference, _ in found]) > 0.02


def test_classes_that_share_nothing_are_left_alone() -> None:
    found = [gain(seed, shared=False) for seed in range(2)]
    assert [sharing for _, sharing in found] == [Sharing()] * 2
    assert abs(np.mean([difference for difference, _ in found])) < 0.005


def test_sharing_is_a_weaker_penalty_inside_the_subspace() -> None:
    part = recipes(0, shared=True, n_recipes=1, n_classes=3)[0][0]
    choice = Choice(Sharing(2, 4.0), 1e-3)
    shared = fit_chosen([part], choice, [[1e-3, 1e-2, 1e-1]])[0]
    alone = fit_chosen([part], Choice(Sharing(), 1e-3), [[1e-3] * 3])[0]
    U = np.linalg.svd(alone.weight, full_matrices=False)[2][:2].T
    Z = part.Z.numpy()
    T = np.eye(96) + 3 * U @ U.T
    for k, C in enumerate((1e-3, 1e-2, 1e-1)):
        reference = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12).fit(Z @ T, part.Y[:, k])
        np.testing.assert_allclose(shared.weight[k], T @ reference.coef_[0], rtol=0, atol=1e-6)
        assert shared.bias[k] == pytest.approx(reference.intercept_[0], abs=1e-6)


def test_two_classes_in_all_can_share_one_direction() -> None:
    drawn = recipes(1, shared=True, n_recipes=2, n_classes=2)
    choice, fits = fit_parts([part for part, _, _ in drawn], CS)
    assert choice.sharing.rank in (0, 1)
    assert [fit.weight.shape for fit in fits] == [(1, 96), (1, 96)]


def layer_of_copies(seed: int, *, copied: bool) -> LayerOfRecipes:
    """Two recipes of noise whose random labels agree; the second one's texts are those of the first, or others."""
    rng = np.random.default_rng(seed)
    splits: list[dict[str, LayerRows]] = [{}, {}]
    for split, n in zip(SPLITS, (150, 50, 50), strict=True):
        X = rng.normal(size=(2, n, 60)).astype(np.float32)
        labels = rng.integers(0, 2, size=n)
        for i in (0, 1):
            rows = X[0 if copied else i]
            names = [f"{split}-{i}-{j}" for j in range(n)]
            splits[i][split] = LayerRows(rows, labels, names, names, None)
    return LayerOfRecipes(splits, [2, 2], CS)


def measured_on_copies() -> float:
    """Mean cross-validated AUC of the first recipe, whose texts and random labels are those of the second."""
    measured = []
    for seed in range(2):
        layer = layer_of_copies(seed, copied=True)
        rng = np.random.default_rng(seed)
        folds = [rng.permutation(200) % 4, rng.permutation(200) % 4]
        crossed = layer.cross_validate(folds)
        labels = np.concatenate([layer.splits[0][s].labels for s in ("train", "val")])
        measured += [auc(labels[folds[0] == k], crossed[0].logits[folds[0] == k, 0]) for k in range(4)]
    return float(np.mean(measured))


def test_a_text_of_two_recipes_does_not_train_the_probe_it_measures() -> None:
    assert abs(measured_on_copies() - 0.5) < 0.08


def test_without_that_care_it_would_look_like_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count()

    def every_row_its_own(splits: Any, _texts: Any) -> list[dict[str, np.ndarray]]:
        return [{s: np.fromiter(numbers, np.int64, len(rows.labels)) for s, rows in one.items()} for one in splits]

    monkeypatch.setattr(joint, "numbered", every_row_its_own)
    assert measured_on_copies() > 0.57


def test_a_text_read_in_another_batch_is_known_by_its_words() -> None:
    once, again = layer_of_copies(0, copied=True).splits
    changed = np.float32(1 + 1e-6)
    again = {split: rows._replace(activations=rows.activations * changed) for split, rows in again.items()}
    train = [one["train"] for one in numbered([once, again], [{}, {}])]
    assert len(set(train[0]) & set(train[1])) < 10
    texts = [
        {name: f"{split} {j}" for split, rows in one.items() for j, name in enumerate(rows.ids)}
        for one in (once, again)
    ]
    train = [one["train"] for one in numbered([once, again], texts)]
    np.testing.assert_array_equal(train[0], train[1])


def test_the_words_are_those_of_the_three_splits(folders: list[Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders[0], tmp_path / "a"))
    assert texts_by_id(ActivationFolder.open(folder)) == {}
    rows = [{"id": "0", "text": "Fine.", "split": "val"}, {"id": "0", "text": "Elsewhere.", "split": "eval_other"}]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert texts_by_id(ActivationFolder.open(folder)) == {"0": "Fine."}


def test_the_same_activations_get_the_same_number() -> None:
    copies, others = (layer_of_copies(0, copied=copied)._same for copied in (True, False))
    np.testing.assert_array_equal(copies[0]["train"], copies[1]["train"])
    assert not set(others[0]["train"]) & set(others[1]["train"])


def set_attributes(folder: Path, **attributes: str) -> Path:
    for path in folder.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file.attrs.update(attributes)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Activations of two recipes, of two and three classes, read alike and without a suffix."""
    root = tmp_path_factory.mktemp("recipes")
    classes = {"mood": ("bad", "good"), "feeling": ("anger", "fear", "joy")}
    return [
        set_attributes(
            write_folder(root / name, class_names=names, n=240, d=16, readouts=("mean",), seed=i),
            suffix="",
            recipe_name=name,
        )
        for i, (name, names) in enumerate(classes.items())
    ]


@pytest.fixture(scope="module")
def trained(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joint")
    with silence():
        train_joint(folders, out, folds=3)
    return out


def test_each_recipe_gets_an_ordinary_probes_folder(trained: Path, folders: list[Path]) -> None:
    for name, folder in zip(("mood", "feeling"), folders, strict=True):
        assert verify_folder(trained / name) == []
        probes = load_probes(trained / name)
        assert probes.manifest.config["probe"] == "joint"
        assert probes.layers == [1, 2]
        rows = ActivationFolder.open(folder).read(2, "test")
        logits = probes.sets["mean", 2].logits(rows.activations)
        assert auc(rows.labels == 1, logits[:, 1]) > 0.9
        settings = probes.sets["mean", 2].first.extra
        assert settings["shared_strength"] >= 1
        assert probes.manifest.details["layers"]["mean"]["2"]["cv_auc"] > 0.9
    assert load_oof(trained / "feeling").logits["mean", 1].shape[1] == 3
    assert set(load_probes(trained / "mood").manifest.config["joint_with"]) == {"feeling"}


def test_a_second_call_has_nothing_to_do_and_a_fresh_one_gives_the_same_bytes(
    trained: Path, folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_joint(folders, trained, folds=3)
    assert capsys.readouterr().err.count("nothing to do") == 2
    with silence():
        train_joint(folders, tmp_path, folds=3)
        assert data_files(tmp_path) == data_files(trained)
        shutil.rmtree(tmp_path / "feeling")  # as when it was interrupted between the recipes
        train_joint(folders, tmp_path, folds=3)
    assert data_files(tmp_path) == data_files(trained)


def test_where_nothing_is_shared_the_probes_are_those_of_one_recipe(folders: list[Path], tmp_path: Path) -> None:
    with silence():
        train_joint(folders, tmp_path / "joint", folds=0, layers=[2], options={"Cs": [1e-3]})
        train(folders[0], tmp_path / "alone", folds=0, layers=[2], options={"Cs": [1e-3]})
    rows = ActivationFolder.open(folders[0]).read(2, "test")
    joint, alone = (
        load_probes(path).sets["mean", 2].logits(rows.activations)[:, 1]
        for path in (tmp_path / "joint" / "mood", tmp_path / "alone")
    )
    assert np.corrcoef(joint, alone)[0, 1] > 0.97


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suffix": "\n\nHow"}, 'captured with the suffix.*--suffix ""'),
        ({"model_revision": "other"}, "differ in model revision"),
        ({"prefix": "Well, "}, "differ in prefix"),
        ({"recipe_name": "mood"}, "both of 'mood'"),
    ],
)
def test_recipes_that_were_not_read_alike_are_refused(
    folders: list[Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    other = write_folder(tmp_path / "other", n=60, d=16, readouts=("mean",))
    set_attributes(other, **({"suffix": "", "recipe_name": "other"} | change))
    with pytest.raises(OptionError, match=message) as refused:
        train_joint([folders[0], other], tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_other_widths_layers_and_a_single_recipe_are_refused(folders: list[Path], tmp_path: Path) -> None:
    wide = write_folder(tmp_path / "wide", n=60, d=17, readouts=("mean",))
    deep = write_folder(tmp_path / "deep", n=60, d=16, readouts=("mean",), layers=(1, 2, 3))
    for folder, message in ((wide, "not one model"), (deep, "other layers")):
        set_attributes(folder, suffix="", recipe_name="other")
        with pytest.raises(OptionError, match=message):
            train_joint([folders[0], folder], tmp_path / "out")
    with pytest.raises(OptionError, match="twice or more"):
        train_joint(folders[:1], tmp_path / "out")
    with pytest.raises(OptionError, match="class_weight"):
        train_joint(folders, tmp_path / "out", options={"class_weight": "balanced"})


def test_an_option_of_another_family_is_refused(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="has no option 'target'"):
        train_joint(folders, tmp_path / "out", options={"target": "values"})
