"""Batches of texts of like length, each within a budget of tokens (padding counted)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from strataprobe.capture.tokens import TokenRow
from strataprobe.errors import OptionError
from strataprobe.models import LoadedModel

CPU_BATCH_TOKENS = 1024
# Above the most, a GPU is busy anyhow, and larger batches only keep more vectors and delay the writing behind it.
_GPU_LEAST, _GPU_MOST = 2**11, 2**15
_MEMORY_SHARE = 0.5
# What a batch keeps grows with its rows; they are taken to be this many tokens long or longer.
_SHORT_ROW = 16
# A batch that holds this share of the budget is closed before its padding passes the other share.
_FULL_ENOUGH, _PADDING = 0.25, 0.025


def parse_batch_tokens(asked: int | str) -> int | None:
    """The number asked for, None for "auto". Raises OptionError for anything else."""
    if asked == "auto":
        return None
    try:
        n = int(asked)
    except (TypeError, ValueError):
        n = 0
    if n < 1:
        raise OptionError(f"--batch-tokens {asked!r} is neither 'auto' nor a positive whole number.")
    return n


def choose_batch_tokens(asked: int | str, model: LoadedModel, *, n_token_layers: int = 0) -> int:
    """The token budget of a batch: as asked, a fixed number on CPU, or a power of two from a GPU's free memory.

    ``n_token_layers`` is at how many layers every token is kept. Raises OptionError for anything but "auto" or a number.
    """
    n = parse_batch_tokens(asked)
    if n is not None:
        return n
    device = model.device
    if device.type != "cuda":
        return CPU_BATCH_TOKENS
    config = model.body.config.get_text_config()  # type: ignore[union-attr, operator]
    n_heads = int(config.num_attention_heads)
    token_bytes = token_size(
        width=model.d_model,
        inner=int(getattr(config, "intermediate_size", None) or 4 * model.d_model),
        heads_width=n_heads * int(getattr(config, "head_dim", None) or model.d_model // n_heads),
        element_bytes=model.stream_dtype.itemsize,
        n_vectors=2 * model.n_layers,
        n_token_layers=n_token_layers,
    )
    free_bytes = torch.cuda.mem_get_info(device)[0]
    free_bytes += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return tokens_that_fit(free_bytes, token_bytes)


def token_size(
    *, width: int, inner: int, heads_width: int, element_bytes: int, n_vectors: int, n_token_layers: int = 0
) -> int:
    """About how many bytes of a GPU's memory one token of a batch takes.

    While a block runs: residual stream, queries, keys and values, both halves of the MLP, and norms in float32; and what
    is kept until it is copied: vectors of its text, and its own where every token is kept.
    """
    block = element_bytes * (6 * width + 3 * inner + 4 * heads_width) + 4 * 4 * width
    kept = 4 * width * n_vectors // _SHORT_ROW + 4 * width * n_token_layers
    return block + kept


def tokens_that_fit(free_bytes: int, token_bytes: int) -> int:
    """The power of two of tokens that fit into half of ``free_bytes``, within 2,048 and 32,768."""
    fits = max(1, int(free_bytes * _MEMORY_SHARE) // token_bytes)
    return min(max(1 << (fits.bit_length() - 1), _GPU_LEAST), _GPU_MOST)


def plan_batches(lengths: Sequence[int] | NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Row numbers of each batch: longest texts first, ties in row order; rows x longest <= ``batch_tokens``.

    A batch takes rows while they fit; one that is a quarter full is closed where its padding would pass 2.5 % of it. A
    text longer than the budget is a batch of its own.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    n_rows = len(order)
    steps = np.arange(1, n_rows + 1)
    sums = np.concatenate([[0], np.cumsum(sizes[order])])
    firsts = sizes[order].tolist()
    batches: list[NDArray[np.int64]] = []
    begin = 0
    while begin < n_rows:
        longest = firsts[begin]
        n = min(max(1, batch_tokens // longest), n_rows - begin)
        if n > 1:
            whole = steps[:n] * longest
            real = sums[begin + 1 : begin + 1 + n] - sums[begin]
            dense = whole - real <= _PADDING * whole
            n = int(np.count_nonzero(dense | (whole - longest < _FULL_ENOUGH * batch_tokens)))
        batches.append(order[begin : begin + n])
        begin += n
    return batches


def padded(rows: Sequence[TokenRow], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (B, T) int64, padded on the right."""
    longest = max(len(r.ids) for r in rows)
    both = np.zeros((2, len(rows), longest), dtype=np.int64)
    ids, mask = both
    ids[:] = pad_id
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids
        mask[i, : len(row.ids)] = 1
    sent = on_device(both, device)
    return sent[0], sent[1]


def on_device(array: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """The array on a device. A GPU of the CUDA kind copies it beside the pass before, which may still run.

    Others are waited for: without pinned memory, a copy that nobody waits for reads what may have been freed.
    """
    held = torch.from_numpy(array)
    return held.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else held.to(device)
