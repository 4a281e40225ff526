"""Probes moved to new text with their old weights as prior: logit = old logit + delta . x + b, delta kept small.

The old logit first gets the slope and intercept that suit the new rows (``fit_platt``, with the old calibration as prior),
since an overconfident offset would drive delta. Then delta is fitted by L2 logistic regression with that log-odds as offset,
its penalty measured in the deviations the old probe was trained with. How far delta may change the log-odds of a text a
priori is its ``reach``. No change and every reach are averaged, each with the likelihood it gives to rows left out: on ten
rows to choose one of them is to follow chance, while the mean of linear probes is a linear probe (``bench/adapt.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.probes.calibration import Calibration, fit_platt
from strataprobe.probes.families import LinearFit
from strataprobe.probes.solver import LogisticProblem

Float64 = NDArray[np.float64]

# Standard deviation of the change in a text's log-odds that delta makes a priori; no change at all stands before them.
REACHES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_NOT_RANKED = "do not rank"


@dataclass(frozen=True, eq=False)
class OldProbes:
    """K old probes: ``weight`` (K, D), ``bias`` (K,), and the deviations ``scale`` (D,) of their rows.

    ``calibrations`` (K,) are None where there was no fit, and a fallback stands in its place.
    """

    weight: NDArray[np.float32]
    bias: Float64
    calibrations: list[Calibration | None]
    scale: NDArray[np.float32]


def adapt_columns(
    X: NDArray[Any],
    Y: Float64,
    old: OldProbes,
    foldings: Sequence[NDArray[np.int64]],
    reaches: Sequence[float] = REACHES,
) -> LinearFit:
    """Adapt ``old`` to raw activations X (N, D) with columns Y (N, K) in {0, 1}.

    ``foldings`` are fold numbers (N,), each splitting the rows in another way; without any fold, every column must keep
    both its classes. The logits are on the scale of the old ones: where nothing had to change, the probes are the old
    ones. ``held_out_logits`` (N, K) are those of each row from fits without its fold, averaged over the foldings.
    ``settings`` hold the ``reach``, the weight of no change (``unchanged``) and ``old_slope``, what the old logit was
    multiplied by: 0 where it did not rank the new rows and was left out. Raises DataError for values not finite.
    """
    rows = X.astype(np.float64)
    logits = rows @ old.weight.T.astype(np.float64) + old.bias
    N, K = Y.shape
    parts = [folds != fold for folds in foldings for fold in np.unique(folds)]
    lines = np.stack([_lines(Y[part], logits[part], old) for part in (*parts, np.ones(N, dtype=bool))])  # (P + 1, K, 2)
    offset = logits[:, None, :] * lines[None, :, :, 0] + lines[None, :, :, 1]
    columns = np.repeat(Y[:, None, :], len(lines), axis=1)
    for i, part in enumerate(parts):
        columns[~part, i] = np.nan
    Cs = [reach**2 / X.shape[1] for reach in reaches]
    path = LogisticProblem(X, scale=old.scale).solve(columns.reshape(N, -1), Cs, offset=offset.reshape(N, -1))
    change = path.logits(X).reshape(N, len(Cs), len(lines), K)
    left_out = np.zeros((N, 1 + len(Cs), K))
    for i, part in enumerate(parts):
        held = ~part
        left_out[held, 0] += offset[held, i]
        left_out[held, 1:] += change[held, :, i] + offset[held, None, i]
    left_out /= len(foldings)
    weights = np.stack([_weights(Y[:, k], left_out[:, :, k], reaches) for k in range(K)], axis=1)  # (1 + n, K)
    delta = np.einsum("jkd,jk->kd", path.weight.reshape(len(Cs), len(lines), K, -1)[:, -1], weights[1:])
    shift = np.einsum("jk,jk->k", path.bias_at_centre.reshape(len(Cs), len(lines), K)[:, -1], weights[1:])
    converged = np.all(path.converged.reshape(len(Cs), len(lines), K)[:, -1], axis=0)
    mixed = np.einsum("njk,jk->nk", left_out, weights)
    return _on_old_scale(old, lines[-1], delta, shift, path.centre, mixed, weights, reaches, converged)


def _lines(Y: Float64, logits: Float64, old: OldProbes) -> Float64:
    """Slope and intercept (K, 2) that turn old logits into log-odds of these rows; slope 0 where they do not rank them."""
    found = []
    for k, prior in enumerate(old.calibrations):
        fit = fit_platt(Y[:, k], logits[:, k], prior)
        n_positive = Y[:, k].sum()
        useless = 0.0, float(np.log((n_positive + 1) / (len(Y) - n_positive + 1)))
        found.append(useless if _NOT_RANKED in fit.fallback else tuple(fit.calibration))
    return np.array(found)


def _weights(y: Float64, left_out: Float64, reaches: Sequence[float]) -> Float64:
    """Weight (J,) of no change and of each reach for one column with ``left_out`` (N, J) log-odds of rows left out.

    All are believed alike beforehand, but a reach beyond 1 the less the further it goes.
    """
    loss = (np.logaddexp(0.0, left_out) - y[:, None] * left_out).sum(axis=0)
    evidence = -loss - 2 * np.log(np.maximum(1.0, [1.0, *reaches]))
    weights = np.exp(evidence - evidence.max())
    return np.asarray(weights / weights.sum())


def _on_old_scale(
    old: OldProbes,
    lines: Float64,
    delta: Float64,
    shift: Float64,
    centre: Float64,
    left_out: Float64,
    weights: Float64,
    reaches: Sequence[float],
    converged: Any,
) -> LinearFit:
    """The adapted log-odds less their intercept, divided by the slope of the old logit: its calibration still fits them."""
    useful = lines[:, 0] > 0
    size = np.where(useful, lines[:, 0], 1.0)
    kept = old.weight.astype(np.float64) * useful[:, None]
    weight = (kept + delta / size[:, None]).astype(np.float32)
    moved = weight.astype(np.float64) - kept
    bias = old.bias * useful + shift / size - moved @ centre
    reach = np.array(reaches) @ weights[1:]
    settings = [
        {"reach": float(r), "unchanged": float(w), "old_slope": float(slope), "converged": bool(done)}
        for r, w, slope, done in zip(reach, weights[0], lines[:, 0], converged, strict=True)
    ]
    bias = bias.astype(np.float32).astype(np.float64)
    return LinearFit(weight, bias, settings, weights, (left_out - lines[:, 1] * useful) / size)
