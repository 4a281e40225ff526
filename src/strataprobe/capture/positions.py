"""Readouts: which position's activation stands for a text.

``last`` is the last real token of text + suffix, ``mean`` the average over the text's own tokens (no special tokens,
prefix or suffix), ``last-text`` the last of the text's own tokens, ``last-assistant`` the last token of the content of
the last message by the assistant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from strataprobe.capture.batches import on_device
from strataprobe.capture.tokens import TokenRow, TokenTable
from strataprobe.errors import DataError, OptionError

LAST_ASSISTANT = "last-assistant"
READOUTS = ("last", "mean", "last-text", LAST_ASSISTANT)


def check_readouts(readouts: Sequence[str]) -> tuple[str, ...]:
    """The readouts, if each is known and named once. Raises OptionError otherwise."""
    if not isinstance(readouts, Sequence):
        raise OptionError(f"readout is {type(readouts).__name__}: name one of {', '.join(READOUTS)}, or several.")
    for name in readouts:
        if name not in READOUTS:
            raise OptionError(f"readout {name!r} is none of {', '.join(READOUTS)}.")
    if not readouts or len(set(readouts)) != len(readouts):
        raise OptionError("--readout must name at least one readout, each once.")
    return tuple(readouts)


def check_rows(table: TokenTable, readouts: Sequence[str], place_of: Callable[[int], str]) -> None:
    """Raise DataError, naming the first such text, when a text has no position for one of the readouts."""
    if LAST_ASSISTANT not in readouts:
        return
    without = np.flatnonzero(table.last_assistant < 0)
    if len(without):
        raise DataError(
            f"{place_of(int(without[0]))} has no message by the assistant, which readout '{LAST_ASSISTANT}' reads: "
            "give conversations under 'messages', or use another readout."
        )


class Positions:
    """Positions of one batch of B rows on a device; ``read`` takes them from a layer's output (B, T, D).

    Rows are padded on the right. What the padding holds, finite or not, reaches no vector. ``last-assistant`` may be
    read when ``check_rows`` let the rows pass.
    """

    def __init__(self, rows: Sequence[TokenRow], device: torch.device) -> None:
        self._spans = [(row.own_start, row.own_end) for row in rows]
        self._lengths = [len(row.ids) for row in rows]
        self._device = device
        numbers = np.array([(r.last, r.own_end - 1, r.last_assistant, r.own_start, r.own_end) for r in rows])
        last, last_text, answer, self._start, self._end = on_device(numbers.T.copy(), device).unbind()
        self._index = {"last": last, "last-text": last_text, LAST_ASSISTANT: answer}
        self._has_answers = bool((numbers[:, 2] >= 0).all())
        self._row = torch.arange(len(rows), device=device)
        self._n_own = (self._end - self._start).to(torch.float32)[:, None]

    def read(self, readout: str, hidden: Tensor) -> Tensor:
        """Vectors (B, D) float32 of one readout from a layer's output (B, T, D)."""
        if readout == "mean":
            sums = self._sums_by_row(hidden) if hidden.device.type == "cpu" else self._sums_at_once(hidden)
            return sums.div_(self._n_own)
        assert readout != LAST_ASSISTANT or self._has_answers
        return hidden[self._row, self._index[readout]].to(torch.float32)

    def last(self, hidden: Tensor) -> Tensor:
        """The output at the last real token (B, D), in the model's own dtype."""
        return hidden[self._row, self._index["last"]]

    def tokens(self, hidden: Tensor) -> Tensor:
        """The output at every real token (sum of the rows' T, D) float32, special tokens included, row after row."""
        rows, places = self._real
        return hidden[rows, places].to(torch.float32)

    @cached_property
    def _real(self) -> tuple[Tensor, ...]:
        """Row and place of every real token."""
        rows = np.repeat(np.arange(len(self._lengths)), self._lengths)
        places = np.concatenate([np.arange(n) for n in self._lengths])
        return on_device(np.stack([rows, places]), self._device).unbind()

    # Sums in float32 without a matrix product, which may be computed with far fewer digits (TF32).

    def _sums_by_row(self, hidden: Tensor) -> Tensor:
        """Sum (B, D) float32 over each text's own tokens, without copying them: the fastest way on a CPU."""
        spans = zip(hidden.unbind(0), self._spans, strict=True)
        return torch.cat([row[start:end].sum(0, keepdim=True, dtype=torch.float32) for row, (start, end) in spans])

    def _sums_at_once(self, hidden: Tensor) -> Tensor:
        """The same in two kernels whatever B is: the fastest way where each call costs a launch."""
        own = self._own
        return torch.where(own, hidden[:, : own.shape[1]], 0).sum(1, dtype=torch.float32)

    @cached_property
    def _own(self) -> Tensor:
        """Which positions are the text's own (B, T, 1), T up to the last such position of the batch."""
        steps = torch.arange(max(end for _, end in self._spans), device=self._device)
        return ((steps >= self._start[:, None]) & (steps < self._end[:, None]))[:, :, None]
