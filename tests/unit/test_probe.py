"""Probes and probe sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from strataprobe.errors import ProbeError
from strataprobe.probes.calibration import Calibration
from strataprobe.probes.probe import Probe, ProbeSet


def probe(action: str = "positive", width: int = 6, **more: object) -> Probe:
    weight = np.random.default_rng(len(action)).normal(size=width).astype(np.float32)
    values = {"layer": 3, "block_index": 2, "readout": "last", "calibration": Calibration(1.7, -0.2), "threshold": 0.6}
    return Probe(weight=weight, bias=0.25, action=action, **{**values, **more})  # type: ignore[arg-type]


def test_a_logit_is_weight_times_activation_plus_bias() -> None:
    X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    one = probe()
    np.testing.assert_allclose(one.logits(X), X @ one.weight + 0.25, rtol=1e-5)
    expected = 1 / (1 + np.exp(-(1.7 * one.logits(X) - 0.2)))
    np.testing.assert_allclose(one.probabilities(X), expected, rtol=1e-12)


def test_tensors_of_any_float_type_and_single_rows_are_taken() -> None:
    one, X = probe(), torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(one.logits(X.bfloat16()), one.logits(X.bfloat16().float().numpy()))
    assert one.logits(X[0]).shape == (1,)


def test_the_direction_has_unit_length_along_the_weight() -> None:
    one = probe()
    assert np.linalg.norm(one.direction) == pytest.approx(1)
    assert one.direction @ one.weight == pytest.approx(np.linalg.norm(one.weight), rel=1e-6)


def test_the_two_probes_of_two_classes_are_exact_mirrors() -> None:
    positive = probe("positive")
    negative = positive.mirrored("negative")
    X = np.random.default_rng(1).normal(size=(50, 6)) * 100
    np.testing.assert_array_equal(negative.weight, -positive.weight)
    assert negative.bias == -positive.bias
    assert negative.threshold == pytest.approx(1 - positive.threshold)
    both = ProbeSet([positive, negative])
    assert both.class_names == ["negative", "positive"]
    np.testing.assert_allclose(both.probabilities(X).sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(both.logits(X)[:, 0], -both.logits(X)[:, 1], atol=1e-9)


def test_a_probe_set_gives_what_its_probes_give() -> None:
    probes = [probe("joy"), probe("anger"), probe("fear", threshold=0.3)]
    together = ProbeSet(probes)
    X = np.random.default_rng(2).normal(size=(7, 6))
    assert list(together) == ["anger", "fear", "joy"]
    assert (together.layer, together.block_index, together.readout, together.width) == (3, 2, "last", 6)
    assert together.thresholds.tolist() == [0.6, 0.3, 0.6]
    for c, name in enumerate(together):
        np.testing.assert_allclose(together.probabilities(X)[:, c], together[name].probabilities(X))


def test_activations_of_another_width_are_refused() -> None:
    with pytest.raises(ProbeError, match="width 6"):
        probe().logits(np.zeros((2, 7)))
    with pytest.raises(ProbeError, match="width 6"):
        ProbeSet([probe()]).logits(np.zeros((2, 5)))


@pytest.mark.parametrize(
    ("change", "word"),
    [({"layer": 4}, "layer"), ({"readout": "mean"}, "readout"), ({"suffix": "x"}, "suffix"), ({"width": 5}, "width")],
)
def test_probes_that_do_not_belong_together_are_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(ProbeError, match=f"one {word}"):
        ProbeSet([probe("joy"), probe("fear", **change)])  # type: ignore[arg-type]


def test_two_probes_of_one_class_and_no_probes_are_refused() -> None:
    with pytest.raises(ProbeError, match="two probes"):
        ProbeSet([probe("joy"), probe("joy")])
    with pytest.raises(ProbeError, match="at least one"):
        ProbeSet([])


def test_a_regression_probe_gives_no_probability() -> None:
    one = probe(kind="regression")
    assert one.logits(np.zeros((1, 6))) == pytest.approx(0.25)
    with pytest.raises(ProbeError, match="a value"):
        one.probabilities(np.zeros((1, 6)))
