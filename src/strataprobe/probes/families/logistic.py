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

from strataprobe.errors import OptionError
from strataprobe.metrics import clustered_auc
from strataprobe.probes.families import LinearFit
from strataprobe.probes.solver import LogisticPath, LogisticProblem

C_GRID: tuple[float, ...] = tuple(float(f"{c:.12g}") for c in np.logspace(-5, 1, 10))
# Merits this close to the best count as equal; the smallest C among them, the simplest probe, is taken.
MERIT_TIE = 1e-3
# No fit calls for more or less, and far beyond the sums of the solver overflow.
_LEAST_C, _MOST_C = 1e-12, 1e12
# How far from the optimum, as a share of the objective, fits may end that only choose C.
ROUGH = 1e-6


class Logistic:
    """Exact L2 logistic regression; ``Cs`` are tried, ascending.

    ``class_weight`` "balanced" gives the two sides of every column the same total weight, for rare classes; "none" counts
    every row alike. Raises OptionError for another one, and for a C outside 1e-12 to 1e12.
    """

    name = "logistic"

    def __init__(self, Cs: Sequence[float] = C_GRID, class_weight: str = "none", *, device: str = "cpu") -> None:
        self.Cs = tuple(sorted(float(c) for c in Cs))
        if not self.Cs or not all(_LEAST_C <= c <= _MOST_C for c in self.Cs):
            raise OptionError(f"the values of C must be positive numbers from 1e-12 to 1e12, not {list(Cs)}.")
        if class_weight not in ("none", "balanced"):
            raise OptionError(f"class_weight {class_weight!r} is not known: use none or balanced.")
        self.class_weight, self.device = class_weight, device
        self.options: dict[str, Any] = {"Cs": list(self.Cs)}
        if class_weight != "none":
            self.options["class_weight"] = class_weight

    def fit(self, X: Any, Y: Any, X_val: Any, Y_val: Any) -> LinearFit:
        """Fit the path on (X, Y), choose C for each column on (X_val, Y_val), keep the fit on (X, Y) alone."""
        Y = np.asarray(Y, dtype=np.float64)
        path = self._problem(X).solve(Y, self.Cs, weights=self._weights(Y))
        logits = path.logits(X_val)
        option_merit = merit_of_options(logits, np.asarray(Y_val))
        chosen = choose_option(option_merit)
        return _pick(path, chosen, [self.Cs[i] for i in chosen], option_merit, of_chosen(logits, chosen))

    def fit_inside(self, X: Any, Y: Any, held_out: Any) -> LinearFit:
        """Choose C with the rows ``held_out`` set aside, then fit all rows with it.

        Both fits share one decomposition and hence the mean and deviation of all rows of X (no label enters them). The
        first, which only chooses, ends at ``ROUGH`` of its objective. A column with one class only among the rows left
        gets the middle of the grid.
        """
        Y, held_out = np.asarray(Y, dtype=np.float64), np.asarray(held_out, dtype=bool)
        problem = self._problem(X)
        option_merit = np.full((len(self.Cs), Y.shape[1]), np.nan)
        n_positive, n_rest = Y[~held_out].sum(axis=0), int((~held_out).sum())
        both = np.flatnonzero((n_positive > 0) & (n_positive < n_rest))
        held_out_logits = np.zeros((int(held_out.sum()), Y.shape[1]))
        if len(both):
            masked = np.where(held_out[:, None], np.nan, Y[:, both])
            path = problem.solve(masked, self.Cs, weights=self._weights(masked), tolerance=ROUGH)
            logits = path.logits(np.asarray(X)[held_out])
            option_merit[:, both] = merit_of_options(logits, Y[held_out][:, both])
            held_out_logits[:, both] = of_chosen(logits, choose_option(option_merit[:, both]))
        return self._refit(problem, Y, option_merit, held_out_logits)

    def refit(self, X: Any, Y: Any, option_merit: Any) -> LinearFit:
        """Fit all rows, each column with the C that ``option_merit`` (len(Cs), K) speaks for."""
        Y, option_merit = np.asarray(Y, dtype=np.float64), np.asarray(option_merit, dtype=np.float64)
        return self._refit(self._problem(X), Y, option_merit, np.zeros((0, Y.shape[1])))

    def _problem(self, X: Any) -> LogisticProblem:
        return LogisticProblem(X, device=self.device)

    def _weights(self, Y: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Weights (N, K) of the rows of Y (N, K), NaN being no row; None where all count alike."""
        if self.class_weight == "none":
            return None
        n, n_positive = (~np.isnan(Y)).sum(axis=0), np.nansum(Y, axis=0)
        with np.errstate(divide="ignore"):  # a column of one class is refused by the solver
            return np.where(Y == 1, n / (2 * n_positive), n / (2 * (n - n_positive)))

    def _refit(
        self,
        problem: LogisticProblem,
        Y: NDArray[np.float64],
        option_merit: NDArray[np.float64],
        held_out_logits: NDArray[np.float64],
    ) -> LinearFit:
        C = [self.Cs[i] for i in choose_option(option_merit)]
        path = problem.solve_each(Y, C, weights=self._weights(Y))
        return _pick(path, np.zeros(len(C), dtype=np.int64), C, option_merit, held_out_logits)


def choose_option(option_merit: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each column of (n_options, K) the first option within ``MERIT_TIE`` of the best, the middle one for all nan."""
    known = np.where(np.isnan(option_merit), -np.inf, option_merit)
    first = np.argmax(known >= known.max(axis=0) - MERIT_TIE, axis=0)
    return np.where(np.isfinite(known.max(axis=0)), first, len(option_merit) // 2).astype(np.int64)


def merit_of_options(logits: NDArray[np.float64], Y: NDArray[np.float64]) -> NDArray[np.float64]:
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


def of_chosen(logits: NDArray[np.float64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
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
