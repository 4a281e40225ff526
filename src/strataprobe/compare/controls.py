"""The control task: the same training on shuffled labels, which shows memorising and leaks between splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strataprobe.metrics import auc
from strataprobe.probes.solver import fit_logistic_path

N_SHUFFLES = 10
DEFAULT_C = 0.01


@dataclass(frozen=True)
class ShuffledLabels:
    """Label indices (S, n) of S shuffles for the labelled rows of each split; the same for every layer."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    n_classes: int


def n_shuffles(n_classes: int) -> int:
    """``N_SHUFFLES`` for two classes; more classes share them, as each shuffle yields an AUC a class, at least two."""
    return N_SHUFFLES if n_classes == 2 else max(2, N_SHUFFLES // n_classes)


def shuffle_labels(
    train: np.ndarray, val: np.ndarray, test: np.ndarray, n_classes: int, *, seed: int = 0
) -> ShuffledLabels:
    """Permute the labels over the rows of all three splits together, ``n_shuffles`` times."""
    together = np.concatenate([train, val, test])
    rounds = range(n_shuffles(n_classes))
    shuffled = np.stack([np.random.default_rng([seed, s]).permutation(together) for s in rounds])
    first, second = len(train), len(train) + len(val)
    return ShuffledLabels(shuffled[:, :first], shuffled[:, first:second], shuffled[:, second:], n_classes)


def control_aucs(
    train: np.ndarray, val: np.ndarray, test: np.ndarray, shuffled: ShuffledLabels, c: float
) -> tuple[float, float]:
    """Mean AUC on validation and on test rows of probes trained on shuffled labels, each against its own shuffle.

    ``train``, ``val``, ``test`` (n, D) are activations of the labelled rows; ``c`` is the penalty the real probe uses.
    All shuffles are columns of one fit. Nan where no shuffle has both classes.
    """
    classes = [1] if shuffled.n_classes == 2 else range(shuffled.n_classes)
    jobs = [(s, k) for s in range(len(shuffled.train)) for k in classes if _has_both(shuffled.train[s] == k)]
    if not jobs:
        return float("nan"), float("nan")
    targets = np.stack([shuffled.train[s] == k for s, k in jobs], axis=1).astype(np.float64)
    path = fit_logistic_path(train, targets, [c])
    means = []
    for rows, labels in ((val, shuffled.val), (test, shuffled.test)):
        if len(rows) == 0:
            means.append(float("nan"))
            continue
        logits = path.logits(rows)[:, 0, :]
        found = [auc(labels[s] == k, logits[:, j]) for j, (s, k) in enumerate(jobs) if _has_both(labels[s] == k)]
        means.append(float(np.mean(found)) if found else float("nan"))
    return means[0], means[1]


def _has_both(labels01: np.ndarray) -> bool:
    return bool(labels01.any() and not labels01.all())
