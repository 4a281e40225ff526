"""Which layer is best, which cannot be told apart from it, and whether any carries the concept at all.

Everything here rests on out-of-fold logits of train and validation rows; the test rows confirm the choice and never
make it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strataprobe.intervals import max_t_pairs_quantile, max_t_quantile
from strataprobe.metrics import AucEstimate, auc_interval

# Differences in AUC smaller than this are numerical, not evidence.
NUMERICAL_TIE = 1e-3


@dataclass(frozen=True)
class LayerChoice:
    """The choice for one readout.

    ``best_layer`` is None when no layer beats its control. ``tied_layers`` holds every layer, the best included, that
    is not significantly below another one. ``passing_layers`` beat their control; ``simultaneous_low`` (one for each
    layer given) is the bound that had to do so.
    """

    best_layer: int | None
    tied_layers: list[int]
    passing_layers: list[int]
    simultaneous_low: list[float]


def choose_layer(
    layers: Sequence[int],
    estimate: AucEstimate,
    control: Sequence[float],
    *,
    to_null: Sequence[float] | None = None,
    seed: int = 0,
) -> LayerChoice:
    """Choose among ``layers`` (ascending) by their cross-validated AUCs, column for column.

    A layer passes when its lower 95 % bound, made to hold for all layers at once, exceeds both .5 and the AUC of its
    ``control``; so pure noise yields a best layer in at most 5 % of data sets. For that bound the variance is the one
    that noise would have: the estimate's times ``to_null`` (1 where it is that already). Among the passing layers the
    best is the one with the highest AUC, the earliest of those equal to it within ``NUMERICAL_TIE``. It is not the
    earliest of ``tied_layers``: on little data that set is wide, and its earliest member can be far below the best in
    AUC. What the data cannot rank is stated by ``tied_layers`` instead, a set in which the truly best layer lies with
    95 % confidence (all pairs of layers compared at once).
    """
    value = np.nan_to_num(estimate.auc, nan=0.5)
    if not len(layers) or np.isnan(estimate.auc).all():
        return LayerChoice(None, [], [], [0.0] * len(layers))
    under_null = estimate.inflated(np.ones(len(layers)) if to_null is None else np.asarray(to_null, dtype=np.float64))
    low, _ = auc_interval(under_null, max_t_quantile(estimate.correlation, seed=seed))
    low = np.nan_to_num(low, nan=0.0)
    hurdle = np.maximum(0.5, np.nan_to_num(np.asarray(control, dtype=np.float64), nan=0.5))
    passing = low > hurdle
    bounds = [float(x) for x in low]
    if not passing.any():
        return LayerChoice(None, [], [], bounds)
    top = value[passing].max()
    best = int(np.flatnonzero(passing & (value >= top - NUMERICAL_TIE))[0])
    tied = tied_with_the_best(estimate, seed=seed)
    tied[best] = True
    return LayerChoice(
        best_layer=layers[best],
        tied_layers=[layer for layer, is_tied in zip(layers, tied, strict=True) if is_tied],
        passing_layers=[layer for layer, passes in zip(layers, passing, strict=True) if passes],
        simultaneous_low=bounds,
    )


def tied_with_the_best(estimate: AucEstimate, *, seed: int = 0) -> np.ndarray:
    """(M,) bool: columns that no other column beats significantly, all pairs compared at once at 95 %."""
    critical = max_t_pairs_quantile(estimate.covariance, seed=seed)
    return np.logical_not((difference_low(estimate, critical) > 0).any(axis=0))


def difference_low(estimate: AucEstimate, z: float) -> np.ndarray:
    """Lower bounds (M, M) of AUC[i] - AUC[j] for correlated AUCs.

    Recovers the variances from the one-sided halves of the two intervals (Zou & Donner, Statistics in Medicine 27:1693,
    2008), so it stays honest near 1, and where one of the two has no measured variance. Identical columns differ by 0.
    """
    value = np.nan_to_num(estimate.auc, nan=0.5)
    low, high = (np.nan_to_num(b, nan=0.5) for b in auc_interval(estimate, z))
    down, up = (value - low)[:, None], (high - value)[None, :]
    spread = down**2 + up**2 - 2 * estimate.correlation * down * up
    result = value[:, None] - value[None, :] - np.sqrt(np.maximum(spread, 0.0))
    np.fill_diagonal(result, 0.0)
    return result
