"""Close shards into the layer files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.capture.corpus import Corpus
from strataprobe.capture.shards import ShardFolder
from strataprobe.dataset import SPLITS, Text
from strataprobe.layerfile import write_layer_file
from strataprobe.store import FORMAT_VERSION, SITE, layer_file_name
from strataprobe.tokenfile import token_file_name

Columns = dict[str, dict[str, Any]]


def close_layers(
    folder: Path, shards: ShardFolder, corpus: Corpus, readouts: Sequence[str], attrs: Mapping[str, Any]
) -> None:
    """Write one HDF5 file a layer; rows keep the order of the texts within their split."""
    rows = _rows_of_groups(corpus)
    labels = _label_columns(corpus, rows)
    sizes = [len(mine) for mine in rows.values()]
    places = shards.rows_at(np.concatenate(list(rows.values())))

    for layer in corpus.layers:
        held = ("mean",) if layer == 0 else tuple(readouts)
        parts = {readout: shards.column(f"{readout}.{layer}", places).split(sizes) for readout in held}
        splits: Columns = {
            name: {"activations": {readout: parts[readout][i] for readout in held}, **labels[name]}
            for i, name in enumerate(rows)
        }
        path = folder / layer_file_name(layer, corpus.eval_name)
        write_layer_file(path, splits=splits, attrs={**_place(layer), "readouts": list(held), **attrs})
    if not corpus.token_layers:
        return
    tokens = _token_columns(corpus, rows)
    n_tokens = [len(columns["token_ids"]) for columns in tokens.values()]
    places = shards.tokens_at(np.concatenate(list(rows.values())))
    for layer in corpus.token_layers:
        token_parts = shards.column(f"tokens.{layer}", places).split(n_tokens)
        splits = {
            name: {"activations": {"tokens": token_parts[i]}, **tokens[name], **labels[name]}
            for i, name in enumerate(rows)
        }
        path = folder / token_file_name(layer, corpus.eval_name)
        write_layer_file(path, splits=splits, attrs={**_place(layer), "readouts": ["tokens"], **attrs})


def _place(layer: int) -> dict[str, Any]:
    return {"format_version": FORMAT_VERSION, "layer": layer, "block_index": layer - 1, "site": SITE}


def _rows_of_groups(corpus: Corpus) -> dict[str, NDArray[np.int32]]:
    """Row numbers of each group of a layer file."""
    texts = corpus.dataset.rows
    if corpus.eval_name is not None:
        return {"eval": np.arange(len(texts), dtype=np.int32)}
    return {s: np.fromiter((i for i, text in enumerate(texts) if text.split == s), np.int32) for s in SPLITS}


class _Names:
    """Ids or groups of some texts, fetched a slice at a time."""

    def __init__(self, texts: Sequence[Text], rows: NDArray[np.int32], field: str) -> None:
        self._texts, self._rows, self._field = texts, rows, field

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice) -> list[str]:
        return [getattr(self._texts[i], self._field) for i in self._rows[rows]]


def _label_columns(corpus: Corpus, rows: Mapping[str, NDArray[np.int32]]) -> Columns:
    """The data sets that are the same for every layer."""
    texts, labels = corpus.dataset.rows, np.asarray(corpus.dataset.label_indices(), dtype=np.int64)
    scored = any(text.score is not None for text in texts)
    columns: Columns = {}
    for name, mine in rows.items():
        columns[name] = {
            "labels": labels[mine],
            "ids": _Names(texts, mine, "id"),
            "groups": _Names(texts, mine, "group"),
        }
        if scored:
            scores = (texts[i].score for i in mine)
            columns[name]["targets"] = np.fromiter((np.nan if s is None else s for s in scores), np.float32)
    return columns


def _token_columns(corpus: Corpus, rows: Mapping[str, NDArray[np.int32]]) -> Columns:
    """Where each text lies among the tokens, which of them are its own, and what they are."""
    columns: Columns = {}
    for name, mine in rows.items():
        picked = [corpus.table[i] for i in mine.tolist()]
        columns[name] = {
            "offsets": np.cumsum([0, *(len(row.ids) for row in picked)]),
            "token_ids": np.concatenate([np.empty(0, dtype=np.int64), *(row.ids for row in picked)]),
            "own_start": [row.own_start for row in picked],
            "own_end": [row.own_end for row in picked],
        }
    return columns
