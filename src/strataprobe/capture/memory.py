"""Capture in memory: texts in, ``Activations`` out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.capture.batches import choose_batch_tokens, plan_batches
from strataprobe.capture.positions import check_readouts
from strataprobe.capture.reader import Reader, evaluation_mode
from strataprobe.capture.tokens import PromptForm, Tokenizer, TokenRow
from strataprobe.dataset import check_text
from strataprobe.errors import DataError
from strataprobe.models import LoadedModel, load_model
from strataprobe.progress import note
from strataprobe.store import Activations, parse_layers


def capture(
    texts: Sequence[str],
    model: Any,
    tokenizer: Any = None,
    *,
    layers: str | int | Iterable[int] = "all",
    readout: str | Sequence[str] = "auto",
    prefix: str = "",
    suffix: str = "",
    template: str = "none",
    max_tokens: int | None = None,
    batch_tokens: int | str = "auto",
    dtype: str = "auto",
    device: str = "auto",
) -> Activations:
    """Read the residual stream of every layer for N texts, in one forward pass a batch.

    ``model`` is an id, a folder, "demo", or a loaded transformers model (then with its ``tokenizer``). ``layers`` is
    "all" (1..L), "1-10,20" or numbers; 0 is the embeddings. ``readout`` is "last", "mean", "last-text", several of them
    (the first is the primary one), or "auto": last and mean for decoders, mean for encoders. Layer k is the raw output
    of the k-th block, before the final norm, (N, D) float32.

    Raises DataError for a bad text, OptionError for a bad option, ModelError where the model cannot be read.
    """
    if isinstance(texts, str):
        raise DataError("texts is one string: pass a list of texts.")
    if not len(texts):
        raise DataError("texts is empty: pass at least one text.")
    checked = [check_text(t, f"text {i}") for i, t in enumerate(texts)]
    loaded = load_model(model, tokenizer, dtype=dtype, device=device)
    form = PromptForm(prefix, suffix, template)
    rows = Tokenizer(loaded, form, max_tokens).rows(checked)
    n_cut = sum(row.truncated for row in rows)
    if n_cut:
        note(f"{n_cut} of {len(rows)} texts were too long and were cut at their end.")
    if readout == "auto":
        readouts = loaded.default_readouts
    else:
        readouts = check_readouts([readout] if isinstance(readout, str) else readout)
    chosen = parse_layers(layers, loaded.n_layers)
    arrays = read_vectors(loaded, rows, chosen, readouts, batch_tokens)
    info = {
        "model_name": loaded.identity.name,
        "model_revision": loaded.identity.revision,
        "prefix": prefix,
        "suffix": suffix,
        "template": template,
        "recipe_name": "",
    }
    return Activations(arrays, readouts, info)


def read_vectors(
    model: LoadedModel,
    rows: Sequence[TokenRow],
    layers: Sequence[int],
    readouts: Sequence[str],
    batch_tokens: int | str = "auto",
) -> dict[tuple[str, int], NDArray[np.float32]]:
    """Vectors (N, D) float32 of tokenised texts by (readout, layer), batched by length, in the order of ``rows``."""
    reader = Reader(model, layers, readouts)
    lengths = [len(row.ids) for row in rows]
    arrays: dict[tuple[str, int], NDArray[np.float32]] = {}
    with evaluation_mode(model):
        for batch in plan_batches(lengths, choose_batch_tokens(batch_tokens, model)):
            result = reader.read([rows[i] for i in batch], [f"text {i}" for i in batch])
            for key, part in result.vectors.items():
                if key not in arrays:
                    arrays[key] = np.empty((len(rows), part.shape[1]), dtype=np.float32)
                arrays[key][batch] = part
    return arrays
