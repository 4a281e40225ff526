"""Can this model be trusted here? Read a few texts two independent ways at every layer and compare.

One way is ours: hooks, padded batches, the pass ended early. The other is the library's own ``hidden_states``, one
unpadded text at a time through the whole model. The library's last entry lies behind the final norm, so there our vector
is put through the norm before it is compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from strataprobe.capture.memory import read_vectors
from strataprobe.capture.reader import evaluation_mode
from strataprobe.capture.tokens import PromptForm, Tokenizer, TokenRow
from strataprobe.models import LoadedModel

# Largest difference relative to the vector's norm that batching and kernels may make.
TOLERANCE = {"float32": 1e-4, "bfloat16": 6e-2}
_SUFFIX = "\n\nThis text is about"
_TEXTS = (
    "It rained.",
    "I opened the letter on the stairs and read it twice before I let myself sit down.",
    "My brother drove four hours through the snow to bring me a lamp I had once said I liked, and then he had to go "
    "straight back, so we drank one coffee at the kitchen table with our coats on.",
    "Crème brûlée at 11 p.m. 🙂 – שלום!",
)


@dataclass(frozen=True)
class LayerCheck:
    """Largest differences at one layer, relative to the vector's norm: against the library, and padded against alone."""

    layer: int
    against_library: float
    padding: float


@dataclass(frozen=True)
class ModelCheck:
    """The outcome for one model. ``tolerance`` is relative to the norm."""

    model_name: str
    dtype: str
    tolerance: float
    layers: list[LayerCheck]
    last_layer_is_raw: bool

    @property
    def trusted(self) -> bool:
        """Whether every layer agrees, and the last one was read before the final norm."""
        worst = max(max(c.against_library, c.padding) for c in self.layers)
        return bool(worst <= self.tolerance and self.last_layer_is_raw)

    @property
    def verdict(self) -> str:
        """The outcome in a sentence."""
        worst = max(self.layers, key=lambda c: max(c.against_library, c.padding))
        largest = max(worst.against_library, worst.padding)
        if not self.last_layer_is_raw:
            return f"{self.model_name} cannot be trusted here: its last layer could not be read before the final norm."
        if self.trusted:
            return (
                f"{self.model_name} can be trusted here: layers 0 to {len(self.layers) - 1} agree both ways within "
                f"{largest:.1e} of the norm ({self.dtype}; {self.tolerance:.0e} allowed)."
            )
        return (
            f"{self.model_name} cannot be trusted here in {self.dtype}: layer {worst.layer} differs by {largest:.1e} of "
            f"the norm ({self.tolerance:.0e} allowed); try --dtype float32, or another version of transformers."
        )


def check_model(model: LoadedModel) -> ModelCheck:
    """Compare both ways at layers 0 to L (the embeddings included), at the last position of four texts."""
    tokenizer = Tokenizer(model, PromptForm(suffix=_SUFFIX if model.kind == "decoder" else ""))
    rows = tokenizer.rows(_TEXTS)
    layers = list(range(1, model.n_layers + 1))
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE["bfloat16"])
    together = read_vectors(model, rows, [0, *layers], ["last"], batch_tokens=10**6)
    alone = read_vectors(model, rows, [0, *layers], ["last"], batch_tokens=1)
    with evaluation_mode(model):
        library = [_library(model, row) for row in rows]
    checks = []
    for layer in [0, *layers]:
        key = ("mean", 0) if layer == 0 else ("last", layer)
        ours = together[key]
        theirs = np.stack([states[layer] for states in library])
        compared = _normed(model, ours) if layer == model.n_layers else ours
        checks.append(LayerCheck(layer, _relative(compared, theirs), _relative(ours, alone[key])))
    raw = True
    if model.final_norm is not None:
        last = together["last", model.n_layers]
        normed = _normed(model, last)
        raw = _relative(last, np.stack([states[-1] for states in library])) > tolerance or _relative(last, normed) == 0
    return ModelCheck(model.identity.name, model.dtype, tolerance, checks, raw)


def _library(model: LoadedModel, row: TokenRow) -> list[np.ndarray]:
    """The library's hidden states (D,) at the last real token by layer; at layer 0 the mean over the text's own tokens."""
    ids = torch.from_numpy(row.ids)[None].to(model.device)
    with torch.inference_mode():
        output: Any = model.model(input_ids=ids, output_hidden_states=True)
    states = [h[0].float().cpu().numpy() for h in output.hidden_states]
    return [states[0][row.own_start : row.own_end].mean(axis=0), *(h[row.last] for h in states[1:])]


def _normed(model: LoadedModel, vectors: np.ndarray) -> np.ndarray:
    """What the final norm makes of raw vectors; the vectors themselves where there is no such norm."""
    if model.final_norm is None:
        return vectors
    weight = next(model.body.parameters())
    with torch.inference_mode():
        normed = model.final_norm(torch.from_numpy(vectors).to(weight.device, weight.dtype))
    return normed.float().cpu().numpy()


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest distance between matching rows, relative to the row's norm."""
    norms = np.maximum(np.linalg.norm(theirs, axis=1), 1e-30)
    return float((np.linalg.norm(ours - theirs, axis=1) / norms).max())
