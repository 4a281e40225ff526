"""Rows with their mean taken off and, where asked, each feature divided by its standard deviation; and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strataprobe.probes.basis import standardisation


@dataclass(frozen=True, eq=False)
class Standardised:
    """``Z`` (N, D) float64 = (X - mean) / scale, with zeros in features that do not vary.

    ``mean`` and ``scale`` (D,) float64 are those of all rows; ``varies`` (D,) bool is False for a feature whose deviation
    is no more than the rounding of its own values.
    """

    Z: Tensor
    mean: Tensor
    scale: Tensor
    varies: Tensor

    @classmethod
    def of(cls, X: Any, *, divide: bool = True, device: str = "cpu") -> Standardised:
        """Centre X (N, D) raw, and divide it by its deviations unless told not to (scale is then 1), on ``device``.

        Raises DataError when there are no rows, or values that are not finite.
        """
        rows = _tensor(X).to(device)
        mean, deviation, varies = standardisation(rows)
        scale = deviation if divide else torch.ones_like(deviation)
        return cls(_standardised(rows, mean, scale, varies), mean, scale, varies)

    def like(self, X: Any) -> Tensor:
        """Further raw rows X (n, D), standardised as these are: (n, D) float64."""
        return _standardised(_tensor(X).to(self.Z.device), self.mean, self.scale, self.varies)

    def products(self) -> Tensor:
        """The smaller of Z Z' (N, N) and Z' Z (D, D); the first where N < D."""
        return self.Z @ self.Z.T if self.Z.shape[0] < self.Z.shape[1] else self.Z.T @ self.Z

    def folded(self, weight: Tensor, at_mean: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Weight (K, D) on Z and logits (K,) at the mean, as weight and bias on raw rows, as float32 holds them.

        The bias makes up for the rounding of the weights, so that the logit at the mean stays what it was.
        """
        raw = torch.where(self.varies, weight / self.scale, 0.0).float()
        bias = at_mean - raw.double() @ self.mean
        return raw.cpu().numpy(), bias.float().double().cpu().numpy()


def _tensor(X: Any) -> Tensor:
    return X if isinstance(X, Tensor) else torch.from_numpy(np.ascontiguousarray(X))


def _standardised(rows: Tensor, mean: Tensor, scale: Tensor, varies: Tensor) -> Tensor:
    Z = rows.to(torch.float64, copy=True).sub_(mean).div_(scale)
    Z[:, ~varies] = 0.0
    return Z
