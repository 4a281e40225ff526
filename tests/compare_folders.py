"""Activation folders with texts, embeddings, a word leak and text from elsewhere, for tests of comparing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from strataprobe.layerfile import write_layer_file
from strataprobe.store import TEXTS_NAME, layer_file_name

GOOD, BAD = ("sunny", "smile", "garden", "bright"), ("rain", "broken", "lost", "cold")
SPLITS = ("train", "val", "test")


def write_activations(
    path: Path,
    *,
    n_layers: int = 6,
    starts_at: int = 3,
    strength: float = 2.0,
    class_names: tuple[str, ...] = ("negative", "positive"),
    readouts: tuple[str, ...] = ("last", "mean"),
    n_groups: int = 120,
    d: int = 16,
    evals: tuple[str, ...] = ("reviews",),
    zero_shot: bool = True,
    layer_0: bool = True,
    recipe_name: str = "sentiment",
    seed: int = 0,
) -> Path:
    """A group holds one text of each class; layer 1 is constant, the concept is there from layer ``starts_at`` on."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    n_classes = len(class_names)
    labels = np.tile(np.arange(n_classes), n_groups)
    group = np.repeat(np.arange(n_groups), n_classes)
    split = np.array(SPLITS)[np.searchsorted([0.7, 0.85], (np.arange(n_groups) + 0.5) / n_groups)][group]
    directions = np.linalg.qr(rng.normal(size=(d, n_classes)))[0].T
    noise = rng.normal(size=(len(labels), d))
    ids = np.array([f"text-{i:04d}" for i in range(len(labels))])
    for layer in range(0 if layer_0 else 1, n_layers + 1):
        planted = strength * directions[labels] * (layer >= starts_at)
        values = {r: 10.0**layer * (noise + planted + 0.3 * rng.normal(size=noise.shape)) for r in readouts}
        if layer == 1:
            values = {r: np.ones_like(v) for r, v in values.items()}
        if layer == 0:
            values = {"mean": values[readouts[0]]}
        attrs = _attrs(layer, class_names, readouts, recipe_name)
        parts = {s: _rows(values, labels, ids, group, np.flatnonzero(split == s)) for s in SPLITS}
        write_layer_file(path / layer_file_name(layer), splits=parts, attrs=attrs)
        for name in evals if layer else ():
            everything = _rows(values, labels, np.char.add(f"{name}-", ids), group, np.arange(0, len(labels)))
            write_layer_file(path / layer_file_name(layer, name), splits={"eval": everything}, attrs=attrs)
    columns = zip(ids, labels.tolist(), split.tolist(), group.tolist(), strict=True)
    rows = [_text(rng, str(i), class_names, label, s, g, zero_shot) for i, label, s, g in columns]
    (path / TEXTS_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _rows(
    values: dict[str, np.ndarray], labels: np.ndarray, ids: np.ndarray, group: np.ndarray, rows: np.ndarray
) -> dict[str, Any]:
    return {
        "activations": {readout: array[rows] for readout, array in values.items()},
        "labels": labels[rows],
        "ids": ids[rows].tolist(),
        "groups": [f"group-{g:04d}" for g in group[rows]],
    }


def _attrs(layer: int, class_names: tuple[str, ...], readouts: tuple[str, ...], recipe_name: str) -> dict[str, Any]:
    return {
        "model_name": "tiny",
        "model_revision": "abc",
        "layer": layer,
        "block_index": layer - 1,
        "label_names": list(class_names),
        "readouts": list(readouts),
        "prefix": "",
        "suffix": "\n\nThe sentiment of this section is",
        "template": "none",
        "recipe_name": recipe_name,
    }


def _text(
    rng: np.random.Generator,
    name: str,
    class_names: tuple[str, ...],
    label: int,
    split: str,
    group: int,
    zero_shot: bool,
) -> dict[str, Any]:
    """A text that leaks its class a little, and, where asked, what a model that half knows would answer."""
    own = GOOD if label == len(class_names) - 1 else BAD
    words = rng.choice(own if rng.random() < 0.6 else GOOD + BAD, 4)
    row = {
        "id": name,
        "text": f"I met <b>them</b> & it was {' '.join(words)}.",
        "label": class_names[label],
        "split": split,
        "group": f"group-{group:04d}",
        "n_tokens": 9,
    }
    if zero_shot:
        row["zero_shot"] = {c: float(rng.normal() + 1.5 * (k == label)) for k, c in enumerate(class_names)}
    return row
