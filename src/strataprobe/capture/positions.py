"""Readouts: which position's activation stands for a text.

``last`` is the last real token of text + suffix, ``mean`` the average over the text's own tokens (no special tokens,
prefix or suffix), ``last-text`` the last of the text's own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from strataprobe.capture.tokens import TokenRow
from strataprobe.errors import OptionError

READOUTS = ("last", "mean", "last-text")


def check_readouts(readouts: Sequence[str]) -> tuple[str, ...]:
    """The readouts, if each is known and named once. Raises OptionError otherwise."""
    for name in readouts:
        if name not in READOUTS:
            raise OptionError(f"readout {name!r} is none of {', '.join(READOUTS)}.")
    if not readouts or len(set(readouts)) != len(readouts):
        raise OptionError("--readout must name at least one readout, each once.")
    return tuple(readouts)


class Positions:
    """Positions of one batch of B rows on a device; ``read`` takes them from a layer's output."""

    def __init__(self, rows: Sequence[TokenRow], device: torch.device) -> None:
        longest = max(len(r.ids) for r in rows)
        steps = torch.arange(longest, device=device)
        start = torch.tensor([r.own_start for r in rows], device=device)
        end = torch.tensor([r.own_end for r in rows], device=device)
        own = (steps >= start[:, None]) & (steps < end[:, None])
        self._own_share = own.to(torch.float32) / (end - start)[:, None]
        self._index = {
            "last": torch.tensor([r.last for r in rows], device=device),
            "last-text": end - 1,
        }
        self._row = torch.arange(len(rows), device=device)

    def read(self, readout: str, hidden: Tensor) -> Tensor:
        """Vectors (B, D) float32 of one readout from a layer's output (B, T, D)."""
        if readout == "mean":
            return torch.einsum("bt,btd->bd", self._own_share, hidden.to(torch.float32))
        return hidden[self._row, self._index[readout]].to(torch.float32)

    def last(self, hidden: Tensor) -> Tensor:
        """The output at the last real token (B, D), in the model's own dtype."""
        return hidden[self._row, self._index["last"]]
