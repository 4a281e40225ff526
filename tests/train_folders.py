"""Activation folders with a planted direction, for tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from strataprobe.dataset import SPLITS
from strataprobe.layerfile import write_layer_file
from strataprobe.store import layer_file_name

SUFFIX = "\n\nThe sentiment of this section is"


def write_folder(
    path: Path,
    *,
    layers: tuple[int, ...] = (0, 1, 2),
    readouts: tuple[str, ...] = ("last", "mean"),
    class_names: tuple[str, ...] = ("negative", "positive"),
    n: int = 240,
    d: int = 24,
    strength: float = 3.0,
    signal_from: int = 1,
    unlabelled: int = 0,
    seed: int = 0,
) -> Path:
    """One file a layer. Two neighbouring texts share a group; layers below ``signal_from`` hold noise only."""
    path.mkdir(parents=True, exist_ok=True)
    labels = np.arange(n) % len(class_names)
    group = np.arange(n) // (2 * len(class_names))
    split = np.array(SPLITS)[np.searchsorted([6, 8], group % 10, side="right")]
    labels[:unlabelled] = -1
    for layer in layers:
        rng = np.random.default_rng([seed, layer])
        directions = np.linalg.qr(rng.normal(size=(d, len(class_names))))[0].T
        planted = np.where(labels[:, None] >= 0, directions[labels], 0) * (strength if layer >= signal_from else 0)
        arrays = {r: ((rng.normal(size=(n, d)) + planted) * 10.0**layer).astype(np.float32) for r in readouts}
        if layer == 0:
            arrays = {"mean": next(iter(arrays.values()))}
        write_layer_file(
            path / layer_file_name(layer),
            splits={
                s: {
                    "activations": {r: a[split == s] for r, a in arrays.items()},
                    "labels": labels[split == s],
                    "ids": [f"text-{i:04d}" for i in np.flatnonzero(split == s)],
                    "groups": [f"group-{g:04d}" for g in group[split == s]],
                }
                for s in SPLITS
            },
            attrs={
                "model_name": "tiny",
                "model_revision": "abc",
                "layer": layer,
                "block_index": layer - 1,
                "label_names": list(class_names),
                "readouts": list(arrays),
                "prefix": "",
                "suffix": SUFFIX,
                "template": "none",
                "recipe_name": "sentiment",
            },
        )
    return path


def data_files(folder: Path) -> dict[str, bytes]:
    """Contents of every .pth and .safetensors file below a folder, by relative path."""
    found = sorted(p for p in folder.rglob("*") if p.suffix in (".pth", ".safetensors"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}
