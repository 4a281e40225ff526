"""What else is trained on each layer: controls on shuffled labels, and probes on two halves of the real ones.

The controls show memorising and leaks between splits. The halves show how far a probe's direction is settled by its
rows, which decides how far the AUC of cross-validation can be off: see ``Halves``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from strataprobe.metrics import auc
from strataprobe.probes.families.logistic import ROUGH
from strataprobe.probes.solver import LogisticProblem

N_SHUFFLES = 10
N_HALVINGS = 4
DEFAULT_C = 0.01
# The most classes of shuffles, and the most classes of halvings, that are trained on a layer.
_MOST_COLUMNS = 20
# The fold factor where there is nothing to find.
NULL_FOLD_FACTOR = 2.0


@dataclass(frozen=True)
class ShuffledLabels:
    """Label indices (S, n) of S shuffles for the labelled rows of each split; the same for every layer."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    n_classes: int


@dataclass(frozen=True)
class Halves:
    """Real labels of train (n,) and validation rows, and, for H ways to halve the groups, each train row's side (H, n).

    Out-of-fold logits are not independent between folds: a row tests one fold's probe and trains the others. Where the
    directions of the probes are mostly noise, each pair of folds is thereby counted twice, and the variance of the
    cross-validated AUC is twice that of its test rows alone; where the direction is settled, the two agree. In between
    the factor is 2 - r, where r, the share of the direction that is not noise, is the agreement of probes trained on
    two halves, stepped up to the full length (Spearman and Brown) and averaged over the H ways.
    """

    train: np.ndarray
    val: np.ndarray
    side: np.ndarray


@dataclass(frozen=True)
class Controls:
    """Mean AUC of probes trained on shuffled labels, on validation and test rows, each against its own shuffle.

    ``agreement``, 0 to 1, is r of ``Halves``; 0, the careful value, where it cannot be told.
    """

    val_auc: float
    test_auc: float
    agreement: float

    @property
    def fold_factor(self) -> float:
        """What the variance of a cross-validated AUC is multiplied by for what its folds share: see ``Halves``."""
        return NULL_FOLD_FACTOR - self.agreement


def n_shuffles(n_classes: int) -> int:
    """``N_SHUFFLES`` for two classes; more classes share them, as each shuffle yields an AUC a class, at least two."""
    return N_SHUFFLES if n_classes == 2 else max(2, N_SHUFFLES // n_classes)


def n_controls(n_classes: int) -> int:
    """How many AUCs the control of a layer is the mean of, where every class has rows."""
    return min(n_shuffles(n_classes) * (1 if n_classes == 2 else n_classes), _MOST_COLUMNS)


def shuffle_labels(
    labels: Sequence[np.ndarray], groups: Sequence[Sequence[str]], n_classes: int, *, seed: int = 0
) -> ShuffledLabels:
    """Permute the labels of (train, val, test) over all three together, ``n_shuffles`` times.

    Rows of one group and label keep a label in common, so that copies which lie in two splits are found out.
    """
    _, cells = np.unique(cells_of(np.concatenate(labels), [g for part in groups for g in part]), return_inverse=True)
    own = np.zeros(cells.max(initial=-1) + 1, dtype=np.int64)
    own[cells] = np.concatenate(labels)
    rounds = range(n_shuffles(n_classes))
    shuffled = np.stack([np.random.default_rng([seed, s]).permutation(own)[cells] for s in rounds])
    first, second = len(labels[0]), len(labels[0]) + len(labels[1])
    return ShuffledLabels(shuffled[:, :first], shuffled[:, first:second], shuffled[:, second:], n_classes)


def cells_of(labels: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """A name (n,) for each row's group and label."""
    return np.array([f"{label} {group}" for label, group in zip(labels.tolist(), groups, strict=True)], dtype=object)


def split_in_halves(train: np.ndarray, groups: Sequence[str], val: np.ndarray, *, seed: int = 0) -> Halves:
    """Halve the train rows ``N_HALVINGS`` times, whole groups together, at random."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    orders = [np.random.default_rng([seed, len(names), i]).permutation(len(names)) for i in range(N_HALVINGS)]
    return Halves(train, val, np.stack([order[codes.reshape(-1)] % 2 for order in orders]))


def train_controls(
    train: np.ndarray, val: np.ndarray, test: np.ndarray, shuffled: ShuffledLabels, halves: Halves, c: float
) -> Controls:
    """Train controls and half probes on one layer, all of them columns of one fit.

    ``train``, ``val``, ``test`` (n, D) are activations of the labelled rows; ``c`` is the penalty the real probe uses.
    The AUCs are nan where no shuffle has both classes.
    """
    classes = [1] if shuffled.n_classes == 2 else list(range(shuffled.n_classes))
    jobs = _some((s, k) for s in range(len(shuffled.train)) for k in classes if _has_both(shuffled.train[s] == k))
    if not jobs:
        return Controls(float("nan"), float("nan"), 0.0)
    columns = [(shuffled.train[s] == k).astype(np.float64) for s, k in jobs]
    ways = ((h, k) for h in range(len(halves.side)) for k in classes)
    halved = _some((h, k) for h, k in ways if both_halves_have_both(halves.side[h], halves.train == k))
    columns += [np.where(halves.side[h] == side, halves.train == k, np.nan) for h, k in halved for side in (0, 1)]
    path = LogisticProblem(train).solve(np.stack(columns, axis=1), [c], tolerance=ROUGH)
    on_val = path.logits(val)[:, 0, :] if len(val) else np.zeros((0, len(columns)))
    on_test = path.logits(test)[:, 0, :] if len(test) else np.zeros((0, len(columns)))
    means = []
    for logits, labels in ((on_val, shuffled.val), (on_test, shuffled.test)):
        found = [auc(labels[s] == k, logits[:, j]) for j, (s, k) in enumerate(jobs) if _has_both(labels[s] == k)]
        means.append(float(np.mean(found)) if found else float("nan"))
    pairs = on_val[:, len(jobs) :].reshape(len(on_val), len(halved), 2)
    correlations = [within_correlation(pairs[:, i], halves.val == k) for i, (_, k) in enumerate(halved)]
    return Controls(means[0], means[1], agreement(float(np.mean(correlations)), len(val)) if correlations else 0.0)


def _some(jobs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most ``_MOST_COLUMNS`` of these, the same each time: with 45 classes all would cost more than the probes."""
    found = list(jobs)
    chosen = np.random.default_rng(len(found)).permutation(len(found))[:_MOST_COLUMNS]
    return [found[i] for i in sorted(chosen)]


def within_correlation(logits: np.ndarray, labels01: np.ndarray) -> float:
    """Of two half probes, from their logits (n, 2) on rows that neither has seen, within classes."""
    within = logits.astype(np.float64, copy=True)
    for value in (False, True):
        rows = labels01 == value
        if rows.any():
            within[rows] -= within[rows].mean(axis=0)
    scale = np.sqrt((within**2).sum(axis=0))
    return float((within[:, 0] * within[:, 1]).sum() / scale.prod()) if (scale > 1e-12).all() else 0.0


def agreement(correlation: float, n_rows: int) -> float:
    """The correlation of half probes, stepped up to full length.

    It is first lowered by one standard error, so that an agreement by chance does not narrow an interval.
    """
    careful = min(max(correlation - max(n_rows, 1) ** -0.5, 0.0), 1.0)
    return 2.0 * careful / (1.0 + careful)


def both_halves_have_both(side: np.ndarray, labels01: np.ndarray) -> bool:
    return all(_has_both(labels01[side == h]) for h in (0, 1))


def _has_both(labels01: np.ndarray) -> bool:
    return bool(labels01.any() and not labels01.all())
