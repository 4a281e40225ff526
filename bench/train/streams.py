"""Made-up activations whose best possible AUC is known: Gaussian classes, plain or in the shape of a residual stream.

Every layer carries the same signal: rows drawn alike, then turned and scaled. "stream" has the shape of the demo model's
layers 1 to 5 on real reviews: the variance along its axes falls as 1 / rank (slopes of -1.2 to -1.3 there), a mean that all
texts share carries .6 of the squared norm (.58 to .60), and half the square of that mean lies in three features (.37 to
.53). "mean" has that mean, and every axis alike; "plain" has neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm as gaussian

Shape = Literal["mean", "stream", "plain"]
COMMON_SHARE, N_LARGE, LARGE_SHARE = 0.6, 3, 0.5
_CHUNK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Stream:
    """C classes in D features; ``rows`` draws any number of texts at any layer.

    ``means`` (C, D) are class means along latent axes, in units of the ``spread`` (D,) around them; ``turn`` (D, D) is
    orthogonal and leads from those axes to features; ``common`` (D,) is added to every row.
    """

    spread: NDArray[np.float32]
    means: NDArray[np.float32]
    turn: NDArray[np.float32]
    common: NDArray[np.float32]
    seed: int

    @property
    def bayes_auc(self) -> float:
        """The AUC of the best rule there is, for two classes."""
        return float(gaussian.cdf(np.linalg.norm(self.means[1] - self.means[0]) / math.sqrt(2)))

    @property
    def mean_square_norm(self) -> float:
        """The mean squared norm of rows drawn from all classes alike, before a layer's scale."""
        latent = self.spread**2 * (1 + (self.means**2).mean(0))
        return float(latent.sum() + (self.common**2).sum())

    def rows(self, labels: NDArray[np.int64], layer: int, norm: float, part: int = 0) -> NDArray[np.float32]:
        """Activations (N, D) of texts with ``labels`` (N,), of root mean square norm ``norm``; ``part``: other texts."""
        D = len(self.spread)
        rng = np.random.default_rng([self.seed, layer])
        order, signs = rng.permutation(D), rng.choice([-1.0, 1.0], D).astype(np.float32)
        turn = torch.from_numpy(self.turn[:, order] * signs)
        scale = norm / math.sqrt(self.mean_square_norm)
        noise = np.random.default_rng([self.seed, layer, part + 1])
        found = np.empty((len(labels), D), dtype=np.float32)
        for start in range(0, len(labels), _CHUNK_ROWS):
            means = self.means[labels[start : start + _CHUNK_ROWS]]
            latent = (noise.standard_normal(means.shape, dtype=np.float32) + means) * self.spread
            found[start : start + len(means)] = scale * ((torch.from_numpy(latent) @ turn).numpy() + self.common)
        return found


def make_stream(shape: Shape, width: int, *, auc: float, n_classes: int = 2, seed: int = 0) -> Stream:
    """Two classes whose Bayes AUC is ``auc``, or more of them as far from their middle as those two.

    Directions are drawn like the difference of two texts: evenly among the latent axes in units of their spread.
    """
    rng = np.random.default_rng(seed)
    turn = torch.linalg.qr(torch.from_numpy(rng.standard_normal((width, width), dtype=np.float32)))[0].numpy()
    means = rng.normal(size=(n_classes, width))
    if n_classes == 2:
        means[0] = -means[1]
    means *= gaussian.ppf(auc) / math.sqrt(2) / np.linalg.norm(means, axis=1, keepdims=True)
    spread: NDArray[np.floating] = np.ones(width)
    common: NDArray[np.floating] = np.zeros(width)
    if shape == "stream":
        spread = (1.0 + np.arange(width)) ** -0.5
    if shape != "plain":
        common = rng.normal(size=width)
        common[:N_LARGE] *= math.sqrt(LARGE_SHARE) / np.linalg.norm(common[:N_LARGE])
        common[N_LARGE:] *= math.sqrt(1 - LARGE_SHARE) / np.linalg.norm(common[N_LARGE:])
        latent = (spread**2 * (1 + (means**2).mean(0))).sum()
        common *= math.sqrt(COMMON_SHARE / (1 - COMMON_SHARE) * latent)
    return Stream(spread.astype(np.float32), means.astype(np.float32), turn, common.astype(np.float32), seed)
