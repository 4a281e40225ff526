"""Standardised rows, exactly in float64, and in a float32 basis in which Newton's method is fast.

The basis diagonalises the Gram matrix of the rows (N < D) or their scatter matrix (N >= D; of a part of the rows where
they are many), one decomposition for every column and C. Being float32 it only proposes steps; what is a solution is
decided with the exact rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strataprobe.errors import DataError

# Exact rows of up to this many entries are kept in float64; beyond, they are standardised again each time.
_KEPT_ENTRIES = 16_000_000
# So many times D rows are enough to find a basis in which the scatter of all of them is nearly diagonal.
_BASIS_ROWS = 4
# Rows converted or multiplied at a time.
_CHUNK_ROWS = 4096


class StandardRows:
    """Rows (N, D) as (x - mean) / scale, constant features 0: products with them in float64, a few rows at a time."""

    def __init__(self, rows: Tensor, mean: Tensor, scale: Tensor, varies: Tensor) -> None:
        self.raw, self.mean, self.varies = rows, mean, varies
        self._inverse = torch.where(varies, 1.0 / scale, 0.0)
        self._kept: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self.raw), self.raw.shape[1]

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Places and standardised rows, float64."""
        if self._kept is None and self.raw.numel() <= _KEPT_ENTRIES:
            self._kept = (self.raw.to(torch.float64) - self.mean).mul_(self._inverse)
        if self._kept is not None:
            yield slice(0, len(self._kept)), self._kept
            return
        for where, part in raw_chunks(self.raw):
            yield where, part.sub_(self.mean).mul_(self._inverse)

    def forward(self, w: Tensor) -> Tensor:
        """w (M, D) times the rows: logits (M, N) without bias."""
        return torch.cat([w @ part.T for _, part in self.chunks()], dim=1)

    def backward(self, values: Tensor) -> Tensor:
        """values (M, N) times the rows: (M, D)."""
        total = torch.zeros(len(values), self.raw.shape[1], dtype=torch.float64, device=values.device)
        for where, part in self.chunks():
            total += values[:, where] @ part
        return total

    def single(self) -> Tensor:
        """All rows (N, D) in float32."""
        if self.raw.numel() <= _KEPT_ENTRIES:
            return next(self.chunks())[1].float()
        found = torch.empty(self.raw.shape, dtype=torch.float32, device=self.raw.device)
        for where, part in self.chunks():
            found[where] = part
        return found


class Basis:
    """``rows`` (N, r) float32: the standardised rows, as they are proposed steps on.

    ``wide`` when N < D: rows in the eigenbasis of their Gram matrix, so that their scatter is diagonal; weights are then
    Z^T alpha, with alpha (M, N). Otherwise the rows themselves, with the ``vectors`` (D, D) and ``spectrum`` (D,) of their
    scatter. ``exact`` decomposes in float64, for problems that float32 cannot settle.
    """

    def __init__(self, Z: StandardRows, *, exact: bool = False) -> None:
        N, D = Z.shape
        self.wide, self.exact = N < D, exact
        self.vectors: Tensor | None = None
        self.spectrum: Tensor | None = None
        if self.wide:
            self.rows = _rows_of_gram(next(Z.chunks())[1] if exact and Z.raw.numel() <= _KEPT_ENTRIES else Z.single())
            return
        self.rows = Z.single()
        some = self.rows[:: max(1, N // (_BASIS_ROWS * D))].to(torch.float64 if exact else torch.float32)
        squares, vectors = torch.linalg.eigh(some.T @ some)
        self.vectors, self.spectrum = vectors.float(), squares.clamp(min=0).double() * (N / len(some))


def _rows_of_gram(rows: Tensor) -> Tensor:
    """Rows (N, r) float32 with the Gram matrix of ``rows``; one column of zeros where all rows are the same."""
    squares, vectors = torch.linalg.eigh(rows @ rows.T)
    keep = squares > squares[-1] * len(squares) * torch.finfo(squares.dtype).eps / 8
    if not bool(keep.any()):
        return torch.zeros_like(vectors[:, -1:]).float()
    return (vectors[:, keep] * squares[keep].sqrt()).float()


def raw_chunks(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Places and float64 copies of some rows at a time."""
    for start in range(0, len(rows), _CHUNK_ROWS):
        where = slice(start, start + _CHUNK_ROWS)
        yield where, rows[where].to(torch.float64, copy=True)


def standardisation(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), standard deviation (D,) with 1 for constant features, and which features vary, all in float64.

    A feature is constant when its deviation is no more than the rounding of its own values. Raises DataError for rows
    (N, D) that are none, and for values that are not finite.
    """
    if rows.ndim != 2 or min(rows.shape) < 1:
        raise DataError(f"activations of shape {tuple(rows.shape)} cannot be fitted: rows by width are needed.")
    N = len(rows)
    mean = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for _, part in raw_chunks(rows):
        mean += part.sum(0)
    mean /= N
    if not bool(torch.isfinite(mean).all()):
        raise DataError("the activations hold values that are not finite: capture them again.")
    rest, squares = torch.zeros_like(mean), torch.zeros_like(mean)
    for _, part in raw_chunks(rows):
        part -= mean
        rest += part.sum(0)
        squares += part.square_().sum(0)
    rest /= N
    mean = mean + rest
    deviation = (squares / N - rest.square()).clamp(min=0).sqrt()
    eps = torch.finfo(torch.float64 if rows.dtype == torch.float64 else torch.float32).eps
    varies = deviation > 2 * eps * mean.abs()
    varies &= deviation > torch.finfo(torch.float64).tiny
    return mean, torch.where(varies, deviation, 1.0), varies


def feature_scale(X: Any) -> NDArray[np.float32]:
    """Standard deviation (D,) of each feature of X (N, D), 1 where it is constant: what penalties are measured in."""
    rows = X if isinstance(X, Tensor) else torch.from_numpy(np.ascontiguousarray(X))
    return standardisation(rows)[1].cpu().numpy().astype(np.float32)
