"""Read batches of tokenised texts: every layer and readout asked for, in one forward pass a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strataprobe.capture.batches import padded
from strataprobe.capture.hooks import run_layers
from strataprobe.capture.positions import Positions
from strataprobe.capture.tokens import TokenRow
from strataprobe.errors import NonFiniteError
from strataprobe.models import LoadedModel

Vectors = dict[tuple[str, int], NDArray[np.float32]]


@dataclass
class BatchResult:
    """Vectors (B, D) float32 by (readout, layer); class-word logits (B, C) float32 where they were asked for."""

    vectors: Vectors = field(default_factory=dict)
    zero_shot: NDArray[np.float32] | None = None


class Reader:
    """Reads one model at given layers and readouts. Layer 0 gives the mean over the text's own tokens."""

    def __init__(
        self,
        model: LoadedModel,
        layers: Sequence[int],
        readouts: Sequence[str],
        class_token_ids: Sequence[int] | None = None,
    ) -> None:
        self.model, self.layers, self.readouts = model, sorted(set(layers)), tuple(readouts)
        self._class_token_ids = class_token_ids
        pad = model.tokenizer.pad_token_id
        self._pad_id = int(pad) if pad is not None else int(model.tokenizer.eos_token_id or 0)

    @property
    def reads_class_words(self) -> bool:
        """Whether the class words' logits are read too: they need the last layer, the final norm and the head."""
        whole = self.model.n_layers in self.layers and self.model.head is not None and self.model.final_norm is not None
        return bool(self._class_token_ids) and whole

    def read(self, rows: Sequence[TokenRow], names: Sequence[str]) -> BatchResult:
        """One forward pass over B rows. Raises NonFiniteError naming layer and text where a value is not finite."""
        model = self.model
        ids, mask = padded(rows, self._pad_id, model.device)
        positions = Positions(rows, model.device)
        kept: dict[tuple[str, int], Tensor] = {}
        result = BatchResult()

        def receive(layer: int, hidden: Tensor) -> None:
            for readout in ("mean",) if layer == 0 else self.readouts:
                kept[readout, layer] = positions.read(readout, hidden)
            if layer == model.n_layers and self.reads_class_words:
                result.zero_shot = self._class_words(positions.last(hidden))

        run_layers(model, ids, None if model.causal else mask, self.layers, receive)
        for key, vectors in kept.items():
            result.vectors[key] = vectors.cpu().numpy()
        self._refuse_non_finite(result.vectors, names)
        if result.zero_shot is not None:
            self._refuse_non_finite({("class words", model.n_layers): result.zero_shot}, names)
        return result

    def _class_words(self, last: Tensor) -> NDArray[np.float32]:
        """Logits (B, C) of the class words at the last position, from the final norm and their rows of the head alone."""
        head, norm = self.model.head, self.model.final_norm
        assert head is not None
        assert norm is not None
        index = torch.tensor(self._class_token_ids, device=last.device)
        weight: Tensor = head.weight[index]  # type: ignore[index]
        bias = getattr(head, "bias", None)
        logits = (norm(last) @ weight.T).to(torch.float32)
        if bias is not None:
            logits = logits + bias[index].to(torch.float32)
        cap = self.model.logit_softcap
        if cap:
            logits = torch.tanh(logits / cap) * cap
        return logits.cpu().numpy()

    def _refuse_non_finite(self, vectors: Vectors, names: Sequence[str]) -> None:
        for (readout, layer), array in vectors.items():
            bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
            if len(bad):
                raise NonFiniteError(
                    f"layer {layer} ({readout}) of {self.model.identity.name} is not finite for text "
                    f"{names[int(bad[0])]!r} in {self.model.dtype}: use --dtype float32."
                )


@contextmanager
def evaluation_mode(model: LoadedModel) -> Iterator[None]:
    """Switch dropout off while reading, and restore each module's mode afterwards."""
    training = [m for m in model.model.modules() if m.training]
    model.model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
