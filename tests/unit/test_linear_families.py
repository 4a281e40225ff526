"""Mass-mean and ridge as families: the protocol, what does not change the probes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strataprobe.errors import DataError, OptionError
from strataprobe.metrics import auc
from strataprobe.probes.families import Fitter, get_family, known_families
from strataprobe.probes.families.mass_mean import MassMean
from strataprobe.probes.families.standardise import Standardised
from strataprobe.probes.files import load_probes
from strataprobe.probes.fit import fit
from strataprobe.probes.pth import load_probe_folder
from strataprobe.probes.run import train
from strataprobe.store import Activations
from train_folders import write_folder

NAMES = ("mass-mean", "mass-mean-iid", "ridge")
INFO = {"model_name": "tiny", "model_revision": "abc", "prefix": "", "suffix": "", "template": "none"}


def planted(n: int = 200, d: int = 30, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, d) float32 with a direction a class, and labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    directions = np.linalg.qr(rng.normal(size=(d, classes)))[0].T
    X = rng.normal(size=(n, d)) + 3.0 * directions[labels] + rng.normal(size=d)
    return X.astype(np.float32), labels


def columns(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.stack([labels == c for c in range(classes)], axis=1).astype(np.float64)


def test_the_families_are_found_by_name() -> None:
    assert set(NAMES) <= set(known_families())
    for name in NAMES:
        assert get_family(name).name == name
    assert get_family("ridge", {"alphas": [3.0, 30.0]}).options["alphas"] == [30.0, 3.0]
    assert get_family("mass-mean", {"standardise": True}).options == {"standardise": True}
    with pytest.raises(OptionError, match="has no option 'standardise'"):
        get_family("mass-mean-iid", {"standardise": True})


@pytest.mark.parametrize("options", [{"alphas": []}, {"alphas": [0.0]}, {"alphas": [1.0, float("nan")]}])
def test_alphas_that_are_not_positive_are_refused(options: dict[str, list[float]]) -> None:
    with pytest.raises(OptionError, match="alphas of a ridge probe must be positive"):
        get_family("ridge", options)


def test_an_unknown_target_of_ridge_is_refused() -> None:
    with pytest.raises(OptionError, match="target 'logits' of a ridge probe is none of auto, classes, values"):
        get_family("ridge", {"target": "logits"})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "d"), [(160, 30), (100, 130)])
def test_probes_in_memory_find_what_was_planted_and_nothing_in_noise(name: str, n: int, d: int) -> None:
    X, labels = planted(n, d)
    noise = np.random.default_rng(5).normal(size=(n, d)).astype(np.float32)
    acts = Activations({("last", 1): noise, ("last", 2): X}, ["last"], INFO)
    probes = fit(acts, [("down", "up")[i] for i in labels], probe=name)
    assert abs(probes.cv_auc[1] - 0.5) < 0.2
    assert probes.cv_auc[2] > 0.85
    p = probes[2].probabilities(X)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert auc(labels, p[:, 1]) > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_every_column_is_the_probe_that_it_would_be_alone(name: str) -> None:
    X, labels = planted(150, 20, classes=3)
    Y = columns(labels, 3)
    family = get_family(name)
    together = family.fit(X[::2], Y[::2], X[1::2], Y[1::2])
    for k in range(3):
        alone = family.fit(X[::2], Y[::2, k : k + 1], X[1::2], Y[1::2, k : k + 1])
        np.testing.assert_allclose(together.weight[k], alone.weight[0], rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(together.option_merit[:, k], alone.option_merit[:, 0])
        assert together.settings[k] == pytest.approx(alone.settings[0])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_chosen_inside_is_chosen_without_the_rows_set_aside(name: str) -> None:
    X, labels = planted(120, 25)
    Y, held_out = columns(labels, 2), np.arange(120) % 5 == 0
    family = get_family(name)
    inside = family.fit_inside(X, Y, held_out)
    without = family.fit(X[~held_out], Y[~held_out], X[held_out], Y[held_out])
    np.testing.assert_array_equal(inside.option_merit, without.option_merit)
    np.testing.assert_array_equal(inside.held_out_logits, without.held_out_logits)
    np.testing.assert_array_equal(inside.weight, family.refit(X, Y, inside.option_merit).weight)
    assert np.abs(inside.weight - without.weight).max() > 1e-3 * np.abs(without.weight).max()


@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_one_class_among_the_rows_left_gets_no_held_out_logits(name: str) -> None:
    X, labels = planted(60, 10)
    Y = np.stack([labels, np.arange(60) < 3], axis=1).astype(np.float64)
    found = get_family(name).fit_inside(X, Y, np.arange(60) < 12)
    assert np.isnan(found.option_merit[:, 1]).all()
    assert np.isfinite(found.option_merit[:, 0]).all()
    assert not found.held_out_logits[:, 1].any()
    assert found.held_out_logits[:, 0].any()
    nothing = get_family(name).fit_inside(X, Y, np.zeros(60, dtype=bool))
    assert np.isnan(nothing.option_merit).all()
    assert np.isfinite(nothing.weight).all()


def calibrated_logits(family: Fitter, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Held-out logits, divided by their own spread, as a calibration would put them."""
    found = family.fit(X[::2], Y[::2], X[1::2], Y[1::2]).held_out_logits
    return (found - found.mean(axis=0)) / found.std(axis=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "d"), [(160, 20), (60, 90)])
def test_the_size_of_a_layer_and_the_order_of_its_rows_change_nothing(name: str, n: int, d: int) -> None:
    X, labels = planted(n, d)
    Y, family = columns(labels, 2), get_family(name)
    plain = calibrated_logits(family, X, Y)
    for factor in (1e4, 1e-4):
        np.testing.assert_allclose(calibrated_logits(family, X * np.float32(factor), Y), plain, rtol=0, atol=1e-4)
    shifted = (X.astype(np.float64) + 10 * X.std()).astype(np.float32)
    np.testing.assert_allclose(calibrated_logits(family, shifted, Y), plain, rtol=0, atol=1e-3)
    order = np.concatenate([np.random.default_rng(0).permutation(n // 2) * 2, np.arange(1, n, 2)])
    shuffled = family.fit(X[order[: n // 2]], Y[order[: n // 2]], X[1::2], Y[1::2]).held_out_logits
    mine = (shuffled - shuffled.mean(axis=0)) / shuffled.std(axis=0)
    np.testing.assert_allclose(mine, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["mass-mean-iid", "ridge"])
def test_a_few_large_features_decide_nothing_in_a_standardised_family_and_all_in_plain_mass_mean(name: str) -> None:
    X, labels = planted(300, 20)
    larger = X.copy()
    larger[:, :3] *= 1000
    Y = columns(labels, 2)
    plain, other = (calibrated_logits(get_family(name), v, Y) for v in (X, larger))
    np.testing.assert_allclose(other, plain, rtol=0, atol=1e-3)
    raw, large = (calibrated_logits(MassMean(), v, Y) for v in (X, larger))
    assert np.abs(raw - large).max() > 1
    same, again = (calibrated_logits(MassMean(standardise=True), v, Y) for v in (X, larger))
    np.testing.assert_allclose(same, again, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_constant_and_doubled_features_leave_finite_probes(name: str) -> None:
    X, labels = planted(80, 12)
    X[:, 3], X[:, 5] = 1e6 + 0.1, X[:, 4]
    found = get_family(name).refit(X, columns(labels, 2), np.full((15, 2), np.nan))
    assert np.isfinite(found.weight).all()
    assert not found.weight[:, 3].any()
    assert found.weight[0, 5] == pytest.approx(found.weight[0, 4], rel=1e-4)
    X[:] = 2.0
    nothing = get_family(name).refit(X, columns(labels, 2), np.full((15, 2), np.nan))
    assert not nothing.weight.any()
    assert np.isfinite(nothing.bias).all()


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_cannot_be_fitted_are_refused(name: str) -> None:
    X, labels = planted(40, 8)
    Y, family = columns(labels, 2), get_family(name)
    with pytest.raises(DataError, match=r"39 (labels|targets) for 40 rows"):
        family.refit(X, Y[1:], np.full((15, 2), np.nan))
    X[3, 3] = np.inf
    with pytest.raises(DataError, match="not finite: capture them again"):
        family.refit(X, Y, np.full((15, 2), np.nan))


@pytest.mark.parametrize("name", ["mass-mean", "mass-mean-iid"])
def test_one_class_has_no_mean_to_be_told_from(name: str) -> None:
    X, _ = planted(40, 8)
    with pytest.raises(DataError, match="column 0 has rows of one class only"):
        get_family(name).refit(X, np.ones((40, 1)), np.full((1, 1), np.nan))


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_folder_holds_the_familys_probes(name: str, tmp_path: Path) -> None:
    activations = write_folder(tmp_path / "activations", layers=(1, 2), readouts=("last",), signal_from=2)
    manifest = train(activations, tmp_path / "probes", probe=name)
    layers = manifest.details["layers"]["last"]
    assert layers["2"]["cv_auc"] > 0.9
    assert abs(layers["1"]["cv_auc"] - 0.5) < 0.2
    assert manifest.config["probe"] == name
    loaded = load_probes(tmp_path / "probes")
    exported = load_probe_folder(tmp_path / "probes" / "layer_2")
    np.testing.assert_array_equal(exported.weight, loaded.sets["last", 2].weight)
    assert exported.first.kind == "logistic"
    setting = {"mass-mean": "calibration_fallback", "mass-mean-iid": "shrinkage", "ridge": "alpha"}[name]
    assert setting in exported.first.extra


@pytest.mark.parametrize("divide", [True, False])
def test_further_rows_are_standardised_as_the_first_ones_were(divide: bool) -> None:
    X, _ = planted()
    X[:, 3] = 7.0
    rows = Standardised.of(X, divide=divide)
    np.testing.assert_array_equal(rows.like(X[20:50]), rows.Z[20:50])
    np.testing.assert_allclose(rows.Z.mean(0), 0.0, atol=1e-12)
    wanted = np.where(np.arange(30) == 3, 0.0, 1.0 if divide else X.astype(np.float64).std(axis=0))
    np.testing.assert_allclose(rows.Z.square().mean(0).sqrt(), wanted, rtol=1e-6)
