"""Batches of texts of like length, each within a budget of tokens (padding counted)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from strataprobe.capture.tokens import TokenRow
from strataprobe.errors import OptionError
from strataprobe.models import LoadedModel

CPU_BATCH_TOKENS = 2048
_GPU_LEAST, _GPU_MOST = 2**11, 2**17
# bytes a token needs while a block runs, in multiples of its width and dtype: residual, q/k/v, the two MLP halves
_BLOCK_FACTOR = 48


def choose_batch_tokens(asked: int | str, model: LoadedModel) -> int:
    """The token budget of a batch: as asked, a fixed number on CPU, or a power of two from a GPU's free memory."""
    if asked != "auto":
        try:
            n = int(asked)
        except ValueError:
            n = 0
        if n < 1:
            raise OptionError(f"--batch-tokens {asked!r} is neither 'auto' nor a positive number.")
        return n
    if model.device.type != "cuda":
        return CPU_BATCH_TOKENS
    free_bytes, _ = torch.cuda.mem_get_info(model.device)
    per_token = model.d_model * next(model.body.parameters()).element_size() * _BLOCK_FACTOR
    fits = max(1, int(free_bytes * 0.5 / per_token))
    return int(min(max(2 ** (fits.bit_length() - 1), _GPU_LEAST), _GPU_MOST))


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Row numbers of each batch: longest texts first, ties in row order; rows x longest <= ``batch_tokens``.

    A text longer than the budget is a batch of its own.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[NDArray[np.int64]] = []
    begin = 0
    while begin < len(order):
        n = max(1, batch_tokens // int(lengths[order[begin]]))
        batches.append(order[begin : begin + n])
        begin += n
    return batches


def padded(rows: Sequence[TokenRow], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (B, T) int64, padded on the right."""
    longest = max(len(r.ids) for r in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids
        mask[i, : len(row.ids)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
