"""``texts.jsonl``: the texts beside their vectors, with what is known of each, written row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from strataprobe.capture.corpus import MAIN, Corpus
from strataprobe.capture.shards import ZERO_SHOT, ShardFolder
from strataprobe.dataset import SPLITS
from strataprobe.errors import StageError
from strataprobe.manifest import atomic_file
from strataprobe.store import TEXTS_NAME
from strataprobe.textfiles import parse_jsonl

_ROWS_AT_ONCE = 4096


def write_texts(
    folder: Path, existing: Path | None, corpora: Sequence[Corpus], shards: Mapping[str, ShardFolder]
) -> None:
    """Write ``texts.jsonl`` into ``folder``: the rows of ``existing``, with those captured now added or completed.

    The main texts come first, then the ``--eval`` sets by name. Raises StageError when there is no space left.
    """
    fresh = {corpus.name: corpus for corpus in corpora}
    earlier = groupby(_earlier(existing), key=lambda row: MAIN if row["split"] in SPLITS else row["split"])
    with atomic_file(folder / TEXTS_NAME) as file:

        def write(rows: Iterator[dict[str, Any]]) -> None:
            file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)

        for name, rows in earlier:
            for between in sorted((n for n in fresh if _order(n) < _order(name)), key=_order):
                write(_rows(fresh.pop(between), shards[between], iter(())))
            write(_rows(fresh.pop(name), shards[name], rows) if name in fresh else rows)
        for name in sorted(fresh, key=_order):
            write(_rows(fresh[name], shards[name], iter(())))


def _order(name: str) -> tuple[bool, str]:
    return name != MAIN, name


def _earlier(existing: Path | None) -> Iterator[dict[str, Any]]:
    if existing is None:
        return
    with (existing / TEXTS_NAME).open(encoding="utf-8", newline="\n") as file:
        for _, row in parse_jsonl(file, str(existing / TEXTS_NAME)):
            yield row


def _rows(corpus: Corpus, shards: ShardFolder, earlier: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of a corpus; class-word logits that were not read now are those of its ``earlier`` rows, if there are any."""
    words = corpus.dataset.class_names
    in_order = shards.rows_at(np.arange(shards.n_rows))
    zero_shot = shards.column(ZERO_SHOT, in_order) if shards.holds(ZERO_SHOT) else None
    logits = np.empty((0, len(words)), dtype=np.float32)
    sizes = zip(corpus.lengths.tolist(), corpus.truncated.tolist(), strict=True)
    for i, (text, (n_tokens, truncated)) in enumerate(zip(corpus.dataset.rows, sizes, strict=True)):
        row: dict[str, Any] = {
            "id": text.id,
            "text": text.text,
            "label": text.label,
            "split": text.split if corpus.eval_name is None else corpus.name,
            "group": text.group,
            "n_tokens": n_tokens,
        }
        if text.messages is not None:
            row["messages"] = text.messages
        if text.score is not None:
            row["score"] = text.score
        if truncated:
            row["truncated"] = True
        before = next(earlier, None)
        if before is not None and before["id"] != text.id:
            raise StageError(
                f"{TEXTS_NAME} has {before['id']!r} where {text.id!r} belongs: it was changed; delete its folder and "
                "capture again."
            )
        if zero_shot is not None:
            if i % _ROWS_AT_ONCE == 0:
                logits = zero_shot[i : i + _ROWS_AT_ONCE]
            row["zero_shot"] = dict(zip(words, logits[i % _ROWS_AT_ONCE].tolist(), strict=True))
        elif before is not None and "zero_shot" in before:
            row["zero_shot"] = before["zero_shot"]
        yield row
