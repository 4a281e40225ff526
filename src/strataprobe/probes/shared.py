"""Linear probes of several recipes that may share a subspace of the activations.

Each recipe has texts and classes of its own, so a class has labels on its recipe's rows only. Every class is first fitted
alone. The leading right singular vectors U (D, r) of all their weights span what they have in common, and every class is
fitted again with a penalty that is ``strength`` squared times weaker inside that subspace than outside of it: the features z
become z (I + (strength - 1) U U'). This is the alternating structure optimization of Ando and Zhang (JMLR 6:1817, 2005)
with the shared part penalised too. Rank and strength are the same for all classes and chosen on held-out rows of all of
them together, so each choice rests on many more rows than one class has; the rows have no part in U, so a subspace that
only repeats the noise of the training rows does not win. Where no sharing does as well within one standard error, the
probes stay as they were alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strataprobe.metrics import clustered_auc
from strataprobe.probes.families.logistic import choose_option, merit_of_options
from strataprobe.probes.solver import LogisticPath, LogisticProblem

RANKS = (1, 2, 5, 10)
STRENGTHS = (2.0, 4.0)
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Sharing:
    """How much the classes share: ``rank`` 0 is nothing, and ``strength`` is then 1."""

    rank: int = 0
    strength: float = 1.0


@dataclass(frozen=True, eq=False)
class Part:
    """One recipe's rows Z (n, D) float64, all recipes standardised alike, and Y (n, K) in {0, 1}; with held-out ones."""

    Z: Tensor
    Y: Float64
    Z_held: Tensor
    Y_held: Float64


@dataclass(frozen=True, eq=False)
class PartFit:
    """One recipe's probes on standardised rows: ``weight`` (K, D), ``bias`` (K,); ``C`` and ``converged`` of each.

    ``held_out_logits`` (n, K) are those of the held-out rows.
    """

    weight: Float64
    bias: Float64
    C: list[float]
    converged: list[bool]
    held_out_logits: Float64


@dataclass(frozen=True)
class Choice:
    """What was chosen for all classes: the sharing, and the C at which the directions that span the subspace are fitted.

    At one C for all, the better a direction is settled by its rows the longer it is, and the more it counts.
    """

    sharing: Sharing
    c_of_directions: float


def fit_parts(parts: Sequence[Part], Cs: Sequence[float]) -> tuple[Choice, list[PartFit]]:
    """Choose the sharing for all classes and C for each on the held-out rows, and fit the training rows with them."""
    alone = [_solve(part, None, Cs) for part in parts]
    chosen = [_choose(path, part) for path, part in zip(alone, parts, strict=True)]
    middle = int(np.median(np.concatenate(chosen)))
    U = _leading([path.weight[middle] for path in alone])
    sharing = _choose_sharing(parts, alone, chosen, Cs, U)
    choice = Choice(sharing, float(Cs[middle]))
    if not sharing.rank:
        return choice, [_kept(*one, Cs) for one in zip(parts, alone, chosen, strict=True)]
    paths = [_solve(part, (U, sharing), Cs) for part in parts]
    return choice, [_kept(part, path, _choose(path, part), Cs) for part, path in zip(parts, paths, strict=True)]


def fit_chosen(parts: Sequence[Part], choice: Choice, C: Sequence[Sequence[float]]) -> list[PartFit]:
    """Fit the training rows with what was chosen elsewhere: the sharing, and C[i][k] for class k of part i."""
    shared = None
    if choice.sharing.rank:
        paths = [_solve(part, None, [choice.c_of_directions]) for part in parts]
        shared = (_leading([path.weight[0] for path in paths]), choice.sharing)
    found = []
    for part, own in zip(parts, C, strict=True):
        path = _solve(part, shared, own, each=True)
        found.append(
            PartFit(path.weight[0], path.bias[0], list(own), path.converged[0].tolist(), np.zeros((0, len(own))))
        )
    return found


def _choose_sharing(
    parts: Sequence[Part],
    alone: Sequence[LogisticPath],
    chosen: Sequence[NDArray[np.int64]],
    Cs: Sequence[float],
    U: Tensor,
) -> Sharing:
    """The sharing with the highest mean held-out AUC, unless none at all is within one standard error of it."""
    n_classes = sum(part.Y.shape[1] for part in parts)
    ranks = [r for r in RANKS if r <= min(n_classes // 2, U.shape[1])]
    options = [Sharing(), *(Sharing(r, g) for g in STRENGTHS for r in ranks)]
    aucs, covariances = [], []
    for part, path, own in zip(parts, alone, chosen, strict=True):
        columns = [_of_chosen(path, part.Z_held, own)]
        for sharing in options[1:]:
            again = _solve(part, (U, sharing), [Cs[c] for c in own], each=True)
            columns.append(_of_chosen(again, part.Z_held, np.zeros_like(own)))
        stacked = np.stack(columns, axis=1)
        for k in range(len(own)):
            if 0 < part.Y_held[:, k].sum() < len(part.Y_held):
                estimate = clustered_auc(part.Y_held[:, k], stacked[:, :, k], np.arange(len(stacked)))
                aucs.append(estimate.auc)
                covariances.append(estimate.covariance)
    if not aucs:
        return options[0]
    mean, covariance = np.mean(aucs, axis=0), np.sum(covariances, axis=0) / len(aucs) ** 2
    best = int(np.argmax(mean))
    spread = max(float(covariance[0, 0] + covariance[best, best] - 2 * covariance[0, best]), 0.0)
    return options[0] if mean[0] + spread**0.5 >= mean[best] else options[best]


def _solve(part: Part, shared: tuple[Tensor, Sharing] | None, Cs: Sequence[float], each: bool = False) -> LogisticPath:
    """The path of a part at every C, or with ``each`` at one C a column; weights and bias are those on Z."""
    Z = part.Z
    if shared is not None:
        U, g = shared[0][:, : shared[1].rank], shared[1].strength - 1
        Z = Z + g * (Z @ U) @ U.T
    problem = LogisticProblem(Z, scale=np.ones(Z.shape[1]))
    path = problem.solve_each(part.Y, Cs) if each else problem.solve(part.Y, Cs)
    if shared is None:
        return path
    basis = U.numpy()
    return replace(path, weight=path.weight + g * (path.weight @ basis) @ basis.T)


def _leading(weights: Sequence[Float64]) -> Tensor:
    """Right singular vectors (D, n) of the stacked weights, most important first."""
    return torch.from_numpy(np.linalg.svd(np.concatenate(weights), full_matrices=False)[2].T.copy())


def _choose(path: LogisticPath, part: Part) -> NDArray[np.int64]:
    """Index of the C of each class, by the rule of the logistic family."""
    logits = part.Z_held.numpy() @ path.weight.transpose(0, 2, 1) + path.bias[:, None, :]
    return choose_option(merit_of_options(logits.transpose(1, 0, 2), part.Y_held))


def _of_chosen(path: LogisticPath, Z: Tensor, chosen: NDArray[np.int64]) -> Float64:
    """Logits (n, K) of rows Z, column k at C number chosen[k]."""
    columns = np.arange(len(chosen))
    found: Float64 = Z.numpy() @ path.weight[chosen, columns].T + path.bias[chosen, columns]
    return found


def _kept(part: Part, path: LogisticPath, chosen: NDArray[np.int64], Cs: Sequence[float]) -> PartFit:
    columns = np.arange(len(chosen))
    return PartFit(
        weight=path.weight[chosen, columns],
        bias=path.bias[chosen, columns],
        C=[float(Cs[c]) for c in chosen],
        converged=path.converged[chosen, columns].tolist(),
        held_out_logits=_of_chosen(path, part.Z_held, chosen),
    )
