"""Probes from activations in memory, and the folds they are checked on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strataprobe.errors import DataError, OptionError, ProbeError
from strataprobe.metrics import auc, folded_auc
from strataprobe.probes.crossval import class_columns, cross_validate, make_folds, say_fewer_folds
from strataprobe.probes.families import get_family
from strataprobe.probes.families.logistic import C_GRID, Logistic, choose_option
from strataprobe.probes.fit import fit
from strataprobe.probes.pth import load_pth
from strataprobe.store import Activations

INFO = {"model_name": "tiny", "model_revision": "abc", "prefix": "", "suffix": " so", "template": "none"}


def memory(n: int = 160, d: int = 30, strength: float = 3.0, classes: int = 2) -> tuple[Activations, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    directions = np.linalg.qr(rng.normal(size=(d, classes)))[0].T
    arrays = {("mean", 0): rng.normal(size=(n, d)).astype(np.float32)}
    for layer in (1, 2):
        noise = rng.normal(size=(n, d)) + (strength * directions[labels] if layer == 2 else 0)
        arrays["last", layer] = (1000 * noise).astype(np.float32)
    return Activations(arrays, ["last", "mean"], INFO), labels


def test_fit_finds_the_layer_that_knows_and_not_the_one_that_does_not() -> None:
    acts, labels = memory()
    probes = fit(acts, [["down", "up"][i] for i in labels])
    assert probes.layers == [1, 2]
    assert 2 in probes
    assert 0 not in probes
    assert abs(probes.cv_auc[1] - 0.5) < 0.15
    assert probes.cv_auc[2] > 0.95
    assert probes.best_layer == 2
    up = probes[2]["up"]
    assert (up.layer, up.block_index, up.readout, up.suffix, up.model) == (2, 1, "last", " so", "tiny")
    assert np.linalg.norm(up.direction) == pytest.approx(1, rel=1e-6)
    p = probes[2].probabilities(acts.layer(2))
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert auc(labels, p[:, 1]) > 0.95
    with pytest.raises(ProbeError, match="layer 7 was not fitted; there are: 1-2"):
        probes[7]


def test_a_fitted_probe_is_saved_and_read_back(tmp_path: Path) -> None:
    acts, labels = memory()
    probe = fit(acts, labels.tolist())[2]["1"]
    back = load_pth(probe.save(tmp_path / "up.pth"), layer=2)
    np.testing.assert_allclose(back.probabilities(acts.layer(2)), probe.probabilities(acts.layer(2)))


def test_a_probe_tells_its_auc_averaged_over_folds_and_none_pooled_over_them() -> None:
    acts, labels = memory(240, classes=3, strength=2.0)
    probes = fit(acts, labels.tolist())
    folds = make_folds(labels, [str(i) for i in range(240)], ["0", "1", "2"], 0)
    crossed = cross_validate(get_family("logistic"), acts.layer(2), class_columns(labels, 3), folds)
    told = [probe.extra["cv_auc"] for probe in probes[2].values()]
    for c, value in enumerate(told):
        assert value == folded_auc(labels == c, crossed.logits[:, c], np.arange(240), folds).auc[0]
    assert probes.cv_auc[2] == pytest.approx(np.mean(told))
    assert all("val_auc" not in probe.extra for s in probes.values() for probe in s.values())


def test_rows_without_a_label_do_not_change_the_probes() -> None:
    acts, labels = memory()
    arrays = {("last", 2): acts.layer(2)[:120]}
    fewer = fit(Activations(arrays, ["last"], INFO), labels[:120].tolist(), groups=list(range(120)))
    masked = fit(acts, [*labels[:120].tolist(), *[None] * 40], groups=list(range(160)))
    np.testing.assert_allclose(masked[2].weight, fewer[2].weight, rtol=1e-4, atol=1e-9)


def test_more_classes_are_each_against_the_rest_in_sorted_order() -> None:
    acts, labels = memory(240, classes=3, strength=5.0)
    probes = fit(acts, [["c", "a", "b"][i] for i in labels])
    assert probes.class_names == ["a", "b", "c"]
    assert (probes[2].logits(acts.layer(2)).argmax(axis=1) == np.array([2, 0, 1])[labels]).mean() > 0.9


def test_calibrated_probabilities_are_right_as_often_as_they_say() -> None:
    acts, labels = memory(600, d=10, strength=1.5)
    half = Activations({("last", 2): acts.layer(2)[:300]}, ["last"], INFO)
    p = fit(half, labels[:300].tolist())[2].probabilities(acts.layer(2)[300:])[:, 1]
    assert p.mean() == pytest.approx(labels[300:].mean(), abs=0.08)
    sure = p > 0.5
    assert p[sure].mean() == pytest.approx(labels[300:][sure].mean(), abs=0.1)


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0, 1] * 79, None, "158 labels for 160 texts"),
        ([1] * 160, None, "1 class"),
        ([0, 1] * 3 + [None] * 154, None, "6 labelled texts are too few"),
        ([0, 1] * 80, list(range(10)), "10 groups for 160 texts"),
        ([0, 1] * 80, [0, 1] * 80, "class '0' has 1 group"),
    ],
)
def test_labels_that_cannot_be_fitted_are_refused_in_a_sentence(labels: list, groups: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(memory()[0], labels, groups)


def test_an_unknown_probe_and_embeddings_alone_are_refused() -> None:
    acts, labels = memory()
    with pytest.raises(OptionError, match="no probe is called"):
        fit(acts, labels.tolist(), probe="forest")
    with pytest.raises(OptionError, match="embeddings"):
        fit(Activations({("mean", 0): acts.layer(0)}, ["mean"], INFO), labels.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_groups_never_straddle_folds_and_classes_spread_evenly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 90, 400)
    labels = (rng.random(400) < 0.25).astype(int)
    folds = make_folds(labels, groups, ["a", "b"], seed)
    assert all(len(set(folds[groups == g])) == 1 for g in np.unique(groups))
    assert np.bincount(folds).min() > 65
    assert np.bincount(folds[labels == 1], minlength=5).min() > 0.6 * labels.sum() / 5
    np.testing.assert_array_equal(folds, make_folds(labels, groups, ["a", "b"], seed))
    assert (folds != make_folds(labels, groups, ["a", "b"], seed + 50)).any()


def test_a_rare_class_gets_fewer_folds_and_is_in_each() -> None:
    labels = np.array([1] * 3 + [0] * 60)
    folds = make_folds(labels, np.arange(63), ["a", "b"])
    assert sorted(folds[labels == 1]) == [0, 1, 2]


def test_many_folds_are_made_only_while_each_has_five_groups_of_the_rarest_class(
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = np.array([1] * 40 + [0] * 60)
    folds = make_folds(labels, np.arange(100), ["a", "b"], n_folds=1000)
    say_fewer_folds(folds, 1000)
    assert np.bincount(folds[labels == 1]).tolist() == [5] * 8
    assert "8 folds instead of 1000" in capsys.readouterr().err
    few = make_folds(labels, np.arange(100), ["a", "b"], n_folds=7)
    say_fewer_folds(few, 7)
    assert few.max() == 6
    rare = make_folds(labels[34:], np.arange(66), ["a", "b"], n_folds=6)
    assert rare.max() == 4  # five folds as ever, with a group or two each
    say_fewer_folds(rare, 5)
    assert capsys.readouterr().err == ""


def test_labels_without_relation_to_the_rows_give_an_auc_of_a_half_out_of_fold() -> None:
    rng = np.random.default_rng(5)
    X, found = rng.normal(size=(120, 200)), []
    for seed in range(6):
        labels = np.random.default_rng(seed).permutation(np.arange(120) % 2)
        folds = make_folds(labels, np.arange(120), ["a", "b"], seed)
        logits = cross_validate(get_family("logistic"), X, class_columns(labels, 2), folds).logits[:, 0]
        found.append(np.mean([auc(labels[folds == f], logits[folds == f]) for f in range(5)]))
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_a_row_never_influences_its_own_out_of_fold_logit() -> None:
    rng = np.random.default_rng(6)
    X, labels = rng.normal(size=(60, 8)), np.arange(60) % 2
    folds = make_folds(labels, np.arange(60), ["a", "b"])
    fitter = get_family("logistic")
    before = cross_validate(fitter, X, class_columns(labels, 2), folds).logits[:, 0]
    mine = folds == 2
    swapped = np.where(mine, 1 - labels, labels)
    after = cross_validate(fitter, X, class_columns(swapped, 2), folds).logits[:, 0]
    np.testing.assert_array_equal(before[mine], after[mine])
    assert (before[~mine] != after[~mine]).any()


def test_with_two_folds_the_middle_of_the_grid_is_taken() -> None:
    labels = np.array([1, 1, *[0] * 20])
    folds = make_folds(labels, np.arange(22), ["a", "b"])
    assert set(folds) == {0, 1}
    crossed = cross_validate(
        get_family("logistic"), np.random.default_rng(0).normal(size=(22, 5)), class_columns(labels, 2), folds
    )
    assert np.isnan(crossed.option_merit).all()
    assert choose_option(crossed.option_merit).tolist() == [len(C_GRID) // 2]


def test_of_equally_good_values_of_c_the_smallest_is_taken() -> None:
    table = np.array([[0.70, 0.5], [0.8995, np.nan], [0.90, 0.6], [0.85, 0.7]])
    assert choose_option(table).tolist() == [1, 3]


def test_among_penalties_that_cannot_be_told_apart_the_strongest_is_taken() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 20))
    y = (X[:, :1] + 1.5 * rng.normal(size=(600, 1)) > 0).astype(float)
    fit = Logistic((1e-6, 1e-3, 1e-1, 10.0)).fit(X[:400], y[:400], X[400:], y[400:])
    merits = fit.option_merit[:, 0]
    assert merits.max() <= 1
    chosen = [1e-6, 1e-3, 1e-1, 10.0].index(fit.settings[0]["C"])
    assert merits[chosen] >= merits.max() - 1e-3
    assert (merits[:chosen] < merits.max() - 1e-3).all()


def test_a_penalty_that_is_clearly_too_strong_is_not_taken() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(2000, 8))
    X[:, 1] = X[:, 0] + 0.05 * rng.normal(size=2000)
    y = (X[:, :1] - X[:, 1:2] > 0).astype(float)
    fit = Logistic((1e-6, 1e3)).fit(X[:1000], y[:1000], X[1000:], y[1000:])
    assert fit.settings[0]["C"] == 1e3
