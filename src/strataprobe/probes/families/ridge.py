"""The ridge family: least squares with an L2 penalty, on standardised features, the intercept free.

The objective is scikit-learn's, sum of squared errors + alpha ||w||^2. Classes are fitted as +1 against -1 for the rest,
and their logits are calibrated as any probe's; continuous targets are fitted as they are (``values``). One
eigendecomposition serves every alpha and column; alpha is chosen on held-out rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strataprobe.errors import DataError, OptionError
from strataprobe.probes.families import LinearFit
from strataprobe.probes.families.logistic import choose_option, merit_of_options, of_chosen
from strataprobe.probes.families.standardise import Standardised

Float64 = NDArray[np.float64]

# Strongest first, as of equally good ones the first is taken.
ALPHA_GRID: tuple[float, ...] = tuple(float(f"{a:.12g}") for a in np.logspace(6, -1, 15))
TARGETS = ("auto", "classes", "values")


class Ridge:
    """Ridge regression; ``alphas`` are tried, the strongest first.

    ``target`` says what ``train`` fits: "classes", "values" (the continuous targets), or "auto", values where there are
    any. ``values`` is whether Y of the methods below is continuous; as classes it is 0 or 1. Raises OptionError for an
    alpha that is not positive, and for another target.
    """

    name = "ridge"

    def __init__(self, alphas: Sequence[float] = ALPHA_GRID, target: str = "auto", *, device: str = "cpu") -> None:
        self.alphas = tuple(sorted((float(a) for a in alphas), reverse=True))
        if not self.alphas or not all(np.isfinite(a) and a > 0 for a in self.alphas):
            raise OptionError("alphas of a ridge probe must be positive numbers, at least one.")
        if target not in TARGETS:
            raise OptionError(f"target {target!r} of a ridge probe is none of {', '.join(TARGETS)}.")
        self.target, self.device, self.values = target, device, False
        self.options: dict[str, Any] = {"alphas": list(self.alphas), "target": target}

    def of_values(self) -> Ridge:
        """The same for continuous columns: alpha is the one with the best held-out R2."""
        made = Ridge(self.alphas, self.target, device=self.device)
        made.values = True
        return made

    def fit(self, X: Any, Y: Any, X_val: Any, Y_val: Any) -> LinearFit:
        """Fit every alpha on (X, Y), choose one for each column on (X_val, Y_val), keep the fit on (X, Y) alone."""
        problem = RidgeProblem(X, device=self.device)
        weight, at_mean = problem.path(self._wanted(Y), self.alphas)
        logits = problem.predicted(X_val, weight, at_mean)
        option_merit = self._merit(logits, np.asarray(Y_val, dtype=np.float64))
        chosen = choose_option(option_merit)
        own = torch.stack([weight[i, k] for k, i in enumerate(chosen)])
        return self._fit_of(problem, own, at_mean, chosen, option_merit, of_chosen(logits, chosen))

    def fit_inside(self, X: Any, Y: Any, held_out: Any) -> LinearFit:
        """Choose each column's alpha with the rows ``held_out`` set aside, then fit all rows with it.

        With nothing set aside, or one class only among the rows left, a column gets the middle of the grid.
        """
        X, Y, held_out = np.asarray(X), np.asarray(Y, dtype=np.float64), np.asarray(held_out, dtype=bool)
        option_merit = np.full((len(self.alphas), Y.shape[1]), np.nan)
        logits = np.zeros((int(held_out.sum()), Y.shape[1]))
        rest = Y[~held_out]
        known = np.flatnonzero((rest != rest[:1]).any(axis=0)) if held_out.any() else np.zeros(0, dtype=np.int64)
        if len(known):
            inner = self.fit(X[~held_out], rest[:, known], X[held_out], Y[held_out][:, known])
            option_merit[:, known], logits[:, known] = inner.option_merit, inner.held_out_logits
        return self._refit(X, Y, option_merit, logits)

    def refit(self, X: Any, Y: Any, option_merit: Any) -> LinearFit:
        """Fit all rows, each column with the alpha that ``option_merit`` (len(alphas), K) speaks for."""
        Y = np.asarray(Y, dtype=np.float64)
        return self._refit(X, Y, np.asarray(option_merit, dtype=np.float64), np.zeros((0, Y.shape[1])))

    def _refit(self, X: Any, Y: Float64, option_merit: Float64, held_out_logits: Float64) -> LinearFit:
        chosen = choose_option(option_merit)
        problem = RidgeProblem(X, device=self.device)
        weight, at_mean = problem.each(self._wanted(Y), [self.alphas[i] for i in chosen])
        return self._fit_of(problem, weight, at_mean, chosen, option_merit, held_out_logits)

    def _fit_of(
        self,
        problem: RidgeProblem,
        weight: Tensor,
        at_mean: Tensor,
        chosen: NDArray[np.int64],
        option_merit: Float64,
        held_out_logits: Float64,
    ) -> LinearFit:
        raw, bias = problem.rows.folded(weight, at_mean)
        settings = [{"alpha": self.alphas[i]} for i in chosen]
        return LinearFit(raw, bias, settings, option_merit, held_out_logits)

    def _wanted(self, Y: Any) -> Float64:
        """What the squared errors are taken from, (n, K)."""
        columns = np.asarray(Y, dtype=np.float64)
        return columns if self.values else 2 * columns - 1

    def _merit(self, predicted: Float64, Y: Float64) -> Float64:
        return r2_of_options(predicted, Y) if self.values else merit_of_options(predicted, Y)


class RidgeProblem:
    """Rows X (N, D), standardised; weights are those of the standardised features, the intercept the mean target."""

    def __init__(self, X: Any, *, device: str = "cpu") -> None:
        self.rows = Standardised.of(X, device=device)
        self._products = self.rows.products()
        self._solve_rows = self.rows.Z.shape[0] < self.rows.Z.shape[1]

    def path(self, Y: Any, alphas: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Weights (len(alphas), K, D) and targets' means (K,) for columns Y (N, K), from one eigendecomposition."""
        side, mean = self._sides(Y)
        squares, vectors = torch.linalg.eigh(self._products)
        strength = torch.tensor([float(a) for a in alphas], dtype=torch.float64, device=squares.device)
        divided = (vectors.T @ side)[None] / (torch.clamp(squares, min=0.0)[:, None] + strength[:, None, None])
        flat = (vectors @ divided.permute(1, 0, 2).reshape(len(squares), -1)).T
        weight = flat @ self.rows.Z if self._solve_rows else flat
        return weight.reshape(len(strength), -1, self.rows.Z.shape[1]), mean

    def each(self, Y: Any, alphas: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Weights (K, D) and means (K,): column k of Y (N, K) with alphas[k]; a Cholesky factor for each alpha."""
        side, mean = self._sides(Y)
        found = torch.empty_like(side)
        for alpha in sorted(set(alphas)):
            mine = [k for k, own in enumerate(alphas) if own == alpha]
            penalised = self._products.clone()
            penalised.diagonal().add_(alpha)
            found[:, mine] = torch.cholesky_solve(side[:, mine], torch.linalg.cholesky(penalised))
        return (found.T @ self.rows.Z if self._solve_rows else found.T), mean

    def predicted(self, X: Any, weight: Tensor, at_mean: Tensor) -> Float64:
        """Predictions (n, len(alphas), K) for raw X (n, D)."""
        Z = self.rows.like(X)
        flat = weight.reshape(-1, weight.shape[-1])
        found: Float64 = ((Z @ flat.T).reshape(len(Z), *weight.shape[:-1]) + at_mean).cpu().numpy()
        return found

    def _sides(self, Y: Any) -> tuple[Tensor, Tensor]:
        """The right-hand sides (N or D, K) and the means (K,) of columns Y (N, K)."""
        columns = torch.from_numpy(np.ascontiguousarray(Y)).to(self.rows.Z)
        if len(columns) != len(self.rows.Z):
            raise DataError(f"{len(columns)} targets for {len(self.rows.Z)} rows of activations: give one for each.")
        if not bool(torch.isfinite(columns).all()):
            raise DataError("the targets hold values that are not finite: leave those rows out.")
        mean = columns.mean(0)
        centred = columns - mean
        return (centred if self._solve_rows else self.rows.Z.T @ centred), mean


def r2_of_options(predicted: Float64, Y: Float64) -> Float64:
    """R2 (n_options, K) of predictions (n, n_options, K) of Y (n, K); nan where a column does not vary."""
    errors = np.square(predicted - Y[:, None]).sum(axis=0)
    spread = np.square(Y - Y.mean(axis=0)).sum(axis=0)
    return np.where(spread > 0, 1 - errors / np.where(spread > 0, spread, 1.0), np.nan)
