"""The multi-head family: one small network for all classes (see ``network``), trained by AdamW with early stopping.

Features are standardised by the training rows and everything is float32. The step falls along a half cosine over ``epochs``;
the weights kept are those of the epoch with the lowest loss on held-out rows, and training stops ``patience`` epochs after
it. All randomness comes from a generator of its own, so that fits in several threads do not disturb one another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.errors import OptionError
from strataprobe.probes.families import NetworkFit
from strataprobe.probes.families.standardise import Standardised
from strataprobe.probes.network import HIDDEN_DIM, N_HEADS, Network, forward, new_weights

if TYPE_CHECKING:
    from torch import Tensor

DROPOUT = 0.1
# The cosine ends at this share of the first step.
_LAST_STEP_SHARE = 0.02
_VAL_ROWS = 2048
# Share of the epochs that training takes before it stops, for the estimate.
_USUAL_SHARE = 0.5


class MultiHead:
    """All classes in one network.

    ``class_weight="balanced"`` gives both sides of every class the same total weight in the loss. Raises OptionError for
    values that cannot be used.
    """

    name, device = "multihead", "cpu"

    def __init__(
        self,
        epochs: int = 50,
        learning_rate: float = 5e-4,
        weight_decay: float = 1e-3,
        batch_size: int = 32,
        early_stopping_patience: int = 10,
        class_weight: str = "none",
        seed: int = 0,
    ) -> None:
        numbers = {"epochs": epochs, "batch_size": batch_size, "early_stopping_patience": early_stopping_patience}
        for name, value in numbers.items():
            if not isinstance(value, int) or value < 1:
                raise OptionError(f"{name} {value!r} is not a number of at least 1.")
        if not (0 < learning_rate <= 1) or not (0 <= weight_decay <= 1):
            raise OptionError("learning_rate must be between 0 and 1, and weight_decay between 0 and 1.")
        if class_weight not in ("none", "balanced"):
            raise OptionError(f"class_weight {class_weight!r} is not known: use none or balanced.")
        self.epochs, self.batch_size, self.patience, self.seed = epochs, batch_size, early_stopping_patience, seed
        self.learning_rate, self.weight_decay, self.class_weight = learning_rate, weight_decay, class_weight
        self.options: dict[str, Any] = {
            **numbers,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "class_weight": class_weight,
            "seed": seed,
        }

    def fit(self, X: Any, Y: Any, X_val: Any, Y_val: Any) -> NetworkFit:
        """Train on (X, Y) until the loss on (X_val, Y_val) falls no more; keep its best epoch."""
        network, losses = self._train(X, Y, (np.asarray(X_val), np.asarray(Y_val, dtype=np.float64)), self.epochs)
        return _kept(network, -losses, network.logits(X_val))

    def fit_inside(self, X: Any, Y: Any, held_out: Any) -> NetworkFit:
        """Train without the rows ``held_out``, which stop it, and keep that network.

        Unlike a linear probe it is not trained again on all rows: ``fit`` too keeps validation rows out of the training.
        """
        X, Y, held_out = np.asarray(X), np.asarray(Y, dtype=np.float64), np.asarray(held_out, dtype=bool)
        if held_out.any():
            return self.fit(X[~held_out], Y[~held_out], X[held_out], Y[held_out])
        return self.refit(X, Y, np.full((self.epochs, Y.shape[1]), np.nan))

    def refit(self, X: Any, Y: Any, option_merit: Any) -> NetworkFit:
        """Train on all rows for as many epochs as ``option_merit`` (epochs, K) speaks for, half of them for all nan."""
        merit = np.asarray(option_merit, dtype=np.float64)
        known = merit[:, ~np.isnan(merit).all(axis=0)]
        n_epochs = int(np.argmax(known.mean(axis=1))) + 1 if known.size else (self.epochs + 1) // 2
        network, _ = self._train(X, Y, None, n_epochs)
        return _kept(network, merit, np.zeros((0, merit.shape[1])), n_epochs)

    def expected_s(self, n_rows: int, width: int, n_outputs: int) -> float:
        """Seconds that one network takes on this machine, from a few steps on noise; training stops half-way as a rule."""
        generator = np.random.default_rng(0)
        n_steps = 4
        X = generator.normal(size=(n_steps * self.batch_size, width)).astype(np.float32)
        Y = (generator.random((len(X), n_outputs)) < 0.5).astype(np.float64)
        self._train(X[: self.batch_size], Y[: self.batch_size], None, 1)  # the first step loads what later ones find
        started_s = time.perf_counter()
        self._train(X, Y, None, 1)
        step_s = (time.perf_counter() - started_s) / n_steps
        return step_s * math.ceil(n_rows / self.batch_size) * max(self.epochs * _USUAL_SHARE, 1)

    def _train(
        self, X: Any, Y: Any, held_out: tuple[Any, NDArray[np.float64]] | None, n_epochs: int
    ) -> tuple[Network, NDArray[np.float64]]:
        """The network, and the loss (epochs, K) on the held-out rows after each epoch.

        Epochs that were not reached have the loss of the last one. Without held-out rows the last of ``n_epochs`` is kept.
        """
        import torch

        X, Y = np.asarray(X), np.asarray(Y, dtype=np.float64)
        rows = Standardised.of(X)
        mean, inverse = rows.mean, torch.where(rows.varies, 1 / rows.scale, 0.0)
        config = {"input_dim": X.shape[1], "n_outputs": Y.shape[1], "hidden_dim": HIDDEN_DIM, "n_heads": N_HEADS}
        generator = torch.Generator().manual_seed(self.seed)
        weights = new_weights(X.shape[1], Y.shape[1], generator)
        targets, row_weights = torch.from_numpy(Y).float(), torch.from_numpy(self._row_weights(Y)).float()
        val = None
        if held_out is not None:
            val = (rows.like(held_out[0]).float(), torch.from_numpy(held_out[1]).float())
        best = {name: w.clone() for name, w in weights.items()}
        losses: list[NDArray[np.float64]] = []
        steps = self._epochs(rows.Z.float(), targets, row_weights, weights, generator, n_epochs)
        for epoch, _ in enumerate(steps):
            if val is None:
                continue
            losses.append(_losses(weights, *val))
            means = [float(loss.mean()) for loss in losses]
            if means[-1] <= min(means):
                best = {name: w.detach().clone() for name, w in weights.items()}
            elif epoch - int(np.argmin(means)) >= self.patience:
                break
        kept = best if val is not None else weights
        kept = {"mean": mean, "inverse_scale": inverse, **kept}
        tensors = {name: w.detach().float().numpy().copy() for name, w in kept.items()}
        losses += losses[-1:] * (self.epochs - len(losses))
        return Network({**config, "mirrored": False}, tensors), np.array(losses)

    def _epochs(
        self, Z: Tensor, Y: Tensor, row_weights: Tensor, weights: dict[str, Tensor], generator: Any, n_epochs: int
    ) -> Iterator[None]:
        """Train ``weights`` in place, giving the word back after every epoch."""
        import torch

        for weight in weights.values():
            weight.requires_grad_(True)
        matrices = [w for w in weights.values() if w.ndim > 1]
        vectors = [w for w in weights.values() if w.ndim == 1]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=self.learning_rate, foreach=False)
        n_steps = self.epochs * math.ceil(len(Z) / self.batch_size)
        step = 0
        for _ in range(n_epochs):
            for rows in torch.randperm(len(Z), generator=generator).split(self.batch_size):
                share = _LAST_STEP_SHARE + (1 - _LAST_STEP_SHARE) * (1 + math.cos(math.pi * step / n_steps)) / 2
                for group in optimiser.param_groups:
                    group["lr"] = self.learning_rate * share
                keep = (torch.rand(len(rows), HIDDEN_DIM, generator=generator) >= DROPOUT).float() / (1 - DROPOUT)
                z = forward(weights, Z[rows], keep=keep)
                losses = torch.nn.functional.binary_cross_entropy_with_logits(z, Y[rows], row_weights[rows])
                optimiser.zero_grad(set_to_none=True)
                losses.backward()
                optimiser.step()
                step += 1
            yield

    def _row_weights(self, Y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weight (N, K) of each row in each column's loss, 1 on average."""
        if self.class_weight == "none":
            return np.ones_like(Y)
        share = np.clip(Y.mean(axis=0), 1e-12, 1 - 1e-12)
        return np.where(Y > 0.5, 0.5 / share, 0.5 / (1 - share))


def _kept(
    network: Network, merit: NDArray[np.float64], held_out_logits: NDArray[np.float64], n_epochs: int | None = None
) -> NetworkFit:
    chosen = int(np.argmax(merit.mean(axis=1))) + 1 if n_epochs is None else n_epochs
    settings: list[dict[str, Any]] = [{"epochs": chosen} for _ in range(merit.shape[1])]
    return NetworkFit(network, settings, merit, held_out_logits)


def _losses(weights: dict[str, Tensor], Z: Tensor, Y: Tensor) -> NDArray[np.float64]:
    """Mean log loss (K,) of each column."""
    import torch

    with torch.no_grad():
        z = torch.cat([forward(weights, part) for part in Z.split(_VAL_ROWS)])
        losses = torch.nn.functional.binary_cross_entropy_with_logits(z, Y, reduction="none")
    return losses.double().mean(dim=0).numpy()
