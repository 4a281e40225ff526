"""How many texts are enough: the best layer's probe fitted anew on fewer texts, and on text of the user's own.

The subsets of a draw are nested, groups of related texts together. The curve of the training texts keeps the C of each
class, which is one and the same prior at every size, so its last point is the trained probe itself; on text of another
kind another C is right, so there each size chooses its own, from no more texts than it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from strataprobe.aucvariance import Expected
from strataprobe.compare.choice import difference_low
from strataprobe.compare.layers import estimate_auc, finite
from strataprobe.compare.subsets import Labelled, draw_subsets, fit_subsets, most_rows, own_penalties, shuffled
from strataprobe.metrics import Z95, AucEstimate, auc_interval

# Texts a class, on average, in the subsets of the training texts, and in those of text from elsewhere.
_SIZES = (10, 25, 50, 100, 200, 350, 700, 1500)
_OWN_SIZES = (5, 15, 50, 150, 500)
# An AUC within this of that of all texts is as good.
_AS_GOOD = 0.01


@dataclass(frozen=True)
class Trained:
    """The probe of all texts: its logits (n, C) on the test rows, how many texts it learnt from, and each class's C."""

    logits: np.ndarray
    n_texts: int
    C: Sequence[float]


def learning_points(pool: Labelled, test: Labelled, trained: Trained, *, seed: int = 0) -> dict[str, Any]:
    """``points`` and ``enough`` of the learning curve over the rows of ``pool``, measured on ``test``.

    Each point is the mean AUC of the probes of several draws; its interval holds both the chance of the test rows and
    that of the draws. ``enough`` is the fewest texts from which on every point is within ``_AS_GOOD`` of the last and
    not significantly below it; None where only all texts are.
    """
    n_classes = trained.logits.shape[1]
    limit = min(len(pool.labels), most_rows(n_classes))
    sizes = [n_classes * s for s in _SIZES if n_classes * s < min(limit, 0.9 * trained.n_texts)]
    draws = draw_subsets(pool, sizes, n_classes, seed)
    fitted = fit_subsets(draws, test.X, [list(trained.C)] * len(sizes), n_classes)
    estimate = _averaged(fitted, trained.logits, test)
    points = _points([*sizes, trained.n_texts], estimate, draws.n)
    points[-1]["n_repeats"] = 1
    below = difference_low(estimate, Z95)[-1] > 0
    as_good = (estimate.auc >= estimate.auc[-1] - _AS_GOOD) & ~below
    return {"points": points, "enough": _from_which_on(sizes, as_good[:-1])}


def own_points(
    own: Labelled, logits_of: Callable[[np.ndarray], np.ndarray], C: Sequence[float], *, seed: int = 0
) -> dict[str, Any]:
    """How many texts of the user's own do as well as the generated ones: an entry of ``learning_curve["own"]``.

    Half of the groups of ``own`` are learnt from, in growing numbers, the other half is tested on; ``logits_of``
    turns activations (n, D) into the logits (n, C) of the probe trained on other text, for ``generated_auc`` on the
    same rows. ``matching_n`` is the fewest own texts from which on the AUC reaches that; None where it never does.
    ``C`` (one a class) is taken where there are too many classes to choose it anew.
    """
    n_classes = len(C)
    pool, test = _halves(own, min(n_classes * _OWN_SIZES[-1], most_rows(n_classes)), seed)
    entry: dict[str, Any] = {"points": [], "generated_auc": None, "matching_n": None, "n_tested": len(test.labels)}
    lacking = any(set(half.labels.tolist()) != set(range(n_classes)) for half in (pool, test))
    sizes = [n_classes * s for s in _OWN_SIZES if n_classes * s <= len(pool.labels)]
    if lacking or not sizes:
        return entry | {"reason": "half of these texts are too few to learn from, or lack a class"}
    if len(pool.labels) > sizes[-1]:
        sizes.append(len(pool.labels))
    draws = draw_subsets(pool, sizes, n_classes, seed)
    fitted = fit_subsets(draws, test.X, own_penalties(draws, C), n_classes)
    estimate = _averaged(fitted, np.asarray(logits_of(test.X), dtype=np.float64), test)
    reaches = estimate.auc[:-1] >= estimate.auc[-1]
    return entry | {
        "points": _points(sizes, estimate, draws.n),
        "generated_auc": finite(estimate.auc[-1]),
        "matching_n": _from_which_on(sizes, reaches),
    }


def learning_entry(
    pool: Labelled,
    test: Labelled,
    trained: Trained,
    logits_of: Callable[[np.ndarray], np.ndarray],
    own: Mapping[str, Labelled],
    place: dict[str, Any],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """The ``learning_curve`` of ``comparison.json``; ``place`` names the layer and readout, ``logits_of`` the probe."""
    found = {name: own_points(rows, logits_of, trained.C, seed=seed) for name, rows in own.items()}
    return place | {"measured_on": "test"} | learning_points(pool, test, trained, seed=seed) | {"own": found}


def _averaged(logits: np.ndarray, whole: np.ndarray, test: Labelled) -> AucEstimate:
    """AUCs of each size, the mean over draws, and last that of the logits ``whole`` (n, C).

    The covariance is that of the test rows and, for the sizes, of the mean over draws.
    """
    n, n_classes, n_sizes, n_draws = logits.shape
    stacked = np.concatenate([logits.reshape(n, n_classes, -1), whole[:, :, None]], axis=2)
    every = estimate_auc(test.labels, stacked, test.groups)
    mean = np.zeros((n_sizes + 1, n_sizes * n_draws + 1))
    mean[:-1, :-1] = np.kron(np.eye(n_sizes), np.full((1, n_draws), 1 / n_draws))
    mean[-1, -1] = 1.0
    covariance = mean @ every.covariance @ mean.T
    if n_draws > 1 and n_sizes:
        between = np.cov(every.auc[:-1].reshape(n_sizes, n_draws)) / n_draws
        covariance[:-1, :-1] += between
    expected = every.expected and Expected(mean @ every.expected.ratio, mean @ every.expected.degrees)
    return AucEstimate(mean @ every.auc, covariance, every.n_positive_groups, every.n_negative_groups, expected)


def _points(sizes: Sequence[int], estimate: AucEstimate, n_draws: int) -> list[dict[str, Any]]:
    low, high = auc_interval(estimate)
    return [
        {
            "n_texts": size,
            "auc": finite(estimate.auc[i]),
            "low": finite(low[i]),
            "high": finite(high[i]),
            "n_repeats": n_draws,
        }
        for i, size in enumerate(sizes)
    ]


def _from_which_on(sizes: Sequence[int], holds: np.ndarray) -> int | None:
    """The first size from which on ``holds`` is true of every one; None where it is not true of the last."""
    failing = np.flatnonzero(~holds)
    start = 0 if not len(failing) else int(failing[-1]) + 1
    return sizes[start] if start < len(sizes) else None


def _halves(own: Labelled, limit: int, seed: int) -> tuple[Labelled, Labelled]:
    """Rows to learn from, at most ``limit``, and rows to test on, of different groups."""
    order = shuffled(own.groups, seed, 0)
    names = np.unique(np.asarray(own.groups)[order], return_index=True)
    in_turn = names[0][np.argsort(names[1])]
    first = set(in_turn[: len(in_turn) // 2].tolist())
    learnt = np.array([i for i in order if own.groups[i] in first], dtype=np.int64)
    tested = np.array(sorted(set(order.tolist()) - set(learnt.tolist())), dtype=np.int64)
    return own.part(learnt[:limit]), own.part(tested)
