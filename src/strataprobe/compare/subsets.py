"""Probes fitted on nested random subsets of some rows, all as columns of one solve.

All share the scale of the whole pool, into which no label enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from strataprobe.probes.solver import LogisticProblem

N_DRAWS = 10
# The most probes, and the most rows: with more classes there are fewer draws, with more texts only the sizes up to the
# limit and the whole.
MAX_COLUMNS = 600
MAX_POOL = 4_000
_MANY_CLASSES = 10
# What own texts choose C from.
OWN_CS = (0.0003, 0.003, 0.03, 0.3)
OWN_FOLDS = 5


@dataclass(frozen=True)
class Labelled:
    """Labelled rows of one layer: activations ``X`` (n, D) float32, ``labels`` (n,), ``groups``."""

    X: np.ndarray
    labels: np.ndarray
    groups: Sequence[str]

    def part(self, rows: np.ndarray) -> Labelled:
        """The rows of that number, in that order."""
        return Labelled(self.X[rows], self.labels[rows], [self.groups[i] for i in rows])


@dataclass(frozen=True)
class Draws:
    """``n`` orders (n, N) of the pool's rows, whose first ``sizes`` are the subsets."""

    pool: Labelled
    sizes: Sequence[int]
    orders: np.ndarray

    @cached_property
    def problem(self) -> LogisticProblem:
        """The rows of the pool, decomposed once for all columns."""
        return LogisticProblem(self.pool.X)

    @property
    def n(self) -> int:
        return len(self.orders)


def fitted_classes(n_classes: int) -> list[int]:
    """The classes that are fitted: of two the second alone, as the first is its mirror."""
    return [1] if n_classes == 2 else list(range(n_classes))


def most_rows(n_classes: int) -> int:
    """The most rows of a pool: half of them where many classes make each cost more."""
    return MAX_POOL if n_classes <= _MANY_CLASSES else MAX_POOL // 2


def draw_subsets(pool: Labelled, sizes: Sequence[int], n_classes: int, seed: int) -> Draws:
    """Random orders of the groups of ``pool``, cut down to ``most_rows``."""
    n_columns = len(fitted_classes(n_classes)) * max(len(sizes), 1)
    n_draws = min(N_DRAWS, max(2, MAX_COLUMNS // n_columns))
    limit = most_rows(n_classes)
    if len(pool.labels) > limit:
        pool = pool.part(shuffled(pool.groups, seed, 0)[:limit])
    return Draws(pool, sizes, np.stack([shuffled(pool.groups, seed, 1 + i) for i in range(n_draws)]))


def shuffled(groups: Sequence[str], seed: int, draw: int) -> np.ndarray:
    """Rows in a random order of their groups, and in a random order within each."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng([seed, draw, len(groups)])
    return np.lexsort((rng.random(len(codes)), rng.permutation(len(names))[codes.reshape(-1)]))


def fit_subsets(draws: Draws, X: np.ndarray, Cs: Sequence[Sequence[float]], n_classes: int) -> np.ndarray:
    """Logits (n, C, sizes, draws) on ``X`` (n, D) of a probe for each, with ``Cs[size][class]``.

    0 where a subset has one class only.
    """
    classes = fitted_classes(n_classes)
    found = np.zeros((len(X), len(classes), len(draws.sizes), draws.n))
    columns, places, each = [], [], []
    for s, size in enumerate(draws.sizes):
        for d, order in enumerate(draws.orders):
            for k, c in enumerate(classes):
                column = _column(draws.pool.labels == c, order[:size])
                if column is not None:
                    columns.append(column)
                    places.append((k, s, d))
                    each.append(Cs[s][c])
    if columns:
        path = draws.problem.solve_each(np.stack(columns, axis=1), each)
        at = np.array(places)
        found[:, at[:, 0], at[:, 1], at[:, 2]] = path.logits(X)[:, 0, :]
    return np.concatenate([-found, found], axis=1) if n_classes == 2 else found


def _column(of_class: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """The column of a solve that learns from ``rows`` alone; None where they are of one kind."""
    if not 0 < of_class[rows].sum() < len(rows):
        return None
    column = np.full(len(of_class), np.nan)
    column[rows] = of_class[rows]
    return column


def own_penalties(draws: Draws, C: Sequence[float]) -> list[list[float]]:
    """For each size the C that does best by log loss in cross-validation over groups, inside the first draw.

    ``C`` (one a class) is what is returned where there are too many classes to choose it anew.
    """
    classes = fitted_classes(len(C))
    if len(classes) * len(draws.sizes) * len(OWN_CS) * OWN_FOLDS > MAX_COLUMNS:
        return [list(C)] * len(draws.sizes)
    folds = _folds_in_order(draws.pool.groups, draws.orders[0])
    columns, held, signs, of_size = [], [], [], []
    for s, size in enumerate(draws.sizes):
        rows = draws.orders[0][:size]
        for c, fold in product(classes, range(OWN_FOLDS)):
            column = _column(draws.pool.labels == c, rows[folds[rows] != fold])
            if column is not None:
                columns.append(column)
                held.append(rows[folds[rows] == fold])
                signs.append(np.where(draws.pool.labels[held[-1]] == c, -1.0, 1.0))
                of_size.append(s)
    losses = np.zeros((len(draws.sizes), len(OWN_CS)))
    if columns:
        logits = draws.problem.solve(np.stack(columns, axis=1), OWN_CS).logits(draws.pool.X)
        for j, (rows, sign, s) in enumerate(zip(held, signs, of_size, strict=True)):
            losses[s] += np.logaddexp(0.0, sign[:, None] * logits[rows, :, j]).sum(axis=0)
    return [[OWN_CS[i]] * len(C) for i in losses.argmin(axis=1)]


def _folds_in_order(groups: Sequence[str], order: np.ndarray) -> np.ndarray:
    """A fold for each row, whole groups together, dealt out in the order in which the groups come."""
    fold_of: dict[str, int] = {}
    for i in order:
        fold_of.setdefault(groups[i], len(fold_of) % OWN_FOLDS)
    return np.array([fold_of[g] for g in groups])
