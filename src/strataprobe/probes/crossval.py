"""Cross-validation over groups: folds that never split a group, and logits of rows that no probe was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.errors import DataError
from strataprobe.probes.calibration import fit_platt
from strataprobe.probes.families import Fitter
from strataprobe.progress import note

N_FOLDS = 5
# Groups of the rarest class in a fold, where more than ``N_FOLDS`` are asked for: of fewer an AUC says little.
_GROUPS_A_FOLD = 5


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """What cross-validation gives.

    ``logits`` (N, K) float64: each row's log-odds from the probe fitted without its fold. ``option_merit``
    (n_options, K): the mean over folds of the merit with which the options were chosen.
    """

    logits: NDArray[np.float64]
    option_merit: NDArray[np.float64]


def class_columns(labels: Any, n_classes: int) -> NDArray[np.float64]:
    """Columns to fit, (N, K) in {0, 1}: for two classes class 1 alone (0 is its mirror), else each against the rest."""
    codes = np.asarray(labels)
    fitted = [1] if n_classes == 2 else range(n_classes)
    return np.stack([(codes == c).astype(np.float64) for c in fitted], axis=1)


def mirror_columns(values: NDArray[Any], n_classes: int) -> NDArray[Any]:
    """Logits (N, K) of the fitted columns as (N, C): for two classes the negative of the one column comes first."""
    return np.concatenate([-values, values], axis=1) if n_classes == 2 else values


def make_folds(
    labels: Any, groups: Any, class_names: Sequence[str], seed: int = 0, n_folds: int = N_FOLDS
) -> NDArray[np.int64]:
    """Fold number (N,) of each row: whole groups, every class spread evenly, the same for the same ``seed``.

    Groups are taken largest first, in a seeded order within a size, and each goes to the fold that holds least of its
    classes. There are fewer folds than ``n_folds`` where a class has fewer groups, so that every class is in every fold
    as far as groups allow; more than ``N_FOLDS`` only while every class has five groups for each. Raises DataError when a
    class has fewer than two groups.
    """
    codes = np.asarray(labels, dtype=np.int64)
    _, of_row = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((int(of_row.max(initial=-1)) + 1, len(class_names)))
    np.add.at(counts, (of_row, codes), 1)
    per_class = (counts > 0).sum(axis=0)
    rarest = int(np.argmin(per_class))
    if per_class[rarest] < 2:
        raise DataError(
            f"class {class_names[rarest]!r} has {int(per_class[rarest])} group(s) of related texts: "
            "cross-validation needs at least two, so add texts that stand on their own."
        )
    wanted = min(n_folds, max(N_FOLDS, int(per_class[rarest]) // _GROUPS_A_FOLD))
    n = min(wanted, int(per_class[rarest]))
    share = counts / counts.sum(axis=0)
    held, sizes = np.zeros((n, len(class_names))), np.zeros(n)
    fold_of = np.zeros(len(counts), dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(counts))
    for group in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
        load = held @ share[group]
        best = np.flatnonzero(load <= load.min() + 1e-12)
        fold = best[np.argmin(sizes[best])]
        held[fold] += share[group]
        sizes[fold] += counts[group].sum()
        fold_of[group] = fold
    return fold_of[of_row]


def say_fewer_folds(folds: NDArray[np.int64], n_folds: int) -> None:
    """Note where ``make_folds`` made fewer than the ``n_folds``, above ``N_FOLDS``, that were asked for."""
    n = int(folds.max()) + 1
    if n < n_folds > N_FOLDS:
        note(f"cross-validation: {n} folds instead of {n_folds}: a class has too few groups of texts for more.")


def check_folds(folds: NDArray[np.int64], labels: NDArray[np.int64], class_names: Sequence[str]) -> None:
    """Raise DataError when without some fold a class is missing, or is the only one left."""
    for fold in np.unique(folds):
        counts = np.bincount(labels[folds != fold], minlength=len(class_names))
        for c, name in enumerate(class_names):
            if counts[c] in (0, counts.sum()):
                raise DataError(
                    f"class {name!r} cannot be cross-validated, too many of its texts share one group: add "
                    "texts in groups of their own."
                )


def cross_validate(fitter: Fitter, X: Any, Y: NDArray[np.float64], folds: NDArray[np.int64]) -> CrossValidated:
    """Out-of-fold log-odds of every column of Y (N, K), all choices made inside each fold.

    For fold k the option (for logistic, C) is chosen with fold k + 1 set aside from the other folds, and fitted again
    on all of them; nothing of fold k enters. As the logits of different C have different sizes, each fold's are put on
    one scale by a Platt fit on the rows set aside, which keeps their order. With two folds there is nothing to set
    aside: the middle option is taken, and its logits as they are.
    """
    X = np.asarray(X)
    n = int(folds.max()) + 1
    logits = np.empty(Y.shape, dtype=np.float64)
    option_merit = []
    for fold in range(n):
        rest = folds != fold
        held_out = folds[rest] == (fold + 1) % n if n > 2 else np.zeros(int(rest.sum()), dtype=bool)
        fit = fitter.fit_inside(X[rest], Y[rest], held_out)
        raw = fit.logits(X[~rest])
        for k in range(Y.shape[1]):
            slope, intercept = fit_platt(Y[rest][held_out, k], fit.held_out_logits[:, k]).calibration
            logits[~rest, k] = slope * raw[:, k] + intercept
        option_merit.append(fit.option_merit)
    stacked = np.stack(option_merit)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    mean = np.divide(total, known.sum(axis=0), out=np.full_like(total, np.nan), where=known.any(axis=0))
    return CrossValidated(logits, mean)


def out_of_fold_logits(
    fitter: Fitter, X: Any, Y: NDArray[np.float64], folds: NDArray[np.int64], option_merit: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Logits (N, K) of each row from the fit without its fold, every fold with the options ``option_merit`` speaks for.

    Their size is that of the probe fitted on all rows with those options, so they can calibrate it; to measure a probe
    take ``cross_validate``, where no row helps to choose its own option.
    """
    X = np.asarray(X)
    logits = np.empty(Y.shape, dtype=np.float64)
    for fold in np.unique(folds):
        rest = folds != fold
        logits[~rest] = fitter.refit(X[rest], Y[rest], option_merit).logits(X[~rest])
    return logits
