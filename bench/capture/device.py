"""What a device can do at most, and what the model's arithmetic asks of it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from strataprobe.models import LoadedModel

_SIDES = (4096, 6144, 8192)
_REPEATS = 20


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set"),
    }


def matmul_ceiling_flop_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """The most that a square matrix product of random numbers reaches, sides 4,096 to 8,192."""
    best = 0.0
    for side in _SIDES:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        for repeats in (3, _REPEATS):
            synchronize(device)
            started_s = time.perf_counter()
            for _ in range(repeats):
                a @ b
            synchronize(device)
            took_s = time.perf_counter() - started_s
        best = max(best, 2 * side**3 * _REPEATS / took_s)
    return best


def model_flop(model: LoadedModel, lengths: Sequence[int] | NDArray[np.int64]) -> float:
    """Multiplications and additions of the blocks on texts of these lengths: no embeddings, head, padding or norms.

    Attention counts the positions that a token sees (itself and those before it); no text is longer than the window.
    """
    config: Any = model.model.config
    weights = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    width = config.num_attention_heads * config.head_dim
    pairs = sum(n * (n + 1) / 2 for n in map(int, lengths))
    return 2.0 * weights * sum(map(int, lengths)) + 4.0 * width * model.n_layers * pairs
