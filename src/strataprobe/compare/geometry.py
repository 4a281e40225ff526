"""How the layers' directions lie to one another: their cosines, and the probe of one layer on another's activations.

Both are of raw activations. Layers differ in size and mean, so a probe that is moved keeps its order of texts at most:
AUC is what is measured of it, never a probability. The cosine compares weights, which also hold what is peculiar to a
layer's covariance; two layers with a low cosine can still share a direction, as the transfer AUC then shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from strataprobe.compare.aucs import auc_values
from strataprobe.probes.probe import ProbeSet


def shared_width(sets: Sequence[ProbeSet]) -> str:
    """Why these probes cannot be laid beside one another, "" where they can."""
    if len(sets) < 2:
        return "there is one layer only"
    if any(s.network is not None for s in sets):
        return "a network has no direction"
    return "the layers differ in width" if len({s.width for s in sets}) > 1 else ""


def weights_of(sets: Sequence[ProbeSet]) -> np.ndarray:
    """Weights (L, C, D) float32 of probe sets of one width; for two classes (L, 1, D), those of the second."""
    return np.stack([s.weight[1:] if len(s.class_names) == 2 else s.weight for s in sets])


def transfer_column(weights: np.ndarray, activations: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUCs (L,) of the probes of every layer, ``weights`` (L, C, D), on one layer's test rows (n, D): a single product.

    The rows are centred first, which changes no order and lets float32 do.
    """
    n_layers, n_columns, width = weights.shape
    centred = activations - activations.mean(axis=0, dtype=np.float64).astype(np.float32)
    logits = centred @ weights.reshape(-1, width).T
    logits = logits.reshape(len(activations), n_layers, n_columns).transpose(0, 2, 1)
    return auc_values(labels, np.concatenate([-logits, logits], axis=1) if n_columns == 1 else logits)


def cosines(weights: np.ndarray) -> np.ndarray:
    """Cosines (L, L) between the layers' directions, ``weights`` (L, C, D): the mean over classes.

    Nan for a layer without a direction.
    """
    unit = weights.astype(np.float64)
    norms = np.linalg.norm(unit, axis=2, keepdims=True)
    unit = np.divide(unit, norms, out=np.full_like(unit, np.nan), where=norms > 0)
    flat = unit.reshape(len(unit), -1)
    return np.clip(flat @ flat.T / weights.shape[1], -1.0, 1.0)


def geometry_entry(
    readout: str, layers: Sequence[int], sets: Sequence[ProbeSet], transfer: Sequence[np.ndarray | None]
) -> dict[str, Any]:
    """The ``geometry`` of ``comparison.json``; ``transfer`` holds ``transfer_column`` of each layer.

    ``transfer_auc`` has a row for each layer trained on, a column for each layer whose test rows are ranked.
    """
    entry: dict[str, Any] = {"readout": readout, "layers": list(layers), "cosine": None, "transfer_auc": None}
    columns = [column for column in transfer if column is not None]
    reason = shared_width(sets)
    if reason or len(columns) < len(layers):
        return entry | {"reason": reason or "the layers differ in width"}
    return entry | {"cosine": _plain(cosines(weights_of(sets))), "transfer_auc": _plain(np.stack(columns, axis=1))}


def _plain(matrix: np.ndarray) -> list[list[float | None]]:
    return [[float(v) if np.isfinite(v) else None for v in row] for row in matrix]
