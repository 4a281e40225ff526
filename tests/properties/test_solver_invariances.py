"""What must not change the probes: the size, place and order of the activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit

from strataprobe.errors import DataError, OptionError
from strataprobe.layerfile import write_layer_file
from strataprobe.probes.calibration import sigmoid
from strataprobe.probes.families.logistic import C_GRID
from strataprobe.probes.files import TrainedProbes, load_oof, load_probes
from strataprobe.probes.newton import MAX_NEWTON_STEPS
from strataprobe.probes.pth import load_pth
from strataprobe.probes.run import train
from strataprobe.probes.solver import LogisticProblem, fit_logistic_path
from strataprobe.store import layer_file_name

Change = Callable[[np.ndarray], np.ndarray]


def rows(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    y = (X[:, 0] + 0.7 * rng.normal(size=n) > 0).astype(float)
    y[:2] = [0, 1]
    return X, y


def stored_probabilities(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Probabilities (n, len(C_GRID)) of weights and bias as float32 files hold them."""
    path = fit_logistic_path(X, y, C_GRID)
    assert path.converged.all()
    stored = [path.rounded(i, 0) for i in range(len(C_GRID))]
    return sigmoid(np.stack([X.astype(np.float64) @ w.astype(np.float64) + b for w, b in stored], axis=1))


CHANGES = {
    "times 1e4": lambda X: X * 1e4,
    "times 1e-4": lambda X: X * 1e-4,
    "shifted by 10 deviations": lambda X: X + 10 * X.std(axis=0),
    "a few features 1000 times larger": lambda X: X * np.where(np.arange(X.shape[1]) < 3, 1000, 1),
    "all at once": lambda X: (X + 10) * np.where(np.arange(X.shape[1]) < 3, 1e7, 1e4),
}


@pytest.mark.parametrize("shape", [(70, 160), (260, 25)])
@pytest.mark.parametrize("change", CHANGES)
def test_scaled_and_shifted_activations_give_the_same_probabilities(change: str, shape: tuple[int, int]) -> None:
    X, y = rows(*shape, seed=1)
    changed = CHANGES[change](X.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(stored_probabilities(changed, y), stored_probabilities(X, y), atol=1e-4)


def trained_on_layers(folder: Path, d: int, changes: Sequence[Change]) -> tuple[TrainedProbes, list[np.ndarray]]:
    """Probes as the train stage files them, layer i + 1 on the same rows changed by changes[i], and their test rows."""
    X, y = rows(300, d, seed=7)
    splits = np.repeat(["train", "val", "test"], [180, 60, 60])
    changed = [change(X.astype(np.float64)).astype(np.float32) for change in changes]
    (folder / "activations").mkdir()
    for layer, values in enumerate(changed, start=1):
        parts = {
            split: {
                "activations": {"mean": values[splits == split]},
                "labels": y[splits == split].astype(np.int64),
                "ids": [f"text-{i}" for i in np.flatnonzero(splits == split)],
                "groups": [f"group-{i // 2}" for i in np.flatnonzero(splits == split)],
            }
            for split in ("train", "val", "test")
        }
        attrs = {"model_name": "tiny", "label_names": ["negative", "positive"], "readouts": ["mean"]}
        write_layer_file(folder / "activations" / layer_file_name(layer), splits=parts, attrs=attrs)
    train(folder / "activations", folder / "probes")
    return load_probes(folder / "probes"), [values[splits == "test"] for values in changed]


@pytest.mark.parametrize("d", [30, 240])
def test_from_activations_to_probe_files_size_and_place_of_a_layer_change_no_probability(
    d: int, tmp_path: Path
) -> None:
    """The choice of C, the calibration, the threshold and the out-of-fold logits are the same too."""
    probes, test_rows = trained_on_layers(tmp_path, d, [lambda X: X, *CHANGES.values()])
    oof = load_oof(tmp_path / "probes").logits
    plain = probes.sets["mean", 1]["positive"]
    wanted = plain.probabilities(test_rows[0])
    assert np.ptp(wanted) > 0.5
    for layer, values in enumerate(test_rows, start=1):
        probe = probes.sets["mean", layer]["positive"]
        exported = load_pth(tmp_path / "probes" / f"layer_{layer}" / "probe_positive.pth")
        np.testing.assert_allclose(probe.probabilities(values), wanted, atol=1e-4)
        np.testing.assert_allclose(exported.probabilities(values), wanted, atol=1e-4)
        np.testing.assert_allclose(oof["mean", layer], oof["mean", 1], atol=1e-3)
        assert probe.extra["C"] == plain.extra["C"]
        assert probe.threshold == pytest.approx(plain.threshold, abs=1e-4)


@pytest.mark.parametrize("d", [30, 240])
def test_from_activations_to_probe_files_a_shift_of_a_thousand_moves_no_logit_by_a_hundredth(
    d: int, tmp_path: Path
) -> None:
    def shifted(X: np.ndarray) -> np.ndarray:
        return X + 1000 * X.std(axis=0)

    probes, test_rows = trained_on_layers(tmp_path, d, [lambda X: X, shifted])
    near, far = (logit(probes.sets["mean", i]["positive"].probabilities(test_rows[i - 1])) for i in (1, 2))
    assert np.ptp(near) > 1
    np.testing.assert_allclose(far, near, atol=1e-2)


def test_a_shift_of_a_thousand_deviations_moves_no_logit_by_a_hundredth() -> None:
    X, y = rows(260, 25, seed=2)
    far = (X.astype(np.float64) + 1000).astype(np.float32)
    Cs = [c for c in C_GRID if c <= 1]
    near_logits, far_logits = fit_logistic_path(X, y, Cs).logits(X), fit_logistic_path(far, y, Cs).logits(far)
    np.testing.assert_allclose(far_logits, near_logits, atol=1e-2)


def test_the_width_of_one_feature_does_change_the_probabilities_when_its_values_change() -> None:
    X, y = rows(70, 20, seed=3)
    other = X.copy()
    other[:, 0] = np.random.default_rng(0).normal(size=len(X))
    assert np.abs(stored_probabilities(other, y) - stored_probabilities(X, y)).max() > 0.05


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), wide=st.booleans())
def test_swapping_the_two_classes_turns_every_logit_round(seed: int, wide: bool) -> None:
    X, y = rows(*((30, 60) if wide else (60, 8)), seed=seed)
    one, other = fit_logistic_path(X, y, [0.01, 1.0]), fit_logistic_path(X, 1 - y, [0.01, 1.0])
    np.testing.assert_allclose(one.logits(X), -other.logits(X), atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), wide=st.booleans())
def test_the_order_of_rows_does_not_matter(seed: int, wide: bool) -> None:
    X, y = rows(*((30, 60) if wide else (60, 8)), seed=seed)
    order = np.random.default_rng(seed).permutation(len(y))
    one, other = fit_logistic_path(X, y, [0.01, 1.0]), fit_logistic_path(X[order], y[order], [0.01, 1.0])
    np.testing.assert_allclose(one.logits(X), other.logits(X), atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), C=st.floats(1e-5, 1e4))
def test_at_the_solution_the_gradient_is_zero(seed: int, C: float) -> None:
    X, y = rows(40, 25, seed=seed)
    path = fit_logistic_path(X, y, [C])
    assert path.converged.all()
    Z = (X - X.mean(0, dtype=np.float64)) / X.std(0, dtype=np.float64)
    slope = C * (sigmoid(path.logits(X)[:, 0, 0]) - y)
    w = path.weight[0, 0] * X.std(0, dtype=np.float64)
    assert np.abs(w + Z.T @ slope).max() < 1e-5 * max(1.0, C)
    assert abs(slope.sum()) < 1e-5 * max(1.0, C)


def test_features_that_are_constant_up_to_rounding_get_no_weight() -> None:
    X, y = rows(80, 12, seed=4)
    X[:, 4] = 0.1
    X[:, 5] = 1000 + 1e-5 * X[:, 5]
    path = fit_logistic_path(X, y, [1.0])
    assert path.weight[0, 0, 4] == 0
    assert path.weight[0, 0, 5] == 0
    assert path.weight[0, 0, 0] != 0


def test_activations_without_any_variation_give_the_share_of_the_class() -> None:
    path = fit_logistic_path(np.full((10, 4), 3.0), np.array([1.0] * 3 + [0.0] * 7), [1.0])
    assert not path.weight.any()
    assert sigmoid(path.bias[0, 0]) == pytest.approx(0.3)


def test_a_solver_that_is_stopped_early_says_that_it_did_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = rows(60, 90, seed=5)
    assert MAX_NEWTON_STEPS > 20
    monkeypatch.setattr("strataprobe.probes.newton.MAX_NEWTON_STEPS", 1)
    monkeypatch.setattr("strataprobe.probes.newton.MAX_REFINEMENTS", 1)
    path = fit_logistic_path(X, y, C_GRID)
    assert not path.converged[-1, 0]
    assert path.n_iterations == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X, y[:-1]), "59 labels for 60 rows"),
        (lambda X, y: (X, np.zeros(60)), "one class only"),
        (lambda X, y: (X, y * 2), "0, 1 or missing"),
        (lambda X, y: (np.where(X[3, 3] == X, np.nan, X), y), "not finite"),
        (lambda X, y: (X[0], y), "rows by width"),
    ],
)
def test_rows_that_cannot_be_fitted_are_refused_in_a_sentence(change, message: str) -> None:
    X, y = rows(60, 20, seed=6)
    with pytest.raises(DataError, match=message):
        fit_logistic_path(*change(X, y), [1.0])


def test_a_c_that_is_not_positive_is_refused() -> None:
    X, y = rows(60, 20, seed=6)
    with pytest.raises(OptionError, match="positive"):
        LogisticProblem(X).solve(y, [0.0])
