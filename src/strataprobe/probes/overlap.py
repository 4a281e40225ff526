"""Which rows of several recipes are of one text, so that none trains a probe that is measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from strataprobe.dataset import SPLITS
from strataprobe.store import ActivationFolder, LayerRows


def texts_by_id(folder: ActivationFolder) -> dict[str, str]:
    """The texts of a folder's three splits by id, as far as it holds them; of a conversation, its last message."""
    return {str(row["id"]): str(row["text"]) for row in folder.texts() if row.get("split") in SPLITS}


def numbered(
    splits: Sequence[Mapping[str, LayerRows]], texts: Sequence[Mapping[str, str]]
) -> list[dict[str, NDArray[np.int64]]]:
    """A number (n,) for each row of each split of each recipe, the same for equal ``texts``.

    Rows without a text are the same when their activations are: those read in one batch, as another batch changes the
    last digits.
    """
    known: dict[bytes, int] = {}

    def numbers(rows: LayerRows, own: Mapping[str, str]) -> NDArray[np.int64]:
        whats = (
            b"text " + own[name].encode() if name in own else row.tobytes()
            for name, row in zip(rows.ids, rows.activations, strict=True)
        )
        digests = (blake2b(what, digest_size=16).digest() for what in whats)
        return np.array([known.setdefault(digest, len(known)) for digest in digests], dtype=np.int64)

    return [{split: numbers(rows, own) for split, rows in one.items()} for one, own in zip(splits, texts, strict=True)]


def outside(numbers: NDArray[np.int64], others: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Which of ``numbers`` (n,) are in none of ``others``."""
    return ~np.isin(numbers, np.concatenate(others))
