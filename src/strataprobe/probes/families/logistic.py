"""The L2 logistic family: standardised features, ten values of C, one chosen for each class by held-out AUC.

Chosen is the strongest penalty whose held-out AUC lies within one standard error of the best one's (the one-standard-error
rule of Breiman et al., Classification and Regression Trees, 1984, with the error of the paired difference). On few held-out
texts the best C is largely luck, and a stronger penalty carries over better to text of another kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.metrics import clustered_auc
from strataprobe.probes.families import LinearFit
from strataprobe.probes.solver import LogisticPath, LogisticProblem

C_GRID: tuple[float, ...] = tuple(float(f"{c:.12g}") for c in np.logspace(-5, 1, 10))
# Merits this close to the best count as equal; the smallest C among them, the simplest probe, is taken.
MERIT_TIE = 1e-3


class Logistic:
    """Exact L2 logistic regression; ``Cs`` are tried, ascending."""

    name = "logistic"

    def __init__(self, Cs: Sequence[float] = C_GRID) -> None:
        self.Cs = tuple(sorted(float(c) for c in Cs))
        self.options: dict[str, Any] = {"Cs": list(self.Cs)}

    def fit(self, X: Any, Y: Any, X_val: Any, Y_val: Any) -> LinearFit:
        """Fit the path on (X, Y), choose C for each column on (X_val, Y_val), keep the fit on (X, Y) alone."""
        path = LogisticProblem(X).solve(Y, self.Cs)
        logits = path.logits(X_val)
        option_merit = _merit_of_options(logits, np.asarray(Y_val))
        chosen = choose_option(option_merit)
        return _pick(path, chosen, [self.Cs[i] for i in chosen], option_merit, _of_chosen(logits, chosen))

    def fit_inside(self, X: Any, Y: Any, held_out: Any) -> LinearFit:
        """Choose C with the rows ``held_out`` set aside, then fit all rows with it.

        Both fits share one decomposition and hence the mean and deviation of all rows of X (no label enters them).
        A column with one class only among the rows left gets the middle of the grid.
        """
        Y, held_out = np.asarray(Y, dtype=np.float64), np.asarray(held_out, dtype=bool)
        problem = LogisticProblem(X)
        option_merit = np.full((len(self.Cs), Y.shape[1]), np.nan)
        n_positive, n_rest = Y[~held_out].sum(axis=0), int((~held_out).sum())
        both = np.flatnonzero((n_positive > 0) & (n_positive < n_rest))
        held_out_logits = np.zeros((int(held_out.sum()), Y.shape[1]))
        if len(both):
            path = problem.solve(np.where(held_out[:, None], np.nan, Y[:, both]), self.Cs)
            logits = path.logits(np.asarray(X)[held_out])
            option_merit[:, both] = _merit_of_options(logits, Y[held_out][:, both])
            held_out_logits[:, both] = _of_chosen(logits, choose_option(option_merit[:, both]))
        return self._refit(problem, Y, option_merit, held_out_logits)

    def refit(self, X: Any, Y: Any, option_merit: Any) -> LinearFit:
        """Fit all rows, each column with the C that ``option_merit`` (len(Cs), K) speaks for."""
        Y, option_merit = np.asarray(Y, dtype=np.float64), np.asarray(option_merit, dtype=np.float64)
        return self._refit(LogisticProblem(X), Y, option_merit, np.zeros((0, Y.shape[1])))

    def _refit(
        self,
        problem: LogisticProblem,
        Y: NDArray[np.float64],
        option_merit: NDArray[np.float64],
        held_out_logits: NDArray[np.float64],
    ) -> LinearFit:
        C = [self.Cs[i] for i in choose_option(option_merit)]
        return _pick(problem.solve_each(Y, C), np.zeros(len(C), dtype=np.int64), C, option_merit, held_out_logits)


def choose_option(option_merit: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each column of (n_options, K) the first option within ``MERIT_TIE`` of the best, the middle one for all nan."""
    known = np.where(np.isnan(option_merit), -np.inf, option_merit)
    first = np.argmax(known >= known.max(axis=0) - MERIT_TIE, axis=0)
    return np.where(np.isfinite(known.max(axis=0)), first, len(option_merit) // 2).astype(np.int64)


def _merit_of_options(logits: NDArray[np.float64], Y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Merit (n_options, K) of logits (n, n_options, K) against Y (n, K): the AUC, raised by the standard error of its
    distance to the best AUC, but not above that; nan where a column has one class only.
    """
    found = np.full(logits.shape[1:], np.nan)
    rows = np.arange(len(Y))
    for k in range(Y.shape[1]):
        if 0 < Y[:, k].sum() < len(Y):
            estimate = clustered_auc(Y[:, k], logits[:, :, k], rows)
            best = int(np.argmax(estimate.auc))
            spread = estimate.variance + estimate.variance[best] - 2 * estimate.covariance[best]
            found[:, k] = np.minimum(estimate.auc + np.sqrt(np.maximum(spread, 0.0)), estimate.auc[best])
    return found


def _of_chosen(logits: NDArray[np.float64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logits (n, K) of option chosen[k] for column k, out of (n, n_options, K)."""
    return np.stack([logits[:, i, k] for k, i in enumerate(chosen)], axis=1)


def _pick(
    path: LogisticPath,
    entries: NDArray[np.int64],
    C: Sequence[float],
    option_merit: NDArray[np.float64],
    held_out_logits: NDArray[np.float64],
) -> LinearFit:
    """Entry entries[k] of the path for each column k, solved with C[k]."""
    rounded = [path.rounded(int(i), k) for k, i in enumerate(entries)]
    return LinearFit(
        weight=np.stack([w for w, _ in rounded]),
        bias=np.array([b for _, b in rounded]),
        settings=[{"C": C[k], "converged": bool(path.converged[i, k])} for k, i in enumerate(entries)],
        option_merit=option_merit,
        held_out_logits=held_out_logits,
    )
