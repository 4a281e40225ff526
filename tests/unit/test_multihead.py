"""The multi-head family: what it learns, that it repeats itself, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strataprobe.cli import main
from strataprobe.errors import OptionError, ProbeError
from strataprobe.metrics import auc
from strataprobe.probes.families import NetworkFit, get_family
from strataprobe.probes.families.multihead import MultiHead
from strataprobe.probes.files import load_probes
from strataprobe.probes.network import Network
from strataprobe.probes.network_pth import NETWORK_NAME
from strataprobe.probes.probe import ProbeSet
from strataprobe.probes.pth import load_probe_folder, load_pth
from strataprobe.probes.run import train
from strataprobe.progress import silence
from train_folders import data_files, write_folder

SHORT: dict[str, Any] = {"epochs": 6, "learning_rate": 2e-3, "early_stopping_patience": 2, "batch_size": 64}


def ring(n: int, seed: int, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose two columns are both beyond what a line can tell: a radius, and a product of signs."""
    X = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    near = np.square(X[:, :3]).sum(axis=1) < 2.37
    return X, np.stack([near, X[:, 0] * X[:, 1] > 0], axis=1).astype(np.float64)


def fitted(fitter: MultiHead | None = None, n: int = 300, scale: float = 1.0) -> NetworkFit:
    X, Y = ring(n + 100, 0)
    return (fitter or MultiHead(**SHORT)).fit(X[:n] * np.float32(scale), Y[:n], X[n:] * np.float32(scale), Y[n:])


def test_it_tells_what_no_line_can() -> None:
    X, Y = ring(1200, 1)
    X_new, Y_new = ring(1000, 2)
    network = MultiHead(epochs=6, learning_rate=3e-3, batch_size=64).fit(X[:1000], Y[:1000], X[1000:], Y[1000:])
    line = get_family("logistic").fit(X[:1000], Y[:1000], X[1000:], Y[1000:])
    for k in range(2):
        assert auc(Y_new[:, k], network.logits(X_new)[:, k]) > 0.85
        assert auc(Y_new[:, k], line.logits(X_new)[:, k]) < 0.65


def test_it_finds_nothing_where_there_is_nothing() -> None:
    rng = np.random.default_rng(3)
    X, Y = rng.normal(size=(1200, 8)), (rng.random((1200, 1)) < 0.5).astype(np.float64)
    network = MultiHead(**SHORT).fit(X[:300], Y[:300], X[300:400], Y[300:400])
    assert abs(auc(Y[400:, 0], network.logits(X[400:])[:, 0]) - 0.5) < 0.08


def test_the_same_seed_gives_the_same_network_whatever_the_global_seed_is() -> None:
    torch.manual_seed(1)
    first = fitted()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = fitted()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.network.digest() == second.network.digest()
    assert fitted(MultiHead(**SHORT, seed=1)).network.digest() != first.network.digest()


def test_the_size_of_the_activations_does_not_matter() -> None:
    X, _ = ring(50, 9)
    small, large = fitted(scale=2.0**-13), fitted(scale=2.0**13)
    np.testing.assert_allclose(
        small.logits(X * np.float32(2.0**-13)), large.logits(X * np.float32(2.0**13)), rtol=0, atol=1e-9
    )


def test_a_feature_that_does_not_vary_is_left_out() -> None:
    X, Y = ring(200, 0)
    X[:, 7] = 1000.0
    network = MultiHead(**SHORT).fit(X[:150], Y[:150], X[150:], Y[150:])
    moved = X.copy()
    moved[:, 7] = -5.0
    np.testing.assert_array_equal(network.logits(X), network.logits(moved))


def test_a_row_has_the_same_logits_alone_and_in_a_batch() -> None:
    network, (X, _) = fitted().network, ring(1100, 4)
    together = network.logits(X)
    np.testing.assert_allclose(network.logits(X[1030:1031]), together[1030:1031], rtol=0, atol=1e-12)


def test_the_epoch_with_the_lowest_held_out_loss_is_kept() -> None:
    X, Y = ring(160, 5)
    fit = MultiHead(epochs=30, learning_rate=5e-3, early_stopping_patience=3).fit(X[:80], Y[:80], X[80:], Y[80:])
    z = fit.held_out_logits
    loss = (np.logaddexp(0, z) - Y[80:] * z).mean()
    assert loss == pytest.approx(-fit.option_merit.mean(axis=1).max(), abs=1e-5)
    assert fit.settings[0]["epochs"] < 25  # it stopped: noise is learned by heart soon after


def test_all_rows_are_trained_on_for_as_many_epochs_as_did_best() -> None:
    X, Y = ring(200, 6)
    merit = np.full((6, 2), 0.1)
    merit[3] = 0.2
    fitter = MultiHead(**SHORT)
    assert fitter.refit(X, Y, merit).settings == [{"epochs": 4}, {"epochs": 4}]
    nothing_known = fitter.refit(X, Y, np.full((6, 2), np.nan))
    assert nothing_known.settings[0] == {"epochs": 3}
    assert nothing_known.held_out_logits.shape == (0, 2)


def test_rows_held_out_are_not_trained_on() -> None:
    X, Y = ring(200, 7)
    held_out = np.arange(200) % 4 == 0
    turned = np.where(held_out[:, None], 1 - Y, Y)
    fitter = MultiHead(**{**SHORT, "epochs": 1})
    inside, other = (fitter.fit_inside(X, labels, held_out) for labels in (Y, turned))
    assert inside.network.digest() == other.network.digest()
    assert inside.held_out_logits.shape == (50, 2)
    assert fitter.fit_inside(X, Y, np.zeros(200, dtype=bool)).held_out_logits.shape == (0, 2)


def test_balanced_weights_raise_the_logits_of_a_rare_class() -> None:
    X, Y = ring(400, 8)
    Y = Y[:, :1] * (np.arange(400)[:, None] % 6 == 0)
    plain, balanced = (
        MultiHead(**{**SHORT, "class_weight": weight}).fit(X[:300], Y[:300], X[300:], Y[300:]).logits(X).mean()
        for weight in ("none", "balanced")
    )
    assert balanced > plain + 0.5


@pytest.mark.parametrize(
    "options",
    [{"epochs": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"weight_decay": -1.0}, {"class_weight": "x"}],
)
def test_an_option_that_cannot_be_used_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        get_family("multihead", options)


def test_the_time_it_takes_is_estimated() -> None:
    assert 0 < MultiHead(**SHORT).expected_s(300, 8, 1) < 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Activations of two layers and networks trained on them: two classes, and three."""
    folder = tmp_path_factory.mktemp("multihead")
    with silence():
        for name, classes in (("two", ("negative", "positive")), ("three", ("anger", "fear", "joy"))):
            acts = write_folder(folder / name / "activations", readouts=("last",), n=200, class_names=classes)
            options = {"epochs": 2, "learning_rate": 2e-3}
            train(acts, folder / name / "probes", probe="multihead", options=options, folds=3)
    return folder


@pytest.mark.parametrize("name", ["two", "three"])
def test_a_network_that_was_saved_gives_the_same_logits(trained: Path, name: str) -> None:
    X = np.random.default_rng(0).normal(size=(7, 24)) * 10
    probes = load_probes(trained / name / "probes").sets["last", 1]
    assert probes.network is not None
    folder = trained / name / "probes" / "layer_1"
    assert sorted(p.name for p in folder.glob("*.pth")) == [NETWORK_NAME]
    from_pth = load_probe_folder(folder)
    assert list(from_pth) == list(probes)
    np.testing.assert_array_equal(from_pth.logits(X), probes.logits(X))
    np.testing.assert_array_equal(from_pth.probabilities(X), probes.probabilities(X))
    for c, (action, probe) in enumerate(probes.items()):
        np.testing.assert_array_equal(probe.logits(X), probes.logits(X)[:, c])
        assert probe.action == action
    if name == "two":
        np.testing.assert_allclose(probes.probabilities(X).sum(axis=1), 1.0, atol=1e-12)


def test_its_file_opens_with_weights_alone(trained: Path) -> None:
    content = torch.load(trained / "three" / "probes" / "layer_1" / NETWORK_NAME, weights_only=True)
    assert content["model_class"] == "MultiHeadProbe"
    assert content["model_config"]["input_dim"] == 24
    assert content["model_config"]["n_outputs"] == 3
    assert content["model_state_dict"]["encoder.weight"].shape == (512, 24)
    assert [entry["action"] for entry in content["metadata"]["classes"]] == ["anger", "fear", "joy"]
    assert content["metadata"]["layer"] == 1


def test_one_class_can_be_saved_by_itself(trained: Path, tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(7, 24))
    probes = load_probes(trained / "three" / "probes").sets["last", 2]
    alone = load_pth(probes["fear"].save(tmp_path / "fear.pth"), layer=2)
    np.testing.assert_array_equal(alone.logits(X), probes["fear"].logits(X))
    for action in probes:
        probes[action].save(tmp_path / f"probe_{action}.pth")
    np.testing.assert_array_equal(load_probe_folder(tmp_path).logits(X), probes.logits(X))


def test_it_has_no_direction_and_says_so(trained: Path) -> None:
    probe = load_probes(trained / "two" / "probes").sets["last", 1]["positive"]
    assert not probe.weight.any()
    with pytest.raises(ProbeError, match="no direction"):
        _ = probe.direction
    assert probe.mirrored("negative").logits(np.ones((1, 24))) == -probe.logits(np.ones((1, 24)))


def test_a_network_and_a_linear_probe_are_not_used_as_one_set(trained: Path) -> None:
    sets = load_probes(trained / "three" / "probes").sets
    with pytest.raises(ProbeError, match="one layer"):
        ProbeSet([sets["last", 1]["fear"], sets["last", 2]["joy"]])
    other = load_probes(trained / "two" / "probes").sets["last", 1]["positive"]
    with pytest.raises(ProbeError, match="one network"):
        ProbeSet([sets["last", 1]["fear"], other])


def test_a_network_cut_short_is_refused(trained: Path) -> None:
    content = torch.load(trained / "two" / "probes" / "layer_1" / NETWORK_NAME, weights_only=True)
    path = trained / "broken.pth"
    for change in (
        {"model_config": {"input_dim": 23}},
        {"model_config": content["model_config"] | {"n_heads": 0}},
        {"model_config": content["model_config"] | {"n_heads": 7}},
        {"model_config": content["model_config"] | {"n_outputs": 3}},
        {"model_state_dict": {k: v for k, v in content["model_state_dict"].items() if k != "query"}},
        {"model_state_dict": content["model_state_dict"] | {"query": torch.full((1, 512), torch.nan)}},
        {"metadata": {}},
    ):
        torch.save(content | change, path)
        with pytest.raises(ProbeError):
            load_pth(path)


def test_the_layers_are_trained_again_to_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    with silence():
        options = {"epochs": 2, "learning_rate": 2e-3}
        train(trained / "two" / "activations", tmp_path / "probes", probe="multihead", options=options, folds=3)
    assert data_files(tmp_path / "probes") == data_files(trained / "two" / "probes")


def test_compare_works_with_networks(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["compare", "--probes", f"{trained}/two/probes", "--out", f"{trained}/two", "--quiet", "--json"])
    assert left.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["layer"] for entry in document["layers"]] == [1, 2]
    assert document["layers"][0]["test_auc"] > 0.8
    assert isinstance(fitted().network, Network)


def test_the_seed_of_the_training_is_that_of_the_network(trained: Path, tmp_path: Path) -> None:
    with silence():
        manifest = train(
            trained / "two" / "activations",
            tmp_path / "p",
            probe="multihead",
            seed=3,
            folds=0,
            layers=[1],
            options={"epochs": 1},
        )
    assert manifest.config["options"]["seed"] == 3
    assert manifest.details["device"] == "cpu"
