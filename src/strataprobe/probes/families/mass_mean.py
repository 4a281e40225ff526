"""The mass-mean families: the line between the class means, as it is, or turned by the inverse covariance.

Marks and Tegmark (arXiv 2310.06824): theta = mu+ - mu-; its iid variant, theta multiplied by the inverse of the pooled
within-class covariance, is Fisher's linear discriminant. That covariance is shrunk towards a multiple of the identity
as far as Ledoit and Wolf (Journal of Multivariate Analysis 88:365, 2004) find best, so that it can be inverted with fewer
rows than features. Nothing is chosen on held-out rows, and nothing is iterated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strataprobe.errors import DataError
from strataprobe.metrics import auc
from strataprobe.probes.families import LinearFit
from strataprobe.probes.families.standardise import Standardised

# Added to the diagonal at least, in units of the mean variance, where nothing else keeps it from being singular.
_LEAST_RIDGE = 1e-9


class MassMean:
    """theta = mu+ - mu-, on raw activations or, with ``standardise``, on standardised features.

    The logit is 0 midway between the class means. On raw activations the features that differ most in size decide.
    """

    name = "mass-mean"

    def __init__(self, standardise: bool = False, *, device: str = "cpu") -> None:
        self.standardise, self.device = bool(standardise), device
        self.options: dict[str, Any] = {"standardise": self.standardise}

    def fit(self, X: Any, Y: Any, X_val: Any, Y_val: Any) -> LinearFit:
        """Fit (X, Y); the held-out rows measure it only."""
        return self._measured(X, np.asarray(Y, dtype=np.float64), X_val, np.asarray(Y_val))

    def fit_inside(self, X: Any, Y: Any, held_out: Any) -> LinearFit:
        """Measure on the rows ``held_out`` the fit without them, then fit all rows.

        A column with one class only among the rows left is measured as nan, its held-out logits as 0.
        """
        X, Y, held_out = np.asarray(X), np.asarray(Y, dtype=np.float64), np.asarray(held_out, dtype=bool)
        merit, logits = np.full((1, Y.shape[1]), np.nan), np.zeros((int(held_out.sum()), Y.shape[1]))
        n_positive = Y[~held_out].sum(axis=0)
        both = np.flatnonzero((n_positive > 0) & (n_positive < (~held_out).sum()))
        if held_out.any() and len(both):
            without = self._measured(X[~held_out], Y[~held_out][:, both], X[held_out], Y[held_out][:, both])
            merit[:, both], logits[:, both] = without.option_merit, without.held_out_logits
        return self._fitted(X, Y, merit, logits)

    def refit(self, X: Any, Y: Any, option_merit: Any) -> LinearFit:
        """Fit all rows; there is nothing to choose."""
        Y = np.asarray(Y, dtype=np.float64)
        return self._fitted(X, Y, np.asarray(option_merit, dtype=np.float64), np.zeros((0, Y.shape[1])))

    def _measured(self, X: Any, Y: NDArray[np.float64], X_val: Any, Y_val: NDArray[Any]) -> LinearFit:
        fit = self._fitted(X, Y, np.full((1, Y.shape[1]), np.nan), np.zeros((0, Y.shape[1])))
        logits = fit.logits(X_val)
        merit = np.array([[auc(Y_val[:, k], logits[:, k]) for k in range(Y.shape[1])]])
        return replace(fit, option_merit=merit, held_out_logits=logits)

    def _fitted(
        self, X: Any, Y: NDArray[np.float64], option_merit: NDArray[np.float64], held_out_logits: NDArray[np.float64]
    ) -> LinearFit:
        if len(Y) != len(X):
            raise DataError(f"{len(Y)} labels for {len(X)} rows of activations: give one for each.")
        lacking = np.flatnonzero((Y.sum(axis=0) <= 0) | (Y.sum(axis=0) >= len(Y))).tolist()
        if lacking:
            raise DataError(f"column {lacking[0]} has rows of one class only: a probe needs examples of both.")
        rows = Standardised.of(X, divide=self.standardise, device=self.device)
        theta, at_mean, settings = self._solved(rows, torch.from_numpy(np.ascontiguousarray(Y)).to(self.device))
        weight, bias = rows.folded(theta, at_mean)
        return LinearFit(weight, bias, settings, option_merit, held_out_logits)

    def _solved(self, rows: Standardised, Y: Tensor) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
        """Weight (K, D) on the rows' Z, logits (K,) at their mean, and settings."""
        theta = _class_difference(Y).T @ rows.Z
        return theta, -_midway(theta, theta, Y), [{} for _ in range(Y.shape[1])]


class MassMeanIid(MassMean):
    """theta multiplied by the inverse of the shrunk within-class covariance: Fisher's linear discriminant.

    Features are standardised first, so that the shrinkage does not depend on their sizes. The logit is the log-odds of
    two normal classes with that covariance, the share of each class among the rows included.
    """

    name = "mass-mean-iid"

    def __init__(self, *, device: str = "cpu") -> None:
        super().__init__(standardise=True, device=device)
        self.options = {}

    def _solved(self, rows: Standardised, Y: Tensor) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
        Z, N = rows.Z, rows.Z.shape[0]
        across = _class_difference(Y)
        theta = across.T @ Z
        products = rows.products()
        shrinkage, variance = within_class_shrinkage(rows, products, theta, Y)
        share = Y.mean(0)
        between = share * (1 - share)
        ridge = torch.clamp(shrinkage * variance, min=_LEAST_RIDGE)
        weight = torch.empty_like(theta)
        for k in range(Y.shape[1]):
            # of the total covariance: it differs from the one within classes by theta theta', which turns no direction
            total = products * ((1 - shrinkage[k]) / N)
            total.diagonal().add_(ridge[k])
            factor = torch.linalg.cholesky(total)
            if products.shape[0] < Z.shape[1]:
                solved = Z.T @ torch.cholesky_solve(across[:, k : k + 1], factor)[:, 0]
            else:
                solved = torch.cholesky_solve(theta[k, :, None], factor)[:, 0]
            left = 1 - (1 - shrinkage[k]) * between[k] * (theta[k] @ solved)
            weight[k] = solved / torch.clamp(left, min=_LEAST_RIDGE)
        at_mean = torch.log(share / (1 - share)) - _midway(weight, theta, Y)
        return weight, at_mean, [{"shrinkage": float(value)} for value in shrinkage]


def _class_difference(Y: Tensor) -> Tensor:
    """(N, K) that takes rows to the difference of their class means."""
    n_positive = Y.sum(0)
    return Y / n_positive - (1 - Y) / (Y.shape[0] - n_positive)


def _midway(weight: Tensor, theta: Tensor, Y: Tensor) -> Tensor:
    """weight . z (K,) at the point midway between the class means; z is 0 at the mean of all rows."""
    return (weight * theta).sum(1) * (0.5 - Y.mean(0))


def within_class_shrinkage(rows: Standardised, products: Tensor, theta: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """Ledoit and Wolf's shrinkage (K,) of the covariance within the classes of each column, and its mean variance (K,).

    ``products`` are those of ``rows``, ``theta`` (K, D) the differences of the class means, Y (N, K) in {0, 1}. Features
    that do not vary do not count.
    """
    Z, N = rows.Z, rows.Z.shape[0]
    D = max(int(rows.varies.sum()), 1)
    share = Y.mean(0)
    along, size = Z @ theta.T, theta.square().sum(1)
    own = Y - share  # each row's class mean is this times theta
    squares = torch.clamp(Z.square().sum(1)[:, None] - 2 * own * along + own.square() * size, min=0.0)
    between = share * (1 - share)
    frobenius = products.square().sum() / N**2 - 2 * between * along.square().mean(0) + (between * size) ** 2
    variance = squares.mean(0) / D
    spread = torch.clamp(frobenius / D - variance.square(), min=0.0)
    noise = torch.clamp((squares.square().mean(0) - frobenius) / (D * N), min=0.0)
    return torch.where(spread > 0, torch.minimum(noise, spread) / torch.where(spread > 0, spread, 1.0), 1.0), variance
