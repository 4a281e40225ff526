"""Can this model be trusted here? Read a few texts two independent ways at every layer and compare.

One way is ours: hooks, padded batches, the pass ended early. The other is the library's own ``hidden_states``, one
unpadded text at a time through the whole model, with means taken in float64. The library's last entry lies behind the
final norm; there our vectors are compared with what the norm was given, and put through the norm with what it gave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from strataprobe.capture.memory import read_vectors
from strataprobe.capture.reader import Vectors, evaluation_mode
from strataprobe.capture.tokens import PromptForm, Tokenizer, TokenRow
from strataprobe.errors import ModelError
from strataprobe.models import LoadedModel

# Largest difference that other batches, padding and another way to read may make, relative to the vector's norm, by what
# the model runs in. docs/tolerances.md holds what was measured.
TOLERANCE = {"float32": 1e-5, "bfloat16": 6e-2, "mixed": 5e-3}
READOUTS = ("last", "mean")
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
    """Largest differences at one layer over texts and readouts, relative to the vector's norm.

    ``against_library``: from the library's own hidden states. ``padding``: all texts in one padded batch, from each
    alone. ``batching``: the same batch, from smaller batches in another order.
    """

    layer: int
    against_library: float
    padding: float
    batching: float

    @property
    def largest(self) -> float:
        """The largest of the three."""
        return max(self.against_library, self.padding, self.batching)


@dataclass(frozen=True)
class ModelCheck:
    """The outcome for one model. ``tolerance`` is relative to the norm; ``layers`` begins with layer 0, the embeddings."""

    model_name: str
    dtype: str
    device: str
    readouts: tuple[str, ...]
    tolerance: float
    layers: list[LayerCheck]
    last_layer_is_raw: bool

    @property
    def worst(self) -> LayerCheck:
        """The layer that differs most."""
        return max(self.layers, key=lambda c: c.largest)

    @property
    def trusted(self) -> bool:
        """Whether every layer agrees, and the last one was read before the final norm."""
        return bool(self.worst.largest <= self.tolerance and self.last_layer_is_raw)

    @property
    def verdict(self) -> str:
        """The outcome in a sentence."""
        worst = self.worst
        if not self.last_layer_is_raw:
            return f"{self.model_name} cannot be trusted here: its last layer could not be read before the final norm."
        if self.trusted:
            return (
                f"{self.model_name} can be trusted here: layers 0 to {len(self.layers) - 1} agree with the library, padded "
                f"or alone and in any batch, within {worst.largest:.1e} of the norm ({self.dtype} on {self.device}; "
                f"{self.tolerance:.0e} allowed)."
            )
        if worst.padding > self.tolerance:
            how = "changes with padding"
        elif worst.batching > self.tolerance:
            how = "changes with the batch"
        else:
            how = "differs from the library's hidden states"
        other = "another version of transformers" if self.dtype == "float32" else "--dtype float32"
        return (
            f"{self.model_name} cannot be trusted here in {self.dtype} on {self.device}: layer {worst.layer} {how} by "
            f"{worst.largest:.1e} of the norm ({self.tolerance:.0e} allowed); try {other}."
        )


def check_model(model: LoadedModel) -> ModelCheck:
    """Compare at layers 0 to L, the embeddings included, at ``last`` and ``mean`` of four texts.

    Raises ModelError for a model that gives no hidden states to compare with.
    """
    rows = Tokenizer(model, PromptForm(suffix=_SUFFIX if model.kind == "decoder" else "")).rows(_TEXTS)
    layers = range(model.n_layers + 1)
    ours = read_vectors(model, rows, layers, READOUTS, batch_tokens=10**6)
    alone = read_vectors(model, rows, layers, READOUTS, batch_tokens=1)
    pairs = read_vectors(model, rows[::-1], layers, READOUTS, batch_tokens=2 * int(rows.lengths.max()))
    with evaluation_mode(model):
        library = [_library(model, row) for row in rows]
    theirs = {key: np.stack([vectors[key] for vectors in library]) for key in ours}
    checks = []
    for layer in layers:
        keys = [key for key in ours if key[1] == layer]
        checks.append(
            LayerCheck(
                layer,
                against_library=_largest(ours, theirs, keys),
                padding=_largest(ours, alone, keys),
                batching=_largest(ours, {key: array[::-1] for key, array in pairs.items()}, keys),
            )
        )
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE["bfloat16"])
    raw = True
    if model.final_norm is not None:
        key = ("last", model.n_layers)
        last, behind = ours[key], np.stack([vectors["normed", model.n_layers] for vectors in library])
        normed = _normed(model, last)
        raw = relative(last, behind) > tolerance or relative(last, theirs[key]) <= tolerance
        top = checks[-1]
        checks[-1] = LayerCheck(
            top.layer, max(top.against_library, relative(normed, behind)), top.padding, top.batching
        )
    return ModelCheck(model.identity.name, model.dtype, str(model.device), READOUTS, tolerance, checks, raw)


def _library(model: LoadedModel, row: TokenRow) -> dict[tuple[str, int], NDArray[np.float64]]:
    """The library's vectors (D,) of one text by (readout, layer), and "normed": the last one behind the final norm."""
    ids = torch.from_numpy(row.ids)[None].to(model.device)
    entered: list[torch.Tensor] = []
    handle = None
    if model.final_norm is not None:
        handle = model.final_norm.register_forward_pre_hook(lambda _module, args: entered.append(args[0]))
    try:
        with torch.inference_mode():
            output: Any = model.model(input_ids=ids, output_hidden_states=True)
    finally:
        if handle is not None:
            handle.remove()
    given = getattr(output, "hidden_states", None)
    if given is None or len(given) != model.n_layers + 1:
        found = "no hidden states" if given is None else f"{len(given)} hidden states"
        raise ModelError(
            f"{model.identity.name} gives {found} where {model.n_layers + 1} were expected, so there is nothing to check "
            "it against: try another version of transformers."
        )
    states = [h[0].to(torch.float64).cpu().numpy() for h in [*given[:-1], *(entered[-1:] or given[-1:])]]
    own = slice(row.own_start, row.own_end)
    vectors = {("mean", layer): state[own].mean(axis=0) for layer, state in enumerate(states)}
    vectors |= {("last", layer): state[row.last] for layer, state in enumerate(states)}
    vectors["normed", model.n_layers] = given[-1][0, row.last].to(torch.float64).cpu().numpy()
    return vectors


def _normed(model: LoadedModel, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the final norm makes of raw vectors (N, D)."""
    assert model.final_norm is not None
    with torch.inference_mode():
        normed = model.final_norm(torch.from_numpy(vectors).to(model.device, model.stream_dtype))
    found: NDArray[np.float32] = normed.float().cpu().numpy()
    return found


def _largest(ours: Vectors, theirs: Any, keys: list[tuple[str, int]]) -> float:
    return max(relative(ours[key], theirs[key]) for key in keys)


def relative(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Largest distance between matching rows (N, D), relative to the norm of ``theirs``."""
    theirs = theirs.astype(np.float64)
    norms = np.maximum(np.linalg.norm(theirs, axis=1), 1e-30)
    return float((np.linalg.norm(ours - theirs, axis=1) / norms).max())
