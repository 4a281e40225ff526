"""Activation folders whose concept is as strong at each layer as a test asks, for tests of several sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strataprobe.layerfile import write_layer_file
from strataprobe.probes.run import train
from strataprobe.store import layer_file_name

WIDTH = 24
SPLITS = ("train", "val", "test")


def unit(seed: int, n: int = 1, width: int = WIDTH) -> np.ndarray:
    """``n`` random directions (n, width) at right angles."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, n)))[0].T


def write_set(
    run: Path,
    recipe: str,
    directions: np.ndarray,
    strengths: Sequence[Sequence[float]],
    *,
    n_groups: int = 100,
    model: str = "tiny",
    readout: str = "mean",
    suffix: str = "",
    probe: str = "logistic",
    seed: int = 0,
) -> Path:
    """Activations and probes of one recipe in ``run``; returns its probes folder.

    ``directions`` (C, D), one a class (two classes: the first is shifted by its own as well), are stretched as the noise
    is, which is 8 times as wide along the last feature as along the first. ``strengths`` [layer][class]. A group has one
    text of each class.
    """
    n_classes, width = directions.shape
    rng = np.random.default_rng([seed, 1])
    names = [f"{recipe}_{i}" for i in range(n_classes)]
    labels, group = np.tile(np.arange(n_classes), n_groups), np.repeat(np.arange(n_groups), n_classes)
    split = np.array(SPLITS)[np.searchsorted([0.7, 0.85], (np.arange(n_groups) + 0.5) / n_groups)][group]
    scale = np.geomspace(0.5, 4.0, width)
    (run / "activations").mkdir(parents=True)
    for layer, strength in enumerate(strengths, start=1):
        x = scale * (rng.normal(size=(len(labels), width)) + np.array(strength)[labels, None] * directions[labels])
        attrs: dict[str, Any] = {
            "model_name": model,
            "model_revision": "abc",
            "layer": layer,
            "block_index": layer - 1,
            "label_names": names,
            "readouts": [readout],
            "prefix": "",
            "suffix": suffix,
            "template": "none",
            "recipe_name": recipe,
        }
        parts = {
            s: {
                "activations": {readout: x[split == s].astype(np.float32)},
                "labels": labels[split == s],
                "ids": [f"{i:05d}" for i in np.flatnonzero(split == s)],
                "groups": [f"g{g:04d}" for g in group[split == s]],
            }
            for s in SPLITS
        }
        write_layer_file(run / "activations" / layer_file_name(layer), splits=parts, attrs=attrs)
    options = {"Cs": [0.001, 0.1]} if probe == "logistic" else None
    train(run / "activations", run / "probes", probe=probe, options=options)
    return run / "probes"
