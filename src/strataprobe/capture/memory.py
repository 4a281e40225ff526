"""Capture in memory: texts in, ``Activations`` out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.capture.batches import choose_batch_tokens, plan_batches
from strataprobe.capture.positions import check_readouts, check_rows
from strataprobe.capture.reader import BatchResult, FloatArray, PendingBatch, Reader, Vectors, evaluation_mode
from strataprobe.capture.tokens import PlaceOf, PromptForm, Tokenizer, TokenRow, TokenTable
from strataprobe.content import check_content
from strataprobe.errors import DataError
from strataprobe.models import LoadedModel, load_model
from strataprobe.progress import Progress, note
from strataprobe.store import Activations, parse_layers


def capture(
    texts: Iterable[str | list[dict[str, str]]],
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
    keep_tokens: bool = False,
) -> Activations:
    """Read the residual stream of every layer for N texts, in one forward pass a batch.

    A text is a string or, with ``template="chat"``, a conversation: a list of ``{"role": ..., "content": ...}``.
    ``model`` is an id, a folder, "demo", or a loaded transformers model (then with its ``tokenizer``). ``layers`` is
    "all" (1..L), "1-10,20" or numbers; 0 is the embeddings. ``readout`` is "last", "mean", "last-text",
    "last-assistant", several of them (the first is the primary one), or "auto": last and mean for decoders, mean for
    encoders. Layer k is the raw output of the k-th block, before the final norm, (N, D) float32. ``keep_tokens`` keeps
    every token's vector as well: ``.tokens(k)`` is a list of N arrays (T, D) float32.

    Raises DataError for a bad text, OptionError for a bad option, ModelError where the model cannot be read.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable) or isinstance(texts, Mapping):
        what = "one string" if isinstance(texts, str) else type(texts).__name__
        raise DataError(f"texts is {what}: pass a list of texts.")
    checked = [check_content(text, f"text {i}") for i, text in enumerate(texts)]
    if not checked:
        raise DataError("texts is empty: pass at least one text.")
    loaded = load_model(model, tokenizer, dtype=dtype, device=device)
    if readout == "auto":
        readouts = loaded.default_readouts
    else:
        readouts = check_readouts(readout.split(",") if isinstance(readout, str) else readout)
    chosen = parse_layers(layers, loaded.n_layers)
    rows = Tokenizer(loaded, PromptForm(prefix, suffix, template), max_tokens).rows(checked)
    check_rows(rows, readouts, "text {}".format)
    if rows.n_truncated:
        note(f"{rows.n_truncated} of {len(rows)} texts were too long and were cut at their end.")
    reader = Reader(loaded, chosen, readouts, keep_tokens=keep_tokens, naming="{}")
    budget = choose_batch_tokens(batch_tokens, loaded, n_token_layers=len(chosen) if keep_tokens else 0)
    arrays: Vectors = {}
    tokens: dict[int, list[FloatArray]] = {}
    if keep_tokens:
        tokens = {layer: [np.empty(0, np.float32)] * len(rows) for layer in chosen}

    def take(batch: NDArray[np.int64], result: BatchResult) -> None:
        _put(arrays, len(rows), batch, result)
        for layer, whole in result.tokens.items():
            ends = np.cumsum([len(rows[i].ids) for i in batch])[:-1]
            for i, part in zip(batch, np.split(whole, ends), strict=True):
                tokens[layer][i] = part.copy()  # a view would keep the whole batch, in memory pinned for a GPU

    _read(reader, rows, budget, take, "text {}".format, shown=sys.stderr.isatty())
    info = {
        "model_name": loaded.identity.name,
        "model_revision": loaded.identity.revision,
        "prefix": prefix,
        "suffix": suffix,
        "template": template,
        "recipe_name": "",
    }
    return Activations(arrays, readouts, info, tokens if keep_tokens else None)


def read_vectors(
    model: LoadedModel,
    rows: Sequence[TokenRow],
    layers: Sequence[int],
    readouts: Sequence[str],
    batch_tokens: int | str = "auto",
    name_of: PlaceOf | None = None,
) -> Vectors:
    """Vectors (N, D) float32 of tokenised texts by (readout, layer), batched by length, in the order of ``rows``.

    ``name_of(i)`` names row i in messages. Raises what ``Reader.start`` and ``PendingBatch.result`` raise.
    """
    arrays: Vectors = {}
    reader, budget = Reader(model, layers, readouts, naming="{}"), choose_batch_tokens(batch_tokens, model)
    _read(reader, rows, budget, lambda *batch: _put(arrays, len(rows), *batch), name_of or "text {}".format)
    return arrays


def _read(
    reader: Reader,
    rows: Sequence[TokenRow],
    batch_tokens: int,
    take: Callable[[NDArray[np.int64], BatchResult], None],
    name_of: PlaceOf,
    shown: bool = False,
) -> None:
    """Hand ``take`` the row numbers of each batch and what was read of them; a GPU is at the next batch meanwhile.

    ``shown`` is whether there is a progress bar: lines would fill a notebook's output or a log.
    """
    lengths = rows.lengths if isinstance(rows, TokenTable) else [len(row.ids) for row in rows]
    plan = plan_batches(lengths, batch_tokens)
    bar = Progress("capture", len(rows), "texts") if shown and len(plan) > 1 else None
    waiting: tuple[NDArray[np.int64], PendingBatch] | None = None
    with evaluation_mode(reader.model), bar or nullcontext():
        for batch in [*plan, None]:
            started = None
            if batch is not None:
                numbers = batch.tolist()
                started = batch, reader.start([rows[i] for i in numbers], [name_of(i) for i in numbers])
            if waiting is not None:
                take(waiting[0], waiting[1].result())
                if bar is not None:
                    bar.advance(len(waiting[0]))
            waiting = started


def _put(arrays: Vectors, n_rows: int, batch: NDArray[np.int64], result: BatchResult) -> None:
    """Put a batch's vectors in their rows' places."""
    for key, part in result.vectors.items():
        if key not in arrays:
            arrays[key] = np.empty((n_rows, part.shape[1]), dtype=np.float32)
        arrays[key][batch] = part
