"""Close shards into the layer files, and write the texts beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.capture.shards import ShardFolder
from strataprobe.dataset import SPLITS, Dataset
from strataprobe.store import FORMAT_VERSION, SITE, TEXTS_NAME, layer_file_name, write_layer_file
from strataprobe.textfiles import parse_jsonl

if TYPE_CHECKING:
    from strataprobe.capture.job import Corpus


def close_layers(
    folder: Path,
    shards: ShardFolder,
    dataset: Dataset,
    layers: Sequence[int],
    readouts: Sequence[str],
    eval_name: str | None,
    attrs: Mapping[str, Any],
) -> None:
    """Write one HDF5 file a layer; rows keep the order of the texts within their split."""
    columns = _columns(dataset, eval_name)
    for layer in layers:
        held = ("mean",) if layer == 0 else tuple(readouts)
        arrays = {readout: shards.gather(readout, layer) for readout in held}
        splits = {
            split: {"activations": {r: a[rows] for r, a in arrays.items()}, **rest}
            for split, (rows, rest) in columns.items()
        }
        own = {"layer": layer, "block_index": layer - 1, "site": SITE, "readouts": list(held)}
        path = folder / layer_file_name(layer, eval_name)
        write_layer_file(path, splits=splits, attrs={"format_version": FORMAT_VERSION, **own, **attrs})


def _columns(dataset: Dataset, eval_name: str | None) -> dict[str, tuple[NDArray[np.int64], dict[str, Any]]]:
    """For each group of a layer file: row numbers, and the data sets that are the same for every layer."""
    labels = dataset.label_indices()
    columns = {}
    for split in SPLITS if eval_name is None else ("eval",):
        rows = [i for i, row in enumerate(dataset.rows) if eval_name is not None or row.split == split]
        texts = [dataset.rows[i] for i in rows]
        rest: dict[str, Any] = {
            "labels": [labels[i] for i in rows],
            "ids": [t.id for t in texts],
            "groups": [t.group for t in texts],
        }
        if any(t.score is not None for t in dataset.rows):
            rest["targets"] = [np.nan if t.score is None else t.score for t in texts]
        columns[split] = (np.asarray(rows, dtype=np.int64), rest)
    return columns


def merged_texts(existing: Path | None, corpora: Sequence[Corpus], shards: Mapping[str, ShardFolder]) -> str:
    """``texts.jsonl``: rows of the folder's earlier texts, with those captured now added or completed."""
    merged: dict[str, dict[str, dict[str, Any]]] = {}
    if existing is not None:
        with (existing / TEXTS_NAME).open(encoding="utf-8", newline="\n") as file:
            for _, earlier in parse_jsonl(file, str(existing / TEXTS_NAME)):
                corpus_name = earlier["split"] if earlier["split"] not in SPLITS else "main"
                merged.setdefault(corpus_name, {})[earlier["id"]] = earlier
    for corpus in corpora:
        zero_shot = shards[corpus.name].zero_shot()
        held = merged.setdefault(corpus.name, {})
        for i, (text, tokens) in enumerate(zip(corpus.dataset.rows, corpus.rows, strict=True)):
            row: dict[str, Any] = {
                "id": text.id,
                "text": text.text,
                "label": text.label,
                "split": text.split if corpus.eval_name is None else corpus.name,
                "group": text.group,
                "n_tokens": len(tokens.ids),
            }
            if text.score is not None:
                row["score"] = text.score
            if tokens.truncated:
                row["truncated"] = True
            before = held.get(text.id, {})
            if zero_shot is not None:
                row["zero_shot"] = {c: float(v) for c, v in zip(corpus.dataset.class_names, zero_shot[i], strict=True)}
            elif "zero_shot" in before:
                row["zero_shot"] = before["zero_shot"]
            held[text.id] = row
    names = sorted(merged, key=lambda name: (name != "main", name))
    rows = (row for name in names for row in merged[name].values())
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
