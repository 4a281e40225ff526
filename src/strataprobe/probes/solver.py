"""Exact L2 logistic regression for many columns and many values of C at once, in one batch of right-hand sides.

The objective is scikit-learn's, on standardised features: 0.5 ||w||^2 + C * sum of log losses, the intercept free. One
decomposition of the rows (``basis.py``) serves every column and C; a truncated Newton method with preconditioned conjugate
gradients (``newton.py``) solves them together, each step one or two products of the (N, r) rows with a batch of columns.
Decomposition and directions are float32, values and gradients float64, so the optimum is that of float64. Features are
standardised inside, so the size of the activations does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strataprobe.errors import DataError, OptionError
from strataprobe.probes.basis import Basis, StandardRows, standardisation
from strataprobe.probes.newton import EXACT, SINGLE, Directions, Problems, State, propose, refine, start

Float64 = NDArray[np.float64]

# Columns are solved together up to this many entries of an (N, M) array.
_BLOCK_ENTRIES = 20_000_000


@dataclass(frozen=True, eq=False)
class LogisticPath:
    """Solutions for every C and column, folded back to raw activations: logit = weight . x + bias.

    ``weight`` (len(Cs), K, D) and ``bias`` (len(Cs), K) are float64; ``centre`` (D,) is the mean of the rows and
    ``bias_at_centre`` (len(Cs), K) the logit there. ``objective`` (len(Cs), K) is the value at the solution;
    ``converged`` (len(Cs), K) is False where the optimum was not reached; ``n_iterations`` counts Newton steps.
    """

    Cs: tuple[float, ...]
    weight: Float64
    bias: Float64
    centre: Float64
    bias_at_centre: Float64
    objective: Float64
    converged: NDArray[np.bool_]
    n_iterations: int

    def logits(self, X: Any) -> Float64:
        """Logits (n, len(Cs), K) float64 of raw activations X (n, D)."""
        flat = self.weight.reshape(-1, self.weight.shape[2])
        centred = _as_float64(X).cpu().numpy() - self.centre
        return (centred @ flat.T).reshape(len(centred), *self.bias.shape) + self.bias_at_centre

    def rounded(self, i: int, k: int) -> tuple[NDArray[np.float32], float]:
        """Weight (D,) and bias of C number i, column k, as float32 holds them.

        The bias makes up for the rounding of the weights, so that the logit at the centre stays what it was.
        """
        weight = self.weight[i, k].astype(np.float32)
        return weight, float(np.float32(self.bias_at_centre[i, k] - weight.astype(np.float64) @ self.centre))


def fit_logistic_path(X: Any, Y: Any, Cs: Sequence[float], *, weights: Any = None) -> LogisticPath:
    """Solve every column of Y for every C: see ``LogisticProblem``, which keeps the decomposition for further columns.

    X (N, D) float32 or float64, raw; Y (N, K) in {0, 1}, NaN leaves that row out of that column's problem; ``weights``
    (N,) or (N, K) multiply the rows' log losses. Rows that no column uses do not enter the standardisation.
    Raises DataError for shapes that do not match, values that are not finite, and columns with one class only.
    """
    Y64 = _columns(Y)
    used = (~torch.isnan(Y64)).any(dim=1).cpu().numpy()
    if used.all() or len(used) != len(X):
        return LogisticProblem(X).solve(Y64, Cs, weights=weights)
    kept = None if weights is None else np.asarray(weights)[used]
    return LogisticProblem(X[used]).solve(Y64[torch.from_numpy(used)], Cs, weights=kept)


class LogisticProblem:
    """Rows X (N, D), standardised and decomposed once; ``solve`` then takes any columns, subsets of rows and Cs.

    Mean and standard deviation are those of all rows given here, in float64; a feature whose deviation is no more than
    the rounding of its own values is constant and gets weight 0. ``scale`` (D,) takes the place of the deviations, so
    that the penalty is measured in it. Leaving rows out of a column (NaN) keeps this shared standardisation: give only
    rows that all columns may learn from. ``device`` is where the work is done. Raises DataError for rows that cannot be
    fitted.
    """

    def __init__(self, X: Any, *, device: str | torch.device = "cpu", scale: Any = None) -> None:
        rows = X if isinstance(X, Tensor) else torch.from_numpy(np.ascontiguousarray(X))
        rows = rows.to(device)
        self.mean, self.scale, self._varies = standardisation(rows)
        if scale is not None:
            self.scale = _given_scale(scale, rows.shape[1]).to(rows.device)
        self._Z = StandardRows(rows, self.mean, self.scale, self._varies)
        self._use(Basis(self._Z))

    def _use(self, basis: Basis) -> None:
        self._basis, self._directions = basis, Directions(basis)

    def solve(
        self, Y: Any, Cs: Sequence[float], *, weights: Any = None, offset: Any = None, tolerance: float = EXACT
    ) -> LogisticPath:
        """Every column of Y (N, K) for every C; see ``fit_logistic_path``.

        ``offset`` (N,) or (N, K) is added to the logits while fitting and is no part of the result. ``tolerance`` is how
        far from the optimum, as a share of the objective, a problem may end; ``SINGLE`` and more save the float64 steps.
        """
        Y64 = _columns(Y).to(self.mean.device)
        K, n = Y64.shape[1], len(Cs)
        C = torch.tensor([float(c) for c in Cs for _ in range(K)], dtype=torch.float64, device=Y64.device)
        return self._solve(Y64, weights, offset, C, tuple(float(c) for c in Cs), (n, K), tolerance)

    def solve_each(self, Y: Any, C: Sequence[float], *, weights: Any = None, offset: Any = None) -> LogisticPath:
        """Column k of Y (N, K) with C[k] only: a path of one entry, whose ``Cs`` holds the K values."""
        Y64 = _columns(Y).to(self.mean.device)
        if len(C) != Y64.shape[1]:
            raise DataError(f"{len(C)} values of C for {Y64.shape[1]} columns: give one for each.")
        values = tuple(float(c) for c in C)
        each = torch.tensor(values, dtype=torch.float64, device=Y64.device)
        return self._solve(Y64, weights, offset, each, values, (1, len(values)), EXACT)

    def _solve(
        self,
        Y: Tensor,
        weights: Any,
        offset: Any,
        C: Tensor,
        Cs: tuple[float, ...],
        shape: tuple[int, int],
        tolerance: float,
    ) -> LogisticPath:
        N, K = self._Z.shape[0], Y.shape[1]
        if Y.shape[0] != N:
            raise DataError(f"{Y.shape[0]} labels for {N} rows of activations: give one for each.")
        if not bool((C > 0).all()) or not bool(torch.isfinite(C).all()):
            raise OptionError("every C must be a positive number.")
        Y, omega = _masked(Y, weights)
        added = None if offset is None else _columns(offset).to(Y.device).expand(N, K)
        block = max(1, _BLOCK_ENTRIES // N)
        parts = []
        for begin in range(0, C.shape[0], block):
            these = torch.arange(begin, min(begin + block, C.shape[0]))
            own = omega.T[these % K]
            problems = Problems(Y.T[these % K], own * C[these, None], None if added is None else added.T[these % K])
            parts.append(self._solve_block(problems, own, tolerance))
        standardised = torch.cat([p[0] for p in parts])
        at_centre = torch.cat([p[1].b for p in parts])
        weight = torch.where(self._varies, standardised / self.scale, 0.0)
        bias = at_centre - weight @ self.mean
        return LogisticPath(
            Cs=Cs,
            weight=weight.reshape(*shape, -1).cpu().numpy(),
            bias=bias.reshape(shape).cpu().numpy(),
            centre=self.mean.cpu().numpy(),
            bias_at_centre=at_centre.reshape(shape).cpu().numpy(),
            objective=torch.cat([p[1].f for p in parts]).reshape(shape).cpu().numpy(),
            converged=torch.cat([p[1].converged for p in parts]).reshape(shape).cpu().numpy(),
            n_iterations=max(p[1].n_steps for p in parts),
        )

    def _solve_block(self, problems: Problems, omega: Tensor, tolerance: float) -> tuple[Tensor, State]:
        """Weights (M, D) on standardised features, and where they ended."""
        state = start(problems, omega)
        w = propose(problems, state, self._directions, max(tolerance, SINGLE))
        if tolerance >= SINGLE:
            if not self._basis.wide:
                return w, state
            return self._Z.backward(-problems.slopes(state.eta, torch.arange(len(w)))[0]), state
        weights = refine(problems, state, self._Z, self._basis, self._directions, w)
        if not bool(state.converged.all()) and not self._basis.exact:
            self._use(Basis(self._Z, exact=True))
            return self._solve_block(problems, omega, tolerance)
        return weights, state


def _as_float64(X: Any) -> Tensor:
    tensor = X if isinstance(X, Tensor) else torch.from_numpy(np.ascontiguousarray(X))
    return tensor.to(torch.float64)


def _columns(Y: Any) -> Tensor:
    Y64 = _as_float64(Y)
    return Y64[:, None] if Y64.ndim == 1 else Y64


def _given_scale(scale: Any, width: int) -> Tensor:
    given = _as_float64(scale)
    if given.shape != (width,) or not bool((torch.isfinite(given) & (given > 0)).all()):
        raise DataError(f"a scale must hold {width} positive numbers, one for each feature.")
    return given


def _masked(Y: Tensor, weights: Any) -> tuple[Tensor, Tensor]:
    """Y with 0 for NaN, and the weight of each row in each column (0 for NaN)."""
    omega = (~torch.isnan(Y)).to(torch.float64)
    Y = torch.nan_to_num(Y, nan=0.0)
    if weights is not None:
        omega = omega * _columns(weights).to(Y.device)
    if not bool(((Y == 0) | (Y == 1)).all()) or not bool((torch.isfinite(omega) & (omega >= 0)).all()):
        raise DataError("labels must be 0, 1 or missing, and weights finite and not negative.")
    positive = (omega * Y).sum(0)
    lacking = torch.nonzero((positive <= 0) | (positive >= omega.sum(0))).flatten().tolist()
    if lacking:
        raise DataError(f"column {lacking[0]} has rows of one class only: a probe needs examples of both.")
    return Y, omega
