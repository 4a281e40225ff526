"""The training protocol of the project this idea comes from, for one linear probe with one setting.

As published: weights and activations in bfloat16, activations as they are (no standardisation), dropout .1 on them, the
mean binary cross-entropy, AdamW (5e-4, weight decay 1e-3), batches of 32 in a new order each epoch, at most 50 epochs, the
learning rate along a cosine down to 1e-5, the weights of the epoch with the best validation AUC kept, an end after 10
epochs without a better one. Every AUC is of probabilities, the sigmoid taken in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

BATCH, EPOCHS, PATIENCE, DROPOUT = 32, 50, 10, 0.1
LEARNING_RATE, LEAST_LEARNING_RATE, WEIGHT_DECAY = 5e-4, 1e-5, 1e-3


@dataclass(frozen=True)
class OriginProbe:
    """Weight (D,) and bias () in bfloat16."""

    weight: Tensor
    bias: Tensor

    def auc(self, X: Any, y: Any) -> float:
        """AUC on rows X (n, D) with labels y (n,), as the protocol takes it."""
        return _auc(torch.as_tensor(X).bfloat16() @ self.weight + self.bias, torch.as_tensor(y))

    def exact_auc(self, X: Any, y: Any) -> float:
        """AUC of the same weights with nothing else rounded."""
        logits = torch.as_tensor(X).double() @ self.weight.double() + self.bias.double()
        return float(roc_auc_score(torch.as_tensor(y).numpy(), logits.numpy()))


@dataclass(frozen=True)
class OriginFit:
    """The probe ``kept``, of the epoch with the best validation AUC, and the ``last``, which its test figures are of."""

    kept: OriginProbe
    last: OriginProbe
    val_auc: float
    n_epochs: int


def train_origin(X: Any, y: Any, X_val: Any, y_val: Any, *, seed: int = 0, loader: bool = True) -> OriginFit:
    """Train on X (n, D) with y (n,) in {0, 1}, early stopping on (X_val, y_val).

    ``loader=False`` takes each batch in one piece in place of row by row through a ``DataLoader``: the same training, and
    as fast as it can be made without another protocol.
    """
    rows, labels = torch.as_tensor(X).bfloat16(), torch.as_tensor(y).bfloat16()[:, None]
    val_rows, val_labels = torch.as_tensor(X_val).bfloat16(), torch.as_tensor(y_val)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = torch.nn.Linear(rows.shape[1], 1).bfloat16()
        probe = torch.nn.Sequential(torch.nn.Dropout(DROPOUT), linear)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS, eta_min=LEAST_LEARNING_RATE)
        kept, best_auc, kept_epoch, epoch = _probe(linear), 0.0, 0, 0
        for epoch in range(1, EPOCHS + 1):
            probe.train()
            for batch, wanted in _batches(rows, labels, loader):
                loss = torch.nn.functional.binary_cross_entropy_with_logits(probe(batch), wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
            probe.eval()
            with torch.no_grad():
                val_auc = _auc(probe(val_rows)[:, 0], val_labels)
            if val_auc > best_auc:
                kept, best_auc, kept_epoch = _probe(linear), val_auc, epoch
            elif epoch - kept_epoch >= PATIENCE:
                break
    return OriginFit(kept, _probe(linear), best_auc, epoch)


def _probe(linear: torch.nn.Linear) -> OriginProbe:
    return OriginProbe(linear.weight.detach()[0].clone(), linear.bias.detach()[0].clone())


def _batches(rows: Tensor, labels: Tensor, loader: bool) -> Iterator[tuple[Tensor, Tensor]]:
    if loader:
        yield from DataLoader(TensorDataset(rows, labels), batch_size=BATCH, shuffle=True)
        return
    for chosen in torch.randperm(len(rows)).split(BATCH):
        yield rows[chosen], labels[chosen]


def _auc(logits: Tensor, y: Tensor) -> float:
    """AUC of the probabilities in bfloat16."""
    return float(roc_auc_score(y.numpy(), torch.sigmoid(logits.bfloat16()).float().numpy()))
